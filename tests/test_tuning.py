"""Fair tuning: equal trials, other images, the right criterion, everything stored."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invbench import documents
from invbench.harness import Bench, forecast, run_cell
from invbench.harness.tuning import candidate_budget, candidates
from invbench.method import Method
from invbench.planning import plan
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Solver
from invbench.study import Budget, Cell, Study, Tuning
from invbench.trials.contract import Posed, Trial
from tests.toys import ToyBench, cell_of


@dataclass(frozen=True)
class Level(Solver):
    """Yields a constant image."""

    level: float = field(default=0.9, metadata={"search": (0.1, 1.0, "linear")})
    count: int = field(default=3, metadata={"search": (1, 100, "log")})
    bad_above: float = 2.0

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """One constant, or NaN."""
        while True:
            yield torch.full_like(x, self.level if self.level <= self.bad_above else torch.nan)


class Watched(ToyBench):
    """Remembers which images were asked for."""

    views: list[str]

    def pose(self, cell: Cell, trial: Trial, view: str = "test") -> Posed:
        """As the toy bench does."""
        self.views.append(view)
        return super().pose(cell, trial, view)


def tuned(solver: Solver, trials: int = 8, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    bench = Watched()
    object.__setattr__(bench, "views", [])
    cell = replace(cell_of(solver, budget=Budget(iterations=2)), tuning=Tuning(trials=trials, images=3))
    cell = replace(cell, method=replace(cell.method, **changes))
    return run_cell(cell, bench, "key")[0], bench.views


def test_the_best_candidate_on_the_tuning_images_is_run() -> None:
    record, views = tuned(Level())
    tuning = record["tuning"]
    assert record["status"] == "done"
    assert record["labels"]["variant"] == "tuned"
    assert tuning["criterion"] == "objective"
    assert len(tuning["candidates"]) == 8
    assert tuning["candidates"][0]["parameters"] == {}
    values = [candidate["value"] for candidate in tuning["candidates"]]
    assert tuning["chosen"] == int(np.argmin(values)) != 0
    level = tuning["candidates"][tuning["chosen"]]["parameters"]["level"]
    np.testing.assert_allclose(record["trace"]["series"]["mse"][-1], (level - 0.5) ** 2, rtol=1e-4)
    assert "tuning" in views


def test_a_candidate_that_diverges_is_worthless_and_the_default_is_the_last_resort() -> None:
    record, _ = tuned(Level(bad_above=0.5))
    assert all(
        candidate["status"] == "diverged"
        for candidate in record["tuning"]["candidates"]
        if candidate["parameters"].get("level", 0.9) > 0.5
    )
    assert record["status"] == "done"
    hopeless, _ = tuned(Level(bad_above=0.0))
    assert hopeless["tuning"]["chosen"] == 0
    assert hopeless["status"] == "diverged"


def test_a_method_with_priors_of_its_own_is_tuned_on_what_ranks_the_trial() -> None:
    record, _ = tuned(Level(), loss_weight=5.0)
    tuning = record["tuning"]
    assert (tuning["criterion"], tuning["better"]) == ("mse", "lower")
    weights = [candidate["parameters"].get("loss_weight") for candidate in tuning["candidates"][1:]]
    assert all(0.5 <= weight <= 50 for weight in weights)
    values = [candidate["value"] for candidate in tuning["candidates"]]
    assert tuning["chosen"] == int(np.argmin(values))


def method_of(name: str = "m", **given: Any) -> Method:
    return Method(name, (("level", Level()),), (1.0,), given=given)


def test_candidates_cover_the_space_and_depend_on_nothing_else() -> None:
    found = candidates(method_of(), 9, seed=0)
    assert found[0] == {}
    assert found == candidates(method_of(), 9, seed=0)
    assert found != candidates(method_of("other"), 9, seed=0) != candidates(method_of(), 9, seed=1)
    levels = sorted(setting["0.level"] for setting in found[1:])
    counts = sorted(np.log(setting["0.count"]) / np.log(100) for setting in found[1:])
    for n in range(8):  # one sample in each eighth of each range
        assert 0.1 + 0.9 * n / 8 - 1e-3 <= levels[n] <= 0.1 + 0.9 * (n + 1) / 8 + 1e-3
        assert n / 8 - 1e-3 <= counts[n] <= (n + 1) / 8 + 1e-3


def test_a_preset_may_declare_ranges_of_its_own() -> None:
    text = STUDY.replace("[adam: {lr: 0.1}, adam, mv2016]", "[gradient_descent]")
    (cell, *_) = plan(documents.parse(text, "s.yaml"), catalogue()).cells
    assert cell.method.search_space()["0.lr"] == (0.01, 100, "log")


def test_what_the_study_sets_is_not_tuned_and_whole_numbers_stay_whole() -> None:
    assert set(method_of(level=0.3).search_space()) == {"0.count"}
    solver = method_of().with_settings({"0.count": 7.6, "0.level": 0.2}).stages[0][1]
    assert isinstance(solver, Level)
    assert (solver.count, solver.level) == (8, 0.2)


STUDY = """
study: s
images: {count: 2}
trials: [preimage: {layers: [pool1, fc1]}]
methods: [adam: {lr: 0.1}, adam, mv2016]
tuning: {trials: 4, images: 2}
budget: {iterations: 5}
"""


def planned() -> Study:
    return plan(documents.parse(STUDY, "s.yaml"), catalogue())


def test_every_method_with_something_to_tune_has_both_variants_side_by_side() -> None:
    variants = [(cell.method.name, cell.labels()["variant"]) for cell in planned().cells[:5]]
    assert variants == [
        ("adam", "default"),  # its only tunable parameter is set by the study
        ("adam", "default"),
        ("adam", "tuned"),
        ("mv2016", "default"),
        ("mv2016", "tuned"),
    ]
    default, tuned_cell = planned().cells[1:3]
    assert default.labels()["parameters"] == tuned_cell.labels()["parameters"]
    assert default.plain() != tuned_cell.plain()


def test_tuning_images_are_not_reported_images() -> None:
    bench, cell = Bench(), planned().cells[2]
    assert not set(bench.batch(cell, "tuning", 2).names) & set(bench.batch(cell, "test").names)
    record, _ = run_cell(cell, bench, "key")
    assert record["status"] == "done"
    assert len(record["tuning"]["candidates"]) == 4


def test_the_forecast_counts_iterations_seconds_and_tuning() -> None:
    bench, (_, default, tuned_cell, *_) = Bench(), planned().cells
    assert forecast(tuned_cell, bench) == pytest.approx(5 * forecast(default, bench)), "2 of 2 images"
    double = replace(default, budget=Budget(iterations=10))
    assert forecast(double, bench) == pytest.approx(2 * forecast(default, bench))
    capped = replace(default, budget=Budget(iterations=10**9, seconds=3))
    assert forecast(capped, bench) == 3


def test_the_default_may_be_left_out_and_the_tuned_cell_stays_the_same() -> None:
    alone = plan(
        documents.parse(STUDY.replace("images: 2}\nb", "images: 2, default: false}\nb"), "s.yaml"),
        catalogue(),
    )
    variants = [(cell.method.name, cell.labels()["variant"]) for cell in alone.cells[:3]]
    assert variants == [("adam", "default"), ("adam", "tuned"), ("mv2016", "tuned")]
    assert alone.cells[1].plain() == planned().cells[2].plain()


def test_a_candidate_gets_its_share_of_the_seconds() -> None:
    text = STUDY.replace("images: {count: 2}", "images: {count: 8}").replace(
        "{iterations: 5}", "{seconds: 2}"
    )
    cell = plan(documents.parse(text, "s.yaml"), catalogue()).cells[2]
    for images, seconds in ((2, 0.5), (8, 2.0), (16, 4.0)):
        assert candidate_budget(cell, Tuning(images=images)) == Budget(seconds=seconds)
    assert candidate_budget(planned().cells[2], Tuning(images=1)) == Budget(iterations=5)
