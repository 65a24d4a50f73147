"""One cell from start to record."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from invbench.clock import Clock
from invbench.harness.attempt import attempt, problem_for, refusal, with_horizons
from invbench.harness.bench import Bench
from invbench.harness.learning import prepare
from invbench.harness.outcome import blank, made_by, recorded
from invbench.harness.scoring import Trace
from invbench.harness.tuning import tune
from invbench.store import Record, key_of
from invbench.study import Cell
from invbench.trials.contract import Posed

Arrays = dict[str, npt.NDArray[Any]]
NOT_FINITE = "the objective is no longer finite"


def run_cell(cell: Cell, bench: Bench, key: str, clock: Clock | None = None) -> tuple[Record, Arrays]:
    """Run a cell; whatever happens in the solver becomes part of the record.

    Args:
        cell: what to run.
        bench: loads what cells share.
        key: identity of the cell.
        clock: for tests; a real one by default.

    Returns:
        The record, and arrays: `x`, what was found at the final point.
    """
    posed = bench.pose(cell, cell.trial)
    record = _blank(cell, key, posed)
    arrays: Arrays = {}
    trace = Trace()
    limit = cell.timeout * (cell.tuning.trials + 1 if cell.tuning else 1)
    with recorded(record, cell.timeout, limit):
        arrays = _run(cell, bench, trace, record, clock)
    if trace.iteration:
        record |= {"trace": trace.plain(), "instances": _instances(record, trace, posed)}
    record["labels"]["cell_status"] = record["status"]
    return record, arrays


def _blank(cell: Cell, key: str, posed: Posed) -> Record:
    """The record of a cell before it has run."""
    return blank(key) | {
        "order": cell.order,
        "labels": cell.labels() | {"cell": key} | made_by(),
        "cell": cell.plain(),
        "trace": None,
        "instances": [],
        "truth": None if posed.truth is None else key_of([posed.truth_digest, posed.names]),
    }


def _run(cell: Cell, bench: Bench, trace: Trace, record: Record, clock: Clock | None) -> Arrays:
    """Tune if asked to, prepare, run; fills trace and record."""
    method = with_horizons(cell, bench, cell.method)
    reason = refusal(method, problem_for(cell, bench, method))
    if reason is not None:
        record |= {"status": "refused", "reason": reason}
        return {}
    if cell.tuning is not None:
        method, record["tuning"] = tune(cell, bench, method, cell.tuning)
    method, cost = prepare(cell, bench, method)
    record["labels"]["prepare_seconds"] = cost and cost.seconds
    record["labels"]["prepare_work"] = cost and cost.multiply_adds
    x = attempt(cell, bench, method, trace, clock=clock)
    if cell.device == "cuda":
        record["labels"]["peak_memory"] = torch.cuda.max_memory_allocated()
    if not np.all(trace.points == len(trace.iteration)):
        record |= {"status": "diverged", "reason": NOT_FINITE}
    return {"x": x.detach().cpu().numpy()}


def _instances(record: Record, trace: Trace, posed: Posed) -> list[dict[str, Any]]:
    """Name, status and number of finite trace points of every instance; the cell shows the worst status."""
    ended = "done" if record["status"] == "diverged" else record["status"]
    whole = len(trace.iteration)
    return [
        {
            "name": name,
            "status": ended if points == whole or ended != "done" else "diverged",
            "reason": "" if points == whole else NOT_FINITE,
            "points": max(1, int(points)),
        }
        for name, points in zip(posed.names, trace.points, strict=True)
    ]
