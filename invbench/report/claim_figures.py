"""A figure for each claim that was judged: what its numbers were reduced from, and where they may lie."""

from typing import TYPE_CHECKING

import numpy as np

from invbench.claims.verdict import sign
from invbench.report.comparisons import Array
from invbench.report.drawing import INK, Plot, by_decades, draw, fit_axis, hue, with_room
from invbench.report.quantities import label, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from invbench.claims import Claim
    from invbench.claims.statement import Quantity
    from invbench.claims.verdict import Verdict

#: So many dots a figure has at most, evenly chosen by rank.
DOTS = 200
_DOT, _AGREED = hue(0), hue(2)
_SQUARE, _WIDTH, _FOOT, _ROW = (3.5, 3.1), 3.5, 0.64, 0.42  # inches
_IMAGE_BY_IMAGE = ("wins", "sure_gain")


def figure(claim: "Claim", verdict: "Verdict", name: str) -> Plot | None:
    """Both sides against each other where instances match, else side by side; None for what was not run.

    Args:
        claim: what was said.
        verdict: what became of it.
        name: unique in the page.
    """
    if verdict.ours is None or not verdict.basis.ours:
        return None
    return (_pairs if verdict.basis.matched else _strips)(claim, verdict, name)


def agreed(claim: "Claim", other: float | None) -> tuple[float, float]:
    """Where our number has to lie for the claim to hold, given the other side; NaN for a ratio to 0.

    Image by image it is where ours is better.

    Args:
        claim: what was said.
        other: number of the other side; None compares with the paper.
    """
    if claim.compare in _IMAGE_BY_IMAGE and other is not None:
        return (other, np.inf) if sign(claim.ours.column) > 0 else (-np.inf, other)
    bounds = claim.agree
    low = -np.inf if bounds.at_least is None else bounds.at_least
    high = np.inf if bounds.at_most is None else bounds.at_most
    if bounds.within is not None and claim.paper is not None:
        room = bounds.within * (abs(claim.paper) if bounds.relative else 1)
        low, high = max(low, claim.paper - room), min(high, claim.paper + room)
    ends = _undone(claim, low, other), _undone(claim, high, other)
    return min(ends), max(ends)


def _undone(claim: "Claim", value: float, other: float | None) -> float:
    """Our number that gives a value when compared with the other one."""
    other = claim.paper if other is None else other
    if claim.compare == "difference" and other is not None:
        return value + other
    if claim.compare == "ratio" and other is not None:
        return value * other if other else np.nan
    return value


def chosen(values: Array) -> Array:
    """Indices of at most `DOTS` values, evenly by rank, the least and the greatest among them."""
    order = np.argsort(values, kind="stable")
    picks = np.linspace(0, len(order) - 1, min(len(order), DOTS)).round().astype(int)
    indices: Array = order[picks]
    return indices


def _pairs(claim: "Claim", verdict: "Verdict", name: str) -> Plot:
    """One dot an instance: the other side to the right, ours upward."""
    ours, against = np.array(verdict.basis.ours), np.array(verdict.basis.against)
    ring = np.array([verdict.against, verdict.ours], dtype=float)
    other = claim.ours.other(claim.against) if claim.against else claim.ours
    shown = chosen(ours)
    inside = sum(_agrees(claim, *pair) for pair in zip(ours.tolist(), against.tolist(), strict=True))

    def paint(axes: "Axes") -> None:
        values = np.concatenate([ours[shown], against[shown], ring])
        logarithmic = by_decades(values, claim.ours.column)
        for axis in (axes.xaxis, axes.yaxis):
            fit_axis(axis, values, logarithmic)
        low, high = with_room(values, logarithmic)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        x = _abscissae(claim, low, high, logarithmic)
        axes.fill_between(x, *_shade(claim, x, low, high, logarithmic), color=_AGREED, alpha=0.16, lw=0)
        axes.plot([low, high], [low, high], color=INK, lw=1)
        if claim.paper is not None and claim.compare not in _IMAGE_BY_IMAGE:
            axes.plot(x, [_undone(claim, claim.paper, at) for at in x], color=INK, lw=1, ls=(0, (4, 2.5)))
        _dots(axes, against[shown], ours[shown])
        axes.plot(*ring, "o", ms=9, mfc="none", mec=INK, mew=1.8)

    return draw(
        paint,
        name=name,
        title=claim.id,
        caption=" ".join(_of_pairs(claim, other, len(ours), inside)),
        x_label=f"against: {label(other.column)}",
        y_label=f"ours: {label(claim.ours.column)}",
        size=_SQUARE,
    )


def _abscissae(claim: "Claim", low: float, high: float, logarithmic: bool) -> Array:
    """Where bounds are computed: their ends, as they are straight between; more where they are not."""
    if logarithmic:
        return np.geomspace(low, high, 33 if claim.compare == "difference" else 2)
    near = 1e-9 * (high - low)  # a ratio changes sides at 0
    return (
        np.array([low, -near, near, high])
        if claim.compare == "ratio" and low < -near
        else np.array([low, high])
    )


