"""What tuning tried, chose, gained and cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invbench.report.comparisons import Cell, Comparison, Method
from invbench.report.quantities import MISSING, label, number

#: More rows than this are folded.
OPEN = 40


@dataclass(frozen=True)
class Tuning:
    """The tuning of one method in one trial.

    Attributes:
        title: of the trial.
        method: in its tuned variant.
        seeds: that share this tuning, "" where there is no choice.
        criterion: what was compared, with an arrow.
        images: how many tuning images, or "".
        tried: number of candidates.
        lost: how many of them diverged or failed, by status.
        chosen: parameters of the chosen setting.
        unchanged: the default was the best.
        before: value of the default setting.
        after: value of the chosen one.
        gain: after over before, in percent, "" where that means nothing.
        seconds: of the search.
        sort: what sorting goes by: (tried, before, after, seconds).
    """

    title: str
    method: Method
    seeds: str
    criterion: str
    images: str
    tried: int
    lost: str
    chosen: str
    unchanged: bool
    before: str
    after: str
    gain: str
    seconds: str
    sort: tuple[str, str, str, str]


def tunings(comparisons: Sequence[Comparison]) -> tuple[Tuning, ...]:
    """One row for each tuned method of a trial; cells of several seeds that share a tuning share a row."""
    found = []
    for comparison in comparisons:
        for method, cells in comparison.by_method().items():
            groups: dict[str, list[Cell]] = {}
            for cell in cells:
                if cell.record.get("tuning"):
                    groups.setdefault(json.dumps(cell.record["tuning"], sort_keys=True), []).append(cell)
            several = len(comparison.seeds) > 1
            found += [_row(comparison, method, group, several) for group in groups.values()]
    return tuple(found)


def setting(parameters: Mapping[str, Any]) -> str:
    """Parameters as text.

    Example:
        >>> setting({"lr": 0.0300000001, "memory": 10})
        'lr=0.03, memory=10'
    """
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in parameters.items()
    )


def _row(comparison: Comparison, method: Method, cells: Sequence[Cell], several: bool) -> Tuning:
    tuning = cells[0].record["tuning"]
    candidates, chosen = tuning.get("candidates") or [], tuning.get("chosen")
    default = candidates[0] if candidates else {}
    best = candidates[chosen] if chosen is not None and 0 <= chosen < len(candidates) else {}
    criterion = str(tuning.get("criterion") or "")
    before, after = default.get("value"), best.get("value")
    return Tuning(
        title=comparison.title,
        method=method,
        seeds=", ".join(f"{cell.seed:g}" for cell in cells) if several else "",
        criterion=f"{label(criterion)} {'↑' if tuning.get('better') == 'higher' else '↓'}",
        images=str(tuning.get("images") or ""),
        tried=len(candidates),
        lost=_lost(candidates),
        chosen=setting(best.get("parameters") or {}) or MISSING,
        unchanged=chosen == 0,
        before=_value(default, criterion),
        after=_value(best, criterion),
        gain=_gain(before, after),
        seconds=MISSING if tuning.get("seconds") is None else number(float(tuning["seconds"]), "seconds"),
        sort=(str(len(candidates)), _key(before), _key(after), _key(tuning.get("seconds"))),
    )


def _lost(candidates: Sequence[Mapping[str, Any]]) -> str:
    statuses = [str(one.get("status") or "done") for one in candidates]
    return ", ".join(
        f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses) if status != "done"
    )


def _value(candidate: Mapping[str, Any], criterion: str) -> str:
    """The value of a candidate, else what became of it."""
    value = candidate.get("value")
    return str(candidate.get("status") or MISSING) if value is None else number(float(value), criterion)


def _gain(before: float | None, after: float | None) -> str:
    """Change against the default in percent; "" where a ratio means nothing."""
    if before is None or after is None or before <= 0 or before == after:
        return ""
    change = 100 * (after / before - 1)
    return f"{change:+.0f} %".replace("-", "−") if abs(change) >= 0.5 else ""


def _key(value: float | None) -> str:
    return "" if value is None else repr(float(value))
