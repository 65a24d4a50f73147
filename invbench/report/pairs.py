"""Two results folders side by side: which cells are the same question, and what became of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invbench.report.comparisons import Array, Cell, Comparison, Method, compare
from invbench.report.scores import score
from invbench.store import Results

#: Of the conditions of a comparison, those that make a cell the same question in both folders; method and
#: seed come with them. How it was run (threads, version) may differ: that is what is compared.
_CONTENT = ("trial", "trial_parameters", "images", "network", "layer", "start", "priors", "budget", "device")
_SEVERITY = ("done", "refused", "diverged", "timeout", "failed")

_Identity = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Place:
    """A cell and where it stands.

    Attributes:
        title: of its comparison.
        conditions: of its comparison.
        columns: metrics and costs that the cells of the comparison have.
        cell: the cell.
    """

    title: str
    conditions: Mapping[str, str]
    columns: tuple[str, ...]
    cell: Cell


@dataclass(frozen=True, eq=False)
class Pair:
    """The same cell in both folders."""

    before: Place
    after: Place

    @property
    def method(self) -> Method:
        """What ran."""
        return self.before.cell.method

    @property
    def columns(self) -> tuple[str, ...]:
        """Metrics and costs of either side."""
        return tuple(dict.fromkeys((*self.before.columns, *self.after.columns)))


@dataclass(frozen=True)
class Pairing:
    """All cells of two folders.

    Attributes:
        pairs: cells of both folders, in the order of the first.
        only_before: cells that the second folder lacks.
        only_after: cells that the first folder lacks.
    """

    pairs: tuple[Pair, ...]
    only_before: tuple[Place, ...]
    only_after: tuple[Place, ...]

    def groups(self) -> list[list[Pair]]:
        """Pairs that differ by their seed only."""
        found: dict[tuple[str, Method], list[Pair]] = {}
        for pair in self.pairs:
            found.setdefault((pair.before.title, pair.method), []).append(pair)
        return list(found.values())


@dataclass(frozen=True)
class StatusChange:
    """A cell that ended otherwise than before.

    Attributes:
        title: of its comparison.
        method: what ran.
        seed: "" where there is none.
        before: status and finished instances, such as `done 8/8`.
        after: the same, now.
        status: of the second folder.
        reason: the sentence of the worse side.
        worse: fewer instances finished, or as many with a worse status.
    """

    title: str
    method: Method
    seed: str
    before: str
    after: str
    status: str
    reason: str
    worse: bool


def pair(before: Results, after: Results) -> Pairing:
    """Match cells by what they ask, not by their keys, which change with weights and images.

    Where several cells of a folder ask the same, they are matched in their order.
    """
    first, second = _places(before), _places(after)
    return Pairing(
        pairs=tuple(Pair(place, second[key]) for key, place in first.items() if key in second),
        only_before=tuple(place for key, place in first.items() if key not in second),
        only_after=tuple(place for key, place in second.items() if key not in first),
    )


def status_changes(pairs: Sequence[Pair]) -> tuple[StatusChange, ...]:
    """Cells whose status or number of finished instances changed; those that got worse first."""
    found = [change for pair in pairs if (change := _status_change(pair)) is not None]
    return tuple(sorted(found, key=lambda change: not change.worse))


def aligned(pairs: Sequence[Pair], column: str) -> tuple[Array, Array]:
    """Final values of a column on both sides, (I, S): instances, matched by name, and seeds; NaN for none."""
    sides = [[_by_name(place.cell, column) for place in (one.before, one.after)] for one in pairs]
    names = list(dict.fromkeys(name for side in sides for values in side for name in values))
    grid = np.full((2, len(names), len(pairs)), np.nan)
    for s, side in enumerate(sides):
        for half, values in enumerate(side):
            for i, name in enumerate(names):
                grid[half, i, s] = values.get(name, np.nan)
    return grid[0], grid[1]


def _places(results: Results) -> dict[_Identity, Place]:
    found: dict[_Identity, Place] = {}
    for comparison in compare(results):
        columns = score(comparison).columns
        for cell in comparison.cells:
            identity, copy = _identity(comparison, cell), 0
            while (*identity, str(copy)) in found:
                copy += 1
            place = Place(comparison.title, comparison.conditions, columns, cell)
            found[(*identity, str(copy))] = place
    return found


def _identity(comparison: Comparison, cell: Cell) -> _Identity:
    method = cell.method
    content = (comparison.conditions[name] for name in _CONTENT)
    return (*content, method.solver, method.parameters, method.variant, f"{cell.seed:g}")


def _by_name(cell: Cell, column: str) -> dict[tuple[str, int], float]:
    """Final values by name of the instance; equal names are told apart by their order."""
    if column not in cell.columns:
        return {}
    found: dict[tuple[str, int], float] = {}
    for name, value in zip(_names(cell), cell.final(column).astype(float), strict=True):
        found[name] = float(value)
    return found


def _names(cell: Cell) -> Iterator[tuple[str, int]]:
    seen: dict[str, int] = {}
    for name in map(str, cell.final("instance_name")):
        seen[name] = seen.get(name, -1) + 1
        yield name, seen[name]


def _status_change(pair: Pair) -> StatusChange | None:
    before, after = pair.before.cell, pair.after.cell
    grades = [_grade(cell) for cell in (before, after)]
    if grades[0] == grades[1]:
        return None
    worse = grades[1] > grades[0]
    return StatusChange(
        title=pair.before.title,
        method=pair.method,
        seed="" if np.isnan(before.seed) else f"{before.seed:g}",
        before=_outcome(before),
        after=_outcome(after),
        status=after.status,
        reason=(after if worse else before).reason,
        worse=worse,
    )


def _grade(cell: Cell) -> tuple[int, int]:
    """How badly a cell ended: unfinished instances first, then its status."""
    status = _SEVERITY.index(cell.status) if cell.status in _SEVERITY else len(_SEVERITY)
    return -int((cell.final("status") == "done").sum()), status


def _outcome(cell: Cell) -> str:
    ends = cell.final("status")
    return f"{cell.status} {(ends == 'done').sum()}/{ends.size}" if ends.size else cell.status
