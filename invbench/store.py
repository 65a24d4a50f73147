"""A results folder: one atomically written file a cell, and the table that everything is computed from.

DIR/study.yaml             what was asked for
DIR/plan.json              the keys of its cells and analyses, in order; others in the folder are left out
DIR/environment.json       where it ran
DIR/cells/KEY.json         one finished cell: its plain data, status, traces
DIR/images/KEY.npz         what it found at the final point
DIR/images/truth-KEY.npz   what it should have found, once per choice of images
DIR/analyses/KEY.json      what one analysis measured
DIR/report.html

A packed folder (written by `packing.pack`) is read, too. It holds the same but for

DIR/table.csv.gz           the table; it stands for the traces
DIR/cells.json.gz          all cells in one file, without traces
DIR/images/                what the report shows, and nothing else
"""

import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from invbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, Any]
Arrays = Mapping[str, npt.NDArray[Any]]
#: Folders of records.
Kind = Literal["cells", "analyses"]

#: Columns that hold one value per cell; the rest of the table varies by instance or trace point.
CELL_COLUMNS = [
    "cell",
    "study",
    "trial",
    "trial_parameters",
    "images",
    "network",
    "layer",
    "start",
    "priors",
    "solver",
    "parameters",
    "variant",
    "oracle",
    "seed",
    "budget",
    "device",
    "threads",
    "version",
    "cell_status",
    "ranked_by",
    "peak_memory",
    "prepare_seconds",
    "prepare_work",
]
#: Columns that every table has, in this order, whatever the cells measured.
COLUMNS = [
    "study",
    "trial",
    "trial_parameters",
    "images",
    "network",
    "layer",
    "start",
    "priors",
    "solver",
    "parameters",
    "variant",
    "stage",
    "oracle",
    "seed",
    "budget",
    "device",
    "threads",
    "version",
    "instance",
    "instance_name",
    "status",
    "reason",
    "final",
    "iteration",
    "seconds",
    "work",
    "objective",
    "loss",
    "feature_error",
    "mse",
    "psnr",
    "ssim",
    "projection_distance",
    "peak_memory",
    "prepare_seconds",
    "prepare_work",
    "cell",
    "cell_status",
    "ranked_by",
]

#: Files of a packed folder.
PACKED_CELLS, PACKED_TABLE = "cells.json.gz", "table.csv.gz"
#: Images of a packed folder are whole numbers up to this one, which stands for 1.
PACKED_WHITE = 65535
#: Columns of text that vary within a cell.
TEXT_COLUMNS = ["stage", "instance_name", "status", "reason"]


