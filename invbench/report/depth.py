"""Stage-depth curves: how the quality of what is found changes along the network."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from invbench.report.comparisons import Array, Comparison, Method
from invbench.report.drawing import METHODS, Panel, Plot, colour, draw, fit_ordinate, look
from invbench.report.palette import Style
from invbench.report.quantities import higher_is_better, label
from invbench.report.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Figures that are drawn at most.
FIGURES = 12
#: Conditions in which the comparisons of a curve may differ, because they follow from the layer.
_VARYING = ("layer", "trial_parameters")


def panels(
    comparisons: Sequence[Comparison],
    scores: Mapping[Comparison, Scores],
    styles: Mapping[Method, Style],
    environment: Mapping[str, Any],
) -> tuple[Panel, ...]:
    """One figure for each kind of trial, under the same conditions, that has at least two layers."""
    groups: dict[tuple[str, ...], dict[str, Comparison]] = {}
    for one in comparisons:
        if one.conditions["layer"]:
            shared = tuple(value for name, value in one.conditions.items() if name not in _VARYING)
            groups.setdefault(shared, {}).setdefault(one.conditions["layer"], one)
    deep = [in_order(group, environment) for group in groups.values() if len(group) > 1]
    found = [
        _panel(f"depth-{number}", group, scores, styles)
        for number, group in enumerate(deep[:FIGURES], start=1)
    ]
    return tuple(panel for panel in found if panel.plots)


def in_order(group: Mapping[str, Comparison], environment: Mapping[str, Any]) -> list[Comparison]:
    """Comparisons in the order of the stages of their network; unknown stages last, as the study has them."""
    name = next(iter(group.values())).conditions["network"]
    networks = environment.get("networks") or {}
    known = networks.get(name) or networks.get(name.split(" ")[0] if name else "") or {}
    stages = [str(stage) for stage in known.get("stages") or ()] if isinstance(known, Mapping) else []

    def depth(layer: str) -> int:
        names = (layer, layer.split(".")[0])
        return next((stages.index(one) for one in names if one in stages), len(stages))

    return [group[layer] for layer in sorted(group, key=depth)]


def _panel(
    anchor: str,
    group: Sequence[Comparison],
    scores: Mapping[Comparison, Scores],
    styles: Mapping[Method, Style],
) -> Panel:
    metric = group[0].ranked_by
    curves = {
        method: _curve(method, [scores[one] for one in group])
        for method in dict.fromkeys(method for one in group for method in one.methods)
    }
    curves = {method: curve for method, curve in curves.items() if np.isfinite(curve[0]).any()}
    ranked = sorted(curves, key=lambda method: _badness(curves[method][0], higher_is_better(metric)))
    methods = tuple(method for method in curves if method in ranked[:METHODS])
    layers = [one.conditions["layer"] for one in group]
    title = f"{group[0].kind[0]} · {group[0].conditions['network']}"
    drawn = {styles[method]: curves[method] for method in methods}
    plots = (_plot(anchor, title, metric, layers, drawn),) if methods else ()
    return Panel(anchor, title, plots, methods, len(curves) - len(methods))


def _curve(method: Method, scores: Sequence[Scores]) -> Array:
    """Mean and bounds of the metric that ranks at each stage, (3, L); NaN where a method lost an instance."""
    found = np.full((3, len(scores)), np.nan)
    for stage, one in enumerate(scores):
        if method not in one.methods or one.ranked_by not in one.columns:
            continue
        m, k = one.methods.index(method), one.columns.index(one.ranked_by)
        if not one.missing[m]:
            found[:, stage] = [part[m, k] for part in one.interval]
    return found


def _badness(means: Array, higher: bool) -> tuple[int, float]:
    known = means[np.isfinite(means)]
    return -known.size, float(-known.mean() if higher else known.mean())


def _plot(anchor: str, title: str, metric: str, layers: Sequence[str], curves: Mapping[Style, Array]) -> Plot:
    def paint(axes: "Axes") -> None:
        everything = np.concatenate([curve.ravel() for curve in curves.values()])
        fit_ordinate(axes, everything[np.isfinite(everything)], metric)
        shifts = np.linspace(-0.13, 0.13, len(curves)) if len(curves) > 1 else [0.0]
        for shift, (style, (mean, low, high)) in zip(shifts, curves.items(), strict=True):
            x = np.arange(len(layers)) + shift
            axes.vlines(x, low, high, color=colour(style), lw=1, alpha=0.55, gid=look(style)["gid"])
            axes.plot(x, mean, marker=style.mark, ms=5, mew=0, **look(style))
        names = [layer if len(layer) <= 14 else layer[:13] + "…" for layer in layers]
        slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > 45 else {}
        axes.set_xticks(range(len(layers)), names, parse_math=False, **slant)
        axes.set_xlim(-0.4, len(layers) - 0.6)

    arrow = "↑" if higher_is_better(metric) else "↓"
    return draw(
        paint,
        name=f"{anchor}-{metric}",
        title=title,
        caption=f"{label(metric)} {arrow} after each stage of the network, with 95 % intervals",
        x_label="stage, in the order of the network",
        y_label=f"{label(metric)} {arrow}",
    )
