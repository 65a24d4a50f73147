"""Model-based iterative hard thresholding: its steps by matrices, recovery, descent, explosion."""

from itertools import pairwise

import pytest
import torch
from invbench_solvers import iht
from invbench_solvers.iht import IHT
from torch import Tensor

from invbench.filters import random_filters, unit_norm
from tests.codes import blocks_of, correlated, error, matrix, recovery, residual, run, thresholded

CASES = {
    "shifts": {},
    "regions": {"weight": random_filters(6, 4, (3, 3), torch.Generator().manual_seed(0)), "sides": (8, 8)},
    "correlated": {"weight": correlated(), "k": 4},
    "noisy": {"noise": 0.3, "k": 5},
}
CASES["regions"] |= {"k": 6, "region": (2, 2)}


def distinct(iterates: list[Tensor], member: int) -> list[Tensor]:
    """The iterates of one instance without those where it was still looking for a step."""
    flat = [z[member].flatten() for z in iterates]
    return [flat[0]] + [b for a, b in pairwise(flat) if not torch.equal(a, b)]


def by_matrices(A: Tensor, y: Tensor, z: Tensor, blocks: list[list[int]], k: int, count: int) -> list[Tensor]:
    """Normalised steps of one instance by Blumensath & Davies: c = .01, kappa (1 - c) = 2."""
    found = [z]
    gradient = A.T @ (y - A @ z)
    support = (z if z.any() else thresholded(gradient, blocks, k)) != 0
    for _ in range(count):
        gradient = A.T @ (y - A @ z)
        mu = (gradient * support).square().sum() / (A @ (gradient * support)).square().sum()
        candidate = thresholded(z + mu * gradient, blocks, k)
        if not torch.equal(candidate != 0, support):
            while mu > 0.99 * (candidate - z).square().sum() / (A @ (candidate - z)).square().sum():
                mu = mu / 2
                candidate = thresholded(z + mu * gradient, blocks, k)
        z, support = candidate, candidate != 0
        found.append(z)
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("from_zero", [True, False])
def test_normalised_steps_are_those_of_the_paper(case, from_zero, generator):
    problem, truth = recovery(**CASES[case])
    start = torch.zeros_like(truth) if from_zero else torch.randn(truth.shape, generator=generator).double()
    ours = run(IHT(), problem, 40, start)
    A, blocks = matrix(problem.network), blocks_of(problem.domain, problem.network.input_shape)
    for i, y in enumerate(problem.target):
        z = thresholded(start[i].flatten(), blocks, problem.domain.k)
        steps = distinct(ours, i)[:9]
        theirs = by_matrices(A, y.flatten(), z, blocks, problem.domain.k, len(steps) - 1)
        assert len(steps) > 3
        torch.testing.assert_close(torch.stack(steps), torch.stack(theirs))


@pytest.mark.parametrize("case", CASES)
def test_unit_steps_are_those_of_the_paper(case):
    problem, truth = recovery(**CASES[case])
    A, blocks = matrix(problem.network), blocks_of(problem.domain, problem.network.input_shape)
    z = torch.zeros(len(truth), A.shape[1], dtype=A.dtype)
    for ours in run(IHT(step="unit"), problem, 5):
        steps = z + (problem.target.flatten(1) - z @ A.T) @ A
        z = torch.stack([thresholded(one, blocks, problem.domain.k) for one in steps])
        torch.testing.assert_close(ours.flatten(1), z)


def test_the_first_unit_step_is_one_feed_forward_pass():
    problem, _ = recovery()
    (z,) = run(IHT(step="unit"), problem, 1)
    adjoint = problem.chain[0].adjoint(problem.target)
    torch.testing.assert_close(z, problem.domain.project(adjoint))


@pytest.mark.parametrize("step", ["normalised", "unit"])
def test_recovers_exactly_at_the_size_of_the_paper(step, device):
    weight = unit_norm(random_filters(96, 32, (5, 1), torch.Generator().manual_seed(1)))
    problem, truth = recovery(weight, (32, 1), k=10, batch=40, device=device)
    assert (error(run(IHT(step=step), problem, 90)[-1], truth) < 1e-10).all()


@pytest.mark.parametrize("step", ["normalised", "unit"])
def test_the_code_itself_is_a_fixed_point(step):
    problem, truth = recovery()
    for z in run(IHT(step=step), problem, 6, truth):
        torch.testing.assert_close(z, truth, rtol=0, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_the_residual_never_grows_in_normalised_steps(case, generator):
    problem, truth = recovery(**CASES[case])
    start = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    iterates = run(IHT(), problem, 60, start)
    before = residual(problem, iterates[0])
    for z in iterates[1:]:
        after = residual(problem, z)
        assert (after <= before * (1 + 1e-12) + 1e-13).all()
        before = after


def test_unit_steps_explode_on_correlated_filters_and_normalised_ones_settle():
    problem, truth = recovery(correlated(), k=4)
    unit, normalised = (run(IHT(step=step), problem, 300) for step in ("unit", "normalised"))
    assert (unit[100].flatten(1).norm(dim=1) > 1e6 * truth.flatten(1).norm(dim=1)).all()
    assert (residual(problem, normalised[-1]) < 0.3 * residual(problem, 0 * truth)).all()
    assert (error(normalised[-1], normalised[-20]) < 1e-3).all()


def test_a_batch_of_instances_at_different_stages_equals_its_members():
    problem, truth = recovery(correlated(), k=4, batch=6, noise=0.1)
    start = torch.zeros_like(truth)
    start[::2] = truth[::2]
    together = run(IHT(), problem, 30, start)
    for i in range(len(truth)):
        alone = run(IHT(), problem.select(torch.tensor([i])), 30, start[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b)


@pytest.mark.parametrize("step", ["normalised", "unit"])
def test_an_iterate_is_one_application_and_one_adjoint(step):
    problem, _ = recovery(correlated(), k=4)
    run(IHT(step=step), problem, 25)
    assert (problem.meter.total("adjoints") == 25).all()
    assert (problem.meter.total("applications") == 26).all(), "one for the bias"


def test_a_residual_computed_anew_changes_nothing_but_the_count(monkeypatch):
    problem, _ = recovery(correlated(), k=4)
    usual = distinct(run(IHT(), problem, 30), 0)
    monkeypatch.setattr(iht, "REFRESH", 2)
    refreshed = distinct(run(IHT(), problem, 60), 0)
    for a, b in zip(usual[:12], refreshed, strict=False):
        torch.testing.assert_close(a, b)


def test_a_target_of_zeros_and_a_start_of_zeros_stay_where_they_are():
    problem, _truth = recovery()
    problem.target.zero_()
    for step in ("normalised", "unit"):
        assert all((z == 0).all() for z in run(IHT(step=step), problem, 4))


def test_the_start_is_not_written_into():
    problem, truth = recovery()
    start = truth.clone()
    for step in ("normalised", "unit"):
        run(IHT(step=step), problem, 5, start)
        assert torch.equal(start, truth)
