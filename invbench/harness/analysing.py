"""One analysis from start to record."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch

from invbench.analyses.contract import Analysis, Findings, Refused, Row
from invbench.clock import Clock
from invbench.errors import UserError
from invbench.harness.bench import Bench
from invbench.harness.outcome import blank, made_by, recorded
from invbench.harness.picturing import plain
from invbench.store import Record
from invbench.study import Measurement
from invbench.trials.contract import Scene


def run_analysis(measurement: Measurement, bench: Bench, key: str, clock: Clock | None = None) -> Record:
    """Run an analysis; whatever happens in it becomes part of the record.

    Args:
        measurement: what to run.
        bench: loads what runs share.
        key: identity of the measurement.
        clock: for tests; a real one by default.
    """
    record = _blank(measurement, key)
    scene = _scene(measurement, bench)
    clock = clock or Clock(torch.device(measurement.device))
    clock.resume()
    with recorded(record, measurement.timeout):
        _run(measurement.analysis, scene, record)
    record["seconds"] = clock.hold()
    return record


def check_analyses(measurements: Iterable[Measurement], bench: Bench) -> None:
    """Let every analysis look at its network and images before anything runs.

    Raises:
        UserError: with one line for every mistake.
    """
    mistakes: dict[str, None] = {}
    for measurement in measurements:
        try:
            measurement.analysis.check(_scene(measurement, bench))
        except UserError as error:
            mistakes[f"analysis {measurement.name}: {error}"] = None
    if mistakes:
        raise UserError("\n".join(mistakes))


def _scene(measurement: Measurement, bench: Bench) -> Scene:
    return bench.scene(measurement, bench.batch(measurement, "test"))


def _blank(measurement: Measurement, key: str) -> Record:
    """The record of a measurement before it has run."""
    plot = measurement.analysis.plot
    return blank(key) | {
        "name": measurement.name,
        "parameters": measurement.parameters(),
        "rows": [],
        "pictures": [],
        "plot": None if plot is None else asdict(plot),
        "analysis": measurement.plain(),
        "device": measurement.device,
        **made_by(),
    }


def _run(analysis: Analysis, scene: Scene, record: Record) -> None:
    """Measure; fills the record."""
    try:
        found = analysis.measure(scene)
    except Refused as refusal:
        record |= {"status": "refused", "reason": str(refusal)}
        return
    rows, pictures = (found.rows, found.pictures) if isinstance(found, Findings) else (found, [])
    record["pictures"] = [plain(picture) for picture in pictures]
    record["rows"] = [_checked(row, record["parameters"]) for row in rows]


def _checked(row: Row, parameters: Iterable[str]) -> dict[str, Any]:
    """A row as plain data; raises TypeError, with a sentence, where it is none."""
    for column, value in row.items():
        if not isinstance(value, str | int | float):
            raise TypeError(f"column {column} holds a {type(value).__name__}; rows hold text and numbers")
        if column in parameters:
            raise TypeError(f"column {column} bears the name of a parameter; give it another one")
    return dict(row)
