"""VGG-16 with random filters has the shapes of the real one, and keeps the scale of its activations."""

import pytest
import torch
import torchvision
from torch import nn

from invbench.errors import UserError
from invbench.network import convolutions, parse
from invbench.networks import find
from invbench.networks.pretrained import with_stages


def random_vgg16(size: int = 32, classes: int = 5, **own: float) -> nn.Module:
    torch.manual_seed(0)
    return find()["random_vgg16"].build(classes, size, **own)


def test_its_stages_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        model = torchvision.models.vgg16(weights=None)
    theirs, ours = with_stages(model), random_vgg16()
    names = [name for name, _ in theirs.named_children() if not name.startswith("fc")]
    assert [name for name, _ in ours.named_children()] == [*names, "fc"]
    for name in names[1:]:  # behind the normalisation
        one, other = ours.get_submodule(name), theirs.get_submodule(name)
        if name.startswith("conv"):
            assert repr(one).replace(", bias=False", "") == repr(other).replace("inplace=True", "")
        else:
            pool = [(p.kernel_size, p.stride, p.padding) for p in (one, other) if isinstance(p, nn.MaxPool2d)]
            assert len(pool) == 2
            assert pool[0] == pool[1]
    assert sum(p.numel() for p in ours.parameters()) == 14_710_464 + 512 * 5 + 5


def test_filters_are_gaussian_with_twice_the_inverse_fan_in() -> None:
    network = parse(random_vgg16(), (3, 32, 32))
    layers = convolutions(network)
    assert len(layers) == 13
    for layer in layers.values():
        weight = layer.weight.flatten()
        assert layer.bias is None
        assert float(weight.var()) == pytest.approx(
            2 / layer.weight[0].numel(), rel=5 * (2 / len(weight)) ** 0.5
        )
        kurtosis = float((weight / weight.std()).pow(4).mean())
        assert kurtosis == pytest.approx(3, abs=5 * (96 / len(weight)) ** 0.5 + 0.01)


def test_activations_keep_their_scale() -> None:
    network = parse(random_vgg16(64, width=0.5), (3, 64, 64))
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, last = (float(network.cut(stage)(x).square().mean()) for stage in ("conv1_1", "pool5"))
    assert 0.1 < last / first < 20


@pytest.mark.parametrize("size", [32, 96])
def test_sizes(size: int) -> None:
    network = parse(random_vgg16(size, 7, width=0.02), (3, size, size))
    assert network.output_shape == (7,)
    assert network.reason is None


def test_other_sizes_are_a_sentence() -> None:
    with pytest.raises(UserError, match="network 'random_vgg16' takes images of a multiple of 32 px"):
        random_vgg16(48)
