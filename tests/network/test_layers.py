import pytest
import torch
from torch import nn

from invbench.errors import UserError
from invbench.network import convolution, convolutions, inputs_of, parse, plain
from tests.modules import sequential


def network():
    torch.manual_seed(0)
    module = sequential(
        conv1=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()),
        pair=nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 1, padding="valid")),
        strided=nn.Conv2d(4, 4, 2, stride=2),
    )
    return parse(module.double(), (3, 8, 8), "tiny")


def test_convolutions_are_found_by_the_name_of_what_holds_them():
    net = network()
    assert list(convolutions(net)) == ["conv1.0", "pair.0", "pair.1", "strided"]
    assert convolution(net, "conv1") is convolution(net, "conv1.0") is net.module.conv1[0]


@pytest.mark.parametrize(("name", "padding"), [("conv1", (1, 1)), ("pair.0", (1, 1)), ("pair.1", (0, 0))])
def test_padding_in_numbers(name, padding):
    layer = convolution(network(), name)
    weight, found = plain(layer, name)
    assert weight is layer.weight
    assert found == padding


def test_inputs_are_what_the_layer_sees():
    net, x = network(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(inputs_of(net, convolution(net, "pair.0"), x), net.cut("conv1")(x))
    assert torch.equal(inputs_of(net, convolution(net, "conv1"), x), x)
    assert not net.module.conv1[0]._forward_pre_hooks


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda net: convolution(net, "conv9"), "no convolution 'conv9'; there are: conv1.0, pair.0"),
        (lambda net: convolution(net, "pair"), "more than one convolution 'pair'"),
        (lambda net: plain(convolution(net, "strided"), "strided"), "'strided' has stride"),
        (lambda net: inputs_of(net, nn.ReLU(), torch.zeros(1, 3, 8, 8).double()), "never applies"),
    ],
)
def test_mistakes_get_a_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call(network())
