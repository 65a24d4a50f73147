"""The harness with scripted solvers and a fake clock."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invbench.clock import GRID, Clock
from invbench.harness import run_cell, scoring
from invbench.harness.loop import Amount, fill_horizon, parts
from invbench.method import Method
from invbench.problem import Problem
from invbench.solver import Solver
from invbench.study import Budget, Cell
from tests.toys import FakeTime, Scripted, ToyBench, cell_of


def run(cell: Cell, time_of: FakeTime | None = None) -> dict[str, Any]:
    clock = Clock(torch.device("cpu"), time_of) if time_of else None
    record, arrays = run_cell(cell, ToyBench(), "key", clock)
    return record | {"x": arrays.get("x")}


def endless(problem: Problem, x: Tensor) -> Iterator[Tensor]:
    while True:
        x = x * 0.9
        yield x


def test_a_budget_in_iterations_is_kept_exactly() -> None:
    record = run(cell_of(Scripted(script=endless), budget=Budget(iterations=37)))
    assert record["status"] == "done"
    assert record["trace"]["iteration"][-1] == 37
    assert record["trace"]["iteration"][:2] == [0, 1]
    steps = record["trace"]["iteration"][1:-1]
    assert all(b <= max(a + 1, int(np.ceil(a * GRID))) for a, b in pairwise(steps))


@pytest.mark.parametrize("cost", [0.0, 1000.0])
def test_reporting_never_changes_a_measured_time(monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
    """Each iterate takes a second; whether scoring it is free or takes forever, the trace is the same."""
    now = FakeTime()

    def slow(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        while True:
            now.now += 1.0
            yield x

    score = scoring.Judge.score

    def expensive(self: Any, x: Tensor) -> Any:
        now.now += cost
        return score(self, x)

    monkeypatch.setattr(scoring.Judge, "score", expensive)
    record = run(cell_of(Scripted(script=slow), budget=Budget(iterations=100, seconds=19.5)), now)
    assert record["trace"]["iteration"][-1] == 20
    assert record["trace"]["seconds"] == [float(n) for n in record["trace"]["iteration"]]


def test_a_budget_in_seconds_ends_at_the_first_iterate_beyond_it() -> None:
    now = FakeTime()

    def slow(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        while True:
            now.now += 0.4
            yield x

    record = run(cell_of(Scripted(script=slow), budget=Budget(seconds=1.0)), now)
    assert record["trace"]["iteration"][-1] == 3
    assert record["trace"]["seconds"][-1] == pytest.approx(1.2), "the overrun is recorded as it was"


def test_a_budget_in_work_counts_what_the_problem_counted() -> None:
    def working(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        while True:
            problem.value_and_gradient(x)
            yield x

    price = ToyBench().pose(cell_of(Scripted()), cell_of(Scripted()).trial).problem.network.multiply_adds
    record = run(cell_of(Scripted(script=working), budget=Budget(work=5 * 2 * price)))
    assert record["trace"]["iteration"][-1] == 5
    assert record["trace"]["series"]["work"][-1].tolist() == [10 * price] * 3


def test_an_early_return_gets_a_final_evaluation() -> None:
    def short(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        for n in range(8):
            yield torch.full_like(x, n / 10)

    record = run(cell_of(Scripted(script=short), budget=Budget(iterations=100)))
    assert record["status"] == "done"
    assert record["trace"]["iteration"][-1] == 8
    np.testing.assert_allclose(record["x"], 0.7, rtol=1e-6)
    np.testing.assert_allclose(record["trace"]["series"]["mse"][-1], 0.04, rtol=1e-5)


def test_a_solver_that_yields_nothing_leaves_the_start() -> None:
    record = run(cell_of(Scripted(script=lambda problem, x: iter(()))))
    assert record["status"] == "done"
    assert record["trace"]["iteration"] == [0]


def test_a_solver_that_mutates_its_yield_does_not_change_what_was_scored() -> None:
    def mutating(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        y = x.clone()
        for n in range(20):
            y.fill_(n / 20)
            yield y
            y.fill_(torch.nan)

    record = run(cell_of(Scripted(script=mutating), budget=Budget(iterations=20)))
    assert record["status"] == "done"
    for iteration, mse in zip(
        record["trace"]["iteration"][1:], record["trace"]["series"]["mse"][1:], strict=True
    ):
        np.testing.assert_allclose(mse, ((iteration - 1) / 20 - 0.5) ** 2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(record["x"], 0.95, rtol=1e-6)


def test_a_solver_cannot_spoil_the_start_or_the_target_of_the_next() -> None:
    def vandal(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        x.fill_(0.25)
        yield x

    bench = ToyBench()
    first, _ = run_cell(cell_of(Scripted(script=vandal)), bench, "a")
    second, _ = run_cell(cell_of(Scripted(script=lambda problem, x: iter([x]))), bench, "b")
    np.testing.assert_array_equal(
        first["trace"]["series"]["objective"][0], second["trace"]["series"]["objective"][0]
    )


def test_an_exception_keeps_the_curve_and_the_traceback() -> None:
    def failing(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        yield x
        raise RuntimeError("singular\nmatrix")

    record = run(cell_of(Scripted(script=failing)))
    assert record["status"] == "failed"
    assert record["reason"] == "RuntimeError: singular"
    assert "in failing" in record["traceback"]
    assert record["trace"]["iteration"] == [0, 1]
    assert {item["status"] for item in record["instances"]} == {"failed"}


def test_divergence_is_per_instance_and_keeps_the_curve_up_to_there() -> None:
    def diverging(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        for n in range(10):
            y = x.clone()
            if n >= 3:
                y[1] = torch.nan
            yield y

    record = run(cell_of(Scripted(script=diverging)))
    assert record["status"] == "diverged"
    assert [item["status"] for item in record["instances"]] == ["done", "diverged", "done"]
    whole = len(record["trace"]["iteration"])
    assert [item["points"] for item in record["instances"]] == [whole, 4, whole]
    assert record["trace"]["iteration"][-1] == 10


def test_a_run_ends_when_every_instance_has_diverged() -> None:
    record = run(
        cell_of(
            Scripted(script=lambda p, x: (x * torch.nan for _ in range(1000))), budget=Budget(iterations=1000)
        )
    )
    assert record["status"] == "diverged"
    assert record["trace"]["iteration"] == [0, 1]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda x: x[:1], "yielded (1, 3, 8, 8) torch.float32 on cpu where the problem has (3, 3, 8, 8)"),
        (lambda x: x.double(), "torch.float64"),
        (lambda x: x.numpy(), "solvers yield tensors and nothing else"),
    ],
)
def test_a_wrong_yield_is_a_failure_with_a_sentence(bad: Any, sentence: str) -> None:
    record = run(cell_of(Scripted(script=lambda problem, x: iter([bad(x)]))))
    assert record["status"] == "failed"
    assert sentence in record["reason"]


def test_a_refusal_is_a_result() -> None:
    class Picky(Scripted):
        def refuses(self, problem: Problem) -> str | None:
            return "this needs something else"

    record = run(cell_of(Picky()))
    assert (record["status"], record["reason"]) == ("refused", "this needs something else")
    assert record["trace"] is None


def test_a_cell_that_takes_too_long_is_given_up() -> None:
    def sleeping(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        yield x
        yield x
        time.sleep(60)
        yield x

    record = run(replace(cell_of(Scripted(script=sleeping)), timeout=0.3))
    assert record["status"] == "timeout"
    assert record["trace"]["iteration"] == [0, 1, 2]


def test_the_objective_is_judged_inside_the_domain_and_the_distance_recorded() -> None:
    record = run(cell_of(Scripted(script=lambda problem, x: iter([torch.full_like(x, 1.5)]))))
    np.testing.assert_allclose(record["x"], 1.0)
    np.testing.assert_allclose(
        record["trace"]["series"]["projection_distance"][-1], 0.5 * np.sqrt(192), rtol=1e-5
    )


def test_judging_costs_the_solver_no_work() -> None:
    record = run(cell_of(Scripted(script=endless)))
    assert record["trace"]["series"]["work"][-1].tolist() == [0, 0, 0]


def test_a_method_with_its_own_loss_weight_is_judged_on_the_trial() -> None:
    seen: list[float] = []

    def script(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        seen.append(float(problem.objective(x)[0]))
        yield x

    plain = run(cell_of(Scripted(script=script)))
    cell = cell_of(Scripted(script=script))
    heavy = run(replace(cell, method=replace(cell.method, loss_weight=7.0)))
    assert seen[-1] > 5 * seen[0]
    np.testing.assert_array_equal(
        plain["trace"]["series"]["objective"][-1], heavy["trace"]["series"]["objective"][-1]
    )
    assert heavy["cell"]["method"]["overrides"]


# -- pipelines -------------------------------------------------------------------------------------------


def ending(count: int, value: float) -> Solver:
    return Scripted(script=lambda problem, x: (torch.full_like(x, value) for _ in range(count)))


def test_stages_share_the_budget() -> None:
    record = run(
        cell_of(ending(100, 0.1), ending(100, 0.2), shares=[0.25, 0.75], budget=Budget(iterations=40))
    )
    trace = list(zip(record["trace"]["iteration"], record["trace"]["stage"], strict=True))
    assert (10, "stage0") in trace
    assert (11, "stage1") in trace
    assert trace[-1] == (40, "stage1")


def test_unused_shares_pass_on() -> None:
    record = run(cell_of(ending(4, 0.1), ending(100, 0.2), shares=[0.5, 0.5], budget=Budget(iterations=40)))
    assert record["trace"]["iteration"][-1] == 40
    assert (4, "stage0") in list(zip(record["trace"]["iteration"], record["trace"]["stage"], strict=True))


def test_done_runs_until_it_ends_by_itself_and_each_stage_starts_from_the_last() -> None:
    starts: list[float] = []

    def second(problem: Problem, x: Tensor) -> Iterator[Tensor]:
        starts.append(float(x[0, 0, 0, 0]))
        yield x

    record = run(
        cell_of(ending(30, 0.3), Scripted(script=second), shares=["done", 1.0], budget=Budget(iterations=40))
    )
    assert starts[-1] == pytest.approx(0.3)
    assert record["trace"]["iteration"][-1] == 31


def test_parts_of_the_remaining_budget() -> None:
    method = Method("m", tuple((str(n), Scripted()) for n in range(3)), ("done", 0.25, 0.75))
    assert list(parts(method)) == [1.0, 0.25, 1.0]
    spent, total = Amount(20, 1.0, 0.0), Amount(100, 9.0, 400.0)
    assert spent.allow(total, 0.25) == Amount(40, 3.0, 100.0)


def test_horizons_are_filled_from_iterations_or_work_and_never_from_seconds() -> None:
    from invbench_solvers.adam import Adam

    method = Method("m", (("a", Adam()), ("b", Adam(horizon=7)), ("c", Adam())), (0.5, 0.25, 0.25))
    filled = fill_horizon(method, Budget(iterations=100), 10)
    assert [solver.horizon for _, solver in filled.stages] == [50, 7, 25]  # type: ignore[attr-defined]
    filled = fill_horizon(method, Budget(work=1000), 10)
    assert [solver.horizon for _, solver in filled.stages] == [25, 7, 12]  # type: ignore[attr-defined]
    filled = fill_horizon(method, Budget(seconds=5), 10)
    assert filled.stages[0][1].horizon is None  # type: ignore[attr-defined]
