"""Projections on the graphs of activations, against cvxpy on every convex piece, grids, and random points."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from invbench.activations import Identity, LocalResponseNorm, MaxPool, ReLU, ReLUMaxPool
from invbench.errors import UserError

POINTWISE = [Identity(), ReLU(), ReLU(0.1), ReLU(0.9)]
DISJOINT = [
    pool(*windows)
    for pool in (MaxPool, ReLUMaxPool)
    for windows in [
        ((2, 2), (2, 2)),
        ((3, 3), (3, 3)),
        ((1, 2), (1, 2)),
        ((4, 4), (4, 4)),
        ((2, 2), (3, 4)),  # gaps between windows
        ((3, 2), (3, 2), (1, 1)),  # padding
    ]
]
OVERLAPPING = [
    MaxPool((3, 3), (2, 2)),
    ReLUMaxPool((3, 3), (2, 2)),
    MaxPool((3, 3), (2, 2), (1, 1)),
    ReLUMaxPool((2, 4), (1, 3), (1, 2)),
]
EXACT = POINTWISE + DISJOINT
ALL = EXACT + OVERLAPPING
WEIGHTS = [(1.0, 1.0), (0.2, 3.0), (5.0, 0.3)]


def cost(p, q, a, b, pre, post):
    """a |pre - p|^2 + b |post - q|^2, (B,)."""
    return a * (pre - p).square().flatten(1).sum(1) + b * (post - q).square().flatten(1).sum(1)


def wanted(activation, batch, generator, dtype=torch.float64, shape=(2, 6, 8)):
    """Random p and q; those of rectified outputs are negative now and then."""
    p = torch.randn(batch, *shape, generator=generator, dtype=dtype) - 0.2
    q = torch.randn(batch, *activation.out_shape(shape), generator=generator, dtype=dtype) + 0.3
    return p, q


def windows_of(activation, shape):
    """The flat inputs of every window of an activation without padding, by hand."""
    (kh, kw), (sh, sw) = activation.kernel, activation.stride
    height, width = activation.out_shape((1, *shape))[1:]
    starts = itertools.product(range(0, height * sh, sh), range(0, width * sw, sw))
    return [[(y + i) * shape[1] + x + j for i in range(kh) for j in range(kw)] for y, x in starts]


def pieces_of(activation, shape):
    """The convex pieces of a graph: pairs of matrices (D, S), inputs with D v <= 0 and outputs S v."""
    n, unit = shape[0] * shape[1], np.eye(shape[0] * shape[1])
    windows, rectified = windows_of(activation, shape), isinstance(activation, ReLUMaxPool)
    for tops in itertools.product(*[[*window, None] if rectified else window for window in windows]):
        below, outputs = [], []
        for top, window in zip(tops, windows, strict=True):
            winner = np.zeros(n) if top is None else unit[top]
            below += [unit[i] - winner for i in window if i != top]  # no row of zeros: it has no interior
            below += [-winner] if rectified else []
            outputs.append(winner)
        yield np.array(below), np.array(outputs)


def optimum(activation, p, q, a, b):
    """The least cost of every instance (B, 1, H, W), by cvxpy: all pieces of all instances in one program."""
    import cvxpy

    pieces = list(pieces_of(activation, tuple(p.shape[2:])))
    count, n = len(p), p[0].numel()
    copies = np.repeat(p.flatten(1).numpy(), len(pieces), 0)
    outputs = np.repeat(q.flatten(1).numpy(), len(pieces), 0)
    below = sparse.block_diag([d for d, _ in pieces] * count, format="csr")
    select = sparse.block_diag([s for _, s in pieces] * count, format="csr")
    v = cvxpy.Variable(copies.size)
    objective = a * cvxpy.sum_squares(v - copies.ravel()) + b * cvxpy.sum_squares(
        select @ v - outputs.ravel()
    )
    cvxpy.Problem(cvxpy.Minimize(objective), [below @ v <= 0]).solve(solver=cvxpy.CLARABEL)
    found = v.value.reshape(-1, n)
    costs = a * ((found - copies) ** 2).sum(1)
    costs += b * (((select @ v.value).reshape(outputs.shape) - outputs) ** 2).sum(1)
    return torch.from_numpy(costs.reshape(count, -1).min(1))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3)])
@pytest.mark.parametrize("pool", [MaxPool, ReLUMaxPool])
def test_disjoint_pooling_attains_the_optimum(pool, kernel, weights, generator):
    activation = pool(kernel, kernel)
    p, q = wanted(activation, 60, generator, shape=(1, *kernel))
    p[0], p[1], q[2] = 0, -1, -3  # ties, a dead window, a target outside the range of a rectified one
    q[1] = 0.5
    found = cost(p, q, *weights, *activation.project(p, q, *weights))
    torch.testing.assert_close(found, optimum(activation, p, q, *weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("activation", POINTWISE, ids=repr)
def test_pointwise_projections_attain_the_best_of_a_grid(activation, weights, generator):
    p, q = wanted(activation, 50, generator, shape=(1,))
    grid = torch.linspace(-40, 40, 80001, dtype=p.dtype)
    a, b = weights
    best = (a * (grid - p).square() + b * (activation(grid) - q).square()).min(1).values
    found = cost(p, q, *weights, *activation.project(p, q, *weights))
    assert (found <= best + 1e-12).all()
    assert (found >= best - 2e-5).all()


@pytest.mark.parametrize(
    ("activation", "shape", "batch"),
    [
        (MaxPool((1, 3), (1, 2)), (1, 7), 30),
        (ReLUMaxPool((1, 3), (1, 2)), (1, 7), 20),
        (MaxPool((3, 3), (2, 2)), (3, 5), 12),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("weights", "gap"), [((1.0, 0.1), 0.02), ((1.0, 1.0), 0.05), ((1.0, 20.0), 0.1)])
def test_overlapping_pooling_comes_near_the_optimum(activation, shape, batch, weights, gap, generator):
    p = torch.randn(batch, 1, *shape, generator=generator, dtype=torch.float64)
    q = activation(torch.randn(batch, 1, *shape, generator=generator, dtype=torch.float64))
    found = cost(p, q, *weights, *activation.project(p, q, *weights))
    best = optimum(activation, p, q, *weights)
    assert (found >= best - 1e-6).all()
    assert found.sum() <= (1 + gap) * best.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_the_result_lies_on_the_graph_exactly(activation, dtype, generator, device):
    for scale, (a, b) in itertools.product([1e-6, 1.0, 1e6], [(1.0, 1.0), (1e-7, 1.0), (1.0, 1e-7)]):
        p, q = (scale * tensor.to(device) for tensor in wanted(activation, 4, generator, dtype))
        pre, post = activation.project(p, q, a, b)
        assert pre.shape == p.shape and post.shape == q.shape and pre.dtype == post.dtype == dtype
        assert torch.equal(post, activation(pre)) and pre.isfinite().all()


@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_points_of_the_graph_stay(activation, generator):
    p, _ = wanted(activation, 4, generator, torch.float32)
    for start in (p, torch.zeros_like(p), p.abs().neg(), p.round()):
        pre, post = activation.project(start, activation(start), 0.3, 0.7)
        assert torch.equal(pre, start) and torch.equal(post, activation(start))


@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_a_batch_equals_its_members(activation, generator):
    p, q = wanted(activation, 3, generator, torch.float32)
    a, b = torch.tensor([1.0, 0.1, 2.0]), torch.tensor([0.5, 3.0, 1e-3])
    batch = activation.project(p, q, a, b)
    for i in range(3):
        member = activation.project(p[i : i + 1], q[i : i + 1], float(a[i]), float(b[i]))
        for whole, part in zip(batch, member, strict=True):
            torch.testing.assert_close(whole[i : i + 1], part)


@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_only_the_ratio_of_the_weights_counts(activation, generator):
    p, q = wanted(activation, 3, generator)
    for one, other in zip(activation.project(p, q, 2, 3), activation.project(p, q, 2e-5, 3e-5), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("activation", EXACT, ids=repr)
def test_a_heavy_weight_wins(activation, generator):
    p, q = wanted(activation, 3, generator)
    torch.testing.assert_close(activation.project(p, q, 1e9, 1.0)[0], p, rtol=0, atol=1e-4)
    reachable = activation(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    torch.testing.assert_close(activation.project(p, reachable, 1e-9, 1.0)[1], reachable, rtol=0, atol=1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(EXACT),
    st.floats(0.01, 100),
    st.floats(0.01, 100),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1e-2, 1.0]),
)
def test_no_other_point_of_the_graph_is_nearer(activation, a, b, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    p, q = wanted(activation, 1, generator)
    pre, post = activation.project(p, q, a, b)
    found = cost(p, q, a, b, pre, post)
    others = torch.cat([pre, p]) + spread * torch.randn(
        64, 2, *p.shape[1:], generator=generator, dtype=p.dtype
    )
    others = torch.cat([others.flatten(0, 1), activation.project(p, q, b, a)[0]])
    assert (found <= cost(p, q, a, b, others, activation(others)) * (1 + 1e-12) + 1e-12).all()


@pytest.mark.parametrize("activation", OVERLAPPING, ids=repr)
def test_overlapping_pooling_is_never_worse_than_evaluation(activation, generator):
    p, q = wanted(activation, 20, generator)
    for weights in WEIGHTS:
        found = cost(p, q, *weights, *activation.project(p, q, *weights))
        assert (found < cost(p, q, *weights, p, activation(p))).all()


@pytest.mark.parametrize(
    ("activation", "shape", "read"),
    [(MaxPool((2, 2), (2, 2)), (7, 9), (6, 8)), (ReLUMaxPool((3, 3), (2, 2)), (8, 6), (7, 5))],
    ids=repr,
)
def test_inputs_that_no_window_reads_stay(activation, shape, read, generator):
    p, q = wanted(activation, 2, generator, shape=(2, *shape))
    pre, _ = activation.project(p, q, 1.0, 1.0)
    unread = torch.ones_like(p, dtype=torch.bool)
    unread[..., : read[0], : read[1]] = False
    assert torch.equal(pre[unread], p[unread])
    assert not torch.equal(pre, p)


def test_the_first_of_equal_entries_is_lifted():
    pre, post = MaxPool((2, 2), (2, 2)).project(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 1, 1), 1.0, 1.0)
    assert pre.tolist() == [[[[0.5, 0], [0, 0]]]] and post.item() == 0.5


def test_ties_between_branches_go_off():
    pre, post = ReLU().project(torch.tensor([[-1.0]]), torch.tensor([[1.0]]), 1.0, 3.0)  # both cost 3
    assert pre.item() == -1 and post.item() == 0


def test_one_by_one_images():
    p, q = torch.tensor([[[[-1.0]]]]), torch.tensor([[[[5.0]]]])
    for pre in MaxPool((1, 1), (1, 1)).project(p, q, 1.0, 1.0):
        assert pre.item() == 2


@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_arguments_are_left_alone_and_gradients_off(activation, generator):
    p, q = wanted(activation, 2, generator)
    before = p.clone(), q.clone()
    outcome = activation.project(p.requires_grad_(), q, 1.0, 1.0)
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])
    assert not any(tensor.requires_grad for tensor in outcome)


@pytest.mark.parametrize("activation", ALL, ids=repr)
def test_weights_are_checked(activation, generator):
    p, q = wanted(activation, 2, generator)
    assert activation.refuses() is None
    with pytest.raises(UserError, match="weight a of a projection is 0"):
        activation.project(p, q, 0, 1.0)
    with pytest.raises(UserError, match=r"weight b of a projection has shape \(3,\); give one number"):
        activation.project(p, q, 1.0, torch.ones(3))


def test_response_normalisation_refuses():
    p = torch.zeros(1, 3, 2, 2)
    sentence = LocalResponseNorm(5).refuses()
    assert sentence is not None and "\n" not in sentence
    with pytest.raises(UserError, match="no projection"):
        LocalResponseNorm(5).project(p, p, 1.0, 1.0)
