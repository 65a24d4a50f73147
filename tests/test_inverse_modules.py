"""Operations taken out of a chain, and modules that lead back through each of them."""

import math
from itertools import pairwise, product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from invbench import metrics
from invbench.activations import Identity, LocalResponseNorm, MaxPool, ReLU, ReLUMaxPool
from invbench.decoders import Layer, resized, transposed
from invbench.domains import Reals
from invbench.inverse_modules import Kind, maps, module, modules, operations, refusal
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import Network, Stage, parse
from invbench.networks import architectures
from invbench.operators import (
    Affine,
    AveragePooling,
    Composition,
    Convolution,
    Dense,
    Diagonal,
    TransposedConvolution,
    Windows,
)
from invbench.problem import Problem
from tests.modules import alexnet, lenet, normalise, odds_and_ends, seeded, sequential, vgg

KINDS = get_args(Kind)
HALVED = MaxPool((2, 2), (2, 2))
Pair = tuple[int, int]


def parsed(layers: nn.Module, shape: tuple[int, ...] = (3, 16, 16)) -> Network:
    return parse(seeded(layers).double(), shape, "network")


def steps_of(network: Network) -> tuple[Stage, ...]:
    assert network.chain is not None, network.reason
    return operations(network.chain)


def drawn(shape: tuple[int, ...], count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def named(steps: tuple[Stage, ...]) -> list[tuple[str, type[Affine], object]]:
    return [(one.name, type(one.affine), one.activation) for one in steps]


def test_a_convolution_with_its_relu_and_a_pool_are_two_operations() -> None:
    steps = steps_of(parsed(lenet()))
    assert named(steps) == [
        ("pool1", Convolution, ReLU()),
        ("pool1", Diagonal, MaxPool((2, 2), (2, 2))),
        ("pool2", Convolution, ReLU()),
        ("pool2", Diagonal, MaxPool((2, 2), (2, 2))),
        ("fc1", Dense, ReLU()),
        ("fc2", Dense, ReLU()),
        ("fc3", Dense, Identity()),
    ]
    assert type(steps[1].activation) is MaxPool, "the ReLU before it is done"


def test_the_operations_of_an_alexnet_type() -> None:
    """Overlapping pools without padding copy their windows; with padding they do not."""
    steps = steps_of(parsed(alexnet(), (3, 23, 23)))
    assert named(steps) == [
        ("conv1", Convolution, ReLU()),
        ("norm1", Diagonal, LocalResponseNorm(5, 0.1)),
        ("pool1", Windows, MaxPool((3, 3), (3, 3))),
        ("pool2", Convolution, ReLU()),
        ("pool2", Diagonal, MaxPool((3, 3), (2, 2), (1, 1))),
        ("fc", Dense, Identity()),
    ]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.AvgPool2d(2)], [(AveragePooling, Identity())]),
        ([nn.AvgPool2d(2), nn.ReLU()], [(AveragePooling, ReLU())]),
        ([nn.LeakyReLU(0.5), nn.AvgPool2d(2)], [(Diagonal, ReLU(0.5)), (AveragePooling, Identity())]),
        ([nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)], [(Convolution, Identity()), (Diagonal, HALVED)]),
        ([nn.MaxPool2d(2), nn.ReLU()], [(Diagonal, ReLU()), (Diagonal, HALVED)]),
        ([nn.MaxPool2d(3, 2), nn.ReLU()], [(Windows, ReLUMaxPool((3, 3), (3, 3)))]),
        ([normalise(), nn.MaxPool2d(2)], [(Diagonal, Identity()), (Diagonal, HALVED)]),
        ([nn.Identity(), nn.MaxPool2d(2)], [(Diagonal, HALVED)]),
        ([nn.LocalResponseNorm(3)], [(Diagonal, LocalResponseNorm(3))]),
        ([nn.Identity()], []),
        ([nn.Flatten(), nn.Linear(768, 4)], [(Dense, Identity())]),
    ],
    ids=lambda value: "",
)  # fmt: skip
def test_what_does_nothing_is_dropped_and_the_rest_is_taken_apart(
    layers: list[nn.Module], expected: list[Any]
) -> None:
    network = parsed(nn.Sequential(*layers))
    steps = steps_of(network)
    assert [(type(one.affine), one.activation) for one in steps] == expected
    assert [type(one.activation) for one in steps] == [type(activation) for _, activation in expected]
    x = drawn(network.input_shape)
    torch.testing.assert_close(maps(steps, x)[-1], network(x), rtol=1e-12, atol=1e-12)


