"""Paired statistics: what got worse and what got better between two runs of the same cells."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from invbench.report.comparisons import Array, Method
from invbench.report.pairs import Pair, Pairing, aligned
from invbench.report.quantities import higher_is_better, is_cost, ordered
from invbench.report.statistics import bootstrap

#: Differences below this share of the values are rounding.
ROUNDING = 1e-6
#: With fewer units an interval says nothing.
UNITS = 3
#: Costs that are read once for the whole batch of a cell: its instances are no independent readings.
_PER_CELL = frozenset({"seconds", "peak_memory", "prepare_seconds", "prepare_work"})
#: Says what `work` says, and means nothing where seconds end a run.
_LEFT_OUT = frozenset({"iteration"})


@dataclass(frozen=True)
class Change:
    """One metric of one method in one trial, before and after.

    Attributes:
        title: of the trial.
        method: what ran.
        column: metric or cost.
        units: instances (of a cost that is read once per cell: seeds or trials) with values on both sides.
        before: mean of the paired values; of costs the geometric mean.
        after: the same, in the second folder.
        effect: mean of the paired differences, after - before; of costs the geometric mean of after / before.
        low: lower bound of its interval, NaN where there are fewer than `UNITS` units.
        high: upper bound.
        p: of the Wilcoxon signed-rank test, NaN for a single unit, and for what is the same: no test.
        p_holm: p corrected for the number of tests of the table.
        verdict: `worse` or `better` where the interval excludes no change, else `unclear`; `same` where
            nothing but rounding differs.
    """

    title: str
    method: Method
    column: str
    units: int
    before: float
    after: float
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str

    @property
    def is_ratio(self) -> bool:
        """Whether the effect is a ratio rather than a difference."""
        return is_cost(self.column)

    @property
    def size(self) -> float:
        """Change relative to what was there before, >= 0: what the order of the table goes by."""
        if self.is_ratio:
            return abs(float(np.log(self.effect)))
        return abs(self.effect) / abs(self.before) if self.before else float(self.effect != 0)


def changes(pairing: Pairing) -> tuple[Change, ...]:
    """Every metric of every pair of cells; where something changed most comes first.

    The values of one method in one trial are paired by instance and seed. Costs are also pooled over the
    trials of a method, because a cell gives a single reading of the clock.
    """
    groups = pairing.groups()
    found = [
        [change for column in _columns(group) if (change := _of_group(group, column)) is not None]
        for group in groups
    ]
    found += [list(_pooled(own)) for own in _by_method(groups).values() if len(own) > 1]
    found.sort(key=lambda group: -max((change.size for change in group), default=0))
    return _corrected([change for group in found for change in group])


def holm(p: Array) -> Array:
    """Holm's step-down correction; NaN stays NaN and is not counted.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted


def signed_rank(differences: Array) -> float:
    """Two-sided p of the Wilcoxon signed-rank test; 1 where all differences are zero, NaN for fewer than two.

    Args:
        differences: (N,), independent of each other; zeros are left out.
    """
    from scipy.stats import wilcoxon

    if len(differences) < 2:
        return float("nan")
    kept = differences[differences != 0]
    if not len(kept):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small samples: the number of units stands beside p
        return float(wilcoxon(kept).pvalue)


def _columns(group: Sequence[Pair]) -> list[str]:
    present = dict.fromkeys(column for pair in group for column in pair.columns if column not in _LEFT_OUT)
    return ordered(group[0].before.conditions["ranked_by"], list(present))


def _by_method(groups: Sequence[list[Pair]]) -> dict[Method, list[list[Pair]]]:
    found: dict[Method, list[list[Pair]]] = {}
    for group in groups:
        found.setdefault(group[0].method, []).append(group)
    return found


def _of_group(group: Sequence[Pair], column: str) -> Change | None:
    before, after = _values(group, column)
    return _change(group[0].before.title, group, column, before, after)


