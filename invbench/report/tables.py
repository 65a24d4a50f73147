"""Rankings, the overview of a kind of trial, and what did not finish: text that the template lays out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from invbench.report.comparisons import Cell, Comparison, Method, kinds
from invbench.report.glance import variants
from invbench.report.quantities import MISSING, bound, higher_is_better, is_cost, label, number, ordered
from invbench.report.scores import Scores, pool

STATUSES = ("done", "refused", "diverged", "timeout", "failed")
_NAMED = 6  # so many instances are named before "and n more"


@dataclass(frozen=True)
class Heading:
    """Head of a column: its name and which way is better ("" where neither is)."""

    text: str
    arrow: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Entry:
    """One figure of a table.

    Attributes:
        text: the mean, or a dash.
        interval: its bounds, or "".
        value: what sorting goes by, "" for nothing.
        best: marked as the best of its column.
        note: footnote mark, or "".
        rank: shown beside the figure, or "".
    """

    text: str
    interval: str = ""
    value: str = ""
    best: bool = False
    note: str = ""
    rank: str = ""


@dataclass(frozen=True)
class Row:
    """One method of a ranking."""

    rank: str
    method: Method
    entries: tuple[Entry, ...]
    finished: str
    complete: bool
    overriding: bool


@dataclass(frozen=True)
class Absent:
    """A method without results in a comparison, and why."""

    method: Method
    status: str
    reason: str


@dataclass(frozen=True)
class Ranking:
    """A table with one row per method, the best first."""

    anchor: str
    title: str
    conditions: tuple[tuple[str, str], ...]
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    absent: tuple[Absent, ...]
    footnote: bool


@dataclass(frozen=True)
class Overview:
    """Methods against the comparisons of a kind: the metric that ranks, with ranks.

    Attributes:
        headings: one for each comparison.
        variants: columns that each comparison has, side by side; ("",) where there are no variants.
        rows: entries of the first comparison in all its variants, then of the second, ...
    """

    anchor: str
    title: str
    ranked_by: Heading
    headings: tuple[str, ...]
    variants: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Kind:
    """The tables of one kind of trial; means over trials only where there are several."""

    trial: str
    images: str
    ranked_by: str
    overview: Overview | None
    pooled: Ranking | None
    rankings: tuple[Ranking, ...]


@dataclass(frozen=True)
class Issue:
    """Cells that ended otherwise than done, for the same reason."""

    status: str
    method: Method
    where: tuple[str, ...]
    cells: int
    reason: str
    instances: str
    traceback: str


def heading(column: str) -> Heading:
    """Head of the column of a metric or a cost."""
    higher = higher_is_better(column)
    hint = "larger is better" if higher else "smaller is better"
    return Heading(label(column), "↑" if higher else "↓", hint)


def kind_tables(scores: Mapping[Comparison, Scores]) -> tuple[Kind, ...]:
    """All rankings of a study, by kind of trial."""
    return tuple(
        _kind(f"k{number}", group, [scores[comparison] for comparison in group])
        for number, group in enumerate(kinds(scores).values(), start=1)
    )


def _kind(anchor: str, group: Sequence[Comparison], scores: Sequence[Scores]) -> Kind:
    trial, images, ranked_by = group[0].kind
    alone = tuple(ranking(comparison, one) for comparison, one in zip(group, scores, strict=True))
    if len(group) == 1:
        tuned = any(method.tuned for method in group[0].methods)
        only = overview(f"overview-{anchor}", group, scores) if tuned else None
        return Kind(trial, images, ranked_by, only, None, alone)
    pooled = pooled_ranking(f"rank-{anchor}", f"{trial}: all {len(group)} trials", pool(scores))
    return Kind(trial, images, ranked_by, overview(f"overview-{anchor}", group, scores), pooled, alone)


def ranking(comparison: Comparison, scores: Scores) -> Ranking:
    """The ranking of one comparison; methods without results stand below it with their reason."""
    absent = tuple(
        Absent(method, cells[0].status, cells[0].reason)
        for m, (method, cells) in enumerate(comparison.by_method().items())
        if m not in scores.order
    )
    return _ranking(f"rank-{comparison.anchor}", comparison.title, scores, _conditions(comparison), absent)


def pooled_ranking(anchor: str, title: str, scores: Scores) -> Ranking:
    """The ranking over all comparisons of a kind."""
    absent = tuple(
        Absent(method, "incomplete", "has no results in at least one of the trials")
        for m, method in enumerate(scores.methods)
        if m not in scores.order
    )
    return _ranking(anchor, title, scores, (), absent)


def overview(anchor: str, comparisons: Sequence[Comparison], scores: Sequence[Scores]) -> Overview:
    """All methods in all comparisons of a kind, ordered by the mean rank of their better variant.

    Variants of a method stand side by side. Where a method has no rank it counts as one below the last.
    """
    names = variants(comparisons)
    plain = [replace(method, variant="") for one in scores for method in one.methods]
    methods = list(dict.fromkeys(plain))
    per_method = {method: [_places(one, method, names) for one in scores] for method in methods}
    mean = {
        method: float(np.mean([min(place for place, _ in places) for places in trials]))
        for method, trials in per_method.items()
    }
    rows = tuple(
        Row(
            rank=f"{mean[method]:.1f}",
            method=_shown(method, scores),
            entries=tuple(entry for places in per_method[method] for _, entry in places),
            finished="",
            complete=True,
            overriding=False,
        )
        for method in sorted(methods, key=lambda method: mean[method])
    )
    kind, ranked_by = comparisons[0].kind[0], heading(comparisons[0].ranked_by)
    return Overview(anchor, kind, ranked_by, short_titles(comparisons), names, rows)


def short_titles(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Titles without the name of the trial, which all comparisons of a kind share."""
    kind = comparisons[0].conditions["trial"]
    return tuple(one.title.removeprefix(f"{kind} · ") for one in comparisons)


