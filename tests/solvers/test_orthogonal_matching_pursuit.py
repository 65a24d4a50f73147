"""Orthogonal matching pursuit: its entries and values by a loop over matrices."""

import pytest
import torch
from invbench_solvers.orthogonal_matching_pursuit import OrthogonalMatchingPursuit
from torch import Tensor

from invbench.filters import random_filters, unit_norm
from tests.codes import blocks_of, correlated, error, least_squares, matrix, recovery, run

CASES = {
    "shifts": {"k": 5},
    "regions": {
        "weight": random_filters(6, 4, (3, 3), torch.Generator().manual_seed(0)),
        "sides": (8, 8),
        "k": 12,
        "region": (2, 2),
    },
    "padded": {
        "weight": random_filters(6, 4, (3, 3), torch.Generator().manual_seed(0)),
        "sides": (6, 6),
        "k": 4,
        "padding": (1, 1),
        "region": (3, 3),
    },
    "correlated": {"weight": correlated(0.98), "k": 12},
    "noisy": {"noise": 0.3, "k": 8},
}


def by_matrices(A: Tensor, y: Tensor, blocks: list[list[int]], k: int) -> list[Tensor]:
    """One entry after the other, each in a block of its own."""
    found, chosen, free = [], [], list(blocks)
    z = A.new_zeros(A.shape[1])
    for _ in range(k):
        match = (A.T @ (y - A @ z)).abs()
        places = [place for block in free for place in block]
        chosen.append(max(places, key=lambda place: float(match[place])))
        free = [block for block in free if chosen[-1] not in block]
        z = least_squares(A, y, torch.tensor(chosen))
        found.append(z)
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_the_loop(case, device):
    problem, _truth = recovery(**CASES[case], device=device)
    ours = run(OrthogonalMatchingPursuit(), problem, 100)
    assert len(ours) == problem.domain.k
    A, blocks = matrix(problem.network).cpu(), blocks_of(problem.domain, problem.network.input_shape)
    for i, y in enumerate(problem.target.cpu()):
        theirs = by_matrices(A, y.flatten(), blocks, problem.domain.k)
        # With as many correlated atoms as needed for y, what remains is rounding and the last picks are free.
        for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if (y.flatten() - A @ theirs[n - 1]).norm() > 1e-10 or n == 0:
                torch.testing.assert_close(a[i].flatten().cpu(), b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_is_orthogonal_to_the_chosen_columns_and_shrinks(case):
    problem, _truth = recovery(**CASES[case])
    A, before = matrix(problem.network), problem.target.flatten(1).norm(dim=1)
    for n, z in enumerate(run(OrthogonalMatchingPursuit(), problem, 100), start=1):
        assert torch.equal(problem.domain.project(z), z)
        left = problem.target.flatten(1) - z.flatten(1) @ A.T
        assert ((left @ A) * (z.flatten(1) != 0)).abs().amax() < 1e-11
        assert ((z != 0).flatten(1).sum(1) <= n).all()
        assert (left.norm(dim=1) <= before * (1 + 1e-12)).all()
        before = left.norm(dim=1)


def test_recovers_exactly_at_the_size_of_the_paper(device):
    weight = unit_norm(random_filters(96, 32, (5, 1), torch.Generator().manual_seed(1)))
    problem, truth = recovery(weight, (32, 1), k=10, batch=40, device=device)
    assert (error(run(OrthogonalMatchingPursuit(), problem, 10)[-1], truth) < 1e-12).all()


def test_a_column_that_depends_on_the_others_gets_nothing():
    weight = correlated(0.0)
    weight[1:] = weight[:1]
    problem, _truth = recovery(weight, k=10)
    iterates = run(OrthogonalMatchingPursuit(), problem, 10)
    assert all(z.isfinite().all() for z in iterates)
    assert (iterates[-1].abs() < 10 * problem.target.abs().amax()).all()


def test_it_begins_with_nothing_wherever_the_start_is():
    problem, truth = recovery()
    for a, b in zip(
        run(OrthogonalMatchingPursuit(), problem, 3, truth),
        run(OrthogonalMatchingPursuit(), problem, 3),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_batch_equals_its_members():
    problem, truth = recovery(**CASES["noisy"])
    together = run(OrthogonalMatchingPursuit(), problem, 8)
    for i in range(len(truth)):
        alone = run(OrthogonalMatchingPursuit(), problem.select(torch.tensor([i])), 8)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b)


def test_an_iterate_is_one_application_and_one_adjoint():
    problem, _ = recovery(k=5)
    run(OrthogonalMatchingPursuit(), problem, 5)
    assert (problem.meter.total("adjoints") == 5).all()
    assert (problem.meter.total("applications") == 6).all(), "one for the bias"