def _pooled(groups: Sequence[Sequence[Pair]]) -> Iterator[Change]:
    """Costs of a method over all its trials, (T, S) each: one row a trial, one column a seed."""
    pairs = [pair for group in groups for pair in group]
    for column in _columns(pairs):
        if not is_cost(column):
            continue
        width = max(map(len, groups))
        before, after = np.full((2, len(groups), width), np.nan)
        for t, group in enumerate(groups):
            sides = _values(group, column)
            for row, values in zip((before[t], after[t]), sides, strict=True):
                row[: len(group)] = _geometric_means(*sides, values)
        change = _change(f"all {len(groups)} trials", pairs, column, before, after)
        if change is not None:
            yield change


def _values(group: Sequence[Pair], column: str) -> tuple[Array, Array]:
    """Both sides, (I, S); (1, S) for what is read once per cell, where the longest instance counts."""
    before, after = aligned(group, column)
    if column not in _PER_CELL:
        return before, after
    return _longest(before), _longest(after)


def _longest(values: Array) -> Array:
    last: Array = np.where(np.isnan(values), -np.inf, values).max(0, initial=-np.inf)
    return np.where(np.isinf(last), np.nan, last)[None]


def _geometric_means(before: Array, after: Array, values: Array) -> Array:
    """Of each seed over the instances that have both sides."""
    both = (before > 0) & (after > 0)
    logs = np.where(both, np.log(np.where(both, values, 1)), 0).sum(0)
    means: Array = np.divide(logs, both.sum(0), out=np.full(len(logs), np.nan), where=both.any(0))
    return np.asarray(np.exp(means))


def _change(title: str, pairs: Sequence[Pair], column: str, before: Array, after: Array) -> Change | None:
    ratio = is_cost(column)
    if ratio:
        before, after = (np.log(np.where(side > 0, side, np.nan)) for side in (before, after))
    both = np.isfinite(before) & np.isfinite(after)
    if not both.any():
        return None
    differences = np.where(both, after - before, np.nan)
    rows = both.any(1)
    means = np.nanmean(differences[rows], axis=1)
    single = int(rows.sum()) == 1  # one instance, or one reading per cell: seeds are the units
    independent = differences[rows][0][both[rows][0]] if single else means
    effect, low, high = _interval(differences[rows], len(independent))
    first, second = float(before[both].mean()), float(after[both].mean())
    tolerance = ROUNDING if ratio else ROUNDING * float(np.abs(np.stack([before[both], after[both]])).max())
    same = bool(np.abs(differences[both]).max() <= tolerance)
    back = np.exp if ratio else float
    return Change(
        title=title,
        method=pairs[0].method,
        column=column,
        units=len(independent),
        before=float(back(first)),
        after=float(back(second)),
        effect=float(back(effect)),
        low=float(back(low)),
        high=float(back(high)),
        p=float("nan") if same else signed_rank(independent),
        p_holm=float("nan"),
        verdict="same" if same else _verdict(low, high, column, pairs),
    )


def _interval(differences: Array, units: int) -> tuple[float, float, float]:
    """Mean and bounds of differences, (I, S); where all are equal the interval has no width."""
    found = bootstrap(differences[:, :, None])
    mean, low, high = (float(part[0]) for part in found)
    if units < UNITS:
        return mean, float("nan"), float("nan")
    return (mean, mean, mean) if np.isnan(low) else (mean, low, high)


def _verdict(low: float, high: float, column: str, pairs: Sequence[Pair]) -> str:
    if column == "work" and any("seconds" in pair.before.conditions["budget"] for pair in pairs):
        return "unclear"  # more work in the same time is a faster method
    if not (low > 0 or high < 0):
        return "unclear"
    return "better" if (low > 0) == higher_is_better(column) else "worse"


def _corrected(found: Sequence[Change]) -> tuple[Change, ...]:
    adjusted = holm(np.array([change.p for change in found], dtype=float))
    return tuple(replace(one, p_holm=float(p)) for one, p in zip(found, adjusted, strict=True))
