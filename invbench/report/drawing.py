"""Figures as inline SVG whose colours are variables of the page."""

import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from invbench.report.comparisons import Array, Method
from invbench.report.palette import Style
from invbench.report.quantities import power

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

#: Drawing is what rendering costs: so many comparisons get figures, so many methods a figure has.
COMPARISONS = 8
METHODS = 10

#: Colours that stand for variables of the style sheet until the SVG is inlined.
INK, FAINT = "#fd0000", "#fd0001"
_SIZE = (4.7, 3.2)  # inches of 72 points: 338 x 230 units of the SVG
_LINEAR = frozenset({"psnr", "ssim", "success"})


@dataclass(frozen=True)
class Plot:
    """One figure: inline SVG with a caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Panel:
    """Figures that belong together.

    Attributes:
        anchor: unique in the page.
        title: of the comparison, or of the kind of trial.
        plots: the figures.
        methods: drawn, in the order of the study.
        left_out: number of methods that are not drawn.
        note: what the figures leave out, or "".
    """

    anchor: str
    title: str
    plots: tuple[Plot, ...]
    methods: tuple[Method, ...]
    left_out: int
    note: str = ""


def draw(
    paint: "Callable[[Axes], None]",
    *,
    name: str,
    title: str,
    caption: str,
    x_label: str,
    y_label: str,
    size: tuple[float, float] = _SIZE,
) -> Plot:
    """A figure: empty axes, painted, labelled, calmed and made part of the page.

    Args:
        paint: draws the data and sets the scales.
        name: unique in the page.
        title: what the figure belongs to, for those who do not see it.
        caption: what it shows.
        x_label: of the abscissa.
        y_label: of the ordinate.
        size: width and height in inches of 72 points.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "invbench", "font.size": 9}):
        figure = Figure(figsize=size)
        axes = figure.add_axes(_frame(*size))
        paint(axes)
        axes.set_xlabel(x_label, color=INK, parse_math=False)
        axes.set_ylabel(y_label, color=INK, parse_math=False)
        _calm(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plain = re.sub(r"[^a-zA-Z0-9-]", "-", name)
    return Plot(inline(file.getvalue(), plain, f"{title}: {caption}"), caption)


def _frame(width: float, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the axes in a figure: the same margins in inches at every size."""
    left, bottom, right, top = 0.705, 0.528, 0.0705, 0.08
    return left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height


def look(style: Style) -> dict[str, Any]:
    """How matplotlib draws the line of a method."""
    dashes = tuple(float(part) for part in style.dashes.split())
    return {
        "color": colour(style),
        "ls": (0, dashes) if dashes else "-",
        "gid": group(style),
        "lw": 1.6,
    }


def colour(style: Style) -> str:
    """Stand-in for the colour of a method."""
    return hue(style.hue)


def hue(index: int) -> str:
    """Stand-in for one of the colours of the palette."""
    return f"#fe00{index:02x}"


def group(style: Style) -> str:
    """What marks a part of a figure as belonging to a method."""
    return f"series-{style.index}"


def short_names(methods: Iterable[Method], length: int = 26) -> Mapping[Method, str]:
    """Names for labels in a figure: parameters only where two methods share a solver."""
    listed = list(methods)
    found = {}
    for method in listed:
        twins = [other for other in listed if other.solver == method.solver]
        plain = [other.variant for other in twins].count(method.variant) == 1
        variant = "" if method.variant in ("", "default") else method.variant
        text = " · ".join(filter(None, (method.solver, variant))) if plain else str(method)
        found[method] = text if len(text) <= length else text[: length - 1] + "…"
    return found


def fit_ordinate(axes: "Axes", values: Array, metric: str) -> None:
    """Limits and scale of the ordinate: logarithmic for what is positive and has no natural range."""
    if metric == "success":
        axes.set_ylim(-0.04, 1.04)
        return
    logarithmic = by_decades(values, metric)
    fit_axis(axes.yaxis, values, logarithmic)
    axes.set_ylim(with_room(values, logarithmic))


def by_decades(values: Array, metric: str) -> bool:
    """Whether an axis of these values may be logarithmic: they are positive and have no natural range."""
    return metric not in _LINEAR and bool((values > 0).all())


def with_room(values: Array, logarithmic: bool) -> tuple[float, float]:
    """Ends of an axis that shows all values, a little beyond them."""
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        room = max((high / low) ** 0.06, 1.02)
        return low / room, high * room
    room = 0.06 * (high - low) or 0.1
    return low - room, high + room


def fit_axis(axis: "Axis", values: Array, logarithmic: bool) -> None:
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
    axes.grid(True, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=FAINT, labelcolor=INK, length=3, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


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
    inner = inner.replace(INK, "var(--soft)").replace(FAINT, "var(--line)")
    inner = re.sub(r'(?<= )(?:d|x|y)="[^"]*"', _short, inner)
    inner = re.sub(r"(font-size: [\d.]+px); font-family: [^;\"]+", r"\1", inner)
    inner = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", inner)
    inner = re.sub(r' transform="rotate\(-0 [^"]*"', "", inner)
    inner = _ungrouped(re.sub(r">\s+<", "><", inner).replace("<defs></defs>", "").strip())
    size = box[1] if box else "0 0 338 230"
    return Markup(f'<svg viewBox="{size}" role="img" aria-label="{escape(description)}">{inner}</svg>')


def _ungrouped(svg: str) -> str:
    """Without the groups that carry nothing, which are a quarter of what matplotlib writes."""
    while (fewer := re.sub(r"<g>((?:(?!</?g[ >]).)*)</g>", r"\1", svg)) != svg:
        svg = fewer
    return svg


def _short(attribute: re.Match[str]) -> str:
    """Coordinates to a tenth of a unit, which is less than a pixel's quarter, on one line."""
    return re.sub(r"(\.\d)\d+", r"\1", " ".join(attribute[0].split())).replace(' "', '"')
