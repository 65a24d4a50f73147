"""Performance profiles: how often a method is within a factor of the best."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from invbench.report.comparisons import Array, Comparison, Method, kinds
from invbench.report.drawing import METHODS, Panel, Plot, draw, fit_axis, look
from invbench.report.palette import Style
from invbench.report.quantities import label
from invbench.report.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Kinds of trials that get profiles.
KINDS = 8
#: Factors beyond this are not drawn.
FACTOR = 1e4
#: Costs below this share of the median cost count as that: an exact solution is not infinitely better.
FLOOR = 1e-9

#: How a metric of which much is good becomes a cost of which little is good.
_COSTS = {"ssim": "1 − SSIM", "psnr": "MSE, as 10^(−PSNR/10)", "success": "work until success lasts"}


def profile(costs: Array) -> tuple[Array, Array]:
    """Performance ratios, sorted, and the share of problems solved within each of them.

    Args:
        costs: (M, P), at least zero; infinite for what failed, was refused or diverged.

    Returns:
        Ratios r[m, p] = cost[m, p] / min over m, sorted along p, (M, P), infinite where a method failed;
        and the shares, (P,): rho_m(tau) = share[number of r[m] <= tau].

    References:
        Dolan & Moré, Benchmarking optimization software with performance profiles, 2002, equation 2.1. We
        differ in that costs below `FLOOR` times the median are raised to it.
    """
    finite = costs[np.isfinite(costs)]
    positive = finite[finite > 0]
    floor = FLOOR * float(np.median(positive)) if positive.size else 1.0
    raised = np.maximum(costs, floor)
    best = raised.min(axis=0)
    ratios = np.divide(raised, best, out=np.full(costs.shape, np.inf), where=np.isfinite(best))
    return np.sort(ratios, axis=1), np.arange(costs.shape[1] + 1) / costs.shape[1]


def costs_of(comparison: Comparison, scores: Scores, metric: str) -> Array:
    """What every problem cost every method, (M, P): little is good, infinite where nothing was finished.

    A problem is an instance with a seed that any method reached. See `_COSTS` for metrics where much is good.
    """
    values = _effort(comparison, scores) if metric == "success" else scores.column(metric)
    if metric == "ssim":
        values = 1 - values
    elif metric == "psnr":
        values = 10 ** (-values / 10)
    seen = ~np.isnan(scores.values).all(axis=(0, 3))
    found: Array = np.where(scores.finished & ~np.isnan(values), values, np.inf)[:, seen]
    return found


def panels(
    comparisons: Sequence[Comparison], scores: Mapping[Comparison, Scores], styles: Mapping[Method, Style]
) -> tuple[Panel, ...]:
    """Profiles of each kind of trial: on the metric that ranks, and on the objective."""
    found = [
        _panel(f"profile-k{number}", group, [scores[one] for one in group], styles)
        for number, group in enumerate(kinds(comparisons).values(), start=1)
    ][:KINDS]
    return tuple(panel for panel in found if panel.plots or panel.note)


def _panel(
    anchor: str, group: Sequence[Comparison], scores: Sequence[Scores], styles: Mapping[Method, Style]
) -> Panel:
    everywhere = [m for m in group[0].methods if all(m in one.methods for one in group)]
    plots: list[Plot] = []
    notes: list[str] = []
    drawn: set[Method] = set()
    for metric in dict.fromkeys((group[0].ranked_by, "objective")):
        methods = [m for m in everywhere if metric != "objective" or not _overrides(m, scores)]
        if len(methods) < 2 or not any(metric in one.columns for one in scores):
            continue
        costs = np.hstack(
            [_rows(methods, one, table, metric) for one, table in zip(group, scores, strict=True)]
        )
        if not np.isfinite(costs).any():
            continue
        if (costs < 0).any():
            notes.append(f"The {label(metric)} takes negative values: a factor of the best means nothing.")
            continue
        ratios, shares = profile(costs)
        best = _best(ratios)[:METHODS]
        drawn |= {methods[m] for m in best}
        looks = [(styles[methods[m]], ratios[m]) for m in sorted(best)]
        plots.append(_plot(anchor, group[0].kind[0], metric, looks, shares))
    shown = tuple(method for method in everywhere if method in drawn)
    left_out = len(everywhere) - len(shown) if plots else 0
    return Panel(anchor, group[0].kind[0], tuple(plots), shown, left_out, " ".join(notes))


def _rows(methods: Sequence[Method], comparison: Comparison, scores: Scores, metric: str) -> Array:
    return costs_of(comparison, scores, metric)[[scores.methods.index(method) for method in methods]]


def _overrides(method: Method, scores: Sequence[Scores]) -> bool:
    return any(one.overriding[one.methods.index(method)] for one in scores)


def _best(ratios: Array) -> list[int]:
    """Methods by the mean of their profile over the logarithm of the factor, the best first."""
    capped = np.log(np.minimum(ratios, FACTOR)).mean(axis=1)
    return [int(m) for m in np.argsort(capped, kind="stable")]


def _effort(comparison: Comparison, scores: Scores) -> Array:
    """Work from which on an instance stays a success to its end, (M, I, S); NaN where it never does."""
    found = np.full(scores.finished.shape, np.nan)
    for cell in comparison.cells:
        m, s = scores.methods.index(cell.method), comparison.seeds.index(cell.seed_or_none)
        if not {"success", "work"} <= cell.columns.keys():
            continue
        index = cell.final("instance").astype(int)
        for i, success, work in zip(index, cell.curves("success"), cell.curves("work"), strict=True):
            failures = np.flatnonzero(success.astype(float) != 1)
            start = failures[-1] + 1 if failures.size else 0
            if start < len(work):
                found[m, i, s] = float(work[start])
    return found


def _plot(anchor: str, title: str, metric: str, looks: Sequence[tuple[Style, Array]], shares: Array) -> Plot:
    def paint(axes: "Axes") -> None:
        everything = np.concatenate([ratios for _, ratios in looks])
        finite = everything[np.isfinite(everything) & (everything <= FACTOR)]
        right = max(float(finite.max(initial=1.0)) * 1.15, 2.0)
        fit_axis(axes.xaxis, np.array([1.0, right]), logarithmic=True)
        for style, ratios in looks:
            solved = ratios[ratios <= right]
            x = np.concatenate([[1.0], solved, [right]])
            y = np.concatenate([[0.0], shares[1 : len(solved) + 1], [shares[len(solved)]]])
            axes.plot(x, y, drawstyle="steps-post", clip_on=False, **look(style))
        axes.set_xlim(1.0, right)
        axes.set_ylim(0, 1.02)

    name = _COSTS.get(metric, label(metric))
    return draw(
        paint,
        name=f"{anchor}-{metric}",
        title=title,
        caption=f"{name}: within a factor τ of the best",
        x_label="τ",
        y_label="share of problems",
    )
