"""Affine maps: adjoints, linearity, prices, agreement with torch's layers, and folding."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from invbench.errors import UserError
from invbench.operators import (
    Affine,
    AveragePooling,
    Composition,
    Convolution,
    Dense,
    Diagonal,
    Normalise,
    Reshape,
    TransposedConvolution,
    Upsampling,
    Windows,
    compose,
)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def matrix(affine, apply=None):
    """The matrix of the linear part: its value at every basis vector."""
    shape = affine.in_shape if apply is None else affine.out_shape
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
    return (apply or affine.linear)(basis.reshape(-1, *shape)).flatten(1).T


def assert_sound(affine):
    """Shapes, dot test, linear part and bias, for any affine map in float64."""
    assert isinstance(affine, Affine)
    x, z = random(2, *affine.in_shape), random(2, *affine.out_shape, seed=1)
    forward, backward = affine.linear(x), affine.adjoint(z)
    assert forward.shape == z.shape and backward.shape == x.shape
    left, right = (forward * z).flatten(1).sum(1), (x * backward).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(affine(x), forward + affine(torch.zeros_like(x)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(affine.linear(2 * x), 2 * forward, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(affine(x)[1:], affine(x[1:]), rtol=1e-12, atol=1e-12)


def convolution(shape=(4, 9, 8), channels=6, kernel=(3, 3), bias=True, groups=1, **geometry):
    weight = random(channels, shape[0] // groups, *kernel)
    return Convolution(weight, random(channels) if bias else None, shape, groups=groups, **geometry)


def transposed(shape=(4, 5, 4), channels=6, kernel=(3, 3), bias=True, groups=1, **geometry):
    weight = random(shape[0], channels // groups, *kernel)
    return TransposedConvolution(weight, random(channels) if bias else None, shape, groups=groups, **geometry)


SMALL = [
    Dense(random(3, 24), random(3), (2, 3, 4)),
    Dense(random(3, 5), None, (5,)),
    convolution((2, 5, 4), 3, stride=(2, 1), padding=(1, 0)),
    transposed((2, 3, 2), 3, stride=(2, 3), output_padding=(1, 2)),
    AveragePooling((2, 5, 4), (3, 2), (2, 2), (1, 1), count_include_pad=False),
    Reshape((2, 3, 4), (24,)),
    Diagonal((2, 3, 4), random(2, 1, 1), random(2, 3, 4)),
    Diagonal((2, 3, 4)),
    Windows((2, 7, 8), (3, 3), (2, 2)),
    Windows((2, 6, 7), (3, 2), (1, 2)),
    Upsampling((2, 3, 4), (6, 12)),
    Upsampling((2, 3, 4), (7, 5)),
    Upsampling((2, 5, 4), (3, 4)),
    Composition(
        (Diagonal((2, 3, 4), random(2, 3, 4)), Reshape((2, 3, 4), (24,)), Dense(random(3, 24), None, (24,)))
    ),
]


COLUMNS = [
    {"kernel": (5, 1)},
    {"kernel": (3, 1), "bias": False, "padding": (1, 0)},
    {"kernel": (4, 1), "stride": (3, 2), "output_padding": (2, 0), "dilation": (2, 3)},
    {"kernel": (3, 1), "groups": 2, "stride": (2, 1)},
]


@pytest.mark.parametrize("geometry", COLUMNS, ids=str)
def test_maps_of_one_column_are_convolved_as_in_two_dimensions(geometry):
    affine = transposed((4, 7, 1), **geometry)
    assert affine._is_1d
    x, z = random(2, *affine.in_shape), random(2, *affine.out_shape)
    rest = {name: geometry[name] for name in ("stride", "padding", "dilation") if name in geometry}
    more = geometry.get("output_padding", (0, 0))
    expected = functional.conv_transpose2d(
        x, affine.weight, affine.bias, output_padding=more, groups=affine.groups, **rest
    )
    torch.testing.assert_close(affine(x), expected)
    adjoint = functional.conv2d(z, affine.weight, groups=affine.groups, **rest)[:, :, :7]
    torch.testing.assert_close(affine.adjoint(z), adjoint)
    assert_sound(affine)


@pytest.mark.parametrize("affine", SMALL, ids=lambda affine: type(affine).__name__)
def test_the_adjoint_is_the_transposed_matrix(affine):
    assert_sound(affine)
    torch.testing.assert_close(matrix(affine, affine.adjoint), matrix(affine).T, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "kernel", "groups"),
    [
        *itertools.product(
            [(1, 1), (2, 3), (4, 1)], [(0, 0), (1, 2), (4, 5)], [(1, 1), (2, 1)], [(3, 2), (1, 4)], [1, 2]
        )
    ],
)
def test_convolution(stride, padding, dilation, kernel, groups):
    affine = convolution(
        kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, shape=(4, 10, 9)
    )
    assert_sound(affine)
    layer = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups, dtype=torch.float64)
    layer.load_state_dict({"weight": affine.weight, "bias": affine.bias})
    x = random(2, 4, 10, 9)
    torch.testing.assert_close(affine(x), layer(x), rtol=0, atol=0)
    assert affine.out_shape == layer(x).shape[1:]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_any_convolution_has_an_adjoint(data):
    pair = lambda low, high: data.draw(st.tuples(*[st.integers(low, high)] * 2))  # noqa: E731
    kernel, dilation, padding = pair(1, 5), pair(1, 3), pair(0, 6)
    needed = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    sides = [need + data.draw(st.integers(0, 7)) for need in needed]
    assert_sound(convolution((2, *sides), 2, kernel, stride=pair(1, 5), padding=padding, dilation=dilation))


@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "dilation", "groups"),
    [
        *itertools.product([(1, 1), (2, 3)], [(0, 0), (1, 2)], [(0, 0)], [(1, 1), (2, 1)], [1, 2]),
        ((2, 3), (1, 1), (1, 2), (1, 1), 2),
        ((4, 4), (0, 1), (3, 1), (1, 1), 1),
        ((1, 2), (1, 1), (2, 3), (3, 4), 1),  # beyond the stride, which a dilation allows
    ],
)
def test_transposed_convolution(stride, padding, output_padding, dilation, groups):
    geometry = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    affine = transposed(groups=groups, **geometry)
    assert_sound(affine)
    layer = nn.ConvTranspose2d(4, 6, (3, 3), groups=groups, dtype=torch.float64, **geometry)
    layer.load_state_dict({"weight": affine.weight, "bias": affine.bias})
    x = random(2, 4, 5, 4)
    torch.testing.assert_close(affine(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((2, 2), (2, 2), (0, 0)), ((3, 4), (2, 3), (1, 2))]
)
def test_average_pooling(kernel, stride, padding, include):
    affine = AveragePooling((3, 8, 9), kernel, stride, padding, include)
    assert_sound(affine)
    layer = nn.AvgPool2d(kernel, stride, padding, count_include_pad=include)
    torch.testing.assert_close(affine(random(2, 3, 8, 9)), layer(random(2, 3, 8, 9)))


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize(
    ("kernel", "padding"), [((5, 5), (2, 2)), ((4, 3), (0, 2)), ((1, 2), (0, 0)), ((2, 2), (2, 1))]
)
@pytest.mark.parametrize("sides", [(6, 8), (7, 8)])
def test_the_adjoint_to_few_channels(channels, kernel, padding, sides):
    """Blocks of 2 x 2 pixels at once give what torch's transposed convolution gives."""
    affine = Convolution(random(6, channels, *kernel), None, (channels, *sides), padding=padding)
    z = random(2, *affine.out_shape, seed=1)
    expected = torch.nn.functional.conv_transpose2d(z, affine.weight, padding=padding)
    assert affine.adjoint(z).is_contiguous()
    torch.testing.assert_close(affine.adjoint(z), expected, rtol=1e-12, atol=1e-12)