def issues(comparisons: Sequence[Comparison]) -> tuple[Issue, ...]:
    """What did not end as done, gathered by method and reason; faults first, refusals last."""
    groups: dict[tuple[str, Method, str, str], list[tuple[Comparison, Cell]]] = {}
    for comparison in comparisons:
        for cell in comparison.cells:
            if cell.status != "done":
                key = (cell.status, cell.method, _reason(cell), str(cell.record.get("traceback") or ""))
                groups.setdefault(key, []).append((comparison, cell))
    found = [
        Issue(
            status=status,
            method=method,
            where=tuple(dict.fromkeys(comparison.title for comparison, _ in group)),
            cells=len(group),
            reason=reason,
            instances=_instances([cell for _, cell in group]),
            traceback=traceback,
        )
        for (status, method, reason, traceback), group in groups.items()
    ]
    severity = {status: place for place, status in enumerate(("failed", "timeout", "diverged", "refused"))}
    return tuple(sorted(found, key=lambda issue: severity.get(issue.status, -1)))


def counts(comparisons: Sequence[Comparison]) -> Mapping[str, int]:
    """Number of cells by status; every status is there."""
    found = dict.fromkeys(STATUSES, 0)
    for comparison in comparisons:
        for cell in comparison.cells:
            found[cell.status] = found.get(cell.status, 0) + 1
    return found


def _ranking(
    anchor: str,
    title: str,
    scores: Scores,
    conditions: tuple[tuple[str, str], ...],
    absent: tuple[Absent, ...],
) -> Ranking:
    columns = ordered(scores.ranked_by, [name for name in scores.columns if _used(scores, name)])
    best = {name: scores.best(name) for name in columns}
    rows = tuple(
        Row(
            rank=str(scores.ranks[m] or MISSING),
            method=scores.methods[m],
            entries=tuple(_entry(scores, m, name, m in best[name]) for name in columns),
            finished=f"{scores.expected - int(scores.missing[m])}/{scores.expected}",
            complete=not scores.missing[m],
            overriding=scores.overriding[m],
        )
        for m in scores.order
    )
    footnote = "objective" in columns and any(row.overriding for row in rows)
    return Ranking(anchor, title, conditions, tuple(map(heading, columns)), rows, absent, footnote)


def _used(scores: Scores, column: str) -> bool:
    means = scores.interval.mean[:, scores.columns.index(column)]
    return not np.isnan(means).all()


def _entry(scores: Scores, m: int, column: str, best: bool) -> Entry:
    mean, low, high = (float(part[m, scores.columns.index(column)]) for part in scores.interval)
    note = "†" if column == "objective" and scores.overriding[m] else ""
    if np.isnan(mean):
        return Entry(MISSING, note=note)
    bounds = "" if np.isnan(low) or is_cost(column) else f"{bound(low, column)} – {bound(high, column)}"
    return Entry(number(mean, column), bounds, repr(mean), best, note)


def _places(scores: Scores, method: Method, names: Sequence[str]) -> list[tuple[int, Entry]]:
    """Rank and figure of each variant of a method; where there are none, of the method."""
    found = {one.variant or "default": one for one in scores.methods if replace(one, variant="") == method}
    if names == ("",):
        return [_place(scores, next(iter(found.values()), method))]
    return [_place(scores, found.get(name, replace(method, variant=name))) for name in names]


def _shown(method: Method, scores: Sequence[Scores]) -> Method:
    """Of the variants of a method the one that was first in the study."""
    return next(one for s in scores for one in s.methods if replace(one, variant="") == method)


def _place(scores: Scores, method: Method) -> tuple[int, Entry]:
    """Rank of a method in one comparison, and the figure that gives it."""
    last = 1 + sum(rank is not None for rank in scores.ranks)
    if method not in scores.methods:
        return last, Entry(MISSING)
    m = scores.methods.index(method)
    rank = scores.ranks[m]
    if rank is None:
        return last, Entry(MISSING)
    mean = float(scores.interval.mean[m, scores.columns.index(scores.ranked_by)])
    return rank, Entry(
        number(mean, scores.ranked_by),
        value=repr(mean),
        best=m in scores.best(scores.ranked_by),
        rank=str(rank),
    )


def _conditions(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    shown = ["network", "images", "start", "priors", "budget", "device", "threads", "oracle"]
    return tuple((name, comparison.conditions[name]) for name in shown if comparison.conditions[name])


def _reason(cell: Cell) -> str:
    """The sentence of a cell; where it has none, that of its first instance that has one."""
    sentences = [str(reason) for reason in cell.columns["reason"] if isinstance(reason, str) and reason]
    return cell.reason or next(iter(sentences), "")


def _instances(cells: Sequence[Cell]) -> str:
    """Which instances were hit; "" where it was all of a cell or none was reached."""
    names: dict[str, None] = {}
    for cell in cells:
        status = cell.final("status")
        if not (status == "done").any():
            continue
        names.update((str(name), None) for name in cell.final("instance_name")[status != "done"])
    listed = list(names)
    rest = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + rest
