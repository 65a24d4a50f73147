"""Speed and quality: what each method reached, against what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from invbench.report.comparisons import Array, Comparison, Method, in_turns
from invbench.report.drawing import (
    COMPARISONS,
    FAINT,
    INK,
    METHODS,
    Panel,
    Plot,
    colour,
    draw,
    fit_axis,
    fit_ordinate,
    group,
    short_names,
)
from invbench.report.palette import Style
from invbench.report.quantities import higher_is_better, label, number
from invbench.report.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Costs that quality is held against.
_COSTS = {"seconds": "seconds", "work": "work [multiply-adds]"}
# Sizes of names as shares of the frame: distance of two lines, of a name from its point, width of a letter.
_GAP, _NEAR, _LETTER = 0.055, 0.025, 0.0165


@dataclass(frozen=True)
class Point:
    """What a method reached in the mean, and at what cost.

    Attributes:
        method: whose.
        cost: seconds or work.
        quality: mean of the metric that ranks.
        complete: it lost no instance; others cannot lie on the front.
    """

    method: Method
    cost: float
    quality: float
    complete: bool


def front(points: Sequence[Point], higher: bool) -> list[Point]:
    """The complete points that no other one beats in cost and quality at once, the cheapest first."""
    sign = -1 if higher else 1
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, sign * point.quality)):
        if point.complete and (not found or sign * point.quality < sign * found[-1].quality):
            found.append(point)
    return found


def panels(
    comparisons: Sequence[Comparison], scores: Mapping[Comparison, Scores], styles: Mapping[Method, Style]
) -> tuple[Panel, ...]:
    """Quality against seconds and against work for the first comparisons, one of each kind in turn."""
    drawn = set(in_turns(comparisons)[:COMPARISONS])
    found = [_panel(one, scores[one], styles) for one in comparisons if one in drawn]
    return tuple(panel for panel in found if panel.plots)


def points(scores: Scores, cost: str) -> tuple[Point, ...]:
    """One point for each method that has both figures, the best first."""
    if not {cost, scores.ranked_by} <= set(scores.columns):
        return ()
    costs, qualities = (
        scores.interval.mean[:, scores.columns.index(name)] for name in (cost, scores.ranked_by)
    )
    return tuple(
        Point(scores.methods[m], float(costs[m]), float(qualities[m]), not scores.missing[m])
        for m in scores.order
        if costs[m] > 0 and np.isfinite(qualities[m])
    )


def _panel(comparison: Comparison, scores: Scores, styles: Mapping[Method, Style]) -> Panel:
    found = {cost: points(scores, cost) for cost in _COSTS}
    kept = {cost: _shown(all_of_them, scores) for cost, all_of_them in found.items()}
    telling = [cost for cost in _COSTS if len(kept[cost]) > 1 and not _equal(kept[cost])]
    plots = [_plot(comparison, kept[cost], styles, cost) for cost in telling]
    methods = tuple(m for m in comparison.methods if any(m == p.method for p in kept["seconds"]))
    left_out = len(found["seconds"]) - len(kept["seconds"])
    note = "" if "work" in telling or not plots else _same_work(kept["work"])
    return Panel(f"pareto-{comparison.anchor}", comparison.title, tuple(plots), methods, left_out, note)


def _equal(shown: Sequence[Point]) -> bool:
    """Whether all cost the same, to a percent: then there is nothing to plot."""
    costs = [point.cost for point in shown]
    return max(costs) <= 1.01 * min(costs)


def _same_work(shown: Sequence[Point]) -> str:
    """Why there is no figure against work."""
    return f"All did the same work: {number(shown[0].cost, 'work')} multiply-adds." if len(shown) > 1 else ""


def _shown(found: Sequence[Point], scores: Scores) -> tuple[Point, ...]:
    """The front first, so that limits never cut it where it fits, then the best of the others."""
    best = front(found, higher_is_better(scores.ranked_by))
    return tuple([*best, *(point for point in found if point not in best)][:METHODS])


def _plot(comparison: Comparison, shown: Sequence[Point], styles: Mapping[Method, Style], cost: str) -> Plot:
    metric = comparison.ranked_by
    higher = higher_is_better(metric)

    def paint(axes: "Axes") -> None:
        costs = np.array([point.cost for point in shown])
        qualities = np.array([point.quality for point in shown])
        fit_ordinate(axes, qualities, metric)
        low, high = _with_room(costs)
        fit_axis(axes.xaxis, np.array([low, high]), logarithmic=True)
        axes.set_xlim(low, high)
        _stairs(axes, front(shown, higher))
        for point in shown:
            style = styles[point.method]
            fill = colour(style) if point.complete else "none"
            axes.plot(
                point.cost,
                point.quality,
                style.mark,
                ms=6.5,
                mew=1.4,
                markerfacecolor=fill,
                markeredgecolor=colour(style),
                gid=group(style),
            )
        _name(axes, shown, styles)

    arrow = "↑" if higher else "↓"
    return draw(
        paint,
        name=f"pareto-{comparison.anchor}-{cost}",
        title=comparison.title,
        caption=f"{label(metric)} {arrow} against {cost}; {'upper' if higher else 'lower'} left is better",
        x_label=_COSTS[cost],
        y_label=f"{label(metric)} {arrow}",
    )


def _with_room(costs: Array) -> tuple[float, float]:
    """Ends of the abscissa, with room for names on both sides; at least a factor of six."""
    low, high = float(costs.min()), float(costs.max())
    room = max((high / low) ** 0.25, np.sqrt(6 * low / high))
    return low / room, high * room


def _stairs(axes: "Axes", best: Sequence[Point]) -> None:
    """The front as stairs: right of and behind it, somebody does at least as well for less."""
    if not best:
        return
    right = axes.get_xlim()[1]
    bottom_or_top = axes.get_ylim()
    worst = bottom_or_top[1] if best[-1].quality <= best[0].quality else bottom_or_top[0]
    x = [best[0].cost, *(point.cost for point in best), right]
    y = [worst if len(best) > 1 else best[0].quality, *(point.quality for point in best), best[-1].quality]
    axes.plot(x, y, color=INK, lw=1.1, ls=(0, (4, 2.5)), alpha=0.7, drawstyle="steps-post", zorder=1)


def _name(axes: "Axes", shown: Sequence[Point], styles: Mapping[Method, Style]) -> None:
    """Names beside the points, joined by a line to those from which they had to move away."""
    names = short_names(point.method for point in shown)
    to_axes = axes.transData + axes.transAxes.inverted()
    points = [(float(x), float(y)) for x, y in to_axes.transform([(p.cost, p.quality) for p in shown])]
    labels = place(points, [_LETTER * len(names[point.method]) for point in shown])
    for point, at, (x, y) in zip(shown, points, labels, strict=True):
        moved = abs(y - at[1]) > 0.9 * _GAP
        note = axes.annotate(
            names[point.method],
            xy=at,
            xytext=(x, y),
            xycoords="axes fraction",
            textcoords="axes fraction",
            ha="left" if x > at[0] else "right",
            va="center",
            fontsize=8,
            color=INK,
            parse_math=False,
            gid=group(styles[point.method]),
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.7, "shrinkA": 0, "shrinkB": 3}
            if moved
            else None,
        )
        if note.arrow_patch is not None:
            note.arrow_patch.set_gid(group(styles[point.method]))


def place(points: Sequence[tuple[float, float]], widths: Sequence[float]) -> list[tuple[float, float]]:
    """Where names stand: right of their point or left of it, as near as the others allow.

    Args:
        points: in units of the frame, [0, 1] both ways.
        widths: of the names, in these units.

    Returns:
        The end of each name that is next to its point.

    Example:
        >>> place([(0.2, 0.5), (0.9, 0.5)], [0.3, 0.3])
        [(0.225, 0.5), (0.875, 0.5)]
    """
    taken = [(x - _NEAR / 2, x + _NEAR / 2, y) for x, y in points]
    found: list[tuple[float, float]] = []
    for own, ((x, y), width) in enumerate(zip(points, widths, strict=True)):
        others = taken[:own] + taken[own + 1 :]
        choices = [
            (left, left + width, y + step * _GAP, side)
            for step in (0, 0.8, -0.8, 1.6, -1.6, 2.4, -2.4, 3.2, -3.2)
            for side, left in ((1, x + _NEAR), (-1, x - _NEAR - width))
        ]
        left, right, height, side = next(
            (choice for choice in choices if _free(choice[:3], others)), choices[0]
        )
        taken.append((left, right, height))
        found.append((left if side > 0 else right, height))
    return [(round(x, 6), round(y, 6)) for x, y in found]


def _free(name: tuple[float, float, float], taken: Sequence[tuple[float, float, float]]) -> bool:
    """Whether a name (left, right, height) lies in the frame and touches no other name or point."""
    left, right, height = name
    inside = left > 0 and right < 1 and 0 < height < 1
    return inside and all(
        right < other[0] or left > other[1] or abs(height - other[2]) > 0.75 * _GAP for other in taken
    )
