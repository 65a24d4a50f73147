"""Convergence plots: each metric against seconds, iterations and work."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from invbench.report.comparisons import Array, Cell, Comparison, Method, in_turns
from invbench.report.drawing import (
    COMPARISONS,
    METHODS,
    Panel,
    Plot,
    colour,
    draw,
    fit_axis,
    fit_ordinate,
    inline,
    look,
)
from invbench.report.palette import Style
from invbench.report.quantities import higher_is_better, label
from invbench.report.scores import Scores
from invbench.report.statistics import Band, Curve, band, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COMPARISONS", "METHODS", "Panel", "Plot", "inline", "panels"]

#: What convergence is drawn against, as the axis calls it.
AGAINST = {"seconds": "seconds", "iteration": "iterations", "work": "work [multiply-adds]"}


def panels(
    comparisons: Sequence[Comparison], scores: Mapping[Comparison, Scores], styles: Mapping[Method, Style]
) -> tuple[Panel, ...]:
    """Figures of the first `COMPARISONS` comparisons, taking one of each kind in turn."""
    drawn = set(in_turns(comparisons)[:COMPARISONS])
    found = [_panel(one, scores[one], styles) for one in comparisons if one in drawn]
    return tuple(panel for panel in found if panel.plots)


def _panel(comparison: Comparison, scores: Scores, styles: Mapping[Method, Style]) -> Panel:
    best = [scores.methods[m] for m in scores.order[:METHODS]]
    methods = tuple(method for method in comparison.methods if method in best)
    plots = [
        plot
        for metric in dict.fromkeys((comparison.ranked_by, "objective"))
        for against in AGAINST
        if (plot := _plot(comparison, methods, styles, metric, against))
    ]
    return Panel(
        f"plot-{comparison.anchor}", comparison.title, tuple(plots), methods, len(scores.order) - len(methods)
    )


def _plot(
    comparison: Comparison,
    methods: Sequence[Method],
    styles: Mapping[Method, Style],
    metric: str,
    against: str,
) -> Plot | None:
    by_method = comparison.by_method()
    bands = {method: found for method in methods if (found := _band(by_method[method], metric, against))}
    ceiling = _ceiling(bands.values(), metric)
    bands = {method: later for method, found in bands.items() if (later := _after_start(found)) is not None}
    if not bands:
        return None

    def paint(axes: "Axes") -> None:
        for method, found in _in_frame(bands).items():
            _line(axes, found, styles[method], "steps-post" if metric == "success" else "default")
        fit_axis(axes.xaxis, np.concatenate([found.x for found in bands.values()]), logarithmic=True)
        fit_ordinate(axes, _shown(list(bands.values()), ceiling), metric)

    return draw(
        paint,
        name=f"{comparison.anchor}-{metric}-{against}",
        title=comparison.title,
        caption=f"{label(metric)} against {AGAINST[against].split()[0]}",
        x_label=AGAINST[against],
        y_label=label(metric),
    )


def _band(cells: Sequence[Cell], metric: str, against: str) -> Band | None:
    """Median and quartiles over images and seeds; for a success, the share of them."""
    worst = -np.inf if higher_is_better(metric) else np.inf
    curves = [curve for cell in cells for curve in _curves(cell, metric, against)]
    if not curves:
        return None
    if metric == "success":
        return share(curves)
    return band(curves, worst)


def _after_start(found: Band) -> Band | None:
    """A band without its start, which has no place on a logarithmic axis; None if nothing is left."""
    shown = found.x > 0
    later = Band(*(part[shown] for part in found))
    return later if np.isfinite(later.middle).any() else None


def _ceiling(bands: Iterable[Band], metric: str) -> float:
    """Ten times the start; infinite where that means nothing."""
    start = max((float(found.middle[0]) for found in bands), default=np.inf)
    return 10 * start if start > 0 and not higher_is_better(metric) else np.inf


def _curves(cell: Cell, metric: str, against: str) -> list[Curve]:
    """What a cell says of a metric, one curve an instance; none where it does not apply."""
    if (cell.overrides and metric == "objective") or not {metric, against} <= cell.columns.keys():
        return []
    columns = (cell.curves(name) for name in (against, metric, "status"))
    curves = [
        Curve(x.astype(float), y.astype(float), status[-1] in ("diverged", "failed"))
        for x, y, status in zip(*columns, strict=True)
    ]
    return [curve for curve in curves if not np.isnan(curve.y).all() and not np.isnan(curve.x).any()]


def _in_frame(bands: Mapping[Method, Band]) -> dict[Method, Band]:
    """Bands whose infinite quartiles end beyond the frame, where a filled area can be drawn."""
    values = np.concatenate([np.concatenate(one[1:]) for one in bands.values()])
    values = values[np.isfinite(values)]
    far = 1 + 10 * np.ptp(values)
    inside = {"nan": np.nan, "posinf": values.max() + far, "neginf": values.min() - far}
    return {
        method: one._replace(low=np.nan_to_num(one.low, **inside), high=np.nan_to_num(one.high, **inside))
        for method, one in bands.items()
    }


def _line(axes: "Axes", found: Band, style: Style, drawstyle: str) -> None:
    """Median, quartiles, and a mark where the run ended (a cross where most instances diverged)."""
    finite = np.isfinite(found.middle)
    if not finite.any():
        return
    x, middle = found.x[finite], found.middle[finite]
    low, high = found.low[finite], found.high[finite]
    line = look(style)
    if (high > low).any():
        axes.fill_between(x, low, high, color=colour(style), alpha=0.13, lw=0, gid=line["gid"])
    axes.plot(x, middle, ds=drawstyle, **line)
    mark = style.mark if finite[-1] else "X"
    size = 5 if mark != "X" else 7.5
    axes.plot(x[-1:], middle[-1:], color=colour(style), marker=mark, ms=size, mew=0, gid=line["gid"])


def _shown(found: Sequence[Band], ceiling: float) -> Array:
    """Values that the ordinate must hold; what rises above the ceiling leaves the frame."""
    values = np.concatenate([np.concatenate([one.low, one.middle, one.high]) for one in found])
    values = values[np.isfinite(values)]
    shown: Array = values[values <= ceiling]
    return shown if shown.size else values
