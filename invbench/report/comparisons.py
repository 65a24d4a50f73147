"""From the table to comparisons: all methods that faced the same problem under the same conditions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from invbench.store import CELL_COLUMNS, Record, Results

Array = npt.NDArray[Any]

#: What must agree for two cells to be compared, in the order in which a title tells cells apart.
CONDITIONS = [
    "trial",
    "layer",
    "network",
    "images",
    "start",
    "priors",
    "budget",
    "device",
    "threads",
    "oracle",
    "ranked_by",
    "trial_parameters",
]

#: Marks titles of what was measured with knowledge that a real inversion would not have.
ORACLE = "oracle"

#: Labels of a cell that are reported as numbers.
_COST_LABELS = ("peak_memory", "prepare_seconds", "prepare_work")


@dataclass(frozen=True)
class Method:
    """What is ranked: the name of a method with the parameters that the study gave it."""

    solver: str
    parameters: str = ""
    variant: str = ""

    @property
    def details(self) -> str:
        """Parameters and variant on one line; the default variant goes without saying."""
        variant = self.variant if self.tuned else ""
        return " · ".join(part for part in (self.parameters, variant) if part)

    @property
    def tuned(self) -> bool:
        """Whether this is another variant than the default."""
        return self.variant not in ("", "default")

    def __str__(self) -> str:
        return f"{self.solver} ({self.details})" if self.details else self.solver


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell as the report sees it.

    Attributes:
        key: of the cell, which finds its images.
        method: what ran.
        seed: of start and randomness (NaN when there is none).
        status: `done`, `refused`, `diverged`, `timeout` or `failed`.
        reason: the sentence, or "".
        overrides: the method minimised something else than the trial's objective.
        record: as stored; {} where only the table is left.
        columns: the rows of the cell in the table, each column an array ordered by instance and trace point.
    """

    key: str
    method: Method
    seed: float
    status: str
    reason: str
    overrides: bool
    record: Record
    columns: Mapping[str, Array]

    @property
    def seed_or_none(self) -> float:
        """The seed, -1 where there is none."""
        return -1.0 if np.isnan(self.seed) else self.seed

    def final(self, name: str) -> Array:
        """The last value of a column for each instance, (B,); empty for a cell that has no trace."""
        here = self.columns["final"].astype(bool) & ~np.isnan(self.columns["instance"].astype(float))
        values: Array = self.columns[name][here]
        return values

    def curves(self, name: str) -> list[Array]:
        """A column along the trace, one array per instance."""
        if np.isnan(self.columns["instance"].astype(float)).all():
            return []
        ends = np.flatnonzero(self.columns["final"].astype(bool)) + 1
        return np.split(self.columns[name], ends[:-1])


@dataclass(frozen=True, eq=False)
class Comparison:
    """Cells that differ by method and seed only.

    Attributes:
        anchor: short name that is unique in the page, such as `c3`.
        title: what tells it from the other comparisons of the study.
        conditions: values of `CONDITIONS` that its cells share.
        cells: in the order of the study.
    """

    anchor: str
    title: str
    conditions: Mapping[str, str]
    cells: tuple[Cell, ...]

    @property
    def ranked_by(self) -> str:
        """Metric that the trial is ranked by."""
        return self.conditions["ranked_by"] or "objective"

    @property
    def kind(self) -> tuple[str, str, str]:
        """What the comparisons of a kind share, which are averaged: trial (oracle or not), images, metric."""
        trial = " · ".join(filter(None, (self.conditions["trial"], ORACLE if self.oracle else "")))
        return (trial, self.conditions["images"], self.ranked_by)

    @property
    def oracle(self) -> str:
        """What the trial tells solvers that a real inversion would not know, or ""."""
        return self.conditions["oracle"]

    @property
    def seeds(self) -> tuple[float, ...]:
        """Seeds of all cells, in order; -1 for cells without one."""
        return tuple(sorted({cell.seed_or_none for cell in self.cells}))

    @property
    def methods(self) -> tuple[Method, ...]:
        """Methods in the order of the study, whatever became of them."""
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    def by_method(self) -> dict[Method, list[Cell]]:
        """Cells of each method, one per seed."""
        found: dict[Method, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.method, []).append(cell)
        return found


