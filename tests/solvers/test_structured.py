"""The preset `structured`: one pass down the chain, ADMM, L-BFGS."""

from typing import Any

import numpy as np
import pytest
from invbench_solvers.admm import ADMM
from invbench_solvers.layerwise import Layerwise
from invbench_solvers.lbfgs import LBFGS

from invbench.harness import Bench, run_cell
from invbench.study import Cell
from tests.studies import planned

ITERATIONS = 100

STUDY = f"""
study: structured
images: {{source: bundled, count: 3, size: 32}}
network: {{name: lenet}}
trials: [{{preimage: {{layer: pool2, start: noise, priors: {{}}}}}}]
methods: [structured, lbfgs]
budget: {{iterations: {ITERATIONS}}}
"""


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    """One with the preset, one with L-BFGS alone, on features of the bundled network from noise."""
    return list(planned(STUDY).cells)


@pytest.fixture(scope="module")
def records(cells: list[Cell]) -> list[dict[str, Any]]:
    bench = Bench(lambda *_: pytest.fail("the bundled network needs no training"))
    return [run_cell(cell, bench, "key")[0] for cell in cells]


def test_the_preset_is_three_solvers_with_their_defaults(cells: list[Cell]) -> None:
    method = cells[0].method
    assert method.name == "structured"
    assert dict(method.stages) == {"layerwise": Layerwise(), "admm": ADMM(), "lbfgs": LBFGS()}
    assert method.shares == ("done", 0.5, 0.5)


def test_the_second_half_of_what_layerwise_leaves_goes_to_the_polish(records: list[dict[str, Any]]) -> None:
    trace = records[0]["trace"]
    ends = {stage: n for stage, n in zip(trace["stage"], trace["iteration"], strict=True) if stage}
    assert list(ends) == ["layerwise", "admm", "lbfgs"]
    assert ends["layerwise"] == Layerwise().sweeps * 2
    assert ends["lbfgs"] == ITERATIONS
    assert abs((ends["admm"] - ends["layerwise"]) - (ends["lbfgs"] - ends["admm"])) <= 1


def test_it_comes_nearer_to_features_than_lbfgs_in_as_many_iterations(records: list[dict[str, Any]]) -> None:
    assert [record["status"] for record in records] == ["done", "done"]
    assert [record["trace"]["iteration"][-1] for record in records] == [ITERATIONS] * 2
    structured, alone = (np.asarray(r["trace"]["series"]["feature_error"]) for r in records)
    np.testing.assert_array_equal(structured[0], alone[0], "both start at the same noise")
    assert (structured[-1] < alone[-1]).all()
    assert np.median(structured[-1] / alone[-1]) < 0.6