def test_unread_rows_and_columns_receive_zero():
    back = convolution((1, 8, 9), 1, (2, 2), stride=(3, 4)).adjoint(
        torch.ones(1, 1, 3, 2, dtype=torch.float64)
    )
    assert back.shape == (1, 1, 8, 9)
    assert not back[..., 2, :].any() and not back[..., 6:].any() and back[..., :2, :2].all()


def test_bias_of_each_position():
    full = random(6, 7, 6)
    plain = convolution(bias=False)
    affine = Convolution(plain.weight, full, plain.in_shape)
    assert_sound(affine)
    torch.testing.assert_close(affine(torch.zeros(1, 4, 9, 8, dtype=torch.float64))[0], full)


@pytest.mark.parametrize(
    "affine",
    [
        Dense(random(3, 24), random(3), (2, 3, 4)),
        convolution(stride=(2, 1), padding=(1, 1), groups=2),
        convolution(bias=False, dilation=(2, 2)),
        transposed(stride=(2, 2), output_padding=(1, 1), groups=2),
        Composition((convolution(), Reshape((6, 7, 6), (252,)), Dense(random(3, 252), None, (252,)))),
        AveragePooling((4, 9, 8), (2, 2), (2, 2)),
        Diagonal((4, 9, 8), random(4, 1, 1)),
    ],
    ids=lambda affine: type(affine).__name__,
)
def test_the_price_is_that_of_the_flop_counter(affine):
    with FlopCounterMode(display=False) as counter:
        affine(random(1, *affine.in_shape))
    assert 2 * affine.multiply_adds == counter.get_total_flops()


