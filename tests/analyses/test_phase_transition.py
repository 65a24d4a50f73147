"""Success of solvers whose success is known, and of a plain thresholding against a loop over codes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from invbench.analyses.contract import Refused
from invbench.analyses.phase_transition import PhaseTransition
from invbench.domains import ModelSparse
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.problem import Problem
from invbench.recovery import LinearModel
from invbench.report.analyses import measured
from invbench.solver import Randomness, Solver
from invbench.trials.contract import Scene
from invbench.trials.sparse_code import SparseCode
from tests.results_folder import Folder
from tests.scenes import scene_of
from tests.studies import mistakes, of_analyses, planned
from tests.toys import tiny_network

SMALL: dict[str, Any] = {
    "ks": (1, 2, 6),
    "counts": (6, 9),
    "channels": 12,
    "kernel": 3,
    "size": 7,
    "draws": 2,
    "samples": 5,
    "iterations": 40,
}

STUDY = of_analyses("""- phase_transition:
    {solver: projected_gradient, ks: [[1, 2]], counts: [[3, 5]], channels: [4, 8], kernel: 3, size: 7,
     iterations: 2}""")


@dataclass(frozen=True)
class Thresholding(Solver):
    """Algorithm 1 of the paper."""

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """One pass an iterate."""
        model, z = LinearModel.of(problem), x
        while True:
            z = problem.domain.project(z + model.adjoint(model.y - model.apply(z)))
            yield z


@dataclass(frozen=True)
class Dense(Solver):
    """Finds the truth by trying all supports of one entry; worth nothing for more."""

    stops: bool = True
    refusal: str | None = None

    def refuses(self, problem: Problem) -> str | None:
        """What a test says."""
        return self.refusal

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """A wrong code, then the best with one entry, and not a number after it unless it stops."""
        model = LinearModel.of(problem)
        yield x
        size = x[0].numel()
        w = model.apply(torch.eye(size, dtype=x.dtype).view(size, *x.shape[1:])).flatten(1)
        b = model.y.flatten(1) @ w.T / w.square().sum(1)
        best = (b.square() * w.square().sum(1)).argmax(1, keepdim=True)
        yield torch.zeros_like(b).scatter(1, best, b.gather(1, best)).view(x.shape)
        while not self.stops:
            yield x * math.nan


def scene(seed: int = 0) -> Scene:
    return scene_of(tiny_network(), torch.zeros(3, 3, 8, 8, dtype=torch.float64), seed)


def rows(solver: Solver, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in PhaseTransition(solver=solver, **SMALL | changes).measure(scene(seed))]


def test_one_non_zero_is_recovered_and_more_are_not() -> None:
    found = rows(Dense())
    assert [(row["bank"], row["count"], row["k"]) for row in found] == [
        (f"K = {count}", count, k) for count in (6, 9) for k in (1, 2, 6)
    ]
    assert [row["success"] for row in found] == [1, 0, 0] * 2
    assert {row["number"] for row in found} == {10}
    assert all(0.05 < row["median"] <= row["worst"] < 1.1 for row in found if row["k"] > 1)


def test_what_counts_is_the_last_iteration() -> None:
    early, late = rows(Dense(), iterations=1), rows(Dense(stops=False), iterations=3)
    assert {row["success"] for row in early + late} == {0}
    assert {row["median"] for row in early} == {1}
    assert {row["worst"] for row in late} == {math.inf}


def test_success_is_that_of_every_code_alone() -> None:
    """The first draw, code by code with dense matrices, for a solver which fails now and then."""
    changes = {"ks": (4,), "counts": (9,), "channels": 9, "draws": 1, "samples": 40, "size": 8}
    (row,) = rows(Thresholding(), **changes)
    trial = SparseCode(k=4, count=9, channels=9, kernel=3, size=8, draws=40)
    posed = trial.pose(scene())
    assert posed.truth is not None
    size = posed.truth[0].numel()
    eye = torch.eye(size, dtype=torch.float64).view(size, *posed.truth.shape[1:])
    w = posed.problem.network(eye).flatten(1)
    errors = []
    for truth in posed.truth.flatten(1):
        z = torch.zeros_like(truth)
        for _ in range(SMALL["iterations"]):
            b = z + w @ (w.T @ (truth - z))
            z = ModelSparse(4).project(b.view(1, *posed.truth.shape[1:])).flatten()
        errors.append(float((z - truth).norm() / truth.norm()))
    assert 0 < row["success"] < 1
    assert row["success"] == sum(error < 1e-6 for error in errors) / 40
    assert row["worst"] == pytest.approx(max(errors), rel=1e-3, nan_ok=True) or row["worst"] > 1e3


def test_a_smaller_tolerance_is_harder() -> None:
    loose, tight = rows(Thresholding(), tolerance=0.5), rows(Thresholding(), tolerance=1e-15)
    assert all(a["success"] >= b["success"] for a, b in zip(loose, tight, strict=True))
    assert sum(row["success"] for row in loose) > sum(row["success"] for row in tight)


def test_draws_differ_and_the_seed_decides() -> None:
    assert rows(Thresholding()) == rows(Thresholding())
    assert rows(Thresholding()) != rows(Thresholding(), seed=1)
    one, two = (rows(Thresholding(), draws=draws, ks=(6,), counts=(9,))[0] for draws in (1, 2))
    assert two["number"] == 2 * one["number"]
    assert two["median"] != one["median"]


def test_the_grid_is_sorted_and_ends_at_the_number_of_blocks() -> None:
    found = rows(Dense(), ks=(8, 2, 2), counts=(6, 9))
    assert [(row["count"], row["k"]) for row in found] == [(6, 2), (9, 2), (9, 8)]
    flat = rows(Dense(), ks=(1, 24, 25), counts=(6,), dimensions=2, size=6, region=2)
    assert [row["k"] for row in flat] == [1, 24]


def test_what_does_not_apply_is_refused() -> None:
    with pytest.raises(Refused, match="not today"):
        rows(Dense(refusal="not today"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ks": (0,)}, "k is 0, but at least one non-zero is needed"),
        ({"ks": (7, 8)}, "k is 7, but the code has only 6 blocks"),
        ({"region": 2, "dimensions": 2}, "regions of 2 x 2 do not tile a map of 5 x 5"),
        ({"kernel": 8}, "filters of 8 x 1 do not fit a signal of 7 x 1"),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    analysis = PhaseTransition(solver=Dense(), **SMALL)
    with pytest.raises(UserError) as caught:
        replace(analysis, **changes).check(scene())
    assert sentence in str(caught.value)


def test_a_list_within_a_list_is_a_grid_and_a_list_an_axis(tmp_path: Any) -> None:
    first, second = planned(STUDY).measurements
    assert isinstance(first.analysis, PhaseTransition)
    assert (first.analysis.ks, first.analysis.counts) == ((1, 2), (3, 5))
    assert (first.analysis.channels, second.parameters()["channels"]) == (4, 8)
    record = run_analysis(first, Bench(), "key")
    assert record["status"] == "done", record["reason"]
    folder = Folder(tmp_path, instances=2)
    folder.add()
    folder.store.write("k", record, kind="analyses")
    (shown,) = measured(folder.finish())
    assert len(shown.plots) == 1
    assert [line.text for line in shown.legend] == ["K = 3", "K = 5"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("ks: [[1, 2]]", "ks: [[0, 2]]", "phase_transition.ks[0]: must be >= 1 (got 0)"),
        ("ks: [[1, 2]]", "ks: [[]]", "phase_transition.ks: "),
        ("ks: [[1, 2]]", "ks: 3", "phase_transition.ks: input should be a valid tuple (got 3)"),
        ("iterations: 2", "iterations: 0", "phase_transition.iterations: must be >= 1 (got 0)"),
    ],
)
def test_mistakes_in_a_study(old: str, new: str, sentence: str) -> None:
    found = mistakes(STUDY.replace(old, new).replace("channels: [4, 8]", "channels: 4"))
    assert len(found) == 1
    assert sentence in found[0]
