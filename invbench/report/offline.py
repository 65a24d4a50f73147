"""Offline work: after how many images the training of a method has paid off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invbench.report.comparisons import Cell, Comparison, Method
from invbench.report.quantities import higher_is_better, label, number
from invbench.report.scores import Scores


@dataclass(frozen=True)
class Rival:
    """A method that reaches at least the quality of one with offline work.

    Attributes:
        method: which.
        offline: its own offline seconds, "" for none.
        seconds: per image, until it has reached that quality.
        images: after so many the offline work has paid off.
        pays: False where it never does.
        sort: what sorting goes by, "" for never.
    """

    method: Method
    offline: str
    seconds: str
    images: str
    pays: bool
    sort: str


@dataclass(frozen=True)
class Offline:
    """The offline cost of one method in one trial, and the methods it competes with."""

    title: str
    method: Method
    offline: str
    seconds: str
    quality: str
    batch: int
    rivals: tuple[Rival, ...]


def offline_costs(
    comparisons: Sequence[Comparison], scores: Mapping[Comparison, Scores]
) -> tuple[Offline, ...]:
    """One entry for each method with offline work in each trial; empty where no method has any."""
    return tuple(
        _entry(comparison, scores[comparison], m, prepared)
        for comparison in comparisons
        for m, prepared in enumerate(_prepared(scores[comparison]))
        if prepared > 0 and scores[comparison].ranks[m] is not None
    )


def break_even(prepared: float, seconds: float, rival_prepared: float, rival_seconds: float) -> float:
    """Number of images from which on offline work has paid off; infinite where it never does.

    The smallest n with  prepared + n seconds <= rival_prepared + n rival_seconds.

    Example:
        >>> break_even(60.0, 0.01, 0.0, 0.21), break_even(60.0, 0.2, 0.0, 0.1), break_even(1.0, 0.2, 5.0, 0.1)
        (300.0, inf, 0.0)
    """
    if prepared <= rival_prepared:
        return 0.0
    saved = rival_seconds - seconds
    return float(np.ceil((prepared - rival_prepared) / saved - 1e-9)) if saved > 0 else np.inf


def _prepared(scores: Scores) -> list[float]:
    """Offline seconds of each method, 0 for none."""
    values = np.nan_to_num(scores.column("prepare_seconds"))
    return [float(value) for value in values.max(axis=(1, 2), initial=0)]


def _entry(comparison: Comparison, scores: Scores, m: int, prepared: float) -> Offline:
    by_method = comparison.by_method()
    method, metric = scores.methods[m], scores.ranked_by
    batch = scores.values.shape[1]
    quality = float(np.nanmean(scores.column(metric)[m]))
    seconds = float(np.nanmean(scores.column("seconds")[m])) / batch
    others = _prepared(scores)
    found = []
    for n, rival in enumerate(scores.methods):
        if n == m or scores.missing[n]:
            continue
        reached = _until(by_method[rival], metric, quality)
        if reached is not None:
            found.append((_rival(rival, prepared, seconds, others[n], reached / batch), reached))
    return Offline(
        title=comparison.title,
        method=method,
        offline=number(prepared, "seconds"),
        seconds=number(seconds, "seconds"),
        quality=f"{label(metric)} {number(quality, metric)}",
        batch=batch,
        rivals=tuple(rival for rival, _ in sorted(found, key=lambda pair: pair[1])),
    )


def _rival(method: Method, prepared: float, seconds: float, offline: float, reached: float) -> Rival:
    images = break_even(prepared, seconds, offline, reached)
    pays = bool(np.isfinite(images))
    return Rival(
        method=method,
        offline=number(offline, "seconds") if offline > 0 else "",
        seconds=number(reached, "seconds"),
        images=("from the first image" if images <= 1 else f"{images:,.0f}") if pays else "never",
        pays=pays,
        sort=repr(images) if pays else "",
    )


def _until(cells: Sequence[Cell], metric: str, quality: float) -> float | None:
    """Seconds until the mean over instances is at least as good, mean over seeds; None if a seed never is."""
    times = []
    for cell in cells:
        curves = cell.curves(metric) if metric in cell.columns else []
        if not curves or (metric == "objective" and cell.overrides):
            return None
        mean = np.mean([curve.astype(float) for curve in curves], axis=0)
        reached = np.flatnonzero(mean >= quality if higher_is_better(metric) else mean <= quality)
        if not reached.size:
            return None
        times.append(float(cell.curves("seconds")[0][reached[0]]))
    return float(np.mean(times)) if times else None
