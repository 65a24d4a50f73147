"""The networks that come along: catalogue, stages, chains, and what they are made of."""

import pytest
import torch
from torch import nn

from invbench.images import Images
from invbench.network import parse
from invbench.networks import architectures, find, load
from invbench.networks.architectures import ResidualBlock, architecture

#: Architectures of our own at small sizes: name, pixels, parameters, stages.
SMALL: list[tuple[str, int, dict[str, float | str], str]] = [
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
    ("resnet", 16, {"width": 4}, "stem block1 block2 block3 head"),
]


def test_the_catalogue_has_a_line_about_each() -> None:
    ours = {"lenet", "vgg11", "alexnet", "random_cnn", "resnet"}
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
    [(name, size, own) for name, size, own, _ in SMALL if name != "resnet"]
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


def test_random_filters_keep_the_scale_of_activations() -> None:
    torch.manual_seed(0)
    network = parse(find()["random_cnn"].build(5, 32, layers=1, width=256, kernel=5), (3, 32, 32))
    weight = network.module.get_parameter("conv1.0.weight")
    assert float(weight.var()) == pytest.approx(2 / 75, rel=0.05)
