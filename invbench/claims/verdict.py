"""What became of claims: our number, the other one, the verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from invbench.claims.statement import Claim, Condition, Quantity, Scalar

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["reproduced", "differs", "not run"]

#: Two rows show the same thing where these agree (as far as the two sides of a claim do not differ in them).
_SAME = ("trial", "network", "images", "layer", "seed", "instance_name")


@dataclass(frozen=True)
class Basis:
    """What the numbers of a verdict were reduced from.

    Attributes:
        ours: values of our side.
        against: values of the other side, () where there is none.
        matched: the two are of equal length, and the values at one place are the means of one instance on
            either side. Else they are the values of all rows, in the order of the table.
    """

    ours: tuple[float, ...] = ()
    against: tuple[float, ...] = ()
    matched: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        id: of the claim.
        source: who says so, and where.
        says: the sentence, or "".
        paper: the number that was printed.
        ours: our number.
        against: the number of ours that it is compared with.
        value: what is judged: ours, the ratio, the difference, the wins or the sure gain.
        agree: the condition in words.
        verdict: `reproduced`, `differs` or `not run`.
        note: what a reader should know: rows left out, why it was not run.
        basis: what the numbers were reduced from; for figures, no part of what is printed.
    """

    id: str
    source: str
    says: str
    paper: float | None
    ours: float | None
    against: float | None
    value: float | None
    agree: str
    verdict: Outcome
    note: str
    basis: Basis = field(default=Basis(), repr=False)


def evaluate(
    claims: Sequence[Claim], table: "pd.DataFrame", analyses: Sequence[Mapping[str, Any]] = ()
) -> tuple[Verdict, ...]:
    """Judge every claim by the final rows of a table.

    Args:
        claims: of the study.
        table: as in `Results.table`: one row per cell, instance and trace point.
        analyses: records `{"name": ..., "parameters": {...}, "rows": [{...}, ...]}`. The rows of all
            records of one name make a table; the parameters are further columns of it.

    Returns:
        A verdict for each claim, in order. A claim without data is `not run`, with the reason as its note.
    """
    final = table[table["final"]] if len(table) else table
    return tuple(_judge(claim, final, analyses) for claim in claims)


class _NotRun(Exception):
    """There is no number for a claim; says why."""


@dataclass(frozen=True)
class _Side:
    """One number, with what it was computed from."""

    value: float
    note: str
    each: Mapping[tuple[Any, ...], float]  # the mean of every instance that it rests on
    rows: tuple[float, ...]  # all values that it rests on


def _judge(claim: Claim, final: "pd.DataFrame", analyses: Sequence[Mapping[str, Any]]) -> Verdict:
    ours = against = value = None
    verdict: Outcome = "not run"
    notes: list[str] = []
    try:
        other = claim.ours.other(claim.against) if claim.against else None
        keys = _shared(claim.ours, other) if other else []
        ours = _side(claim.ours, final, analyses, keys)
        notes.append(ours.note)
        if other:
            against = _side(other, final, analyses, keys)
            notes += [against.note and f"against: {against.note}", *_lacking(ours, against)]
        value = _compared(claim, ours, against)
        verdict = "reproduced" if claim.agree.holds(value, claim.paper) else "differs"
    except _NotRun as reason:
        side = "against: " if ours is not None and claim.against and against is None else ""
        notes.append(f"{side}{reason}")
    return Verdict(
        id=claim.id,
        source=claim.source,
        says=claim.says,
        paper=claim.paper,
        ours=ours.value if ours else None,
        against=against.value if against else None,
        value=value,
        agree=claim.condition,
        verdict=verdict,
        note="; ".join(note for note in notes if note),
        basis=_basis(ours, against) if ours and value is not None else Basis(),
    )


def _basis(ours: _Side, against: _Side | None) -> Basis:
    """Both sides instance by instance where they share at least two, else row by row."""
    if against is None:
        return Basis(ours.rows)
    common = sorted(ours.each.keys() & against.each.keys())
    if len(common) < 2:
        return Basis(ours.rows, against.rows)
    return Basis(
        tuple(ours.each[key] for key in common), tuple(against.each[key] for key in common), matched=True
    )


def _compared(claim: Claim, ours: _Side, against: _Side | None) -> float:
    if against is not None and claim.compare in ("wins", "sure_gain"):
        gains = _gains(claim.ours.column, ours, against)
        return float((gains > 0).mean()) if claim.compare == "wins" else _sure(gains)
    other = against.value if against else claim.paper
    if claim.compare == "value" or other is None:
        return ours.value
    if claim.compare == "difference":
        return ours.value - other
    if other == 0:
        raise _NotRun("a ratio to 0 has no value")
    return ours.value / other


def _gains(column: str, ours: _Side, against: _Side) -> npt.NDArray[np.float64]:
    """How much better ours is, for every instance of both sides."""
    common = sorted(ours.each.keys() & against.each.keys())
    if len(common) < 2:
        raise _NotRun(f"the two sides have {len(common)} instances in common, and it takes 2")
    better = np.array([ours.each[key] - against.each[key] for key in common])
    return sign(column) * better


def _sure(gains: npt.NDArray[np.float64]) -> float:
    """The lower end of the 95 % interval of Student's t for the mean."""
    from scipy import stats

    spread = gains.std(ddof=1) / np.sqrt(len(gains))
    return float(gains.mean() - stats.t.ppf(0.975, len(gains) - 1) * spread)


