"""Packing: a finished results folder condensed to what is published.

What goes, and what stays:

- the table as one compressed CSV file: final rows as they are, the rest of each curve to `DIGITS` digits;
- all cells in one compressed file, without the traces, which the table holds; of a traceback the last line,
  because the others name files of the machine where it happened;
- of the images those that the page shows: per comparison that has a grid, the reconstructions of the methods
  in it, and the truths, at the instances in it; clipped to [0, 1], averaged down by the largest factor that
  the page averages by (1 for small images), to 16 bits;
- the analyses that the study plans with their pictures, the same holding for their tracebacks;
- study, environment, plan and the page as they are.

The same results give the same bytes.
"""

import csv
import gzip
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from invbench.errors import UserError
from invbench.report import render
from invbench.report.comparisons import compare
from invbench.report.pictures import choose, grids
from invbench.report.scores import score
from invbench.store import CELL_COLUMNS, PACKED_CELLS, PACKED_TABLE, PACKED_WHITE, Record, Results, load

if TYPE_CHECKING:
    import pandas as pd

#: Significant digits of values that are not final.
DIGITS = 4
#: Columns that are counts, and so exact everywhere.
_COUNTS = ("instance", "iteration")


def pack(folder: Path, dest: Path, force: bool = False) -> None:
    """Condense a results folder; `store.load` reads what comes out.

    Args:
        folder: a finished results folder.
        dest: what is written: a folder that is not there yet, or is empty.
        force: pack although planned cells have not been run.

    Raises:
        UserError: there are cells that have not been run, the folder is packed already, or `dest` holds
            something or cannot be written.
    """
    results = load(folder)
    _check(results, dest, force)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        _write(results, dest)
    except OSError as error:
        raise UserError(f"cannot write to {dest}: {error.strerror or error}; name another folder") from None


def _check(results: Results, dest: Path, force: bool) -> None:
    folder = results.folder
    if results.packed:
        raise UserError(f"{folder} is packed already: give the folder that run wrote")
    if results.missing and not force:
        planned = results.missing + len(results.records) + len(results.analyses)
        what = "cells and analyses" if results.analyses else "cells"
        raise UserError(
            f"{folder} lacks {results.missing} of {planned} {what}: "
            "run the study again to finish it, or pack what is there with --force"
        )
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"{dest} exists and is not an empty folder: name another one")


def _write(results: Results, dest: Path) -> None:
    """Write all files; the cells last, because a folder without them is no results folder."""
    folder = results.folder
    for name in ("study.yaml", "environment.json"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, dest / name)
    records, analyses = (tuple(map(_condensed, found)) for found in (results.records, results.analyses))
    _write_analyses(analyses, dest / "analyses")
    page = _page(results, replace(results, records=records, analyses=analyses))
    (dest / "report.html").write_text(page, encoding="utf-8")
    (dest / PACKED_TABLE).write_bytes(_compressed(_csv(results.table)))
    _write_images(results, dest / "images")
    (dest / "plan.json").write_text(json.dumps(_planned(results)))
    untraced = [{key: value for key, value in record.items() if key != "trace"} for record in records]
    (dest / PACKED_CELLS).write_bytes(_compressed(json.dumps(untraced, separators=(",", ":"))))


def _compressed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def _planned(results: Results) -> Mapping[str, list[str]]:
    plan = results.folder / "plan.json"
    if not plan.exists():
        return {"cells": [record["key"] for record in results.records]}
    planned: Mapping[str, list[str]] = json.loads(plan.read_bytes())
    return planned


def _write_analyses(records: Iterable[Record], folder: Path) -> None:
    for record in records:
        folder.mkdir(exist_ok=True)
        (folder / f"{record['key']}.json").write_text(json.dumps(record, separators=(",", ":")))


def _condensed(record: Record) -> Record:
    """A record with the last line of its traceback only."""
    lines = (record.get("traceback") or "").strip().splitlines()
    return {**record, "traceback": lines[-1]} if lines else record


def _page(results: Results, condensed: Results) -> str:
    """The page as it is, unless there is none or it shows tracebacks in full."""
    page = results.folder / "report.html"
    if page.exists() and condensed == results:
        return page.read_text(encoding="utf-8")
    return render(condensed)


# -- the table -----------------------------------------------------------------------------------------------


def _csv(table: "pd.DataFrame") -> str:
    """The table as CSV, curves rounded; all text is quoted, so that any name survives."""
    import pandas as pd

    rounded, final = table.copy(), table["final"].to_numpy(bool)
    for name in table.columns:
        numeric = pd.api.types.is_float_dtype(table[name])
        if numeric and name not in CELL_COLUMNS and name not in _COUNTS:
            values = table[name].to_numpy(float)
            rounded[name] = np.where(final, values, [float(f"{value:.{DIGITS}g}") for value in values])
    text: str = rounded.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return text


# -- the images ----------------------------------------------------------------------------------------------


@dataclass
class _Shown:
    """What the page shows: instances by key of a cell and by name of a truth, and the shrinking factor."""

    cells: dict[str, set[int]] = field(default_factory=dict)
    truths: dict[str, set[int]] = field(default_factory=dict)
    factor: int = 1


def _shown(results: Results) -> _Shown:
    comparisons = compare(results)
    scores = {comparison: score(comparison) for comparison in comparisons}
    by_anchor = {f"grid-{comparison.anchor}": comparison for comparison in comparisons}
    shown = _Shown()
    for grid in grids(results, comparisons, scores):
        comparison = by_anchor[grid.anchor]
        instances, cells = choose(scores[comparison]), comparison.by_method()
        shown.factor = max(shown.factor, grid.shrunk)
        for method in grid.methods:
            cell = min(cells[method], key=lambda cell: cell.seed)
            shown.cells.setdefault(cell.key, set()).update(instances)
            if (truth := cell.record.get("truth")) is not None:
                shown.truths.setdefault(truth, set()).update(instances)
    return shown


def _write_images(results: Results, folder: Path) -> None:
    folder.mkdir()
    shown = _shown(results)
    for record in results.records:
        key, truth = record["key"], record.get("truth")
        if key in shown.cells:
            found = results.reconstruction(record)
            _save(folder / f"{key}.npz", "x", found, shown.cells[key], shown.factor)
        if truth in shown.truths:
            images = results.truth(record)
            _save(folder / f"truth-{truth}.npz", "truth", images, shown.truths.pop(truth), shown.factor)


def _save(path: Path, name: str, images: npt.NDArray[Any] | None, instances: set[int], factor: int) -> None:
    """Write some of the images, (B, C, H, W), with which these are and how many there were."""
    if images is None:
        return
    kept = sorted(instances)
    chosen = _averaged(np.clip(np.nan_to_num(images[kept].astype(float), nan=0.5), 0, 1), factor)
    arrays: Mapping[str, npt.NDArray[Any]] = {
        name: np.round(chosen * PACKED_WHITE).astype(np.uint16),
        "kept": np.array(kept),
        "count": np.array(len(images)),
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # names are ours


def _averaged(images: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Means over squares of factor x factor pixels; what is left at the border is cut, as on the page."""
    *lead, height, width = images.shape
    height, width = height // factor, width // factor
    cut = images[..., : height * factor, : width * factor]
    return np.asarray(cut.reshape(*lead, height, factor, width, factor).mean((-3, -1)))
