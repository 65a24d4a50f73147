"""Convergence plots as inline SVG whose colours are variables of the page."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

from invbench.report.comparisons import Array, Cell, Comparison, Method, in_turns
from invbench.report.palette import Style
from invbench.report.quantities import higher_is_better, label, power
from invbench.report.scores import Scores
from invbench.report.statistics import Band, Curve, band, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

#: Drawing is what rendering costs: so many comparisons get figures, so many methods a figure has.
COMPARISONS = 12
METHODS = 10

#: Colours that stand for variables of the style sheet until the SVG is inlined.
_INK, _FAINT = "#fd0000", "#fd0001"
_SIZE = (5.6, 3.5)  # inches of 72 points: 403 x 252 units of the SVG
_LINEAR = frozenset({"psnr", "ssim", "success"})
_X_LABELS = {"seconds": "seconds", "iteration": "iterations"}


@dataclass(frozen=True)
class Plot:
    """One figure: inline SVG with a caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Panel:
    """The figures of one comparison.

    Attributes:
        title: of the comparison.
        plots: each metric against seconds and against iterations.
        methods: drawn, in the order of the study.
        left_out: number of methods that are not drawn.
    """

    anchor: str
    title: str
    plots: tuple[Plot, ...]
    methods: tuple[Method, ...]
    left_out: int


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
        for against in ("seconds", "iteration")
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
    caption = f"{label(metric)} against {_X_LABELS[against]}"
    name = f"{comparison.anchor}-{metric}-{against}"
    svg = _draw(bands, styles, metric, _X_LABELS[against], ceiling)
    return Plot(inline(svg, re.sub(r"[^a-zA-Z0-9-]", "-", name), f"{comparison.title}: {caption}"), caption)


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
    if (cell.overrides and metric == "objective") or metric not in cell.columns:
        return []
    columns = (cell.curves(name) for name in (against, metric, "status"))
    curves = [
        Curve(x.astype(float), y.astype(float), status[-1] in ("diverged", "failed"))
        for x, y, status in zip(*columns, strict=True)
    ]
    return [curve for curve in curves if not np.isnan(curve.y).all()]


def _draw(
    bands: Mapping[Method, Band], styles: Mapping[Method, Style], metric: str, against: str, ceiling: float
) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "invbench", "font.size": 9, "path.simplify": True}
    ):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_axes((0.135, 0.155, 0.85, 0.82))
        for method, found in _in_frame(bands).items():
            _line(axes, found, styles[method], "steps-post" if metric == "success" else "default")
        _axis(axes.xaxis, np.concatenate([found.x for found in bands.values()]), logarithmic=True)
        _limit(axes, list(bands.values()), metric, ceiling)
        axes.set_xlabel(against, color=_INK)
        axes.set_ylabel(label(metric), color=_INK, parse_math=False)
        _calm(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return file.getvalue()


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
    colour = f"#fe00{style.hue:02x}"
    finite = np.isfinite(found.middle)
    if not finite.any():
        return
    x, middle = found.x[finite], found.middle[finite]
    group = f"series-{style.index}"
    low, high = found.low[finite], found.high[finite]
    if (high > low).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0, gid=group)
    dashes = tuple(float(part) for part in style.dashes.split())
    axes.plot(x, middle, color=colour, lw=1.7, ls=(0, dashes) if dashes else "-", ds=drawstyle, gid=group)
    mark = style.mark if finite[-1] else "X"
    axes.plot(x[-1:], middle[-1:], color=colour, marker=mark, ms=5.5 if mark != "X" else 8, mew=0, gid=group)


def _limit(axes: "Axes", found: Sequence[Band], metric: str, ceiling: float) -> None:
    """Scale of the ordinate; what rises above the ceiling leaves the frame."""
    values = np.concatenate([np.concatenate([one.low, one.middle, one.high]) for one in found])
    values = values[np.isfinite(values)]
    values = values[values <= ceiling] if (values <= ceiling).any() else values
    if metric == "success":
        axes.set_ylim(-0.04, 1.04)
        return
    logarithmic = metric not in _LINEAR and bool((values > 0).all())
    _axis(axes.yaxis, values, logarithmic)
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        room = max((high / low) ** 0.06, 1.02)
        axes.set_ylim(low / room, high * room)
    else:
        room = 0.06 * (high - low) or 0.1
        axes.set_ylim(low - room, high + room)


def _axis(axis: "Axis", values: Array, logarithmic: bool) -> None:
    """A logarithmic axis with few plain ticks, where the values span enough for one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = float(values.min()), float(values.max())
    if logarithmic and low > 0 and high > 3 * low:
        set_scale = axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale
        set_scale("log")
        subs = (1.0,) if high > 200 * low else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))


def _calm(axes: "Axes") -> None:
    axes.set_facecolor("none")
    axes.grid(True, color=_FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=_FAINT, labelcolor=_INK, length=3, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)


def inline(svg: str, name: str, description: str) -> Markup:
    """Make a figure of matplotlib part of a page.

    Ids that nothing refers to go, the others are prefixed, because all figures of a page share one name
    space; stand-in colours become variables, so that a figure follows the colour scheme.

    Args:
        svg: what matplotlib wrote.
        name: prefix, unique in the page.
        description: what the figure shows, for those who do not see it.
    """
    body = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r"<style.*?</style>|<!--.*?-->", "", inner, flags=re.DOTALL)
    inner = re.sub(r'id="series-(\d+)"', r'class="series s\1"', inner)
    inner = inner.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', inner))
    inner = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", inner)
    inner = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", inner)
    inner = re.sub(r"#fe00([0-9a-f]{2})", lambda m: f"var(--m{int(m[1], 16)})", inner)
    inner = inner.replace(_INK, "var(--soft)").replace(_FAINT, "var(--line)")
    inner = re.sub(r'(?<= )(?:d|x|y)="[^"]*"', _short, inner)
    inner = re.sub(r"(font-size: [\d.]+px); font-family: [^;\"]+", r"\1", inner)
    inner = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", inner)
    inner = re.sub(r' transform="rotate\(-0 [^"]*"', "", inner)
    inner = re.sub(r">\s+<", "><", inner)
    size = box[1] if box else "0 0 403 252"
    return Markup(f'<svg viewBox="{size}" role="img" aria-label="{escape(description)}">{inner}</svg>')


def _short(attribute: re.Match[str]) -> str:
    """Coordinates to a tenth of a unit, which is less than a pixel's quarter, on one line."""
    return re.sub(r"(\.\d)\d+", r"\1", " ".join(attribute[0].split())).replace(' "', '"')
