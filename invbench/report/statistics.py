"""Means with bootstrap intervals over images and seeds, and bands of curves."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DRAWS = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """Mean and bounds; NaN where there is nothing to average, bounds NaN where nothing varies."""

    mean: Array
    low: Array
    high: Array


def bootstrap(values: Array, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """Mean over instances and seeds with a percentile interval of the two-stage bootstrap.

    A draw takes I instances with replacement and, for each of them, S of its seeds with replacement; its
    statistic is the mean of the values drawn. All columns share the draws, so that methods are compared on
    the same resampled images. Missing values (NaN) are left out of the means.

    Args:
        values: (I, S, K): instances, seeds, columns.
        draws: number of resamples.
        level: coverage of the interval.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        Mean and bounds, (K,) each.

    References:
        Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (nested resampling with
        replacement at both levels).
    """
    instances, seeds, columns = values.shape
    flat = values.reshape(instances * seeds, columns).astype(float)
    present = ~np.isnan(flat)
    filled = np.where(present, flat, 0.0)
    count = present.sum(0)
    mean = np.divide(filled.sum(0), count, out=np.full(columns, np.nan), where=count > 0)
    weights = _weights(instances, seeds, draws, seed)
    total = weights @ present
    means = np.divide(weights @ filled, total, out=np.full(total.shape, np.nan), where=total > 0)
    low, high = _quantiles(means, ((1 - level) / 2, (1 + level) / 2))
    varies = np.array([np.ptp(flat[present[:, k], k]) > 0 if count[k] else False for k in range(columns)])
    return Interval(mean, np.where(varies, low, np.nan), np.where(varies, high, np.nan))


@lru_cache(maxsize=32)
def _weights(instances: int, seeds: int, draws: int, seed: int) -> Array:
    """How often each value enters each draw, (draws, instances * seeds)."""
    rng = np.random.default_rng(seed)
    picked = rng.integers(instances, size=(draws, instances, 1))
    inner = rng.integers(seeds, size=(draws, instances, seeds))
    flat = np.arange(draws)[:, None, None] * instances * seeds + picked * seeds + inner
    return np.bincount(flat.ravel(), minlength=draws * instances * seeds).reshape(draws, -1).astype(float)


def _quantiles(means: Array, levels: tuple[float, float]) -> Array:
    """Quantiles along the draws; draws that hit missing values only are left out."""
    if not means.size:
        return np.full((2, means.shape[1]), np.nan)
    found: Array = np.quantile(means, levels, axis=0)
    for column in np.flatnonzero(np.isnan(found[0])):
        left = means[~np.isnan(means[:, column]), column]
        if left.size:
            found[:, column] = np.quantile(left, levels)
    return found


def ranks(values: Array, missing: Array, higher: bool) -> list[int | None]:
    """Competition ranks (1, 2, 2, 4): first by how many instances are missing, then by value.

    A method that lost instances is ranked after all that lost fewer, because its mean hides what it lost.

    Args:
        values: (M,), NaN for what cannot be ranked.
        missing: (M,) number of instances without a finished result.
        higher: whether large values are good.
    """
    keys = [(lost, -value if higher else value) for lost, value in zip(missing, values, strict=True)]
    ranked = [key for key in keys if not np.isnan(key[1])]
    return [None if np.isnan(key[1]) else 1 + sum(other < key for other in ranked) for key in keys]


class Curve(NamedTuple):
    """One instance along the trace.

    Attributes:
        x: increasing, (P,).
        y: (P,), NaN where there is no value.
        diverged: from its last point on, the curve counts as infinitely bad.
    """

    x: Array
    y: Array
    diverged: bool


class Band(NamedTuple):
    """Median and quartiles, (Q,) each, over x, (Q,); infinite where most curves have diverged."""

    x: Array
    low: Array
    middle: Array
    high: Array


def band(curves: Sequence[Curve], worst: float, points: int = 80) -> Band:
    """Median and quartiles of curves that were sampled at different x.

    A curve holds its value between points and after its end; one that diverged, or has no value yet, counts
    as `worst` (plus or minus infinity), so that survivors do not flatter a method.

    Args:
        curves: at least one, each with at least one point.
        worst: +inf where small is good, else -inf.
        points: at most so many x are kept.
    """
    grid = _grid(curves, points)
    held = np.sort(_held(curves, grid, worst), axis=0)
    return Band(grid, *(_sorted_quantile(held, level) for level in (0.25, 0.5, 0.75)))


def share(curves: Sequence[Curve], points: int = 80) -> Band:
    """Mean of curves of zeros and ones, without a spread; see `band` for how they are sampled."""
    grid = _grid(curves, points)
    mean = _held(curves, grid, 0.0).mean(axis=0)
    return Band(grid, mean, mean, mean)


def _held(curves: Sequence[Curve], grid: Array, worst: float) -> Array:
    """Each curve on the grid, (N, Q): its last value so far, or `worst` where that is missing or diverged."""
    held = np.empty((len(curves), len(grid)))
    for row, curve in zip(held, curves, strict=True):
        row[:] = curve.y[np.searchsorted(curve.x, grid, side="right") - 1]
        if curve.diverged:
            row[grid > curve.x[-1]] = worst
    held[np.isnan(held)] = worst
    return held


def _grid(curves: Sequence[Curve], points: int) -> Array:
    start = max(curve.x[0] for curve in curves)
    grid: Array = np.unique(np.concatenate([curve.x for curve in curves]))
    grid = grid[grid >= start]
    if len(grid) <= points:
        return grid
    thinned: Array = grid[np.unique(np.linspace(0, len(grid) - 1, points).round().astype(int))]
    return thinned


def _sorted_quantile(values: Array, level: float) -> Array:
    """Linear quantile of sorted columns that, unlike numpy's, survives infinities."""
    position = level * (len(values) - 1)
    below = int(position)
    share = position - below
    lower: Array = values[below]
    upper: Array = values[min(below + 1, len(values) - 1)]
    with np.errstate(invalid="ignore"):
        mixed = (1 - share) * lower + share * upper
    return lower if share == 0 else np.where(lower == upper, lower, mixed)