def key_of(plain: Any) -> str:
    """Identity of plain data: 16 hexadecimal digits that do not depend on the order of its keys."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()[:16]


class Store:
    """Writes a results folder; safe against a kill at any moment, because files appear whole or not at all.

    Args:
        folder: created if it is not there.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for sub in ("cells", "images"):
                (folder / sub).mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"cannot write results to {folder}: {reason}; name another with --out") from None

    def text(self, name: str, content: str) -> None:
        """Write a text file of the folder (study.yaml, environment.json, report.html)."""
        with _atomic(self.folder / name) as file:
            file.write(content.encode())

    def find(self, key: str, kind: Kind = "cells") -> Record | None:
        """What is finished under this key, or None; a file that cannot be read counts as not there."""
        try:
            record: Record = json.loads((self.folder / kind / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return record

    def write(self, key: str, record: Record, arrays: Arrays | None = None, kind: Kind = "cells") -> None:
        """Write what is finished: first its arrays, then the record, whose presence means 'finished'."""
        if arrays:
            self._save(key, arrays)
        (self.folder / kind).mkdir(exist_ok=True)
        with _atomic(self.folder / kind / f"{key}.json") as file:
            file.write(json.dumps(_finite(record), separators=(",", ":"), allow_nan=False).encode())

    def arrays(self, name: str, make: Callable[[], Arrays]) -> None:
        """Write arrays under `images/NAME.npz`, unless they are there."""
        if not (self.folder / "images" / f"{name}.npz").exists():
            self._save(name, make())

    def _save(self, name: str, arrays: Arrays) -> None:
        with _atomic(self.folder / "images" / f"{name}.npz") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # names are ours


class _atomic:  # noqa: N801 - a context manager that reads as a verb
    """A binary file that appears under its name only when it was written to the end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> IO[bytes]:
        self._file = NamedTemporaryFile(dir=self._path.parent, prefix=".", suffix=".part", delete=False)
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        part = Path(self._file.name)
        try:
            if kind is None:
                part.chmod(0o644)  # temporary files are private, results are not
                os.replace(part, self._path)  # noqa: PTH105
        finally:
            part.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """Plain JSON data: arrays as lists, non-finite numbers as null, floats to nine digits."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return float(f"{value:.9g}") if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@dataclass(frozen=True)
class Results:
    """A results folder, read.

    Attributes:
        folder: where it lies.
        study: text of the study file.
        environment: machine, versions, command, images skipped (see `harness.environment`).
        records: one dictionary per cell, as written by `Store.write`, in the order of the study.
            Records of a packed folder have no `trace`.
        analyses: records of analyses, in the order of the study; by their keys where no order is known.
        missing: how many planned cells and analyses have not been run.
        packed: whether the folder is a packed one.
    """

    folder: Path
    study: str
    environment: dict[str, Any]
    records: tuple[Record, ...]
    analyses: tuple[Record, ...] = ()
    missing: int = 0
    packed: bool = False

    @cached_property
    def table(self) -> "pd.DataFrame":
        """One row per (cell, instance, trace point); see `COLUMNS`. A cell without trace gives one row."""
        return _packed_table(self.folder, self.records) if self.packed else _table(self.records)

    def reconstruction(self, record: Record) -> npt.NDArray[Any] | None:
        """What a cell found at its final point, (B, ...), or None.

        Of a packed folder: images clipped to [0, 1] and perhaps averaged down; NaN for instances that were
        not kept.
        """
        return self._array(record["key"], "x")

    def truth(self, record: Record) -> npt.NDArray[Any] | None:
        """The ground truth of a cell, (B, ...), or None where a trial has none."""
        name = record.get("truth")
        return None if name is None else self._array(f"truth-{name}", "truth")

    def _array(self, name: str, field: str) -> npt.NDArray[Any] | None:
        path = self.folder / "images" / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as archive:
            array: npt.NDArray[Any] = archive[field]
            return _expanded(array, archive["kept"], int(archive["count"])) if "kept" in archive else array


def load(folder: Path) -> Results:
    """Read a results folder.

    Raises:
        UserError: the folder holds no results.
    """
    cells, packed = folder / "cells", all((folder / name).is_file() for name in (PACKED_CELLS, PACKED_TABLE))
    if not packed and not cells.is_dir():
        raise UserError(
            f"{folder} holds no results (no folder 'cells' in it): give the folder that run wrote"
        )
    plan = folder / "plan.json"
    known = {path.stem: path for path in sorted(cells.glob("*.json"))}
    plans = json.loads(plan.read_bytes()) if plan.exists() else {"cells": list(known)}
    planned, analyses = plans["cells"], tuple(_analyses(folder / "analyses", plans.get("analyses")))
    if packed:
        records = json.loads(gzip.decompress((folder / PACKED_CELLS).read_bytes()))
    else:
        records = [json.loads(known[key].read_bytes()) for key in planned if key in known]
    environment = folder / "environment.json"
    study = folder / "study.yaml"
    return Results(
        folder=folder,
        study=study.read_text() if study.exists() else "",
        environment=json.loads(environment.read_bytes()) if environment.exists() else {},
        records=tuple(records),
        analyses=analyses,
        missing=len(planned) - len(records) + len(plans.get("analyses", analyses)) - len(analyses),
        packed=packed,
    )


def _analyses(folder: Path, planned: Sequence[str] | None) -> Iterator[Record]:
    """Records of the planned analyses that are there, in order, or all there are where nothing is planned."""
    known = {path.stem: path for path in sorted(folder.glob("*.json"))}
    for key in known if planned is None else planned:
        if key in known:
            yield {"key": key, **json.loads(known[key].read_bytes())}


def _expanded(images: npt.NDArray[Any], kept: npt.NDArray[Any], count: int) -> npt.NDArray[np.float32]:
    """The images of some of `count` instances, (B, C, H, W) in [0, 1]; the others are NaN."""
    whole = np.full((count, *images.shape[1:]), np.nan, dtype=np.float32)
    whole[kept] = images / np.float32(PACKED_WHITE)
    return whole


def _table(records: tuple[Record, ...]) -> "pd.DataFrame":
    import pandas as pd

    blocks = [_block(record) for record in records]
    if not blocks:
        return pd.DataFrame(columns=COLUMNS)
    lengths = [len(block["iteration"]) for block in blocks]
    varying: dict[str, npt.NDArray[Any]] = {}
    for name in dict.fromkeys((*COLUMNS, *(name for block in blocks for name in block))):
        if name not in CELL_COLUMNS:
            parts = [
                block[name] if name in block else np.full(length, np.nan)
                for block, length in zip(blocks, lengths, strict=True)
            ]
            varying[name] = np.concatenate(parts)
    return _frame(records, lengths, varying)


def _packed_table(folder: Path, records: tuple[Record, ...]) -> "pd.DataFrame":
    """The table of a packed folder: what varies within a cell is read, the rest stands in the records."""
    import pandas as pd

    if not records:
        return pd.DataFrame(columns=COLUMNS)
    # Everything is read as text, because pandas' own conversion of numbers is not exact in every version.
    read = pd.read_csv(
        folder / PACKED_TABLE,
        usecols=lambda name: name == "cell" or name not in CELL_COLUMNS,
        dtype=object,
        na_filter=False,
    )
    lengths = read.pop("cell").value_counts(sort=False).tolist()
    varying = {str(name): _typed(str(name), values.to_numpy(object)) for name, values in read.items()}
    return _frame(records, lengths, varying)


def _typed(name: str, texts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column of a packed table: text, truth values or numbers (NaN where there is none)."""
    if name in TEXT_COLUMNS:
        return texts
    return texts == "True" if name == "final" else np.array([float(text or "nan") for text in texts])


def _frame(
    records: tuple[Record, ...], lengths: list[int], varying: Mapping[str, npt.NDArray[Any]]
) -> "pd.DataFrame":
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in dict.fromkeys((*COLUMNS, *varying)):
        if name in CELL_COLUMNS:
            # A million rows share a few hundred values: categories keep the table small and grouping fast.
            values = [record["labels"].get(name) for record in records]
            codes, categories = pd.factorize(pd.Series(values, dtype=object))
            columns[name] = pd.Categorical.from_codes(np.repeat(codes, lengths), pd.Index(categories))
        else:
            columns[name] = varying[name]
    frame = pd.DataFrame(columns)
    for name in ("seed", "threads", "peak_memory", "prepare_seconds", "prepare_work"):
        frame[name] = pd.to_numeric(frame[name].astype(object), errors="coerce")
    frame["final"] = frame["final"].astype(bool)
    return frame


def _block(record: Record) -> dict[str, npt.NDArray[Any]]:
    """The rows of one cell, as arrays of equal length, ordered by instance and then by trace point."""
    trace, instances = record.get("trace"), record.get("instances") or []
    if not trace or not trace["iteration"] or not instances:
        return _traceless(record)
    points, count = len(trace["iteration"]), len(instances)
    series = {name: np.array(rows, dtype=float).T for name, rows in trace["series"].items()}
    alive = np.arange(points)[None, :] < np.array([item["points"] for item in instances])[:, None]
    final = np.zeros((count, points), dtype=bool)
    final[np.arange(count), alive.sum(1) - 1] = True
    block = {
        "instance": np.repeat(np.arange(count, dtype=float), points).reshape(count, points),
        "instance_name": _each(instances, "name", points),
        "status": _each(instances, "status", points),
        "reason": _each(instances, "reason", points),
        "final": final,
        "iteration": np.tile(np.array(trace["iteration"], dtype=float), (count, 1)),
        "seconds": np.tile(np.array(trace["seconds"], dtype=float), (count, 1)),
        "stage": np.tile(np.array(trace["stage"], dtype=object), (count, 1)),
        **series,
    }
    return {name: values[alive] for name, values in block.items()}


def _each(instances: list[dict[str, Any]], field: str, points: int) -> npt.NDArray[Any]:
    return np.repeat(np.array([item[field] for item in instances], dtype=object)[:, None], points, axis=1)


def _traceless(record: Record) -> dict[str, npt.NDArray[Any]]:
    one: Iterator[tuple[str, npt.NDArray[Any]]] = (
        (name, np.array([value], dtype=object))
        for name, value in {
            "instance_name": "",
            "status": record["status"],
            "reason": record["reason"],
            "final": True,
            "stage": "",
        }.items()
    )
    return dict(one) | {"iteration": np.array([np.nan])}
