"""What layers are read as; black boxes are taken, and say why they are none of it."""

import pytest
import torch
from torch import nn

from invbench.activations import Identity
from invbench.network import interpret, parse
from invbench.operators import Diagonal
from tests.modules import ResidualBlock, ResNet, images, kinds, lenet, run, seeded, sequential


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("kernel", "dilation"), [(4, 1), ((2, 3), 3), ((2, 4), (1, 3)), (2, 2)])
def test_even_kernels_with_the_same_padding(kernel, dilation, generator):
    module = nn.Conv2d(3, 2, kernel, padding="same", dilation=dilation, dtype=torch.float64)
    network = parse(seeded(module), (3, 9, 8))
    x = images((3, 9, 8), generator)
    torch.testing.assert_close(run(network.chain, x), network(x), rtol=1e-12, atol=1e-12)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Cropped(nn.Conv2d):
    def forward(self, x):
        return super().forward(x)[..., 1:]


class Skipping(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


REASONS = {
    "block": (
        lambda: sequential(conv1=nn.Conv2d(3, 3, 3), block1=ResidualBlock(3)),
        "stage 'block1' is a ResidualBlock, which is neither an affine map nor an activation",
    ),
    "nested": (
        lambda: sequential(body=nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3)), nn.ELU())),
        "stage 'body.1' is an ELU, which is neither",
    ),
    "root": (ResNet, "the network is a ResNet instead of an nn.Sequential"),
    "sequential with a forward": (lambda: Skipping(nn.Conv2d(3, 3, 1)), "the network is a Skipping"),
    "reflection": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")),
        "stage '0' is a Conv2d, which pads by 'reflect' instead of zeros",
    ),
    "dilated pool": (
        lambda: nn.Sequential(nn.MaxPool2d(2, dilation=2)),
        "MaxPool2d, which dilates its windows",
    ),
    "ceil": (lambda: nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "which rounds its size up"),
    "ceil average": (lambda: nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), "which rounds its size up"),
    "divisor": (lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "which divides by a number"),
    "unequal": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4)),
        "which averages over windows of unequal sizes",
    ),
    "enlarging": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(18)), "unequal sizes"),
    "last axis": (
        lambda: nn.Sequential(nn.Linear(9, 2)),
        r"Linear, which takes vectors, but is given \(3, 9, 9\)",
    ),
    "batch": (
        lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
        "which normalises by the statistics of its batch",
    ),
    "own forward": (lambda: nn.Sequential(Doubled(3, 3, 3)), "does not compute what its type says"),
    "own shape": (
        lambda: nn.Sequential(Cropped(3, 3, 3), nn.Flatten(), nn.Linear(126, 2)),
        "their types say",
    ),
    "empty": (nn.Sequential, "the network is empty"),
}


@pytest.mark.parametrize(("make", "reason"), REASONS.values(), ids=REASONS)
def test_black_boxes_are_taken_and_say_why(make, reason, generator):
    module = make().eval()
    network = parse(module, (3, 9, 9))
    x = images((3, 9, 9), generator, dtype=torch.float32)
    torch.testing.assert_close(network(x), module(x))
    assert network.chain is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(network.reason)
    assert "\n" not in network.reason and network.multiply_adds >= 0


def test_a_hook_that_alters_a_layer_is_noticed():
    module = lenet()
    module.conv1.register_forward_hook(lambda layer, arguments, output: output + 1)
    assert "does not compute" in parse(module, (3, 16, 16)).reason


def test_a_network_that_returns_nan_is_no_chain():
    module = lenet()
    module.fc3.bias.data[0] = torch.nan
    assert parse(module, (3, 16, 16)).chain is None


def test_further_layers_can_be_made_known():
    class Negative(nn.Module):
        def forward(self, x):
            return -x

    module = nn.Sequential(Negative())
    assert parse(module, (3, 4, 4)).chain is None
    interpret.register(Negative, lambda layer, shape: Diagonal(shape, -torch.ones(())))
    assert kinds(parse(module, (3, 4, 4))) == [("0", Diagonal, Identity())]
