"""The report: a pure function from a results folder to one self-contained HTML page."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from invbench.report import analyses, depth, drawing, figures, glance, pareto, pictures, profiles, tuning
from invbench.report.attachment import attach
from invbench.report.comparisons import ORACLE, compare
from invbench.report.offline import offline_costs
from invbench.report.palette import styles
from invbench.report.priors import learned_priors
from invbench.report.prose import environment_rows, networks, skipped, stated, summary
from invbench.report.scores import score
from invbench.report.statistics import DRAWS
from invbench.report.tables import counts, heading, issues, kind_tables
from invbench.report.templates import template
from invbench.report.terminal import terminal
from invbench.report.verdicts import claims
from invbench.store import Results

__all__ = ["render", "terminal"]

_HERE = Path(__file__).parent


def render(results: Results, command: str = "", trends: Markup | None = None) -> str:
    """The page of a results folder: same results, same bytes.

    Args:
        results: as read by `store.load`.
        command: what reproduces them; the one that the environment names where this is empty.
        trends: a section on the speed of the code over commits, see `trends.section`.

    Returns:
        HTML without any external reference.
    """
    return template("page.html.j2", _FILTERS).render(_context(results, command, trends)) + "\n"


def _context(results: Results, command: str, trends: Markup | None) -> dict[str, Any]:
    """Everything that the template lays out."""
    comparisons = compare(results)
    scores = {comparison: score(comparison) for comparison in comparisons}
    looks = styles(method for comparison in comparisons for method in comparison.methods)
    study = str(results.table["study"].iloc[0]) if comparisons else stated(results.study, "study")
    variants = glance.variants(comparisons)
    script = Markup((_HERE / "page.js").read_text(encoding="utf-8"))
    context: dict[str, Any] = {
        "study": study or "no results",
        "summary": summary(comparisons, results.environment, len(results.analyses), results.missing),
        "description": " ".join(
            filter(None, (stated(results.study, "description"), networks(results.environment)))
        ),
        "command": command or _command(results.environment),
        "counts": counts(comparisons),
        "missing": results.missing,
        "issues": issues(comparisons),
        "kinds": kind_tables(scores),
        "comparisons": comparisons,
        "compares": bool(comparisons or not results.analyses),
        "glances": glance.glances(comparisons, scores),
        "claims": claims(results),
        "tunings": tuning.tunings(comparisons),
        "pareto": pareto.panels(comparisons, scores, looks),
        "profiles": profiles.panels(comparisons, scores, looks),
        "panels": figures.panels(comparisons, scores, looks),
        "depths": depth.panels(comparisons, scores, looks, results.environment),
        "offline": offline_costs(comparisons, scores),
        "analyses": analyses.measured(results),
        "statuses": [record.get("status", "done") for record in results.analyses],
        "grids": pictures.grids(results, comparisons, scores),
        "styles": looks,
        "series": {look.index: str(method) for method, look in looks.items()},
        "variants": variants,
        "has_variants": len(variants) > 1,
        "environment": environment_rows(results.environment),
        "priors": learned_priors(results.environment),
        "skipped": skipped(results.environment),
        "trends": trends,
        "study_text": results.study,
        "download": attach(results, study) if comparisons else None,
        "heading": heading,
        "limits": {
            "draws": DRAWS,
            "drawing": drawing,
            "glance": glance,
            "pictures": pictures,
            "profiles": profiles,
            "tuning": tuning,
        },
        "style_sheet": Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return context | {"sections": _sections(context)}


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Anchor and title of every section, and whether this page has it."""
    return [
        ("ranking", "Ranking", context["compares"]),
        ("outcome", "Not finished", context["compares"]),
        ("claims", "Claims", bool(context["claims"])),
        ("tuning", "Tuning", bool(context["tunings"])),
        ("speed", "Speed", bool(context["pareto"])),
        ("profiles", "Profiles", bool(context["profiles"])),
        ("convergence", "Convergence", bool(context["panels"])),
        ("depth", "Depth", bool(context["depths"])),
        ("offline", "Offline work", bool(context["offline"])),
        ("analyses", "Analyses", bool(context["analyses"])),
        ("images", "Images", bool(context["grids"])),
        ("trends", "Speed over commits", bool(context["trends"])),
        ("environment", "Environment", True),
        ("definitions", "Definitions", True),
        ("data", "Data", bool(context["download"])),
    ]


def _command(environment: Mapping[str, Any]) -> str:
    command = environment.get("command") or ""
    return command if isinstance(command, str) else " ".join(map(str, command))


def _breakable(text: str) -> Markup:
    """A name that may be broken after an underscore, so that narrow columns hold it."""
    return escape(text).replace("_", "_" + Markup("<wbr>"))


def _flagged(title: str) -> Markup:
    """A title whose last part, where it says oracle, stands out."""
    text, separator, last = title.rpartition(" · ")
    if not separator or last != ORACLE:
        return escape(title)
    return escape(text) + Markup(' <span class="flag">') + last + Markup("</span>")


_FILTERS = (("breakable", _breakable), ("flagged", _flagged))
