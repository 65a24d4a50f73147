"""What changed from one results folder to another: a self-contained page, and a summary in the terminal."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from invbench.report.changes import Change, changes
from invbench.report.comparisons import Method
from invbench.report.pairs import Place, StatusChange, pair, status_changes
from invbench.report.prose import environment_rows
from invbench.report.quantities import bound, higher_is_better, label, number
from invbench.report.statistics import DRAWS
from invbench.report.templates import template
from invbench.store import Results

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_HERE = Path(__file__).parent
#: So many changes of a kind are printed in the terminal; the page has them all.
PRINTED = 12


@dataclass(frozen=True)
class Lone:
    """Cells of one folder that the other lacks."""

    title: str
    method: Method
    cells: int


@dataclass(frozen=True)
class Difference:
    """A fact about the two runs that is not the same."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Versus:
    """Everything that differs between two folders.

    Attributes:
        before: name of the first folder.
        after: name of the second.
        cells: number of cells in the first, in the second, in both.
        only_before: cells that the second lacks.
        only_after: cells that the first lacks.
        environment: facts and versions that differ.
        study: lines of a unified diff of the study files, empty where they are equal.
        statuses: cells that ended otherwise; worse ones first.
        changes: every paired figure; where something changed most comes first.
    """

    before: str
    after: str
    cells: tuple[int, int, int]
    only_before: tuple[Lone, ...]
    only_after: tuple[Lone, ...]
    environment: tuple[Difference, ...]
    study: tuple[str, ...]
    statuses: tuple[StatusChange, ...]
    changes: tuple[Change, ...]

    def found(self, verdict: str) -> list[Change]:
        """Changes with this verdict."""
        return [change for change in self.changes if change.verdict == verdict]

    @property
    def nothing(self) -> bool:
        """Whether the folders hold the same."""
        lists = (self.only_before, self.only_after, self.environment, self.study, self.statuses)
        return not any(lists) and all(change.verdict == "same" for change in self.changes)

    @property
    def summary(self) -> str:
        """What was compared, and what came out, in two or three sentences."""
        first, second, both = self.cells
        what = f"{self.before} holds {_count(first, 'cell')}, {self.after} {second}; {both} are in both."
        if self.nothing:
            return f"{what} Nothing differs: same environment, same statuses, same figures."
        counts = {verdict: len(self.found(verdict)) for verdict in ("worse", "better", "unclear", "same")}
        outcome = (
            f"Of {_count(len(self.changes), 'figure')}, {counts['worse']} got worse,"
            f" {counts['better']} got better, {counts['unclear']} differ without a clear direction,"
            f" {counts['same']} are the same."
        )
        status = f" {_count(len(self.statuses), 'cell')} ended otherwise." if self.statuses else ""
        return f"{what} {outcome}{status}"


def versus(before: Results, after: Results) -> Versus:
    """Compare two results folders, plain or packed."""
    pairing = pair(before, after)
    names = _names(before.folder, after.folder)
    both = len(pairing.pairs)
    return Versus(
        before=names[0],
        after=names[1],
        cells=(both + len(pairing.only_before), both + len(pairing.only_after), both),
        only_before=_lone(pairing.only_before),
        only_after=_lone(pairing.only_after),
        environment=_environment(before, after),
        study=tuple(
            difflib.unified_diff(
                before.study.splitlines(), after.study.splitlines(), *names, n=2, lineterm=""
            )
        ),
        statuses=status_changes(pairing.pairs),
        changes=changes(pairing),
    )


def render_versus(found: Versus) -> str:
    """The page: same results, same bytes; HTML without any external reference and without script."""
    sheet = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    return template("versus.html.j2").render(found=found, style_sheet=sheet, text=Texts, draws=DRAWS) + "\n"


