"""Networks read as chains of stages, which equal the module."""

import pytest
import torch
from torch import nn

from invbench.activations import Identity, LocalResponseNorm, MaxPool, ReLU, ReLUMaxPool
from invbench.network import Stage, parse
from invbench.operators import (
    AveragePooling,
    Composition,
    Convolution,
    Dense,
    Diagonal,
    Reshape,
    TransposedConvolution,
    Windows,
)
from tests.modules import (
    CHAINS,
    alexnet,
    generator_network,
    images,
    kinds,
    lenet,
    odds_and_ends,
    run,
    seeded,
    sequential,
    vgg,
)


@pytest.mark.parametrize(("make", "shape"), CHAINS.values(), ids=CHAINS)
def test_the_chain_equals_the_module(make, shape, generator):
    module = make().double().eval()
    network = parse(module, shape)
    x = images(shape, generator) * 3 - 1
    assert network.reason is None
    torch.testing.assert_close(run(network.chain, x), module(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(network(x), module(x), rtol=0, atol=0)
    assert network.output_shape == module(x).shape[1:] == network.chain[-1].out_shape
    for first, second in zip(network.chain, network.chain[1:], strict=False):
        assert first.out_shape == second.affine.in_shape


@pytest.mark.parametrize(("make", "shape"), CHAINS.values(), ids=CHAINS)
def test_stages_are_named_by_where_to_cut(make, shape, generator):
    network = parse(make().double(), shape)
    x = images(shape, generator)
    assert len({stage.name for stage in network.chain}) == len(network.chain)
    if not network.stages:
        return
    for stage in network.chain:
        x, before = stage(x), x
        torch.testing.assert_close(
            network.cut(stage.name)(images_again(shape)), run_until(network, stage, shape)
        )
        assert before.shape[1:] == stage.affine.in_shape


def images_again(shape):
    return images(shape, torch.Generator().manual_seed(0))


def run_until(network, last, shape):
    return run(network.chain[: network.chain.index(last) + 1], images_again(shape))


def test_the_chain_of_lenet():
    network = parse(lenet(), (3, 16, 16), "lenet")
    assert network.stages == ("conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "fc3")
    pool = ReLUMaxPool((2, 2), (2, 2))
    assert kinds(network) == [
        ("pool1", Convolution, pool),
        ("pool2", Convolution, pool),
        ("fc1", Dense, ReLU()),
        ("fc2", Dense, ReLU()),
        ("fc3", Dense, Identity()),
    ]
    assert kinds(network.cut("conv1")) == [("conv1", Convolution, ReLU())]
    assert kinds(network.cut("pool1")) == [("pool1", Convolution, pool)]
    assert kinds(network.cut("conv1.0")) == [("conv1", Convolution, Identity())]
    assert network.chain[0].affine.bias.shape == (4, 16, 16)  # the normalisation meets zero padding
    assert network.chain[2].affine.in_shape == (6, 4, 4)
    assert network.multiply_adds == sum(stage.affine.multiply_adds for stage in network.chain)


def test_the_chain_of_vgg_has_no_batch_norm():
    network = parse(vgg(), (3, 16, 16))
    assert kinds(network) == [
        ("features.3", Convolution, ReLUMaxPool((2, 2), (2, 2))),
        ("features.4.2", Convolution, ReLU()),
        ("features", Convolution, ReLUMaxPool((2, 2), (2, 2))),
        ("classifier.3", Composition, ReLU()),
        ("classifier", Dense, Identity()),
    ]
    assert [type(one) for one in network.chain[3].affine.maps] == [AveragePooling, Dense]


def test_the_chain_of_an_alexnet_keeps_the_response_normalisation():
    network = parse(alexnet(), (3, 23, 23))
    assert kinds(network) == [
        ("conv1", Convolution, ReLU()),
        ("norm1", Diagonal, LocalResponseNorm(5, 0.1)),
        ("pool1", Windows, MaxPool((3, 3), (3, 3))),
        ("pool2", Convolution, ReLUMaxPool((3, 3), (2, 2), (1, 1))),
        ("fc", Dense, Identity()),
    ]


def test_the_chain_of_a_generator():
    network = parse(generator_network(), (3, 3, 3))
    assert kinds(network) == [
        ("code", Dense, ReLU(0.2)),
        ("act1", Composition, ReLU(0.2)),
        ("up2", TransposedConvolution, Identity()),
    ]
    assert [type(one) for one in network.chain[1].affine.maps] == [Reshape, TransposedConvolution]


def test_the_chain_of_odds_and_ends():
    network = parse(odds_and_ends(), (3, 16, 12))
    assert [(name, activation) for name, _, activation in kinds(network)] == [
        ("start", ReLU(0.5)),
        ("pool", ReLUMaxPool((2, 1), (2, 1))),
        ("leaky", ReLU(0.1)),
        ("pool2", MaxPool((2, 2), (2, 2))),
        ("whole", Identity()),
    ]


def test_a_network_that_does_nothing():
    assert kinds(parse(sequential(a=nn.Dropout(), b=nn.Identity()), (3, 4, 4))) == [
        ("b", Diagonal, Identity())
    ]


def test_a_layer_that_occurs_twice_counts_twice(generator):
    relu, conv = nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)
    network = parse(seeded(sequential(a=conv, b=relu, c=conv, d=relu)), (3, 6, 6))
    assert network.stages == ("a", "b", "c", "d") and len(network.chain) == 2
    x = images((3, 6, 6), generator, dtype=torch.float32)
    torch.testing.assert_close(network.cut("d")(x), network(x))
    assert len(network.cut("c").chain) == 2


def test_features_of_torchvision_alexnet():
    from torchvision.models import alexnet as build

    with torch.random.fork_rng():
        features = build(weights=None).features
    network = parse(seeded(features), (3, 64, 64))
    assert [stage.name for stage in network.chain] == ["1", "2", "4", "5", "7", "9", "11", "12"]
    assert network.chain[0].activation == ReLU() and network.reason is None
    assert network.chain[1].activation == MaxPool((3, 3), (3, 3)), "overlapping windows are copied apart"
    assert kinds(network.cut("3"))[-1] == ("3", Convolution, Identity())


def test_a_stage_is_applied_and_moved(generator):
    stage = parse(lenet(), (3, 16, 16)).chain[0]
    assert isinstance(stage, Stage) and stage.out_shape == (4, 8, 8)
    x = images((3, 16, 16), generator)
    torch.testing.assert_close(
        stage.to(dtype=torch.float64)(x), stage(x.float()).double(), rtol=1e-4, atol=1e-5
    )
