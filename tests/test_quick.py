"""The main job keeps its promises as methods are added."""

import pytest

from invbench import documents, registry
from invbench.harness import Bench, run_analysis
from invbench.harness.attempt import problem_for, refusal, with_horizons
from invbench.planning import plan
from invbench.study import Study
from invbench.trials import offline

PLANNED_SECONDS = 40


@pytest.fixture(scope="module")
def quick() -> Study:
    return plan(documents.read(registry.find_study("quick")), registry.catalogue())


def test_the_planned_sum_stays_below_the_limit(quick: Study) -> None:
    assert all(cell.budget.seconds is not None for cell in quick.cells)
    assert sum(cell.budget.seconds or 0 for cell in quick.cells) <= PLANNED_SECONDS


def test_it_covers_what_it_promises(quick: Study) -> None:
    assert {cell.trial_name for cell in quick.cells} >= {"preimage", "class_inversion", "adversarial"}
    assert len({cell.labels()["layer"] for cell in quick.cells if cell.trial_name == "preimage"}) >= 3
    assert all(cell.images["source"] == "bundled" and cell.images["count"] >= 8 for cell in quick.cells)
    assert {cell.seed for cell in quick.cells} == {0}
    used = {name for cell in quick.cells for name in (cell.method.name, *dict(cell.method.stages))}
    assert used >= set(registry.catalogue().solvers) | set(registry.catalogue().presets)


def test_it_uses_shipped_weights_and_nothing_is_refused(quick: Study) -> None:
    bench = Bench(lambda *_: pytest.fail("the main job must not train"))
    for cell in quick.cells:
        trained = bench.trained(cell)
        assert trained.origin == "shipped with the package"
        assert trained.accuracy is not None
        assert trained.accuracy >= 0.8
        method = with_horizons(cell, bench, cell.method)
        assert refusal(method, problem_for(cell, bench, method)) is None
    assert {trained.origin for trained in bench.teacher.trained} == {"shipped with the package"}


def test_what_its_methods_have_learned_is_shipped(quick: Study) -> None:
    """But for the linear inverse: its matrix of 38 MB takes seconds to compute, and no training."""
    bench = Bench(lambda *_: pytest.fail("the main job must not train"))
    for cell in quick.cells:
        for name, solver in cell.method.stages:
            if solver.learns() and name != "linear_inverse":
                scene = bench.scene(cell, bench.batch(cell, "test"))
                prepared = offline.prepare(solver, cell.trial, scene, bench.progress)
                assert prepared.origin == "shipped with the package"
                assert prepared.seconds > 0
                assert prepared.multiply_adds > 0


def test_its_analyses_measure(quick: Study) -> None:
    bench = Bench(lambda *_: pytest.fail("the main job must not train"))
    for measurement in quick.measurements:
        record = run_analysis(measurement, bench, "key")
        assert (record["status"], record["reason"]) == ("done", "")
        assert record["rows"]


def test_a_schedule_without_a_horizon_is_told() -> None:
    """A schedule that needs a horizon cannot run on a budget in seconds alone."""
    trials = "trials: [preimage: {layer: pool1}]\nmethods: [adam: {schedule: cosine}]\n"
    text = f"study: s\n{trials}budget: {{seconds: 1}}\n"
    (cell,) = plan(documents.parse(text, "s"), registry.catalogue()).cells
    bench = Bench()
    problem = problem_for(cell, bench, cell.method)
    assert "needs a budget in iterations" in str(refusal(cell.method, problem))
