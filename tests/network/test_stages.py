"""Parts of networks: what follows a stage, and a stage without its activation."""

import pytest
import torch
from torch import nn

from invbench.errors import UserError
from invbench.network import after, parse, without_activations
from tests.modules import CHAINS, ResNet, images, seeded, sequential


@pytest.mark.parametrize("name", ["lenet", "vgg", "generator", "odds"])
def test_what_follows_a_stage_takes_its_output(name: str, generator: torch.Generator) -> None:
    make, shape = CHAINS[name]
    network = parse(make().double(), shape)
    x = images(shape, generator)
    assert network.chain is not None
    for stage in network.chain[:-1]:
        rest = after(network, stage.name)
        middle = network.cut(stage.name)(x)
        assert rest.input_shape == tuple(middle.shape[1:])
        torch.testing.assert_close(rest(middle), network(x))


def test_a_stage_within_a_block_is_found_by_its_dotted_name(generator: torch.Generator) -> None:
    make, shape = CHAINS["vgg"]
    network = parse(make().double(), shape)
    x = images(shape, generator)
    inner = after(network.cut("features.4.2"), "features.3")
    assert inner.chain is not None
    assert len(inner.chain) == 1
    torch.testing.assert_close(inner(network.cut("features.3")(x)), network.cut("features.4.2")(x))


def test_without_activations_the_affine_map_is_left(generator: torch.Generator) -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    network = parse(seeded(sequential(conv=block, pool=nn.MaxPool2d(2))).double(), (3, 6, 6))
    affine = without_activations(network)
    x = images((3, 6, 6), generator)
    assert network.chain is not None
    torch.testing.assert_close(affine(x), network.chain[0].affine(x))
    assert (affine(x) < 0).any()


def test_mistakes_are_told() -> None:
    make, shape = CHAINS["lenet"]
    network = parse(make(), shape)
    with pytest.raises(UserError, match="has no stage 'conv9'"):
        after(network, "conv9")
    with pytest.raises(UserError, match="nothing follows it"):
        after(network, "fc3")
    with pytest.raises(UserError, match="a module that is no sequence"):
        after(parse(ResNet(), (3, 9, 9)), "conv1")
