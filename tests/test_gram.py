"""Gram solvers against dense matrices: every kind of map, boundary and stride; precision, batches, prices."""

import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invbench.errors import UserError
from invbench.operators import (
    AveragePooling,
    Composition,
    Convolution,
    Dense,
    Diagonal,
    Reshape,
    TransposedConvolution,
    Windows,
    gram_solver,
)

ALPHA, BETA = 0.7, 1.3


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def matrix(apply, shape):
    """The matrix of a linear map: its value at every basis vector."""
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
    return apply(basis.reshape(-1, *shape)).flatten(1).T


def gram(affine, alpha=ALPHA, beta=BETA):
    W = matrix(affine.linear, affine.in_shape)
    return alpha * torch.eye(W.shape[1], dtype=torch.float64) + beta * W.T @ W


def convolution(channels, kernel, stride, padding, side=11, groups=1, dilation=1, full=False):
    """A random convolution from (C, side, side + 1), with weights of a usual scale; sides may be pairs."""
    source, target = channels
    kernel, stride, padding, dilation = (
        (v, v) if isinstance(v, int) else v for v in (kernel, stride, padding, dilation)
    )
    weight = random(target, source // groups, *kernel) / (source * kernel[0] * kernel[1]) ** 0.5
    made = Convolution(weight, None, (source, side, side + 1), stride, padding, dilation, groups)
    return Convolution(weight, random(*made.out_shape), *list(vars(made).values())[2:]) if full else made


def assert_solves(solver, system, tolerance=1e-10):
    """The solver is the inverse of a dense matrix, and W x is what it says."""
    inverse = matrix(solver, solver.canvas_shape)
    torch.testing.assert_close(inverse, torch.linalg.inv(system), rtol=tolerance, atol=tolerance)
    r = random(2, *solver.canvas_shape)
    x, output = solver.with_output(r)
    torch.testing.assert_close(x, solver(r), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output, solver.affine.linear(x), rtol=1e-9, atol=1e-9)


def circular_gram(affine, canvas_shape):
    """The dense gram matrix of the definition: windows at all steps of the canvas, which wraps around."""
    (down, across), (fall, slide) = affine.stride, affine.dilation
    channels, rows, columns = canvas_shape
    per_group, per_input = affine.weight.shape[0] // affine.groups, affine.weight.shape[1]
    height, width = affine.weight.shape[2:]
    W = torch.zeros(affine.weight.shape[0], rows // down, columns // across, *canvas_shape).double()
    for k, c, i, j in itertools.product(*(range(n) for n in affine.weight.shape)):
        source = (k // per_group) * per_input + c
        for y, x in itertools.product(range(rows // down), range(columns // across)):
            at = ((y * down + i * fall) % rows, (x * across + j * slide) % columns)
            W[k, y, x, source, at[0], at[1]] += affine.weight[k, c, i, j]
    assert channels == affine.groups * per_input and height * width > 0
    W = W.reshape(-1, channels * rows * columns)
    return ALPHA * torch.eye(W.shape[1], dtype=torch.float64) + BETA * W.T @ W


GEOMETRIES = [
    (kernel, stride, padding)
    for kernel, stride in itertools.product((1, 3, 5, 11), (1, 2, 4))
    for padding in sorted({0, (kernel // 2 + 1) // 2, kernel // 2})
]


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_hard_with_many_steps_is_the_inverse(kernel, stride, padding):
    for channels in ((1, 3), (2, 1))[: 1 if kernel == 11 else 2]:
        affine = convolution(channels, kernel, stride, padding, side=11 if kernel == 11 else 9)
        assert_solves(gram_solver(affine, ALPHA, BETA, steps=60), gram(affine), 1e-8)


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_soft_is_the_inverse_of_the_circular_gram(kernel, stride, padding):
    affine = convolution((2, 1) if kernel == 11 else (2, 3), kernel, stride, padding, side=max(5, kernel))
    solver = gram_solver(affine, ALPHA, BETA, boundary="soft")
    assert_solves(solver, circular_gram(affine, solver.canvas_shape))


SPECIAL = [
    {"channels": (4, 6), "kernel": 3, "stride": 1, "padding": 1, "groups": 2},
    {"channels": (4, 4), "kernel": 3, "stride": 2, "padding": 1, "groups": 4},
    {"channels": (2, 3), "kernel": 3, "stride": 1, "padding": 2, "dilation": 2},
    {"channels": (2, 2), "kernel": 3, "stride": 2, "padding": 0, "dilation": (3, 1)},
    {"channels": (2, 3), "kernel": (2, 5), "stride": (3, 1), "padding": (1, 2)},
    {"channels": (2, 3), "kernel": 4, "stride": 1, "padding": 3},
    {"channels": (8, 2), "kernel": 3, "stride": 1, "padding": 1},
    {"channels": (2, 3), "kernel": 3, "stride": 1, "padding": 1, "full": True},
]


@pytest.mark.parametrize("geometry", SPECIAL, ids=str)
def test_groups_dilation_rectangles_and_few_channels(geometry):
    affine = convolution(side=7, **geometry)
    soft = gram_solver(affine, ALPHA, BETA, boundary="soft")
    assert_solves(soft, circular_gram(affine, soft.canvas_shape))
    assert_solves(gram_solver(affine, ALPHA, BETA, steps=60), gram(affine), 1e-8)


@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_canvas_of_any_geometry(data):
    """On the canvas the convolution is the same without padding; embedding and cropping are adjoint."""
    draw = lambda low, high: (data.draw(st.integers(low, high)), data.draw(st.integers(low, high)))  # noqa: E731
    kernel, stride, dilation = draw(1, 5), draw(1, 5), draw(1, 2)
    affine = convolution((2, 2), kernel, stride, draw(0, 3), side=9, dilation=dilation, full=True)
    soft, hard = (gram_solver(affine, ALPHA, BETA, boundary=boundary) for boundary in ("soft", "hard"))
    x, z = random(2, *affine.in_shape), random(2, *soft.canvas_shape, seed=1)
    torch.testing.assert_close(soft.affine(soft.embed(x)), affine(x), rtol=1e-12, atol=1e-12)
    left, right = (soft.embed(x) * z).sum(), (x * soft.crop(z)).sum()
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(soft.crop(soft.embed(x), unread=x), x, rtol=0, atol=0)
    assert (affine.linear(x - soft.crop(soft.embed(x)))).abs().max() == 0, "what is off the canvas is unread"
    a, b = random(1, *affine.in_shape, seed=2), random(1, *affine.in_shape, seed=3)
    M = hard.inverse
    torch.testing.assert_close((M(a) * b).sum(), (a * M(b)).sum(), rtol=1e-10, atol=1e-10)
    assert (M(a) * a).sum() > 0


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (2, 3), (3, 4)])
def test_one_hard_step_is_exact_without_overlap_and_padding(kernel, stride):
    affine = convolution((2, 3), kernel, stride, 0, side=9)
    assert_solves(gram_solver(affine, ALPHA, BETA), gram(affine))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [g for g in GEOMETRIES if g[2] == g[0] // 2])
def test_one_hard_step_beats_steepest_descent(kernel, stride, padding, record_property):
    affine = convolution((2, 3), kernel, stride, padding)
    system, r = gram(affine, 1.0, 4.0), random(8, *affine.in_shape)
    flat = r.flatten(1)

    def residual(x):
        return ((flat - x.flatten(1) @ system).norm(dim=1) / flat.norm(dim=1)).mean().item()

    length = (flat * flat).sum(1) / ((flat @ system) * flat).sum(1)
    ours, plain = residual(gram_solver(affine, 1.0, 4.0)(r)), residual(length[:, None] * flat)
    record_property("relative residual, ours and plain", (ours, plain))
    assert ours < 0.75 * plain


def test_one_hard_step_never_raises_the_energy():
    affine = convolution((2, 3), 5, 1, 2)
    system, r = gram(affine), random(6, *affine.in_shape)
    x, exact = gram_solver(affine, ALPHA, BETA)(r).flatten(1), torch.linalg.solve(system, r.flatten(1).T).T
    before = (exact * (exact @ system)).sum(1)
    after = ((x - exact) * ((x - exact) @ system)).sum(1)
    assert (after < 0.1 * before).all()
    # exact line search: the step leaves a residual orthogonal to itself
    torch.testing.assert_close(((r.flatten(1) - x @ system) * x).sum(1), torch.zeros(6).double())


@pytest.mark.parametrize(("rows", "columns"), [(20, 12), (12, 12), (9, 12), (3, 12), (6, 12), (1, 12)])
def test_dense_of_both_sides(rows, columns):
    affine = Dense(random(rows, columns) / 3, random(rows), (3, 2, 2))
    solver = gram_solver(affine, ALPHA, BETA)
    assert_solves(solver, gram(affine))
    assert solver.multiply_adds == min(columns**2, 2 * rows * columns)


AVERAGES = [
    AveragePooling((2, 6, 8), (2, 2), (2, 2)),
    AveragePooling((2, 7, 8), (2, 3), (3, 3)),
    AveragePooling((2, 7, 8), (3, 3), (2, 2)),
    AveragePooling((2, 6, 6), (2, 2), (2, 2), padding=(1, 1), count_include_pad=False),
]
OTHERS = [
    Reshape((2, 3, 4), (24,)),
    Diagonal((2, 3, 4)),
    Diagonal((2, 3, 4), random(2, 1, 1), random(2, 1, 1)),
    Diagonal((2, 3, 4), random(2, 3, 4)),
    Windows((2, 7, 8), (3, 3), (2, 2)),
    Windows((2, 6, 7), (3, 2), (1, 2)),
    *AVERAGES,
    TransposedConvolution(random(2, 3, 3, 3) / 4, None, (2, 4, 4), (2, 2), (1, 1)),
    Composition((convolution((1, 2), 3, 1, 1, side=5), AveragePooling((2, 5, 6), (2, 2), (1, 1)))),
]


@pytest.mark.parametrize("affine", OTHERS, ids=lambda affine: type(affine).__name__)
def test_other_kinds(affine):
    assert_solves(gram_solver(affine, ALPHA, BETA), gram(affine), 1e-5)


def test_non_overlapping_average_is_closed_form_and_free():
    for affine, closed in zip(AVERAGES, (True, True, False, False), strict=True):
        solver = gram_solver(affine, ALPHA, BETA)
        r = random(3, *affine.in_shape)
        error = (solver(r).flatten(1) @ gram(affine) - r.flatten(1)).norm() / r.norm()
        assert error < (1e-14 if closed else 1e-6)
        assert hasattr(solver, "kappa") == closed and solver.multiply_adds == 0


def every_solver(dtype=torch.float64, device="cpu"):
    maps = [
        Dense(random(5, 32) / 3, None, (2, 4, 4)),
        Dense(random(40, 32) / 3, None, (2, 4, 4)),
        Diagonal((2, 5, 6), random(2, 1, 1)),
        *AVERAGES,
        OTHERS[-2],
        OTHERS[-1],
        convolution((2, 3), 3, 2, 1),
        convolution((6, 1), 3, 1, 1),
    ]
    maps = [one.to(device, dtype) for one in maps]
    return [
        *(gram_solver(one, ALPHA, BETA) for one in maps),
        *(gram_solver(one, ALPHA, BETA, boundary="soft") for one in maps[-2:]),
        gram_solver(maps[-1], ALPHA, BETA, steps=3),
    ]


def test_float32_application_of_a_double_factorisation(device):
    for double, single in zip(every_solver(), every_solver(torch.float32, device), strict=True):
        r = random(3, *double.canvas_shape)
        x = single(r.float().to(device))
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.cpu().double(), double(r), rtol=3e-5, atol=3e-6)


def test_tiny_and_huge_residuals_stay_finite():
    for solver in every_solver(torch.float32):
        r = random(8, *solver.canvas_shape, dtype=torch.float32)
        scales = torch.tensor([0, 1e-45, 1e-30, 1e-23, 1e-20, 1e-16, 1, 1e14]).reshape(-1, 1, 1, 1)
        assert solver(r * scales).isfinite().all()


def test_steps_beyond_convergence_change_nothing():
    affine = convolution((2, 3), 3, 1, 1, side=4)
    r = random(3, *affine.in_shape)
    enough, many = (gram_solver(affine, ALPHA, BETA, steps=steps)(r) for steps in (40, 400))
    torch.testing.assert_close(many, enough, rtol=1e-13, atol=1e-13)


def test_small_alpha_keeps_the_precision_of_the_data():
    affine = convolution((3, 8), 5, 1, 2).to(dtype=torch.float32)
    exact = gram_solver(affine.to(dtype=torch.float64), 1e-3, 1.0, boundary="soft")
    single, r = gram_solver(affine, 1e-3, 1.0, boundary="soft"), random(2, *exact.canvas_shape)
    assert (single(r.float()) - exact(r)).norm() < 1e-4 * exact(r).norm()


def test_a_batch_equals_its_members():
    for solver in every_solver():
        # of very different size, and one that is zero: iterations end at different times
        r = random(4, *solver.canvas_shape) * torch.tensor([1, 1e4, 0, 1e-8]).double().reshape(-1, 1, 1, 1)
        whole = solver(r)
        alone = torch.cat([solver(one[None]) for one in r])
        torch.testing.assert_close(whole, alone, rtol=1e-9, atol=1e-20)
        assert (whole[2] == 0).all()


def test_not_a_number_stays_visible_and_to_itself():
    for solver in every_solver():
        r = random(2, *solver.canvas_shape)
        r[0] = torch.nan
        x = solver(r)
        assert x[0].isnan().any()
        torch.testing.assert_close(x[1:], solver(r[1:]), rtol=1e-9, atol=1e-12)


def test_dead_filters_and_a_single_pixel():
    dead = Convolution(torch.zeros(3, 2, 3, 3).double(), None, (2, 5, 5), padding=(1, 1))
    assert_solves(gram_solver(dead, ALPHA, BETA), gram(dead))
    pixel = Convolution(random(3, 2, 3, 3), None, (2, 1, 1), padding=(1, 1))
    assert_solves(gram_solver(pixel, ALPHA, BETA, steps=10), gram(pixel), 1e-8)
    assert_solves(gram_solver(pixel, ALPHA, 0.0), ALPHA * torch.eye(2).double())


def test_prices():
    affine = convolution((16, 32), 5, 1, 2, side=15)
    soft, one, three = (
        gram_solver(affine, ALPHA, BETA, boundary=boundary, steps=steps)
        for boundary, steps in (("soft", 1), ("hard", 1), ("hard", 3))
    )
    frequencies = 19 * 11
    assert soft.multiply_adds == 4 * 16**2 * frequencies + 16 * 5 * 19 * 20 * 9 // 2
    assert one.multiply_adds == soft.multiply_adds + affine.multiply_adds == one.multiply_adds_with_output
    assert three.multiply_adds == 3 * soft.multiply_adds + 5 * affine.multiply_adds
    iterative = gram_solver(OTHERS[-1], ALPHA, BETA)
    iterative(random(1, *OTHERS[-1].in_shape))
    steps = iterative.latest.steps
    assert 1 < steps < 60 and iterative.multiply_adds == 2 * steps * OTHERS[-1].multiply_adds


def test_solvers_pickle():
    for solver in every_solver():
        r = random(1, *solver.canvas_shape)
        assert torch.equal(pickle.loads(pickle.dumps(solver))(r), solver(r))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"alpha": 0.0, "beta": 1.0}, "alpha > 0"),
        ({"alpha": 1.0, "beta": -1.0}, "beta >= 0"),
        ({"alpha": float("nan"), "beta": 1.0}, "finite"),
        ({"alpha": 1.0, "beta": 1.0, "boundary": "periodic"}, '"hard" or "soft"'),
        ({"alpha": 1.0, "beta": 1.0, "steps": 0}, "at least 1"),
    ],
)
def test_refuses_with_a_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        gram_solver(Reshape((4,), (4,)), **arguments)
