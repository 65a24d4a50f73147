"""Claims of a study, and what became of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from invbench.errors import UserError
from invbench.report.drawing import Plot
from invbench.report.quantities import MISSING, number
from invbench.store import Results

if TYPE_CHECKING:
    from invbench.claims import Verdict

#: A mark for each verdict, so that none is told by colour alone.
_MARKS = {"reproduced": "✓", "differs": "✗", "not run": "○"}


@dataclass(frozen=True)
class Judged:
    """One claim as the page shows it; see `invbench.claims.Verdict`."""

    id: str
    source: str
    says: str
    paper: str
    ours: str
    against: str
    value: str
    agree: str
    verdict: str
    mark: str
    note: str
    plot: Plot | None


@dataclass(frozen=True)
class Claims:
    """All claims of a study, how many came to which verdict, and why they could not be read, if so."""

    rows: tuple[Judged, ...] = ()
    counts: Mapping[str, int] | None = None
    problem: str = ""


def claims(results: Results) -> Claims | None:
    """Judge the claims of a study from its table; None where it makes none."""
    if "claims" not in results.study:
        return None
    from invbench.claims import evaluate, of_study
    from invbench.report.claim_figures import figure

    try:
        found = of_study(results.study)
    except UserError as error:
        return Claims(problem=str(error))
    if not found:
        return None
    verdicts = evaluate(found, results.table, getattr(results, "analyses", ()))
    counts = {name: sum(one.verdict == name for one in verdicts) for name in _MARKS}
    plots = [
        figure(claim, verdict, f"claim-{index}")
        for index, (claim, verdict) in enumerate(zip(found, verdicts, strict=True), start=1)
    ]
    return Claims(tuple(map(_judged, verdicts, plots)), counts)


def _judged(verdict: "Verdict", plot: Plot | None) -> Judged:
    return Judged(
        id=verdict.id,
        source=verdict.source,
        says=verdict.says,
        paper=_figure(verdict.paper),
        ours=_figure(verdict.ours),
        against=_figure(verdict.against),
        value=_figure(verdict.value),
        agree=verdict.agree,
        verdict=verdict.verdict,
        mark=_MARKS.get(verdict.verdict, "○"),
        note=verdict.note,
        plot=plot,
    )


def _figure(value: float | None) -> str:
    return MISSING if value is None else number(value)