def sign(column: str) -> int:
    """1 for a metric where higher is better, else -1."""
    from invbench import metrics

    metric = metrics.find().get(column)
    return 1 if metric is not None and metric.better == "higher" else -1


def _side(
    side: Quantity, final: "pd.DataFrame", analyses: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> _Side:
    """Filter, leave out what was not finished, reduce."""
    rows = _matching(final if side.analysis is None else _analysis(side.analysis, analyses), side.where)
    if side.column not in rows.columns:
        raise _NotRun(f"there is no column {side.column}")
    done = rows if "status" not in rows.columns else rows[rows["status"] == "done"]
    values = _numbers(done[side.column])
    used = done[np.isfinite(values)]
    notes = list(_left_out(rows, done, used, side.column))
    if not len(used):
        raise _NotRun(f"nothing to take the {side.reduce} of: {'; '.join(notes)}")
    if side.best is not None:
        used, name = _best(side, side.best, used)
        notes.append(f"the best is {name}")
    variants = used["variant"].unique() if "variant" in used.columns else ()
    if len(variants) > 1:
        notes.append(f"mixes the variants {', '.join(map(str, variants))}")
    return _Side(
        _reduced(side, used),
        "; ".join(notes),
        _each(side.column, used, keys),
        tuple(_numbers(used[side.column]).tolist()),
    )


def _each(column: str, rows: "pd.DataFrame", keys: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """The mean of every instance."""
    names = map(tuple, rows[[key for key in keys if key in rows.columns]].astype(str).to_numpy())
    values: dict[tuple[Any, ...], list[float]] = {}
    for name, value in zip(names, _numbers(rows[column]), strict=True):
        values.setdefault(name, []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _reduced(side: Quantity, rows: "pd.DataFrame") -> float:
    """One number from the column of some rows."""
    return float(getattr(np, side.reduce)(_numbers(rows[side.column])))


def _best(side: Quantity, column: str, rows: "pd.DataFrame") -> tuple["pd.DataFrame", str]:
    """Of the rows, grouped by a column, the group whose reduced value is best, and its name."""
    if column not in rows.columns:
        raise _NotRun(f"there is no column {column}")
    better = sign(side.column)
    groups = {str(name): part for name, part in rows.groupby(column, observed=True)}
    chosen = max(groups, key=lambda name: better * _reduced(side, groups[name]))
    return groups[chosen], chosen


def _analysis(name: str, analyses: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        {**record.get("parameters", {}), **row}
        for record in analyses
        if record["name"] == name
        for row in record["rows"]
    ]
    if not rows:
        reasons = {
            record["reason"]: None for record in analyses if record["name"] == name and record.get("reason")
        }
        raise _NotRun("; ".join((f"there are no rows of the analysis {name}", *reasons)))
    return pd.DataFrame(rows)


def _matching(rows: "pd.DataFrame", where: Mapping[str, Condition]) -> "pd.DataFrame":
    """Rows that meet all conditions; names the condition that leaves none."""
    if not len(rows):
        raise _NotRun("there are no rows")
    met: list[str] = []
    for name, wanted in where.items():
        if name not in rows.columns:
            raise _NotRun(f"there is no column {name}")
        choices = wanted if isinstance(wanted, list) else [wanted]
        text = f"{name} = {' or '.join(map(_text, choices))}"
        rows = rows[_meets(rows[name], choices)]
        if not len(rows):
            raise _NotRun(f"no row has {text}" + (f" where {', '.join(met)}" if met else ""))
        met.append(text)
    return rows


def _meets(column: "pd.Series[Any]", choices: Sequence[Scalar]) -> Any:
    """Where a column has one of some values: numbers in columns of numbers, else text; no value is ""."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        values, numbers = _numbers(column), _numbers(pd.Series(choices, dtype=object))
        hits = [np.isclose(values, number, rtol=1e-9, atol=0) for number in numbers]
        return np.any([np.isnan(values) & ("" in choices), *hits], axis=0)
    plain = column.astype(object)
    return plain.where(plain.notna(), "").map(_text).isin([_text(choice) for choice in choices]).to_numpy()


def _numbers(column: "pd.Series[Any]") -> Any:
    import pandas as pd

    return pd.to_numeric(column.astype(object), errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def _text(value: object) -> str:
    """A value as text; booleans as in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _left_out(rows: Any, done: Any, used: Any, column: str) -> Iterator[str]:
    """How many rows do not count, and why."""
    if len(done) < len(rows):
        statuses = rows.loc[rows["status"] != "done", "status"].value_counts()
        counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
        yield f"left out {counts} of {len(rows)} rows"
    if len(used) < len(done):
        yield f"{len(done) - len(used)} of {len(done)} finished rows have no {column}"


def _shared(ours: Quantity, other: Quantity) -> list[str]:
    """Columns by which the instances of both sides are matched."""
    if ours.analysis != other.analysis:
        return []
    return [name for name in _SAME if ours.where.get(name) == other.where.get(name)]


def _lacking(ours: _Side, against: _Side) -> list[str]:
    """Notes on instances that only one side rests on: a mean over fewer instances may be a better one."""
    return [
        f"{side} lacks {len(gone)} instances that the other side has"
        for side, gone in (
            ("ours", against.each.keys() - ours.each.keys()),
            ("against", ours.each.keys() - against.each.keys()),
        )
        if gone
    ]