def _shade(claim: "Claim", x: Array, low: float, high: float, logarithmic: bool) -> tuple[Array, Array]:
    """Bounds of ours at some abscissae; what has no bound ends beyond the frame."""
    ends = np.array([agreed(claim, float(at)) for at in x])
    below, above = (
        (low * (low / high), high * (high / low)) if logarithmic else (2 * low - high, 2 * high - low)
    )
    ends[np.isneginf(ends)], ends[np.isposinf(ends)] = below, above
    if logarithmic:
        ends = np.maximum(ends, below)
    return ends[:, 0], ends[:, 1]


def _of_pairs(claim: "Claim", other: "Quantity", count: int, inside: int) -> list[str]:
    """What the figure of matched instances shows, sentence by sentence."""
    said = [f"{count} instances of both sides, one a dot{_left_out(count)}; on the line they are equal."]
    where = "ours is better" if claim.compare in _IMAGE_BY_IMAGE else f"the {claim.compare} would agree"
    said.append(f"Shaded: where {where} ({inside} of {count}).")
    same = claim.ours.reduce == other.reduce
    reduced = (
        f"{claim.ours.reduce} of both" if same else f"{claim.ours.reduce} of ours, {other.reduce} of theirs"
    )
    said.append(f"Ring: {reduced}.")
    if claim.paper is not None and claim.compare not in _IMAGE_BY_IMAGE:
        said.append(f"Dashed: the printed {claim.compare}, {number(claim.paper)}.")
    return said


def _strips(claim: "Claim", verdict: "Verdict", name: str) -> Plot:
    """A row of dots for each side, with what they were reduced to."""
    sides = [("ours", np.array(verdict.basis.ours), verdict.ours or 0.0)]
    if verdict.against is not None:
        sides.append(("against", np.array(verdict.basis.against), verdict.against))
    ends = agreed(claim, verdict.against)
    paper = claim.paper if verdict.against is None else None

    def paint(axes: "Axes") -> None:
        marks = [one for one in (*ends, paper, verdict.ours, verdict.against) if one is not None]
        everything = np.concatenate([np.array(marks), *(values for _, values, _ in sides)])
        everything = everything[np.isfinite(everything)]
        logarithmic = by_decades(everything, claim.ours.column)
        fit_axis(axes.xaxis, everything, logarithmic)
        axes.set_xlim(with_room(everything, logarithmic))
        axes.set_ylim(0.5 - len(sides), 0.5)
        axes.set_yticks([-row for row in range(len(sides))], [side for side, _, _ in sides])
        if not np.isnan(ends).any():
            left, right = np.clip(ends, *axes.get_xlim())
            axes.fill_between([left, right], -0.5, 0.5, color=_AGREED, alpha=0.16, lw=0)
        if paper is not None:
            axes.plot([paper, paper], [-0.5, 0.5], color=INK, lw=1.2, ls=(0, (4, 2.5)))
        for row, (_, values, reduced) in enumerate(sides):
            values = values[chosen(values)]
            apart = (np.arange(len(values)) * 0.618034 % 1 - 0.5) * min(len(values) - 1, 10) / 16
            if len(values) > 1:
                axes.plot([reduced, reduced], [-row - 0.4, -row + 0.4], color=INK, lw=1.8)
            _dots(axes, values, apart - row)

    return draw(
        paint,
        name=name,
        title=claim.id,
        caption=" ".join(_of_strips(claim, verdict, paper)),
        x_label=label(claim.ours.column),
        y_label="",
        size=(_WIDTH, _FOOT + _ROW * len(sides)),
    )


def _of_strips(claim: "Claim", verdict: "Verdict", paper: float | None) -> list[str]:
    """What the figure of unmatched values shows, sentence by sentence."""
    count, others = len(verdict.basis.ours), len(verdict.basis.against)
    reduced = max(count, others) > 1
    if others:
        said = ["One value of either side." if not reduced else f"{count} and {others} values, not matched."]
    else:
        said = [f"{count} values{_left_out(count)}." if reduced else "One value."]
    if reduced:
        said.append(f"Bar: the {claim.ours.reduce}.")
    said.append("Shaded: where ours agrees.")
    if paper is not None:
        said.append(f"Dashed: the printed {number(paper)}.")
    return said


def _left_out(count: int) -> str:
    """How many dots there are where not all can be drawn."""
    return f", of which {DOTS} evenly by rank are drawn" if count > DOTS else ""


def _agrees(claim: "Claim", ours: float, other: float) -> bool:
    """Whether the claim would hold of one instance; where ours must be better, to be equal is not enough."""
    low, high = agreed(claim, other)
    return low <= ours <= high and (claim.compare not in _IMAGE_BY_IMAGE or ours != other)


def _dots(axes: "Axes", x: Array, y: Array) -> None:
    """All dots as one path of strokes without length and with round ends: a tenth of the bytes of markers."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    path = Path(np.repeat(np.stack([x, y], 1), 2, axis=0), [Path.MOVETO, Path.LINETO] * len(x))
    path.should_simplify = False
    axes.add_patch(
        PathPatch(path, fill=False, color=_DOT, lw=5 if len(x) < 50 else 3.6, capstyle="round", alpha=0.75)
    )
