"""The compact result table that a run prints."""

from typing import TYPE_CHECKING

from invbench.report.comparisons import Comparison, compare
from invbench.report.quantities import MISSING, label, number
from invbench.report.scores import Scores, score
from invbench.store import Results

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_STYLES = {"done": "green", "refused": "dim", "diverged": "yellow", "timeout": "red", "failed": "bold red"}


def terminal(results: Results) -> "Table":
    """Below each trial one row per method, the best first: the metric that ranks, MSE, SSIM, seconds, status.

    Figures are means over images and seeds. The best of a trial is bold and marked by a star; a star
    stands only where every instance was finished.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    table.add_column("trial, method", no_wrap=True, overflow="ellipsis")
    for heading in ("ranked by", "MSE", "SSIM", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    for comparison in compare(results):
        scores = score(comparison)
        order = scores.order + [m for m in range(len(scores.methods)) if m not in scores.order]
        best = scores.best(scores.ranked_by) if scores.ranked_by in scores.columns else set()
        table.add_row(_text(comparison.title, "bold"), _text(label(scores.ranked_by), "dim"))
        for m in order:
            table.add_row(*_row(comparison, scores, m, m in best))
    return table


def _row(comparison: Comparison, scores: Scores, m: int, best: bool) -> list["Text"]:
    status, reason = _status(comparison, m)
    value = _mean(scores, m, scores.ranked_by)
    return [
        _text(f"  {scores.methods[m]}", "bold" if best else ""),
        _text(f"★ {value}" if best else value, "bold" if best else ""),
        *(_text(_mean(scores, m, name)) for name in ("mse", "ssim", "seconds")),
        _text(f"{status}: {reason}" if reason else status, _STYLES.get(status, "")),
    ]


def _mean(scores: Scores, m: int, column: str) -> str:
    if column not in scores.columns:
        return MISSING
    return number(float(scores.interval.mean[m, scores.columns.index(column)]), column)


def _status(comparison: Comparison, m: int) -> tuple[str, str]:
    """The worst status of a method's cells, and its sentence."""
    cells = list(comparison.by_method().values())[m]
    severity = list(_STYLES)
    worst = max(cells, key=lambda cell: severity.index(cell.status) if cell.status in severity else 0)
    return worst.status, worst.reason


def _text(content: str, style: str = "") -> "Text":
    """Text that is not read as markup and holds no control characters."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else " " for c in content), style=style)
