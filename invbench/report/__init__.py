"""The report: a pure function from a results folder to one self-contained HTML page."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from invbench.report import figures, pictures
from invbench.report.attachment import attach
from invbench.report.comparisons import compare
from invbench.report.palette import styles
from invbench.report.prose import environment_rows, skipped, summary
from invbench.report.scores import score
from invbench.report.statistics import DRAWS
from invbench.report.tables import counts, heading, issues, kind_tables
from invbench.report.terminal import terminal
from invbench.store import Results

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["render", "terminal"]

_HERE = Path(__file__).parent


def render(results: Results, command: str = "") -> str:
    """The page of a results folder: same results, same bytes.

    Args:
        results: as read by `store.load`.
        command: what reproduces them; the one that the environment names where this is empty.

    Returns:
        HTML without any external reference.
    """
    return _template().render(_context(results, command)) + "\n"


def _context(results: Results, command: str) -> dict[str, Any]:
    """Everything that the template lays out."""
    comparisons = compare(results)
    scores = {comparison: score(comparison) for comparison in comparisons}
    looks = styles(method for comparison in comparisons for method in comparison.methods)
    study = str(results.table["study"].iloc[0]) if comparisons else ""
    panels = figures.panels(comparisons, scores, looks)
    grids = pictures.grids(results, comparisons, scores)
    script = Markup((_HERE / "page.js").read_text(encoding="utf-8"))
    return {
        "study": study or "no results",
        "summary": summary(comparisons, results.environment),
        "command": command or _command(results.environment),
        "counts": counts(comparisons),
        "missing": results.missing,
        "issues": issues(comparisons),
        "kinds": kind_tables(scores),
        "comparisons": comparisons,
        "panels": panels,
        "grids": grids,
        "styles": looks,
        "environment": environment_rows(results.environment),
        "skipped": skipped(results.environment),
        "study_text": results.study,
        "download": attach(results, study) if comparisons else None,
        "heading": heading,
        "limits": {"draws": DRAWS, "figures": figures, "pictures": pictures},
        "style_sheet": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _command(environment: Mapping[str, Any]) -> str:
    command = environment.get("command") or ""
    return command if isinstance(command, str) else " ".join(map(str, command))


def _breakable(text: str) -> Markup:
    """A name that may be broken after an underscore, so that narrow columns hold it."""
    return escape(text).replace("_", "_" + Markup("<wbr>"))


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html.j2")
