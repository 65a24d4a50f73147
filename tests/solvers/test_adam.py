from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from invbench_solvers.adam import Adam
from torch import Tensor

from invbench.domains import Reals
from invbench.priors import ALL
from invbench.problem import Problem
from invbench.solver import Randomness
from tests.toys import tiny_problems


def take(solver: Adam, problem: Problem, x: Tensor, count: int) -> list[Tensor]:
    return [y.clone() for y in islice(solver.iterates(problem, x, Randomness(0, range(len(x)), x)), count)]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_is_adam(betas: tuple[float, float]) -> None:
    problem, x = tiny_problems()["features without constraint"]
    ours = take(Adam(lr=0.05, betas=betas), problem, x, 25)
    leaf = x.clone().requires_grad_()
    reference = torch.optim.Adam([leaf], lr=0.05, betas=betas)
    for mine in ours:
        leaf.grad = problem.value_and_gradient(leaf.detach())[1]
        reference.step()
        torch.testing.assert_close(mine, leaf.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0]),
        ("cosine", [1.0, 0.5, 0.0]),
        ("exponential", [1.0, 0.1, 0.01]),
        ("steps", [1.0, 0.3, 0.1]),
    ],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    solver = Adam(schedule=schedule, horizon=100)
    assert [solver._decay(t) for t in (0, 50, 100)] == pytest.approx(expected)
    assert solver._decay(500) == pytest.approx(expected[-1]), "the last rate holds after the horizon"


def test_a_schedule_without_a_horizon_is_refused() -> None:
    problem, _ = tiny_problems()["features in a box"]
    assert Adam(schedule="cosine").refuses(problem) is not None
    assert Adam(schedule="cosine", horizon=10).refuses(problem) is None


def test_stop_keeps_the_last_point_inside() -> None:
    problem, x = tiny_problems()["features in a box"]
    iterates = take(Adam(lr=0.05, boundary="stop"), problem, x, 60)
    free = take(Adam(lr=0.05), replace(problem, domain=Reals()), x, 60)
    for i in range(len(x)):
        inside = [bool(problem.domain.contains(y)[i]) for y in free]
        assert not all(inside), "the free run must leave the box for this test to mean anything"
        last = inside.index(False)
        for n, y in enumerate(iterates):
            expected = free[min(n, last - 1)][i] if last else problem.domain.project(x)[i]
            torch.testing.assert_close(y[i], expected)


def spied(problem: Problem) -> tuple[Problem, list[tuple[Any, ...]]]:
    """The problem, and what its gradients are asked for beside x."""
    seen: list[tuple[Any, ...]] = []

    class Spy(Problem):
        def value_and_gradient(self, x: Tensor, *asked: Any) -> Any:  # type: ignore[override]
            seen.append(asked)
            return super().value_and_gradient(x, *asked)

    return Spy(**{name: getattr(problem, name) for name in problem.__dataclass_fields__}), seen


def test_jitter_translates_what_the_network_sees_until_its_share_is_over() -> None:
    problem, x = tiny_problems()["features in a box"]
    spy, seen = spied(problem)
    take(Adam(jitter=2, jitter_share=0.5, horizon=40), spy, x, 40)
    shifts = [asked[0] for asked in seen]
    assert all(shift == (0, 0) for shift in shifts[20:])
    assert {value for shift in shifts[:20] for value in shift} == {-2, -1, 0, 1, 2}


def test_prior_scale_falls_geometrically() -> None:
    problem, x = tiny_problems()["features in a box"]
    spy, seen = spied(problem)
    take(Adam(prior_scale=(8.0, 0.125), horizon=4), spy, x, 6)
    assert [asked[1] for asked in seen] == pytest.approx([8.0, 8.0**0.5, 1.0, 8.0**-0.5, 0.125, 0.125])
    spy, seen = spied(problem)
    take(Adam(prior_scale=(0.0, 0.0)), spy, x, 2)
    assert [asked[1] for asked in seen] == [0.0, 0.0]


def test_a_falling_prior_needs_a_horizon_and_two_positive_factors() -> None:
    problem, _ = tiny_problems()["features in a box"]
    assert "needs a budget in iterations" in str(Adam(prior_scale=(4.0, 0.25)).refuses(problem))
    assert "does not decay geometrically" in str(Adam(prior_scale=(4.0, 0.0), horizon=9).refuses(problem))
    assert Adam(prior_scale=(4.0, 0.25), horizon=9).refuses(problem) is None


def test_patches_are_taken_from_offsets_drawn_anew() -> None:
    _, x = tiny_problems()["features in a box"]
    rng = Randomness(0, range(len(x)), x)
    grids = [rng.grid(3) for _ in range(200)]
    assert {grid.stride for grid in grids} == {3}
    assert {(grid.down, grid.right) for grid in grids} == {(i, j) for i in range(3) for j in range(3)}
    assert rng.grid(1) == ALL
