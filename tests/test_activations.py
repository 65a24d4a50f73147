"""Activations against torch's own layers."""

import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from invbench.activations import Identity, LocalResponseNorm, MaxPool, ReLU, ReLUMaxPool

POOLS = [
    ((2, 2), (2, 2), (0, 0)),
    ((3, 3), (2, 2), (0, 0)),  # overlapping
    ((3, 3), (2, 2), (1, 1)),
    ((2, 4), (1, 3), (1, 2)),
    ((2, 2), (3, 4), (0, 0)),  # gaps between windows
]
PAIRS = [
    (Identity(), nn.Identity()),
    (ReLU(), nn.ReLU()),
    (ReLU(0.1), nn.LeakyReLU(0.1)),
    (LocalResponseNorm(5, 1e-1, 0.75, 2.0), nn.LocalResponseNorm(5, 1e-1, 0.75, 2.0)),
    (LocalResponseNorm(4), nn.LocalResponseNorm(4)),
    *[(MaxPool(*windows), nn.MaxPool2d(*windows)) for windows in POOLS],
    *[(ReLUMaxPool(*windows), nn.Sequential(nn.ReLU(), nn.MaxPool2d(*windows))) for windows in POOLS],
    *[(ReLUMaxPool(*windows), nn.Sequential(nn.MaxPool2d(*windows), nn.ReLU())) for windows in POOLS],
]


@pytest.fixture
def p(generator):
    return torch.randn(3, 6, 9, 10, generator=generator) - 0.3


@pytest.mark.parametrize(("activation", "layer"), PAIRS, ids=lambda pair: repr(pair).replace("\n", ""))
def test_activations_equal_layers(activation, layer, p, device):
    found = activation(p.to(device))
    torch.testing.assert_close(found, layer(p.to(device)))
    assert found.shape[1:] == activation.out_shape(tuple(p.shape[1:]))
    torch.testing.assert_close(activation(p[1:2].to(device)), found[1:2])


@pytest.mark.parametrize("activation", [activation for activation, _ in PAIRS], ids=repr)
def test_the_input_is_left_alone(activation, p):
    before = p.clone()
    activation(p)
    assert torch.equal(p, before)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data())
def test_the_shape_of_any_pooling(data):
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    padding = tuple(data.draw(st.integers(0, side // 2)) for side in kernel)
    shape = (1, kernel[0] + data.draw(st.integers(0, 6)), kernel[1] + data.draw(st.integers(0, 6)))
    expected = nn.MaxPool2d(kernel, stride, padding)(torch.zeros(1, *shape)).shape[1:]
    assert MaxPool(kernel, stride, padding).out_shape(shape) == expected


def test_pointwise_activations_take_vectors():
    p = torch.tensor([[-2.0, 0.0, 3.0]])
    assert ReLU()(p).tolist() == [[0, 0, 3]] and ReLU(0.5)(p).tolist() == [[-1, 0, 3]]
    assert ReLU().out_shape((3,)) == (3,)


def test_activations_are_plain_values():
    assert ReLU(0.1) == ReLU(0.1) != ReLU()
    assert MaxPool((2, 2), (2, 2)) != ReLUMaxPool((2, 2), (2, 2))
    for activation, _ in PAIRS:
        assert pickle.loads(pickle.dumps(activation)) == activation
        assert hash(activation) == hash(dataclasses.replace(activation))


@pytest.mark.parametrize("activation", [activation for activation, _ in PAIRS], ids=repr)
def test_only_response_normalisation_refuses_projections(activation):
    assert (activation.refuses() is not None) == isinstance(activation, LocalResponseNorm)
