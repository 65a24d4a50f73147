"""Diversity at equal feature error, against iterates that are written down by hand."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from invbench_solvers.admm import ADMM
from invbench_solvers.langevin import Langevin
from torch import Tensor

from invbench.analyses.contract import Refused
from invbench.analyses.preimage_diversity import PreimageDiversity
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Setting
from invbench.trials.contract import Posed, Scene, Trial
from invbench.trials.preimage import Preimage
from tests.scenes import scene_of
from tests.toys import SHAPE, Scripted, black_box, tiny_network

IMAGES, STARTS = 2, 3
TRIAL = Preimage(layer="pool1", starts=STARTS, priors={"tv": 0.1})


def scene() -> Scene:
    pixels = torch.rand(IMAGES, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return scene_of(tiny_network(), 0.3 + 0.4 * pixels)


def off(share: float) -> Tensor:
    """The truth with noise of its own for every instance, and a little outside of the box."""
    truth = TRIAL.pose(scene()).truth
    assert truth is not None
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return truth + share * noise


def approaching(*shares: float) -> Scripted:
    return Scripted(lambda problem, x: (off(share) for share in shares))


def measured(solver: Any, trial: Trial = TRIAL, **changes: Any) -> list[Any]:
    return PreimageDiversity(trial=trial, solver=solver, **changes).measure(scene())


def split(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Rows of thresholds, rows of the curve."""
    return [r for r in rows if r["threshold"] > 0], [r for r in rows if math.isnan(r["threshold"])]


def test_it_is_found_by_its_file() -> None:
    assert catalogue().analyses["preimage_diversity"] is PreimageDiversity


def test_scores_are_those_of_the_definition_on_the_domain() -> None:
    posed = TRIAL.pose(scene())
    rows = measured(approaching(0.6), errors=(1e9,), iterations=5)
    x, truth = off(0.6).clamp(0, 1), posed.truth
    features, target = posed.problem.network(x), posed.problem.target
    errors = (features - target).flatten(1).square().sum(1) / target.flatten(1).square().sum(1)
    pairs = [
        float((x[image * STARTS + a] - x[image * STARTS + b]).square().mean().sqrt())
        for image in range(IMAGES)
        for a in range(STARTS)
        for b in range(a)
    ]
    assert truth is not None
    expected = {
        "iteration": 1,
        "feature_error": float(errors.mean()),
        "diversity": sum(pairs) / len(pairs),
        "mse": float((x - truth).square().mean()),
        "ssim": math.nan,  # images of 8 pixels hold no window
        "objective": float(posed.problem.objective(x).mean()),
    }
    assert rows == [pytest.approx({"threshold": t, **expected}, nan_ok=True) for t in (1e9, math.nan)]


def test_thresholds_are_met_at_the_first_iterate_below_them() -> None:
    """Also between the points of the grid, several at once, and not again after the error has risen."""
    shares = [0.5] * 10 + [0.01, 0.5, 0.001, 0.002] + [0.5] * 10
    level = {share: measured(approaching(share))[-1]["feature_error"] for share in set(shares)}
    errors = (2 * level[0.01], 1.5 * level[0.01], level[0.01], 0.5 * level[0.002], 0.5 * level[0.001])
    met, curve = split(measured(approaching(*shares), errors=errors, iterations=24))
    assert [row["threshold"] for row in met] == list(errors), "in the order of the study"
    assert [row["iteration"] for row in met[:4]] == [11, 11, 13, 13], "below, not at"
    assert met[0]["feature_error"] == pytest.approx(level[0.01])
    assert all(math.isnan(value) for key, value in met[4].items() if key != "threshold"), "never met"
    assert 11 not in [row["iteration"] for row in curve]


@pytest.mark.parametrize("last", [1, 2, 7, 30])
def test_the_curve_is_on_a_geometric_grid_and_ends_with_the_last_iterate(last: int) -> None:
    asked = []

    def forever(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        while True:
            asked.append(None)
            yield x

    _, curve = split(measured(Scripted(forever), iterations=last))
    grid = [row["iteration"] for row in curve]
    assert grid[0] == 1
    assert grid[-1] == last == len(asked), "no iteration more than asked for"
    assert all(b <= max(a + 1, 1.25 * a + 1) for a, b in pairwise(grid))
    _, curve = split(measured(approaching(*[0.5] * 7), iterations=100))
    assert curve[-1]["iteration"] == 7, "where the solver ends"


def test_what_has_diverged_meets_nothing() -> None:
    met, curve = split(measured(Scripted(lambda problem, x: iter([torch.full_like(x, math.nan)]))))
    assert [row["iteration"] for row in met] == pytest.approx([math.nan] * 3, nan_ok=True)
    assert math.isnan(curve[0]["feature_error"])
    assert split(measured(Scripted()))[1] == [], "a solver that yields nothing has no curve"


def test_a_run_is_that_of_the_solver_with_its_horizon() -> None:
    """Noise keeps starts apart that are (nearly) one; without it what is open is left as the start has it."""
    trial = replace(TRIAL, start="grey", priors={})
    cold, hot = (
        measured(Langevin(temperature=temperature), trial, iterations=40)[-1] for temperature in (0.0, 1.0)
    )
    assert cold["feature_error"] < 0.1
    assert hot["diversity"] > 2 * cold["diversity"]
    endless = measured(Langevin(temperature=1.0, horizon=10**9), trial, iterations=40)[-1]
    assert endless["feature_error"] > hot["feature_error"], "the horizon is the iterations: it has cooled"


@dataclass(frozen=True)
class Learner(Scripted):
    """Has offline work."""

    def prepare(self, setting: Setting) -> "Learner":
        """None, in fact."""
        return self


@dataclass(frozen=True, kw_only=True)
class Truthless(Preimage):
    """Keeps its images to itself."""

    def pose(self, scene: Scene) -> Posed:
        """Without truth."""
        return replace(super().pose(scene), truth=None)


def test_refusals_are_sentences() -> None:
    with pytest.raises(Refused, match=r"several pre-images of each representation: .* starts > 1"):
        measured(approaching(0.1), replace(TRIAL, starts=1))
    with pytest.raises(Refused, match="this one has no ground truth"):
        measured(approaching(0.1), Truthless(layer="pool1", starts=2))
    with pytest.raises(Refused, match="Learner learns before it runs"):
        measured(Learner())
    rough = replace(scene(), network=black_box())
    trial = Preimage(layer="block1", starts=2, priors={})
    with pytest.raises(Refused, match="admm needs a chain"):
        PreimageDiversity(trial=trial, solver=ADMM()).measure(rough)