def print_versus(found: Versus) -> "Group":
    """The summary, cells that ended otherwise, and the largest changes."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(_printable(found.summary))]
    for title, lone in ((found.before, found.only_before), (found.after, found.only_after)):
        if lone:
            names = [f"  {one.title}: {one.method}" for one in lone[:PRINTED]]
            rest = [f"  and {len(lone) - PRINTED} more"] if len(lone) > PRINTED else []
            parts.append(Text(_printable_lines([f"Only in {title}:", *names, *rest])))
    if found.environment:
        lines = [f"  {one.name}: {one.before or 'none'} → {one.after or 'none'}" for one in found.environment]
        parts.append(Text(_printable_lines(["Environment:", *lines[:PRINTED]])))
    for change in found.statuses[:PRINTED]:
        line = f"{change.title}: {change.method}: {change.before} → {change.after} {change.reason}".rstrip()
        parts.append(Text(_printable(line), style="red" if change.worse else "green"))
    for verdict, style in (("worse", "red"), ("better", "green")):
        listed = found.found(verdict)
        if listed:
            parts.append(_table(listed, verdict, style))
    return Group(*parts)


def csv_of(found: Versus) -> str:
    """All changes as CSV, one line a figure."""
    import pandas as pd

    names = [item.name for item in fields(Change) if item.name != "method"]
    rows = [
        {"solver": one.method.solver, "parameters": one.method.parameters, "variant": one.method.variant}
        | {name: getattr(one, name) for name in names}
        for one in found.changes
    ]
    text: str = pd.DataFrame(rows, columns=["solver", "parameters", "variant", *names]).to_csv(
        index=False, float_format="%.9g", lineterminator="\n"
    )
    return text


class Texts:
    """How changes are written, in the page and in the terminal."""

    @staticmethod
    def column(change: Change) -> str:
        """Name of the metric, with an arrow for which way is better."""
        return f"{label(change.column)} {'↑' if higher_is_better(change.column) else '↓'}"

    @staticmethod
    def effect(change: Change) -> str:
        """A signed difference, or a ratio such as `× 1.25`."""
        if change.is_ratio:
            return f"× {number(change.effect)}"
        sign = "+" if change.effect > 0 else ""
        return sign + number(change.effect, change.column)

    @staticmethod
    def interval(change: Change) -> str:
        """Bounds of the effect, "" where there are none."""
        if np.isnan(change.low):
            return ""
        return f"{bound(change.low)} … {bound(change.high)}"

    @staticmethod
    def relative(change: Change) -> str:
        """The change in percent of what was there before, "" where there was nothing."""
        if change.is_ratio:
            share = change.effect - 1
        elif change.before:
            share = change.effect / abs(change.before)
        else:
            return ""
        return f"{share:+.1%}".replace("-", "−").replace("%", " %")

    @staticmethod
    def mean(value: float, change: Change) -> str:
        """A mean as tables write it."""
        return number(value, change.column)

    @staticmethod
    def probability(value: float) -> str:
        """A p-value, a dash where there is none."""
        return "< 0.001" if value < 0.001 else number(value, digits=2)


def _table(listed: Sequence[Change], verdict: str, style: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False, title_justify="left")
    more = f", the {PRINTED} largest" if len(listed) > PRINTED else ""
    table.title = Text(f"{len(listed)} {verdict}{more}", style=f"bold {style}")
    table.add_column("trial, method", overflow="fold")
    for heading in ("metric", "before", "after", "change", "95 %", "p (Holm)"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    largest = sorted(listed, key=lambda change: -change.size)[:PRINTED]
    for one in largest:
        row = [
            f"{one.title}: {one.method}",
            Texts.column(one),
            Texts.mean(one.before, one),
            Texts.mean(one.after, one),
            Texts.effect(one),
            Texts.interval(one),
            Texts.probability(one.p_holm),
        ]
        table.add_row(*(Text(_printable(text)) for text in row))
    return table


def _lone(places: Sequence[Place]) -> tuple[Lone, ...]:
    counted: dict[tuple[str, Method], int] = {}
    for place in places:
        key = (place.title, place.cell.method)
        counted[key] = counted.get(key, 0) + 1
    return tuple(Lone(*key, count) for key, count in counted.items())


def _environment(before: Results, after: Results) -> tuple[Difference, ...]:
    first, second = _facts(before), _facts(after)
    names = dict.fromkeys((*first, *second))
    return tuple(
        Difference(name, first.get(name, ""), second.get(name, ""))
        for name in names
        if first.get(name, "") != second.get(name, "")
    )


def _facts(results: Results) -> Mapping[str, str]:
    """The environment, and what the cells say about how they were run."""
    facts = dict(environment_rows(results.environment))
    for column in ("version", "threads", "device", "images", "network", "budget"):
        values = results.table[column].dropna().unique()
        texts = {f"{value:g}" if isinstance(value, float) else str(value) for value in values}
        facts[f"{column} of the cells"] = ", ".join(sorted(texts))
    if results.missing:
        facts["cells not run yet"] = str(results.missing)
    return facts


def _names(before: Path, after: Path) -> tuple[str, str]:
    """Short names of the folders; their paths where the names are equal."""
    if before.name and after.name and before.name != after.name:
        return before.name, after.name
    return str(before), str(after)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _printable_lines(lines: Sequence[str]) -> str:
    return "\n".join(map(_printable, lines))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


__all__ = ["Versus", "csv_of", "print_versus", "render_versus", "versus"]
