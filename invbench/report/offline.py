"""Offline work: after how many images the training of a method has paid off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invbench.report.comparisons import Array, Cell, Comparison, Method
from invbench.report.quantities import MISSING, higher_is_better, label, number
from invbench.report.scores import Scores


@dataclass(frozen=True)
class Cost:
    """What something takes; NaN where it was not counted.

    Attributes:
        seconds: on the clock.
        work: multiply-adds.
    """

    seconds: float
    work: float

    @property
    def clock(self) -> str:
        """The seconds, as text."""
        return number(self.seconds, "seconds")

    @property
    def counted(self) -> str:
        """The multiply-adds, as text."""
        return number(self.work, "work")


@dataclass(frozen=True)
class Rival:
    """A method that reaches at least the quality of one with offline work.

    Attributes:
        method: which.
        offline: its own offline cost, of 0 s for none.
        each: per image, until it has reached that quality.
        images: after so many the offline seconds have paid off; infinite where they never do.
        images_of_work: after so many the offline multiply-adds have; NaN where they were not counted.
    """

    method: Method
    offline: Cost
    each: Cost
    images: float
    images_of_work: float

    @property
    def by_time(self) -> str:
        """After how many images it pays off, on the clock."""
        return _images(self.images)

    @property
    def by_work(self) -> str:
        """After how many images it pays off, in multiply-adds."""
        return _images(self.images_of_work)


@dataclass(frozen=True)
class Offline:
    """The offline cost of one method in one trial, and the methods it competes with.

    Attributes:
        title: of the comparison.
        method: with offline work.
        offline: what that took.
        each: what an image takes.
        quality: what it reaches, in the mean.
        batch: number of images.
        rivals: that reach it, the fastest first.
        never: rivals that never do.
        lost: rivals that lost instances or minimised something else, so that nothing compares.
    """

    title: str
    method: Method
    offline: Cost
    each: Cost
    quality: str
    batch: int
    rivals: tuple[Rival, ...]
    never: tuple[Method, ...]
    lost: tuple[Method, ...]


def offline_costs(
    comparisons: Sequence[Comparison], scores: Mapping[Comparison, Scores]
) -> tuple[Offline, ...]:
    """One entry for each method with offline work in each trial; empty where no method has any."""
    return tuple(
        _entry(comparison, scores[comparison], m, prepared)
        for comparison in comparisons
        for m, prepared in enumerate(_prepared(scores[comparison]))
        if prepared.seconds > 0 and scores[comparison].ranks[m] is not None
    )


def break_even(prepared: float, seconds: float, rival_prepared: float, rival_seconds: float) -> float:
    """Number of images from which on offline work has paid off; infinite where it never does.

    The smallest n with  prepared + n seconds <= rival_prepared + n rival_seconds, and the same of
    multiply-adds; NaN where one of them is.

    Example:
        >>> break_even(60.0, 0.01, 0.0, 0.21), break_even(60.0, 0.2, 0.0, 0.1), break_even(1.0, 0.2, 5.0, 0.1)
        (300.0, inf, 0.0)
    """
    if np.isnan([prepared, seconds, rival_prepared, rival_seconds]).any():
        return np.nan
    if prepared <= rival_prepared:
        return 0.0
    saved = rival_seconds - seconds
    return float(np.ceil((prepared - rival_prepared) / saved - 1e-9)) if saved > 0 else np.inf


def _prepared(scores: Scores) -> list[Cost]:
    """Offline cost of each method, of 0 s for none."""
    seconds, work = (
        np.nanmax(scores.column(name), axis=(1, 2), initial=0) for name in ("prepare_seconds", "prepare_work")
    )
    # Records from before the work was counted have offline seconds only.
    return [
        Cost(s, w if w > 0 or s == 0 else np.nan)
        for s, w in zip(seconds.tolist(), work.tolist(), strict=True)
    ]


def _entry(comparison: Comparison, scores: Scores, m: int, prepared: Cost) -> Offline:
    by_method = comparison.by_method()
    method, metric = scores.methods[m], scores.ranked_by
    batch = scores.values.shape[1]
    quality = _mean(scores.column(metric)[m])
    each = Cost(_mean(scores.column("seconds")[m]) / batch, _mean(scores.column("work")[m]))
    rivals: list[Rival] = []
    never: list[Method] = []
    lost: list[Method] = []
    for n, (rival, offline) in enumerate(zip(scores.methods, _prepared(scores), strict=True)):
        if n == m:
            continue
        if scores.missing[n] or not _compares(by_method[rival], metric):
            lost.append(rival)
        elif (reached := _until(by_method[rival], metric, quality, batch)) is None:
            never.append(rival)
        else:
            rivals.append(_rival(rival, prepared, each, offline, reached))
    return Offline(
        title=comparison.title,
        method=method,
        offline=prepared,
        each=each,
        quality=f"{label(metric)} {number(quality, metric)}",
        batch=batch,
        rivals=tuple(sorted(rivals, key=lambda rival: rival.each.seconds)),
        never=tuple(never),
        lost=tuple(lost),
    )


def _rival(method: Method, prepared: Cost, each: Cost, offline: Cost, reached: Cost) -> Rival:
    return Rival(
        method=method,
        offline=offline,
        each=reached,
        images=break_even(prepared.seconds, each.seconds, offline.seconds, reached.seconds),
        images_of_work=break_even(prepared.work, each.work, offline.work, reached.work),
    )


def _compares(cells: Sequence[Cell], metric: str) -> bool:
    """Whether all cells of a method have curves of the metric, and of the same objective."""
    return all(
        metric in cell.columns and cell.curves(metric) and not (metric == "objective" and cell.overrides)
        for cell in cells
    )


def _until(cells: Sequence[Cell], metric: str, quality: float, batch: int) -> Cost | None:
    """Cost per image until the mean over instances is as good, mean over seeds; None if a seed never is."""
    costs = []
    for cell in cells:
        mean = np.mean([curve.astype(float) for curve in cell.curves(metric)], axis=0)
        reached = np.flatnonzero(mean >= quality if higher_is_better(metric) else mean <= quality)
        if not reached.size:
            return None
        seconds = float(cell.curves("seconds")[0][reached[0]]) / batch
        work = [float(curve[reached[0]]) for curve in cell.curves("work")]
        costs.append((seconds, float(np.mean(work))))
    return Cost(*np.mean(costs, axis=0).tolist())


def _mean(values: Array) -> float:
    """Over what is there; NaN where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else np.nan


def _images(count: float) -> str:
    """After how many images something pays off, in words."""
    if np.isnan(count):
        return MISSING
    if np.isinf(count):
        return "never"
    return "from the first image" if count <= 1 else f"{count:,.0f}"
