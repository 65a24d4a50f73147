"""The answer first: who is best in each trial, and whether the data tell it from the runner-up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invbench.report.comparisons import Comparison, Method
from invbench.report.quantities import higher_is_better, label, number
from invbench.report.scores import Scores
from invbench.report.statistics import bootstrap

#: More trials than this and the answers are folded: the overviews of ranks say it shorter.
OPEN = 24


@dataclass(frozen=True)
class Winner:
    """The best of some methods in one trial.

    Attributes:
        methods: first of the ranking; several where they tie.
        value: mean of the metric that ranks.
        partial: it lost instances, as everybody did.
        runner_up: the next in the ranking, or None.
        runner_up_value: its mean.
        clear: the interval of the paired difference leaves out zero; None where there is nothing to tell.
        best: nobody in the trial does better.
    """

    methods: tuple[Method, ...]
    value: str
    partial: bool
    runner_up: Method | None
    runner_up_value: str
    clear: bool | None
    best: bool


@dataclass(frozen=True)
class Glance:
    """One trial: its ranking's anchor, its title, the metric, and the winner of each variant."""

    anchor: str
    title: str
    ranked_by: str
    arrow: str
    winners: tuple[Winner | None, ...]


def variants(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Variants that occur, the default first; ("",) where there is only one."""
    found = {method.variant for one in comparisons for method in one.methods if method.tuned}
    return ("default", *sorted(found)) if found else ("",)


def glances(comparisons: Sequence[Comparison], scores: Mapping[Comparison, Scores]) -> tuple[Glance, ...]:
    """One line per trial, in the order of the study."""
    names = variants(comparisons)
    return tuple(
        Glance(
            anchor=f"rank-{one.anchor}",
            title=one.title,
            ranked_by=label(one.ranked_by),
            arrow="↑" if higher_is_better(one.ranked_by) else "↓",
            winners=tuple(_winner(scores[one], name) for name in names),
        )
        for one in comparisons
    )


def _winner(scores: Scores, variant: str) -> Winner | None:
    """The best of a variant ("" for all methods); a method without variants counts as default."""
    order = [
        m
        for m in scores.order
        if scores.ranks[m] is not None
        and (not variant or (scores.methods[m].variant or "default") == variant)
    ]
    if not order:
        return None
    first = order[0]
    ties = [m for m in order if scores.ranks[m] == scores.ranks[first]]
    second = next((m for m in order if m not in ties), None)
    return Winner(
        methods=tuple(scores.methods[m] for m in ties),
        value=_value(scores, first),
        partial=bool(scores.missing[first]),
        runner_up=None if second is None else scores.methods[second],
        runner_up_value="" if second is None else _value(scores, second),
        clear=None if second is None or len(ties) > 1 else _clear(scores, first, second),
        best=scores.ranks[first] == 1,
    )


def _value(scores: Scores, m: int) -> str:
    return number(float(np.nanmean(scores.column(scores.ranked_by)[m])), scores.ranked_by)


def _clear(scores: Scores, first: int, second: int) -> bool | None:
    """Whether resampled images and seeds agree on who is better; None where there is but one value."""
    values = scores.column(scores.ranked_by)
    difference = (values[first] - values[second])[..., None]
    if (~np.isnan(difference)).sum() < 2:
        return None
    found = bootstrap(difference)
    low, high = float(found.low[0]), float(found.high[0])
    return low > 0 or high < 0 if np.isfinite(low) else bool(found.mean[0] != 0)
