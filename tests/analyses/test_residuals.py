"""Residuals against states that are written down by hand."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invbench_solvers.admm import ADMM
from torch import Tensor

from invbench.analyses.contract import Refused
from invbench.analyses.residuals import Residuals, relative_distance
from invbench.images import ImageBatch
from invbench.problem import Problem
from invbench.solver import Randomness
from invbench.trials.contract import Posed, Scene, Trial
from tests.toys import Scripted, tiny_network, tiny_problems

STAGES = ["pool1", "fc1"]


@dataclass(frozen=True, kw_only=True)
class Given(Trial):
    """Poses a problem that a test has made."""

    metrics = ()
    ranked_by = "objective"
    priors: dict[str, float] = field(default_factory=dict)
    problem: Any = None
    start: Any = None

    def pose(self, scene: Scene) -> Posed:
        """The problem of the test."""
        return Posed(self.problem, self.start, None, ("a", "b", "c"))


@dataclass(frozen=True)
class WithStates(Scripted):
    """Yields states that a test has written down."""

    given: Callable[[], Iterator[Any]] = field(default=lambda: iter(()))

    def states(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Any]:
        """Those of the test."""
        return (state for state in self.given())


def scene() -> Scene:
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.float64)
    images = ImageBatch(pixels, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    return Scene(network=tiny_network(), images=images, classes=(), natural=pixels, seed=0)


def state(gap: float = 0.1, **changes: list[Tensor]) -> SimpleNamespace:
    """Two stages, two instances: z = (3, 4) and (6, 8); the copies are off by `gap` and 3 `gap` of it."""
    z = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    off = torch.tensor([[gap], [-3 * gap]])
    base = {"z": [z, 2 * z], "v": [z * (1 + off), 2 * z], "y": [z, -z], "w": [z, -z * (1 + 2 * off)]}
    return SimpleNamespace(**(base | changes))


def measured(solver: Any, iterations: int = 10, name: str = "class in a box") -> list[Any]:
    problem, start = tiny_problems()[name]
    trial = Given(problem=problem, start=start)
    return Residuals(trial=trial, solver=solver, iterations=iterations).measure(scene())


def scripted(*states: Any) -> WithStates:
    return WithStates(given=lambda: iter(states))


def test_relative_distances_by_stage_and_copy() -> None:
    rows = measured(scripted(state(0.1)))
    found = {(row["stage"], row["copy"]): row["residual"] for row in rows}
    assert list(found) == [(stage, copy) for stage in STAGES for copy in ("input", "pre-activation")]
    assert found["pool1", "input"] == pytest.approx((0.1 + 0.3) / 2, rel=1e-6)
    assert found["pool1", "pre-activation"] == 0
    assert found["fc1", "input"] == 0
    assert found["fc1", "pre-activation"] == pytest.approx((0.2 + 0.6) / 2, rel=1e-6)
    assert {(row["iteration"], row["instances"]) for row in rows} == {(1, 2)}


def test_a_dead_stage_has_no_residual_and_says_so() -> None:
    alive, dead = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    assert relative_distance(torch.cat([1.5 * alive, dead]), torch.cat([alive, dead])) == (0.5, 1)
    assert relative_distance(torch.cat([1.5 * alive, dead + 1]), torch.cat([alive, dead])) == (0.5, 1)
    mean, instances = relative_distance(dead, dead)
    assert mean != mean
    assert instances == 0


def test_maps_are_flattened_per_instance() -> None:
    original = torch.rand(2, 3, 4, 5)
    copy = original + torch.rand(2, 3, 4, 5)
    ratios = [float((copy[n] - original[n]).norm() / original[n].norm()) for n in (0, 1)]
    assert relative_distance(copy, original)[0] == pytest.approx(sum(ratios) / 2, rel=1e-5)


@pytest.mark.parametrize("last", [1, 2, 7, 30, 100])
def test_the_grid_is_geometric_and_ends_with_the_last_iteration(last: int) -> None:
    asked = []

    def forever() -> Iterator[Any]:
        while True:
            asked.append(None)
            yield state()

    rows = measured(WithStates(given=forever), last)
    grid = list(dict.fromkeys(row["iteration"] for row in rows))
    assert grid[0] == 1
    assert grid[-1] == last == len(asked), "no iteration more than asked for"
    assert all(b <= max(a + 1, 1.25 * a + 1) for a, b in pairwise(grid))
    assert len(grid) <= 20


def test_a_solver_that_ends_early_is_measured_at_its_end() -> None:
    rows = measured(scripted(*(state(gap) for gap in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5))), 100)
    assert [row["iteration"] for row in rows if row["stage"] == "fc1" and row["copy"] == "input"][-1] == 6
    last = next(row for row in rows if row["iteration"] == 6)
    assert last["residual"] == pytest.approx(2 * 0.5, rel=1e-6)


def test_admm_shows_its_states() -> None:
    """Against the definition, on states that ADMM is driven to once more."""
    problem, start = tiny_problems()["features in a box"]
    problem = replace(problem, priors=())
    trial = Given(problem=problem, start=start)
    rows = Residuals(trial=trial, solver=ADMM(), iterations=4).measure(scene())
    states = ADMM().states(problem, start, Randomness(0, range(problem.size), start))
    for iteration in range(1, 5):
        found = next(states)
        ours = [row["residual"] for row in rows if row["iteration"] == iteration]
        pairs = [
            pair for i in range(len(found.z)) for pair in ((found.v[i], found.z[i]), (found.w[i], found.y[i]))
        ]
        expected = [
            float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).mean()) for a, b in pairs
        ]
        assert ours == pytest.approx(expected, rel=1e-9)


def test_a_horizon_spans_the_iterations() -> None:
    @dataclass(frozen=True)
    class Scheduled(WithStates):
        horizon: int | None = None

        def states(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Any]:
            assert self.horizon == 4
            yield from [state()] * 4

    assert measured(Scheduled(), 4)[-1]["iteration"] == 4


def test_refusals_are_sentences() -> None:
    with pytest.raises(Refused, match="Scripted has no states"):
        measured(Scripted())
    gone = state()
    del gone.w, gone.y
    with pytest.raises(Refused, match="states of WithStates have no y, w: residuals need z, v, y and w"):
        measured(scripted(gone))
    with pytest.raises(Refused, match="admm needs a chain"):
        measured(ADMM(), name="features of a black box")
    with pytest.raises(Refused, match="residuals need a chain of stages"):
        measured(scripted(state()), name="features of a black box")


def test_states_of_another_length_are_no_result() -> None:
    with pytest.raises(ValueError, match="zip"):
        measured(scripted(state(z=[torch.ones(2, 2)])))
