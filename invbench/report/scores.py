"""Final values of a comparison as one array, and the ranking that follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from invbench.report.comparisons import Array, Cell, Comparison, Method
from invbench.report.quantities import higher_is_better, is_cost
from invbench.report.statistics import Interval, bootstrap, ranks

#: Columns of the table that are neither a metric nor a cost.
_NO_METRIC = frozenset(
    [
        "instance",
        "instance_name",
        "status",
        "reason",
        "final",
        "stage",
        "loss",
        "projection_distance",
        "prior_energy",
    ]
)


@dataclass(frozen=True, eq=False)
class Scores:
    """Final values of every method on the same instances and seeds.

    Attributes:
        methods: (M) names.
        columns: (K) metrics and costs.
        ranked_by: the one that ranks.
        values: (M, I, S, K), NaN for what does not apply or is not there.
        expected: number of instances, over all seeds, that any method reached.
        missing: (M,) how many of them did not end as `done`.
        overriding: (M), whether the method minimised something else than the trial's objective.
        finished: (M, I, S), which instances ended as `done`.
    """

    methods: tuple[Method, ...]
    columns: tuple[str, ...]
    ranked_by: str
    values: Array
    expected: int
    missing: Array
    overriding: tuple[bool, ...]
    finished: Array

    def column(self, name: str) -> Array:
        """Values of one metric or cost, (M, I, S); NaN throughout where nobody has it."""
        if name not in self.columns:
            return np.full(self.values.shape[:3], np.nan)
        values: Array = self.values[..., self.columns.index(name)]
        return values

    @cached_property
    def interval(self) -> Interval:
        """Means and bounds, (M, K) each."""
        count, instances, seeds, columns = self.values.shape
        stacked = np.moveaxis(self.values, 0, 2).reshape(instances, seeds, count * columns)
        if not stacked.size:
            return Interval(*(np.full((count, columns), np.nan) for _ in range(3)))
        return Interval(*(part.reshape(count, columns) for part in bootstrap(stacked)))

    @cached_property
    def ranks(self) -> list[int | None]:
        """Rank of each method; None for those without a comparable value."""
        if self.ranked_by not in self.columns:
            return [None] * len(self.methods)
        values = self.interval.mean[:, self.columns.index(self.ranked_by)]
        return ranks(values, self.missing, higher_is_better(self.ranked_by))

    @cached_property
    def order(self) -> list[int]:
        """Indices of the methods that have values: ranked ones first, then those that cannot be ranked."""
        present = [m for m in range(len(self.methods)) if not np.isnan(self.values[m]).all()]
        last = len(self.methods) + 1
        return sorted(present, key=lambda m: (self.ranks[m] or last, m))

    def best(self, column: str) -> set[int]:
        """Methods with the best mean of a column: complete ones only; none where most methods share it."""
        means = self.interval.mean[:, self.columns.index(column)]
        present = np.flatnonzero(~np.isnan(means))
        complete = [int(m) for m in present if self.missing[m] == 0]
        if not complete:
            return set()
        top = (max if higher_is_better(column) else min)(float(means[m]) for m in complete)
        best = {m for m in complete if means[m] == top}
        return best if 2 * len(best) <= len(present) else set()


def score(comparison: Comparison) -> Scores:
    """Gather the final values of a comparison."""
    methods = comparison.methods
    seeds = comparison.seeds
    finals = [(cell, cell.final("instance").astype(int)) for cell in comparison.cells]
    instances = 1 + max((int(index.max()) for _, index in finals if index.size), default=-1)
    columns = _columns(comparison.cells)
    values = np.full((len(methods), instances, len(seeds), len(columns)), np.nan)
    finished = np.zeros(values.shape[:3], dtype=bool)
    seen = np.zeros(values.shape[1:3], dtype=bool)
    for cell, index in finals:
        m, s = methods.index(cell.method), seeds.index(cell.seed_or_none)
        seen[index, s] = True
        finished[m, index, s] = cell.final("status") == "done"
        for k, name in enumerate(columns):
            if not (name == "objective" and cell.overrides):
                values[m, index, s, k] = cell.final(name).astype(float)
    overriding = tuple(any(cell.overrides for cell in cells) for cells in comparison.by_method().values())
    missing = seen.sum() - finished.sum((1, 2))
    return Scores(
        methods, columns, comparison.ranked_by, values, int(seen.sum()), missing, overriding, finished
    )


def pool(scores: Sequence[Scores]) -> Scores:
    """Average the comparisons of one kind, image by image, so that images stay the unit of resampling.

    Only methods with results in every comparison keep their values: a mean over fewer trials compares with
    nothing.
    """
    methods = tuple(dict.fromkeys(method for one in scores for method in one.methods))
    columns = tuple(dict.fromkeys(name for one in scores for name in one.columns))
    instances, seeds = (max(one.values.shape[axis] for one in scores) for axis in (1, 2))
    values = np.full((len(scores), len(methods), instances, seeds, len(columns)), np.nan)
    missing = np.full((len(scores), len(methods)), [[one.expected] for one in scores])
    overriding = np.zeros(len(methods), dtype=bool)
    finished = np.zeros(values.shape[:4], dtype=bool)
    for t, one in enumerate(scores):
        rows = [methods.index(method) for method in one.methods]
        picks = [columns.index(name) for name in one.columns]
        values[t][np.ix_(rows, range(one.values.shape[1]), range(one.values.shape[2]), picks)] = one.values
        missing[t, rows] = one.missing
        overriding[rows] |= one.overriding
        finished[t][np.ix_(rows, range(one.values.shape[1]), range(one.values.shape[2]))] = one.finished
    absent = np.isnan(values).all((2, 3, 4)).any(0)
    mean = values.mean(0)  # missing as soon as one trial is
    mean[absent] = np.nan
    return Scores(
        methods=methods,
        columns=columns,
        ranked_by=scores[0].ranked_by,
        values=mean,
        expected=sum(one.expected for one in scores),
        missing=missing.sum(0),
        overriding=tuple(overriding.tolist()),
        finished=np.asarray(finished.all(0)),
    )


def _columns(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Metrics and costs that at least one cell has; offline cost only where there was any."""
    names = [name for name in cells[0].columns if name not in _NO_METRIC and not name.startswith("prior:")]
    found = []
    for name in names:
        values = [column for cell in cells if (column := cell.final(name).astype(float)).size]
        if any(~np.isnan(part).all() for part in values) and (
            not is_cost(name) or any((part > 0).any() for part in values)
        ):
            found.append(name)
    return tuple(found)