BUILT = {
    "lenet": lambda: architectures.lenet(6, 32),
    "alexnet": lambda: architectures.alexnet(6, 64, width=1 / 16, norm="lrn"),
    "vgg11": lambda: architectures.vgg11(6, 32, width=1 / 32),
}


@pytest.mark.parametrize(("name", "size"), [("lenet", 32), ("alexnet", 64), ("vgg11", 32)])
def test_in_turn_they_do_what_the_network_does(name: str, size: int) -> None:
    network = parsed(BUILT[name](), (3, size, size))
    steps = steps_of(network)
    found = maps(steps, drawn(network.input_shape))
    assert len(found) == len(steps) + 1
    for one, (before, after) in zip(steps, pairwise(found), strict=True):
        assert before.shape[1:] == one.affine.in_shape
        assert after.shape[1:] == one.out_shape
        torch.testing.assert_close(one(before), after)
        pool = isinstance(one.activation, MaxPool)
        assert not pool or isinstance(one.affine, Diagonal | Windows), "a pool is an operation of its own"
    torch.testing.assert_close(found[-1], network(found[0]), rtol=1e-12, atol=1e-12)


def filled(layer: Layer, seed: int = 0) -> tuple[Affine, Tensor, Tensor]:
    """A layer with random weights."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(layer.weight, generator=generator, dtype=torch.float64)
    bias = torch.randn(layer.biases, generator=generator, dtype=torch.float64)
    return layer.affine(weight, bias), weight, bias


def through(layers: tuple[Layer, ...], x: Tensor) -> Tensor:
    for n, layer in enumerate(layers):
        affine, _, _ = filled(layer, n)
        assert affine.in_shape == x.shape[1:]
        x = layer.activation(affine(x))
        assert affine.out_shape == x.shape[1:]
    return x


#: Layers between maps of 3 x H x W, by (kernel, stride, padding, dilation), and sides that do not tile.
WINDOWS: list[tuple[int, int, int, int]] = [
    (3, 1, 1, 1), (2, 2, 0, 1), (3, 2, 0, 1), (3, 2, 1, 1), (4, 3, 0, 1), (5, 4, 2, 1), (3, 1, 2, 2),
    (3, 2, 0, 2), (1, 2, 0, 1), (2, 1, 0, 1), (3, 1, 3, 1),
]  # fmt: skip
SIDES = [(15, 15), (14, 11)]


def layers_of(kernel: int, stride: int, padding: int, dilation: int) -> list[nn.Module]:
    """All layers of this geometry that there are."""
    made: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(3, 5, kernel, stride, padding, dilation), nn.ReLU()),
    ]
    if padding <= kernel // 2 and dilation == 1 and kernel > 1:
        made += [nn.MaxPool2d(kernel, stride, padding), nn.AvgPool2d(kernel, stride, padding)]
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("geometry", WINDOWS, ids=str)
def test_a_module_gives_back_the_shape_of_the_input(kind: Kind, geometry: tuple[int, int, int, int]) -> None:
    for layer, sides in product(layers_of(*geometry), SIDES):
        (step,) = steps_of(parsed(layer, (3, *sides)))
        pair = module(step, -math.inf, kind, 4)
        x = through(pair, drawn(step.out_shape))
        assert x.shape[1:] == (3, *sides)
        assert [one.activation for one in pair] == [ReLU(), Identity()]


def test_fifteen_rows_that_two_do_not_tile() -> None:
    (step,) = steps_of(parsed(nn.MaxPool2d(2), (3, 15, 15)))
    assert step.out_shape == (3, 7, 7)
    for kind in KINDS:
        assert through(module(step, 0, kind, 4), drawn((3, 7, 7))).shape == (2, 3, 15, 15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("make", "shape"),
    [(lenet, (3, 16, 16)), (alexnet, (3, 23, 23)), (vgg, (3, 16, 16)), (odds_and_ends, (3, 16, 12))],
)
def test_modules_lead_back_through_a_whole_network(kind: Kind, make: Any, shape: tuple[int, ...]) -> None:
    network = parsed(make(), shape)
    if make is odds_and_ends:
        network = network.cut("pool2")  # an average without padding follows it, composed with another
    steps = steps_of(network)
    assert refusal(steps) is None
    layers = modules(steps, kind, 4)
    assert len(layers) == 2 * len(steps)
    found = maps(steps, drawn(shape))[::-1]
    for n, (seen, wanted) in enumerate(pairwise(found)):
        pair = layers[2 * n : 2 * n + 2]
        assert through(pair, seen).shape == wanted.shape
        lowest = 0 if pair[1].activation == ReLU() else -math.inf
        assert wanted.min() >= lowest, "what the operation saw can be reached"
    assert through(layers, found[0]).shape == found[-1].shape


def cut_at_zero(*layers: nn.Module) -> list[bool]:
    """Whether the module of each operation gives no negative numbers, first operation first."""
    steps = steps_of(parsed(nn.Sequential(*layers)))
    pairs = modules(steps, "deconv-conv", 4)[1::2]
    return [one.activation == ReLU() for one in reversed(pairs)]


def test_what_lies_behind_a_relu_is_cut_at_zero() -> None:
    assert cut_at_zero(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)) == [
        False,
        True,
        True,
    ]
    assert cut_at_zero(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)) == [False, False, False]
    assert cut_at_zero(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2)) == [False, False]
    # pools and normalisation keep the sign, overlapping ones too
    lrn = nn.LocalResponseNorm(3)
    behind = [nn.Conv2d(3, 4, 3), nn.ReLU(), lrn, nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3)]
    assert cut_at_zero(*behind) == [False, True, True, True]
    assert cut_at_zero(nn.MaxPool2d(3, 2), nn.ReLU(), nn.Conv2d(3, 4, 3)) == [False, True]
    assert cut_at_zero(nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 4, 3)) == [False, True, True]
    linear = nn.Linear(4 * 14 * 14, 3)
    assert cut_at_zero(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), linear) == [False, True]


def test_dense_operations_have_dense_modules_of_any_kind() -> None:
    (step,) = steps_of(parsed(nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.ReLU()), (3, 4, 4)))
    for kind in KINDS:
        first, second = module(step, 0, kind, 5)
        assert (first.weight, second.weight) == ((20, 7), (48, 20))
        assert isinstance(filled(first)[0], Composition)
        assert through((first, second), drawn((7,))).shape == (2, 3, 4, 4)


def test_the_layers_of_each_kind() -> None:
    (step,) = steps_of(parsed(nn.Conv2d(3, 6, 5, 2, 2), (3, 12, 12)))
    kinds: dict[str, list[tuple[type[Affine], tuple[int, ...]]]] = {
        "deconv-conv": [(TransposedConvolution, (6, 4, 5, 5)), (Convolution, (3, 4, 3, 3))],
        "conv-deconv": [(Convolution, (4, 6, 3, 3)), (TransposedConvolution, (4, 3, 5, 5))],
        "deconv-deconv": [(TransposedConvolution, (6, 4, 5, 5)), (TransposedConvolution, (4, 3, 3, 3))],
        "upsample-conv": [(Composition, (4, 6, 5, 5)), (Convolution, (3, 4, 3, 3))],
    }
    assert set(kinds) == set(KINDS)
    for kind, expected in kinds.items():
        found = [(type(filled(one)[0]), one.weight) for one in module(step, 0, kind, 4)]  # type: ignore[arg-type]
        assert found == expected


@pytest.mark.parametrize("geometry", WINDOWS, ids=str)
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_a_transposed_layer_is_the_adjoint_of_the_convolution_that_it_mirrors(
    geometry: tuple[int, int, int, int], sides: Pair
) -> None:
    kernel, stride, padding, dilation = ((n, n) for n in geometry)
    weight = drawn((5, *kernel), 6)
    forward = Convolution(weight, None, (5, *sides), stride, padding, dilation)
    layer = transposed(forward.out_shape, forward.in_shape, Identity(), kernel, stride, padding, dilation)
    assert layer.weight == weight.shape
    back = layer.affine(weight, torch.zeros(5, dtype=torch.float64))
    x, z = drawn(forward.in_shape), drawn(forward.out_shape, seed=1)
    torch.testing.assert_close(back(z), forward.adjoint(z), rtol=1e-12, atol=1e-12)
    assert float((forward.linear(x) * z).sum()) == pytest.approx(float((x * back(z)).sum()), rel=1e-11)


def pattern(layer: Layer, in_shape: tuple[int, ...], border: int, seed: int) -> tuple[float, float]:
    """What random weights make of a constant map, away from borders: its spread, and its checkerboard."""
    image = 0.01 * filled(layer, seed)[0](torch.ones(1, *in_shape, dtype=torch.float64)) + 0.5
    inner = image[..., border:-border, border:-border]
    coarse = parse(nn.MaxPool2d(2), tuple(inner.shape[1:]))
    problem = Problem(coarse, coarse(inner), SquaredError(), Reals(), (), Meter(1))
    truth = torch.full_like(inner, 0.5)
    assert bool(((inner > 0) & (inner < 1)).all())
    return float(inner.std((2, 3)).max()), float(metrics.find()["checkerboard"](inner, truth, problem))


@pytest.mark.parametrize("seed", range(3))
def test_repeated_entries_make_no_checkerboard_and_a_transposed_convolution_does(seed: int) -> None:
    small, large = (4, 12, 12), (3, 24, 24)
    smooth, _ = pattern(resized(small, large, Identity()), small, 2, seed)
    assert smooth < 1e-12
    rough, board = pattern(transposed(small, large, Identity(), (3, 3), (2, 2), (1, 1)), small, 2, seed)
    assert rough > 1e-3
    assert board == pytest.approx(20 * 20 / 3), "nothing but a checkerboard"


def test_nothing_to_invert_and_what_has_no_module() -> None:
    scales = "there is nothing to invert"
    for layers in (
        [normalise()],
        [nn.Flatten()],
        [nn.Identity()],
        [normalise(), nn.Flatten()],
        [nn.BatchNorm2d(3)],
    ):
        assert scales in str(refusal(steps_of(parsed(nn.Sequential(*layers)))))
    upwards = steps_of(parsed(sequential(up=nn.ConvTranspose2d(3, 4, 2, 2), act=nn.ReLU())))
    assert "undoes stage 'act', a TransposedConvolution between maps" in str(refusal(upwards))
    assert refusal(steps_of(parsed(nn.Sequential(normalise(), nn.ReLU())))) is None
    unfolded = parsed(nn.Sequential(nn.Linear(6, 12), nn.Unflatten(1, (3, 2, 2)), nn.ReLU()), (6,))
    assert refusal(steps_of(unfolded)) is None, "a matrix leads back to a vector"


def test_affine_maps_in_a_row_are_operations_of_their_own() -> None:
    module = seeded(sequential(conv=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.ReLU())))
    network = parse(module.double(), (3, 8, 8))
    assert network.chain is not None
    steps = operations(network.chain)
    assert [type(step.affine).__name__ for step in steps] == ["Convolution", "AveragePooling"]
    assert refusal(steps) is None
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(maps(steps, x)[-1], network(x))


def test_end_to_end_modules_are_not_cut() -> None:
    network = parsed(lenet()).cut("pool1")
    assert network.chain is not None
    steps = operations(network.chain)
    for cut, kind in ((True, ReLU), (False, Identity)):
        ends = [layer.activation for layer in modules(steps, "deconv-conv", 4, cut=cut)[1::2]]
        assert [type(end) for end in ends] == [kind, Identity]
