"""Runs what is not finished yet of a study, cells and analyses, one way or another."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy.typing as npt
from torch import Tensor

from invbench.errors import UserError
from invbench.harness import Bench, check_analyses, run_analysis, run_cell, source_version
from invbench.store import Kind, Record, Store
from invbench.study import Cell, Measurement, Study

#: What is finished is kept; these ended for reasons that may be gone, so that they are tried again.
RETRIED = ("failed", "timeout")
Job = tuple[Cell | Measurement, str]
Executor = Callable[[Sequence[Job], Bench, Store], Iterator[Record]]


@dataclass
class Summary:
    """How a run went.

    Attributes:
        statuses: how many cells and analyses of the study ended how, those of earlier runs included.
        resumed: how many were found finished.
        stale: how many of these came from another version of the source.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    stale: int = 0

    @property
    def exit_code(self) -> int:
        """1 when something failed or timed out; refusals and divergence are results."""
        return int(any(self.statuses[status] for status in RETRIED))


def serial(jobs: Sequence[Job], bench: Bench, store: Store) -> Iterator[Record]:
    """One job after the other, in this process."""
    for run, key in jobs:
        yield (
            _measure(run, key, bench, store)
            if isinstance(run, Measurement)
            else _solve(run, key, bench, store)
        )


def _solve(cell: Cell, key: str, bench: Bench, store: Store) -> Record:
    record, arrays = run_cell(cell, bench, key)
    truth = bench.pose(cell, cell.trial).truth
    if truth is not None:
        store.arrays(f"truth-{record['truth']}", partial(_as_arrays, truth))
    store.write(key, record, arrays)
    return record


def _measure(measurement: Measurement, key: str, bench: Bench, store: Store) -> Record:
    record = run_analysis(measurement, bench, key)
    store.write(key, record, kind="analyses")
    return record


def _as_arrays(truth: Tensor) -> dict[str, npt.NDArray[Any]]:
    return {"truth": truth.cpu().numpy()}


EXECUTORS: Mapping[str, Executor] = {"serial": serial}


def find_executor(name: str) -> Executor:
    """An executor by name; raises UserError when there is none."""
    if name not in EXECUTORS:
        raise UserError(f"there is no executor '{name}': choose {' or '.join(EXECUTORS)}")
    return EXECUTORS[name]


def run(
    study: Study,
    store: Store,
    bench: Bench,
    executor: Executor = serial,
    stale: Literal["keep", "rerun"] = "keep",
    notify: Callable[[int, int, Record | None], None] = lambda *_: None,
) -> Summary:
    """Run a study into a store; what is finished there already is not run again.

    Args:
        study: what to run.
        store: where to.
        bench: loads what cells share.
        executor: how.
        stale: whether what another version of the source has finished is kept.
        notify: called with (jobs done, jobs in all, record or None) before the first job and after each.

    Raises:
        UserError: before anything has run, when something cannot be had.
    """
    bench.check(study.cells)
    check_analyses(study.measurements, bench)
    jobs: list[Job] = [(run, bench.key(run)) for run in study.runs]
    summary, open_jobs = Summary(), []
    for job in jobs:
        record = store.find(job[1], _kind(job))
        if record is None or record["status"] in RETRIED or (stale == "rerun" and is_stale(record)):
            open_jobs.append(job)
            continue
        summary.statuses[record["status"]] += 1
        summary.resumed += 1
        summary.stale += is_stale(record)
    store.text("study.yaml", study.text)
    kinds: tuple[Kind, ...] = ("cells", "analyses")
    plan = {kind: [job[1] for job in jobs if _kind(job) == kind] for kind in kinds}
    store.text("plan.json", json.dumps(plan))
    notify(summary.resumed, len(jobs), None)
    for n, record in enumerate(executor(open_jobs, bench, store), start=summary.resumed + 1):
        summary.statuses[record["status"]] += 1
        notify(n, len(jobs), record)
    return summary


def _kind(job: Job) -> Kind:
    return "analyses" if isinstance(job[0], Measurement) else "cells"


def is_stale(record: Record) -> bool:
    """Whether a record was made by another version of the source."""
    made_by = record["labels"]["version"] if "labels" in record else record["version"]
    return bool(made_by != source_version())
