"""The networks that come along: catalogue, stages, chains, and what they are made of."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from invbench.errors import UserError
from invbench.images import Images
from invbench.network import parse
from invbench.networks import architectures, find, load
from invbench.networks.architectures import InceptionBlock, Recipe, ResidualBlock, architecture

#: Architectures of our own at small sizes: name, pixels, parameters, stages.
SMALL: list[tuple[str, int, dict[str, float | str], str]] = [
    ("gabor_net", 16, {}, "conv1 pool1 conv2 pool2 fc1 fc2 fc3"),
    ("lenet", 32, {}, "conv1 pool1 conv2 pool2 fc1 fc2 fc3"),
    (
        "vgg11",
        32,
        {"width": 0.05},
        "conv1 pool1 conv2 pool2 conv3 conv4 pool3 conv5 conv6 pool4 conv7 conv8 pool5 fc",
    ),
    (
        "alexnet",
        64,
        {"width": 0.05},
        "conv1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8",
    ),
    (
        "alexnet",
        32,
        {"width": 0.05, "norm": "batch"},
        "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8",
    ),
    ("random_cnn", 16, {"width": 4, "layers": 3}, "conv1 pool1 conv2 pool2 conv3 pool3 fc"),
    ("shallow_cnn", 16, {"width": 4, "layers": 3}, "conv1 pool1 conv2 pool2 conv3 pool3 fc"),
    ("shallow_cnn", 8, {"width": 4, "layers": 1, "filters": "learned"}, "conv1 pool1 fc"),
    (
        "random_vgg16",
        64,
        {"width": 0.05},
        "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 "
        "conv4_1 conv4_2 conv4_3 pool4 conv5_1 conv5_2 conv5_3 pool5 fc",
    ),
    ("resnet", 16, {"width": 4}, "stem block1 block2 block3 head"),
    ("inception", 16, {"width": 8}, "stem pool1 block1 pool2 block2 pool3 block3 head"),
]

#: Tensors of `shallow_cnn` that no training changes.
CONSTANTS = {"normalise.mean", "normalise.std"}


def test_the_catalogue_has_a_line_about_each() -> None:
    ours = {
        "lenet",
        "gabor_net",
        "vgg11",
        "alexnet",
        "random_cnn",
        "random_vgg16",
        "shallow_cnn",
        "resnet",
        "inception",
    }
    theirs = {
        f"torchvision_{name}" for name in ("alexnet", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet18")
    }
    assert ours | theirs <= set(find())
    assert all(found.summary for found in find().values())
    assert find()["vgg11"].parameters == {"width": 1.0, "batch_norm": True}


def test_a_decorator_is_all_it_takes_to_add_one(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_found", dict(architectures._found))

    @architecture()
    def linear(classes: int, size: int, scale: float = 1.0) -> nn.Module:
        """A matrix."""
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, classes, bias=False))
        module.get_parameter("1.weight").data.fill_(scale)
        return module

    assert find()["linear"].summary == "A matrix."
    trained = load("linear", {"scale": 2.0}, images)
    assert torch.equal(trained.network(torch.ones(1, 3, 8, 8)), torch.full((1, 2), 2.0 * 3 * 64))
    assert (trained.origin, trained.accuracy, trained.seconds) == ("untrained, seed 0", None, None)


@pytest.mark.parametrize(("name", "size", "own", "stages"), SMALL)
def test_every_architecture_runs_and_is_cut_at_every_stage(
    name: str, size: int, own: dict[str, float], stages: str
) -> None:
    network = parse(find()[name].build(5, size, **own), (3, size, size), name)
    assert network.stages == tuple(stages.split())
    x = torch.rand(2, 3, size, size)
    y = network(x)
    assert y.shape == (2, 5)
    for stage in network.stages:
        part = network.cut(stage)
        assert part.stages[-1] == stage
        assert part(x).shape[1:] == part.output_shape
    assert torch.equal(network.cut(network.stages[-1])(x), y)


@pytest.mark.parametrize(
    ("name", "size", "own"),
    [(name, size, own) for name, size, own, _ in SMALL if name not in ("resnet", "inception")]
    + [("vgg11", 32, {"width": 0.05, "batch_norm": False})],
)
def test_chains_agree_with_their_networks(name: str, size: int, own: dict[str, float]) -> None:
    module = find()[name].build(5, size, **own).double()
    for layer in module.modules():  # statistics that folding could not get right by chance
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.get_buffer("running_mean"), -1, 1)
            nn.init.uniform_(layer.get_buffer("running_var"), 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    network = parse(module, (3, size, size), name)
    assert network.reason is None
    assert network.chain is not None
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    y = x
    for stage in network.chain:
        y = stage(y)
    torch.testing.assert_close(y, network(x), rtol=1e-9, atol=1e-9)


def test_batch_norm_folds_into_the_convolution_before_it() -> None:
    plain, normed = (
        parse(find()["vgg11"].build(5, 32, width=0.05, batch_norm=norm), (3, 32, 32))
        for norm in (False, True)
    )
    assert plain.chain is not None
    assert normed.chain is not None
    assert [s.name for s in normed.chain] == [s.name for s in plain.chain]
    assert normed.multiply_adds == plain.multiply_adds


def test_a_residual_network_says_why_it_is_no_chain() -> None:
    network = parse(find()["resnet"].build(5, 16, width=4), (3, 16, 16))
    assert network.chain is None
    assert "'block1' is a ResidualBlock" in str(network.reason)


def test_a_residual_block_adds_its_input() -> None:
    torch.manual_seed(0)
    for channels, wide, stride in ((3, 3, 1), (3, 6, 2), (3, 4, 1)):
        block = ResidualBlock(channels, wide, stride)
        nn.init.zeros_(block.get_parameter("residual.3.weight"))  # leaves the shortcut alone
        x = torch.randn(2, 3, 8, 8)
        shortcut = x
        if (wide, stride) != (3, 1):
            weight = block.get_parameter("shortcut.weight")[:, :, 0, 0]
            shortcut = torch.einsum("oc,bchw->bohw", weight, x[:, :, ::stride, ::stride])
        torch.testing.assert_close(block.eval()(x), shortcut.clamp(min=0))


def test_an_inception_network_says_why_it_is_no_chain() -> None:
    network = parse(find()["inception"].build(5, 16, width=8), (3, 16, 16))
    assert network.chain is None
    assert "'block1' is an InceptionBlock" in str(network.reason)


def test_an_inception_block_sees_four_ways() -> None:
    """Its channels respond to one pixel within 1 x 1, 3 x 3, 5 x 5, and within the window of the pool."""
    torch.manual_seed(0)
    block = InceptionBlock(3, 32).double().eval()
    for layer in block.modules():  # no unit may be dead, and nothing may be cut off by a ReLU
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.bias, 10.0)
    base = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    poked = base.clone()
    poked[:, :, 4, 4] += 2.0
    parts = (block(poked) - block(base))[0].ne(0).split([8, 16, 4, 4])
    for part, reach in zip(parts, (0, 1, 2, 1), strict=True):
        inside = torch.zeros(9, 9, dtype=torch.bool)
        inside[4 - reach : 5 + reach, 4 - reach : 5 + reach] = True
        assert torch.equal(part.any(0), inside)


def test_the_channels_of_inception_are_told(images: Images) -> None:
    with pytest.raises(UserError, match=r"'inception' cannot be built .*multiple of 16 channels, but 6 are"):
        load("inception", {"width": 3}, images)


def test_random_filters_keep_the_scale_of_activations() -> None:
    torch.manual_seed(0)
    network = parse(find()["random_cnn"].build(5, 32, layers=1, width=256, kernel=5), (3, 32, 32))
    weight = network.module.get_parameter("conv1.0.weight")
    assert float(weight.var()) == pytest.approx(2 / 75, rel=0.05)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("filters", ["random", "learned"])
def test_random_filters_stay_bit_by_bit_and_learned_ones_move(
    images: Images,
    teach: Callable[[str, Recipe], None],
    own_cache: Path,
    layers: int,
    filters: str,
) -> None:
    teach("shallow_cnn", Recipe(epochs=4, batch=8, lr=0.05, weight_decay=0.1))
    own = {"layers": layers, "width": 6, "kernel": 3, "filters": filters}
    torch.manual_seed(3)
    before = find()["shallow_cnn"].build(2, 8, **own).state_dict()
    for origin in ("trained now", "trained before on this machine"):
        trained = load("shallow_cnn", {**own, "seed": 3}, images)
        assert trained.origin == origin
        after = trained.network.module.state_dict()
        assert after.keys() == before.keys()
        kept = {name for name in before if torch.equal(before[name], after[name])} - CONSTANTS
        convolutions = {f"conv{n}.0.weight" for n in range(1, layers + 1)}
        assert kept == (convolutions if filters == "random" else set())
        assert trained.accuracy is not None
        assert 0 <= trained.accuracy <= 1
        assert trained.held_out == len(images.all("test"))


def test_filters_random_or_learned_start_alike_and_have_keys_of_their_own(
    images: Images, teach: Callable[[str, Recipe], None], own_cache: Path
) -> None:
    teach("shallow_cnn", Recipe(epochs=1, batch=8))
    states = []
    for filters in ("random", "learned"):
        torch.manual_seed(0)
        states.append(find()["shallow_cnn"].build(2, 8, width=4, kernel=3, filters=filters).state_dict())
        load("shallow_cnn", {"width": 4, "kernel": 3, "filters": filters}, images)
    assert all(torch.equal(one, other) for one, other in zip(*(s.values() for s in states), strict=True))
    assert len(list((own_cache / "networks").iterdir())) == 2


def test_the_scale_of_random_filters_is_of_no_account() -> None:
    """What is trained sees the same features and gets the same gradients (but for the eps of batch norm)."""
    found = []
    for scale in (1.0, 100.0):
        torch.manual_seed(0)
        module = find()["shallow_cnn"].build(5, 16, layers=2, width=4).double()
        for n in (1, 2):
            module.get_parameter(f"conv{n}.0.weight").data.mul_(scale)
        x = torch.rand(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        output = module(x)
        output.square().sum().backward()
        gradients = [p.grad for p in module.parameters() if p.requires_grad]
        assert all(gradient is not None for gradient in gradients)
        assert len(gradients) == 2 * 2 + 2
        found.append([output, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_frozen_filters_of_a_single_layer_cost_no_backward_pass() -> None:
    with torch.profiler.profile() as profile:
        module = find()["shallow_cnn"].build(5, 16, layers=1, width=4)
        module(torch.rand(2, 3, 16, 16)).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "aten::native_batch_norm_backward" in names
    assert "aten::convolution_backward" not in names


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"filters": "learnt"}, "filters is 'learnt', and there are random and learned"),
        ({"filters": True}, "filters is True, and there are"),
        ({"layers": 0}, "layers is 0, but a whole number from 1 on is needed"),
        ({"layers": 1.5}, "layers is 1.5, but a whole number"),
        ({"width": True}, "width is True, but a whole number"),
        ({"kernel": 4}, "kernel is 4, but an odd one is needed"),
        ({"layers": 4}, r"takes images of a multiple of 16 px, at least 16 \(got 8\)"),
    ],
)
def test_bad_parameters_of_shallow_cnn_are_sentences(
    images: Images, own: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=f"network 'shallow_cnn'.*{sentence}"):
        load("shallow_cnn", own, images)