def test_the_adjoint_is_differentiable():
    for affine in SMALL:
        z = random(1, *affine.out_shape).requires_grad_()
        weights = random(1, *affine.in_shape)
        (gradient,) = torch.autograd.grad((affine.adjoint(z) * weights).sum(), z)
        torch.testing.assert_close(gradient, affine.linear(weights))


@pytest.mark.parametrize("affine", SMALL, ids=lambda affine: type(affine).__name__)
def test_maps_move_pickle_and_stay_frozen(affine, device):
    moved = affine.to(device, torch.float32)
    x = random(2, *affine.in_shape)
    result = moved(x.to(device, torch.float32))
    assert result.dtype == torch.float32 and result.device.type == torch.device(device).type
    torch.testing.assert_close(result.double().cpu(), affine(x), rtol=1e-2, atol=1e-2)
    assert affine(x).dtype == torch.float64
    torch.testing.assert_close(pickle.loads(pickle.dumps(affine))(x), affine(x))
    with pytest.raises(AttributeError):
        affine.in_shape = (1,)


def test_moving_nowhere_copies_nothing():
    for affine in SMALL:
        same = affine.to("cpu", torch.float64)
        assert same is affine or all(a is b for a, b in zip(same.maps, affine.maps, strict=True))


# --- folding -----------------------------------------------------------------------------------------------


def per_channel(shape, seed=3):
    sides = (shape[0], 1, 1)[: len(shape)]
    return Diagonal(shape, random(*sides, seed=seed) + 3, random(*sides, seed=seed + 1))


def full(shape):
    return Diagonal(shape, random(*shape, seed=5), random(*shape, seed=6))


