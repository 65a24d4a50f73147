"""One cell from start to record."""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from invbench import metrics
from invbench.clock import Clock
from invbench.harness.bench import Bench
from invbench.harness.environment import source_version
from invbench.harness.learning import prepare
from invbench.harness.loop import drive, fill_horizon, warm_up
from invbench.harness.scoring import Judge, Trace
from invbench.meter import Meter
from invbench.method import Method
from invbench.problem import Problem
from invbench.solver import Randomness
from invbench.store import Record, key_of
from invbench.study import Cell
from invbench.trials.contract import Posed, Trial

Arrays = dict[str, npt.NDArray[Any]]


class Timeout(Exception):
    """The cell took longer than the study allows."""


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
    record: Record = {
        "key": key,
        "order": cell.order,
        "status": "done",
        "reason": "",
        "labels": cell.labels()
        | {"cell": key, "version": source_version(), "threads": torch.get_num_threads()},
        "cell": cell.plain(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "trace": None,
        "instances": [],
        "truth": None if posed.truth is None else truth_key(cell, posed),
    }
    arrays: Arrays = {}
    trace = Trace()
    try:
        with _limit(cell.timeout):
            method = fill_horizon(cell.method, cell.budget, posed.problem.network.multiply_adds)
            problem = fresh(bench, cell, posed)
            reason = refusal(method, problem)
            if reason is None:
                arrays["x"] = _run(cell, bench, method, problem, posed, trace, record, clock)
            else:
                record |= {"status": "refused", "reason": reason}
    except Timeout:
        record |= {"status": "timeout", "reason": f"took longer than {cell.timeout:g} s"}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        record |= {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
    _describe(record, trace, posed)
    record["labels"]["cell_status"] = record["status"]
    return record, arrays


def refusal(method: Method, problem: Problem) -> str | None:
    """Why one of the stages does not take the problem, or None."""
    for name, solver in method.stages:
        reason = solver.refuses(problem)
        if reason is not None:
            return reason if len(method.stages) == 1 else f"{name}: {reason}"
    return None


def fresh(bench: Bench, cell: Cell, posed: Posed, mirrored: bool = False) -> Problem:
    """The problem that the solvers see, with a meter of its own and with the method's own terms, if any."""
    if cell.method.overrides:
        posed = bench.pose(cell, overridden(cell.trial, cell.method), mirrored)
    return replace(posed.problem, meter=Meter(posed.problem.size))


def overridden(trial: Trial, method: Method) -> Trial:
    """The trial with the method's own priors and loss weight."""
    changes: dict[str, Any] = {}
    if method.priors is not None:
        changes["priors"] = method.priors
    if method.loss_weight is not None:
        changes["loss_weight"] = method.loss_weight
    return replace(trial, **changes)


def truth_key(cell: Cell, posed: Posed) -> str:
    """Name under which the truth of a cell is stored, once for all cells that share it."""
    return key_of([cell.plain()["images"], posed.names])


def _run(
    cell: Cell,
    bench: Bench,
    method: Method,
    problem: Problem,
    posed: Posed,
    trace: Trace,
    record: Record,
    clock: Clock | None,
) -> npt.NDArray[Any]:
    device = torch.device(cell.device)
    method, seconds = prepare(cell, bench, method)
    record["labels"]["prepare_seconds"] = seconds
    other = bench.pose(cell, cell.trial, mirrored=True)
    rng = Randomness(cell.seed, range(problem.size), posed.start)
    _warm(bench, cell, method, fresh(bench, cell, other, mirrored=True), other.start)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    known = metrics.find()
    judge = Judge(posed.problem, posed.truth, {name: known[name] for name in cell.trial.metrics})
    x = drive(method, problem, posed.start, rng, cell.budget, judge, clock or Clock(device), trace)
    if device.type == "cuda":
        record["labels"]["peak_memory"] = torch.cuda.max_memory_allocated(device)
    if not np.all(trace.points == len(trace.iteration)):
        record |= {"status": "diverged", "reason": "the objective is no longer finite"}
    return x.detach().cpu().numpy()


def _warm(bench: Bench, cell: Cell, method: Method, problem: Problem, start: Tensor) -> None:
    """Warm up once per method, trial and device; what fails here will fail, and be told, in the run."""
    rng = Randomness(cell.seed + 1, range(problem.size), start)
    spec = [repr(method), repr(cell.trial), cell.network, cell.images, cell.device, cell.dtype]

    def warm() -> bool:
        try:
            warm_up(method, problem, start, rng)
        except Timeout:
            raise
        except Exception:
            return False
        return True

    bench.once("warm", spec, warm)


def _describe(record: Record, trace: Trace, posed: Posed) -> None:
    """Fill trace and instances."""
    if not trace.iteration:
        return
    whole = len(trace.iteration)
    record["trace"] = trace.plain()
    record["instances"] = [
        {
            "name": name,
            "status": record["status"] if points == whole or record["status"] != "done" else "diverged",
            "reason": "" if points == whole else "the objective is no longer finite",
            "points": max(1, int(points)),
        }
        for name, points in zip(posed.names, trace.points, strict=True)
    ]
    if record["status"] == "diverged":
        for item in record["instances"]:
            item["status"] = "done" if item["reason"] == "" else "diverged"


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise Timeout in the block after so many seconds; without effect where there are no alarms."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(_signal: int, _frame: object) -> None:
        raise Timeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
