"""Hard thresholding pursuit: its supports by matrices, recovery, rest."""

import pytest
import torch
from invbench_solvers.hard_thresholding_pursuit import HardThresholdingPursuit
from torch import Tensor

from invbench.filters import random_filters, unit_norm
from tests.codes import (
    blocks_of,
    correlated,
    error,
    least_squares,
    matrix,
    recovery,
    residual,
    run,
    thresholded,
)

CASES = {
    "shifts": {"k": 4},
    "regions": {
        "weight": random_filters(6, 4, (3, 3), torch.Generator().manual_seed(0)),
        "sides": (8, 8),
        "k": 6,
        "region": (2, 2),
    },
    "correlated": {"weight": correlated(), "k": 4},
    "noisy": {"noise": 0.3, "k": 5},
}


def by_matrices(A: Tensor, y: Tensor, z: Tensor, blocks: list[list[int]], k: int, patience: int) -> Tensor:
    """Where an instance comes to rest: exact least squares on every support."""
    mu, halvings = torch.tensor(1.0, dtype=A.dtype), 0
    z = least_squares(A, y, z.nonzero()[:, 0]) if z.any() else z
    while halvings <= patience:
        gradient = A.T @ (y - A @ z)
        start = thresholded(z + mu * gradient, blocks, k)
        support = start != 0
        if torch.equal(support, z != 0):
            return z
        solved = least_squares(A, y, support.nonzero()[:, 0])
        if (y - A @ solved).norm() < (y - A @ z).norm() - 1e-15 * y.norm():
            slope = A.T @ (y - A @ start) * support
            z, mu, halvings = solved, slope.square().sum() / (A @ slope).square().sum(), 0
        else:
            mu, halvings = mu / 2, halvings + 1
    return z


@pytest.mark.parametrize("case", CASES)
def test_comes_to_rest_where_exact_least_squares_do(case):
    problem, _truth = recovery(**CASES[case])
    solver = HardThresholdingPursuit()
    ours = run(solver, problem, 2000)
    assert len(ours) < 2000, "it ends by itself"
    A, blocks = matrix(problem.network), blocks_of(problem.domain, problem.network.input_shape)
    for z, y in zip(ours[-1], problem.target, strict=True):
        start = torch.zeros(A.shape[1], dtype=A.dtype)
        theirs = by_matrices(A, y.flatten(), start, blocks, problem.domain.k, solver.patience)
        torch.testing.assert_close(A @ z.flatten(), A @ theirs)
        torch.testing.assert_close(z.flatten(), theirs)


@pytest.mark.parametrize("case", CASES)
def test_every_iterate_is_a_code_of_the_model_and_the_last_solves_least_squares_on_its_support(
    case, generator
):
    problem, truth = recovery(**CASES[case])
    start = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    iterates = run(HardThresholdingPursuit(), problem, 2000, start)
    assert all(torch.equal(problem.domain.project(z), z) for z in iterates)
    torch.testing.assert_close(iterates[0], problem.domain.project(start))
    A = matrix(problem.network)
    for z, y in zip(iterates[-1], problem.target, strict=True):
        best = least_squares(A, y.flatten(), z.flatten().nonzero()[:, 0])
        torch.testing.assert_close(z.flatten(), best, rtol=1e-9, atol=1e-10)


def test_recovers_exactly_at_the_size_of_the_paper(device):
    weight = unit_norm(random_filters(96, 32, (5, 1), torch.Generator().manual_seed(1)))
    problem, truth = recovery(weight, (32, 1), k=10, batch=40, device=device)
    iterates = run(HardThresholdingPursuit(), problem, 90)
    assert len(iterates) < 90
    assert (error(iterates[-1], truth) < 1e-13).all()


def test_the_code_itself_is_where_it_ends():
    problem, truth = recovery()
    iterates = run(HardThresholdingPursuit(), problem, 100, truth)
    assert len(iterates) < 100
    torch.testing.assert_close(iterates[-1], truth)


def test_a_support_that_brings_nothing_is_taken_back():
    problem, _truth = recovery(correlated(), k=5, noise=0.2, batch=8)
    iterates = run(HardThresholdingPursuit(), problem, 2000)
    lowest = torch.stack([residual(problem, z) for z in iterates]).amin(0)
    torch.testing.assert_close(residual(problem, iterates[-1]), lowest)


def test_no_instance_waits_for_another():
    problem, truth = recovery(correlated(), k=4, batch=5, noise=0.1)
    start = torch.zeros_like(truth)
    start[::2] = truth[::2]
    together = run(HardThresholdingPursuit(), problem, 2000, start)
    for i in range(len(truth)):
        part = problem.select(torch.tensor([i]))
        alone = run(HardThresholdingPursuit(), part, 2000, start[i : i + 1])
        for a, b in zip(together[:20], alone[:20], strict=False):
            torch.testing.assert_close(a[i : i + 1], b)
        torch.testing.assert_close(together[-1][i], alone[-1][0])


def test_an_iterate_is_one_application_and_one_adjoint():
    problem, _ = recovery(correlated(), k=4)
    run(HardThresholdingPursuit(), problem, 15)
    assert (problem.meter.total("adjoints") == 15).all()
    assert (problem.meter.total("applications") == 16).all(), "one for the bias"


def test_a_target_of_zeros_needs_no_more_than_zeros():
    problem, _ = recovery()
    problem.target.zero_()
    iterates = run(HardThresholdingPursuit(), problem, 100)
    assert len(iterates) < 100
    assert all((z == 0).all() for z in iterates)
