"""Networks cut at a stage, also within modules that have a forward of their own."""

import pickle
import warnings

import pytest
import torch
from torch import nn

from invbench.errors import UserError
from invbench.network import parse
from tests.modules import CHAINS, ResNet, images, lenet, run, seeded, sequential


@pytest.mark.parametrize(("make", "shape"), CHAINS.values(), ids=CHAINS)
def test_every_cut_equals_the_prefix_of_the_module(make, shape, generator):
    module = make().double().eval()
    network = parse(module, shape)
    x = expected = images(shape, generator)
    for name, child in module.named_children():
        expected = child(expected)
        if name in network.stages:
            cut = network.cut(name)
            torch.testing.assert_close(cut(x), expected, rtol=0, atol=0)
            torch.testing.assert_close(run(cut.chain, x), expected, rtol=1e-10, atol=1e-10)
            assert cut.stages[-1] == name and cut.output_shape == expected.shape[1:]
            assert cut.input_shape == shape and cut.name == network.name


def test_a_residual_network_is_cut(generator):
    module = seeded(ResNet()).eval()
    network = parse(module, (3, 9, 9), "resnet")
    assert network.stages == ("conv1", "block1", "block2", "fc")
    x = images((3, 9, 9), generator, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cuts = {
            name: network.cut(name) for name in (*network.stages, "block2.0", "block2.1", "block2.0.conv")
        }
    for name, cut in cuts.items():
        seen = []
        with module.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out.clone())):  # noqa: B023
            module(x)
        torch.testing.assert_close(cut(x), seen[0], msg=name)
        assert cut.output_shape == seen[0].shape[1:] and cut.chain is None and "instead of" in cut.reason
    assert cuts["block2"].stages == ("conv1", "block1", "block2")
    again = cuts["block2"].cut("block1")
    torch.testing.assert_close(again(x), cuts["block1"](x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(again))(x), cuts["block1"](x))
    torch.testing.assert_close(again.to(dtype=torch.float64)(x.double()).float(), cuts["block1"](x))
    assert len({cut.digest for cut in cuts.values()}) == len(cuts)
    assert cuts["block1"].multiply_adds < network.multiply_adds


def test_a_residual_network_within_a_sequential_is_cut(generator):
    module = seeded(sequential(first=nn.Conv2d(3, 3, 1), body=ResNet())).eval()
    network = parse(module, (3, 9, 9))
    x = images((3, 9, 9), generator, dtype=torch.float32)
    cut = network.cut("body.block1")
    body = module.body
    torch.testing.assert_close(cut(x), body.block1(body.conv1(body.normalise(module.first(x)))))
    assert cut.stages == ("first", "body")


def test_a_network_that_cannot_be_traced_says_so():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    network = parse(Branching(), (3, 4, 4), "branching")
    with pytest.raises(UserError, match=r"'branching' cannot be cut at 'conv', as torch.fx cannot trace it"):
        network.cut("conv")


@pytest.mark.parametrize("stage", ["conv9", "conv1.7", "", "conv1.", ".", "pool1.x", "conv1.0.weight"])
def test_an_unknown_stage_lists_the_stages(stage):
    network = parse(lenet(), (3, 16, 16), "lenet")
    with pytest.raises(
        UserError, match=r"'lenet' has no stage .*: conv1, pool1, conv2, pool2, fc1, fc2, fc3"
    ):
        network.cut(stage)