def compare(results: Results) -> tuple[Comparison, ...]:
    """Sort the cells of a results folder into comparisons, in the order of the study."""
    gathered: dict[tuple[str, ...], list[Cell]] = {}
    for labels, cell in _cells(results):
        gathered.setdefault(tuple(_text(labels[name]) for name in CONDITIONS), []).append(cell)
    conditions = [dict(zip(CONDITIONS, values, strict=True)) for values in gathered]
    return tuple(
        Comparison(f"c{number}", title, shared, tuple(cells))
        for number, (title, shared, cells) in enumerate(
            zip(_titles(conditions), conditions, gathered.values(), strict=True), start=1
        )
    )


def kinds(comparisons: Iterable[Comparison]) -> dict[tuple[str, str, str], list[Comparison]]:
    """Comparisons by kind, in the order of the study."""
    found: dict[tuple[str, str, str], list[Comparison]] = {}
    for comparison in comparisons:
        found.setdefault(comparison.kind, []).append(comparison)
    return found


def in_turns(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """One of each kind, then a second of each, ...: what comes first when not all can be drawn."""
    groups = kinds(comparisons).values()
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def _cells(results: Results) -> list[tuple[dict[Any, Any], Cell]]:
    table = results.table
    records = {record["key"]: record for record in results.records}
    varying = [name for name in table.columns if name not in CELL_COLUMNS or name in _COST_LABELS]
    arrays = {str(name): table[name].to_numpy() for name in varying}
    indices = table.groupby("cell", sort=False, observed=True).indices
    positions = dict(sorted(indices.items(), key=lambda item: int(item[1][0])))
    firsts = np.array([rows[0] for rows in positions.values()], dtype=int)
    labels = table.iloc[firsts][CELL_COLUMNS].astype(object).to_dict("records")
    return [
        (plain, _cell(str(key), plain, records.get(key, {}), {name: a[rows] for name, a in arrays.items()}))
        for (key, rows), plain in zip(positions.items(), labels, strict=True)
    ]


def _cell(key: str, labels: dict[Any, Any], record: Record, columns: dict[str, Array]) -> Cell:
    seed = labels["seed"]
    plain_method = record.get("cell", {}).get("method", {})
    return Cell(
        key=key,
        method=Method(_text(labels["solver"]), _text(labels["parameters"]), _text(labels["variant"])),
        seed=float(seed) if _text(seed) else float("nan"),
        status=_text(record.get("status") or labels["cell_status"] or columns["status"][0]),
        reason=_text(record.get("reason") or ""),
        overrides=isinstance(plain_method, dict) and bool(plain_method.get("overrides")),
        record=record,
        columns=columns,
    )


def _text(value: object) -> str:
    """A label as text; missing values are empty, whole numbers carry no fraction."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _titles(conditions: list[dict[str, str]]) -> list[str]:
    """`trial · layer`, of the other conditions those that tell titles apart, and a flag for oracles."""
    parts = [[shared["trial"], shared["layer"]] for shared in conditions]
    for name in CONDITIONS[2:]:
        twins: dict[tuple[str, ...], list[int]] = {}
        for index, part in enumerate(parts):
            twins.setdefault(tuple(part), []).append(index)
        for group in twins.values():
            if len({conditions[index][name] for index in group}) > 1:
                for index in group:
                    parts[index].append(conditions[index][name])
    flags = [ORACLE if shared["oracle"] else "" for shared in conditions]
    return [
        " · ".join(filter(None, (*part, flag))) or "trial" for part, flag in zip(parts, flags, strict=True)
    ]