def assert_folds(first, second, kind):
    folded = compose(first, second)
    assert type(folded) is kind
    assert folded.in_shape == first.in_shape and folded.out_shape == second.out_shape
    assert_sound(folded)
    x = random(2, *first.in_shape)
    torch.testing.assert_close(folded(x), second(first(x)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(folded.linear(x), second.linear(first.linear(x)), rtol=1e-12, atol=1e-12)
    return folded


SHAPE = (4, 9, 8)
CONVOLUTIONS = [
    convolution(),
    convolution(bias=False, stride=(2, 3), padding=(1, 2)),
    convolution(groups=2, padding=(1, 1), dilation=(2, 1)),
    transposed(SHAPE),
    transposed(SHAPE, bias=False, stride=(2, 3), padding=(1, 1), output_padding=(1, 2), groups=2),
]


@pytest.mark.parametrize("one", CONVOLUTIONS)
def test_scales_and_shifts_fold_into_convolutions(one):
    kind = type(one)
    assert_folds(per_channel(SHAPE), one, kind)
    after = assert_folds(one, per_channel(one.out_shape), kind)
    assert after.bias.shape == (6,)
    assert_folds(assert_folds(per_channel(SHAPE), one, kind), per_channel(one.out_shape), kind)
    assert_folds(one, Diagonal(one.out_shape, None, random(*one.out_shape)), kind)
    assert_folds(Diagonal(SHAPE, random(4, 1, 1)), one, kind)
    assert_folds(Diagonal(SHAPE, None, random(*SHAPE)), one, kind)
    assert_folds(Diagonal(SHAPE, torch.tensor(2.0, dtype=torch.float64)), one, kind)


@pytest.mark.parametrize("one", CONVOLUTIONS)
def test_scales_that_vary_in_space_do_not_fold(one):
    assert_folds(full(SHAPE), one, Composition)
    assert_folds(one, full(one.out_shape), Composition)


def test_a_bias_of_each_position_folds():
    one = Convolution(random(6, 4, 3, 3), random(6, 7, 6), SHAPE)
    assert assert_folds(per_channel(SHAPE), one, Convolution).bias.shape == (6, 7, 6)
    assert assert_folds(one, per_channel(one.out_shape), Convolution).bias.shape == (6, 7, 6)


def test_a_bias_of_each_channel_holds_no_more_memory():
    bias = compose(convolution(), per_channel((6, 7, 6))).bias
    assert bias.untyped_storage().nbytes() == 6 * 8


def test_the_bias_is_full_only_where_padding_meets_a_shift():
    assert compose(per_channel(SHAPE), convolution()).bias.shape == (6,)
    assert compose(Diagonal(SHAPE, random(4, 1, 1)), convolution(padding=(1, 1))).bias.shape == (6,)
    padded = compose(per_channel(SHAPE), convolution(padding=(1, 1)))
    assert padded.bias.shape == (6, 9, 8)
    assert (padded.bias[:, 0, 0] - padded.bias[:, 4, 4]).abs().min() > 1e-3


def test_dense_maps_take_in_their_neighbours():
    dense = Dense(random(5, 24), random(5), (2, 3, 4))
    flat = Dense(random(5, 24), None, (24,))
    for diagonal in (per_channel((2, 3, 4)), full((2, 3, 4)), Diagonal((2, 3, 4), None, random(2, 1, 1))):
        assert_folds(diagonal, dense, Dense)
    assert_folds(dense, per_channel((5,)), Dense)
    assert_folds(Reshape((2, 3, 4), (24,)), flat, Dense)
    # Flatten, batch norm, linear: the scale must fold before the reshape can vanish
    assert_folds(compose(Reshape((2, 3, 4), (24,)), per_channel((24,))), flat, Dense)


def test_the_rest():
    assert_folds(per_channel(SHAPE), full(SHAPE), Diagonal)
    assert_folds(Diagonal(SHAPE, random(4, 1, 1)), Diagonal(SHAPE, None, random(4, 1, 1)), Diagonal)
    assert_folds(Diagonal(SHAPE, None, random(4, 1, 1)), Diagonal(SHAPE, random(4, 1, 1)), Diagonal)
    assert_folds(Reshape((2, 3, 4), (24,)), Reshape((24,), (4, 6)), Reshape)
    one = convolution()
    assert compose(Diagonal(SHAPE), one) is one and compose(one, Diagonal(one.out_shape)) is one
    assert compose(Reshape(SHAPE, SHAPE), one) is one
    several = assert_folds(
        one, compose(Reshape((6, 7, 6), (252,)), Dense(random(3, 252), None, (252,))), Composition
    )
    assert len(several.maps) == 2
    assert len(compose(several, per_channel((3,))).maps) == 2


def test_a_map_must_follow_one_of_its_shape():
    with pytest.raises(ValueError, match="cannot be followed"):
        compose(convolution(), Diagonal((1, 2, 3)))


def test_folding_equals_layers_of_torch():
    torch_layers = nn.Sequential(
        Normalise([0.4, 0.5, 0.6], [0.2, 0.3, 0.1]), nn.Conv2d(3, 4, 3, 2, 1)
    ).double()
    normalise, layer = torch_layers
    first = Diagonal((3, 8, 8), 1 / normalise.std, -normalise.mean / normalise.std)
    second = Convolution(layer.weight.detach(), layer.bias.detach(), (3, 8, 8), (2, 2), (1, 1))
    x = random(2, 3, 8, 8)
    torch.testing.assert_close(compose(first, second)(x), torch_layers(x), rtol=1e-12, atol=1e-12)


def test_upsampling_repeats_the_nearest_entries():
    x = random(2, 3, 5, 4)
    for sides in ((10, 12), (7, 9), (5, 4), (3, 8)):
        affine = Upsampling((3, 5, 4), sides)
        assert affine.out_shape == (3, *sides)
        torch.testing.assert_close(affine(x), functional.interpolate(x, sides, mode="nearest"))
    tiles = Upsampling((3, 5, 4), (10, 12))
    torch.testing.assert_close(tiles(x), torch.kron(x, torch.ones(2, 3, dtype=torch.float64)))
    sums = functional.avg_pool2d(random(2, 3, 10, 12), (2, 3)) * 6
    torch.testing.assert_close(tiles.adjoint(random(2, 3, 10, 12)), sums)


# --- the module that normalises ----------------------------------------------------------------------------


def test_normalise():
    module = Normalise([0.25, 0.5], torch.tensor([0.5, 0.25]))
    x = torch.rand(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x)[:, 1], (x[:, 1] - 0.5) / 0.25)
    assert set(module.state_dict()) == {"mean", "std"} and not list(module.parameters())
    torch.testing.assert_close(copy.deepcopy(module)(x), module(x))


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5, 0.5]), ([0.5], [0.0])])
def test_normalise_refuses_what_makes_no_sense(mean, std):
    with pytest.raises(UserError, match="one positive std"):
        Normalise(mean, std)
