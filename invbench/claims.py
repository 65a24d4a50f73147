"""Claims: what a paper (or we ourselves) said, what the results say, and the verdict.

A claim compares one number of the results with a bound, with another number of the results, or with the
number that a paper printed. It is stated in the study, so that a claim that fails stays visible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, PlainValidator, TypeAdapter, ValidationError, model_validator

from invbench.documents import parse

if TYPE_CHECKING:
    import pandas as pd

Reduce = Literal["mean", "median", "min", "max"]
Comparison = Literal["ratio", "difference", "value"]
Outcome = Literal["reproduced", "differs", "not run"]
Scalar = str | bool | int | float
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]

#: Two rows show the same thing where these agree (as far as the two sides of a claim do not differ in them).
_SAME = ("trial", "network", "images", "layer", "seed", "instance_name")


def _condition(value: Any) -> Any:
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, Scalar):
            raise ValueError("must be text, a number, true or false, or a list of these")
    return value


Condition = Annotated[Scalar | list[Scalar], PlainValidator(_condition)]


class _Strict(BaseModel):
    model_config = {"extra": "forbid", "frozen": True}


class Selection(_Strict):
    """The other side of a claim; what it does not say is as on our side.

    Attributes:
        where: conditions on columns, merged into those of our side. A list means any of its values.
        column: whose values are reduced.
        reduce: how many values become one.
        analysis: name of the analysis whose rows are meant instead of the table.
    """

    where: dict[str, Condition] = Field(default_factory=dict)
    column: Name | None = None
    reduce: Reduce | None = None
    analysis: Name | None = None


class Quantity(Selection):
    """Our side of a claim: `reduce` over `column` of the final rows that meet the conditions."""

    column: Name
    reduce: Reduce = "mean"

    def other(self, against: Selection) -> "Quantity":
        """The other side, with what it inherits."""
        stated = against.model_dump(exclude_none=True)
        return Quantity.model_validate(
            {**self.model_dump(), **stated, "where": {**self.where, **against.where}}
        )


class Agree(_Strict):
    """When a claim holds: all the conditions that are given.

    Attributes:
        at_most: an upper bound.
        at_least: a lower bound.
        within: a tolerance around the paper's number.
        relative: the tolerance is a fraction of the paper's number.
    """

    at_most: Finite | None = None
    at_least: Finite | None = None
    within: Annotated[Finite, Field(ge=0)] | None = None
    relative: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> "Agree":
        if self.at_most is None and self.at_least is None and self.within is None:
            raise ValueError("needs at least one of at_most, at_least, within")
        if self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least:g}) is above at_most ({self.at_most:g})")
        if self.relative and self.within is None:
            raise ValueError("relative belongs to within, which is not given")
        return self

    def holds(self, value: float, paper: float | None) -> bool:
        """Whether a value agrees."""
        close = True
        if self.within is not None and paper is not None:
            close = abs(value - paper) <= self.within * (abs(paper) if self.relative else 1)
        return (
            close
            and (self.at_most is None or value <= self.at_most)
            and (self.at_least is None or value >= self.at_least)
        )

    def words(self, paper: float | None) -> str:
        """The conditions in words, such as `at most 1`."""
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        parts = [f"{name} {bound:g}" for name, bound in bounds if bound is not None]
        if self.within is not None and paper is not None:
            tolerance = f"{100 * self.within:g} %" if self.relative else f"{self.within:g}"
            parts.append(f"within {tolerance} of {paper:g}")
        return " and ".join(parts)


class Claim(_Strict):
    """One claim.

    Attributes:
        id: unique in the study.
        source: who says so, and where.
        says: the sentence.
        paper: the number that was printed.
        ours: our number.
        against: the number of ours that it is compared with.
        compare: what is judged (`as` in a study): our `value`, its `ratio` to the other side or its
            `difference` from it. Without `against` the other side is the paper's number.
        agree: when the claim holds.
    """

    id: Name
    source: Name
    says: str = ""
    paper: Finite | None = None
    ours: Quantity
    against: Selection | None = None
    compare: Comparison = Field("value", alias="as")
    agree: Agree

    @model_validator(mode="after")
    def _makes_sense(self) -> "Claim":
        if self.compare == "value" and self.against is not None:
            raise ValueError("against needs 'as: ratio' or 'as: difference'")
        if self.compare != "value" and self.against is None and self.paper is None:
            raise ValueError(f"as: {self.compare} needs 'against', or the paper's number in 'paper'")
        if self.agree.within is not None and self.paper is None:
            raise ValueError("agree: within needs the paper's number in 'paper'")
        if self.compare != "value" and self.against is None and self.agree.within is not None:
            raise ValueError(f"as: {self.compare} and within both compare with the paper: keep one")
        return self

    @property
    def condition(self) -> str:
        """When the claim holds, in words, such as `ratio at most 1`."""
        words = self.agree.words(self.paper)
        return words if self.compare == "value" else f"{self.compare} {words}"


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
        value: what is judged: ours, the ratio or the difference.
        agree: the condition in words.
        verdict: `reproduced`, `differs` or `not run`.
        note: what a reader should know: rows left out, why it was not run.
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


def check_claims(claims: list[Claim]) -> list[Claim]:
    """The claims themselves; a validator for the study.

    Raises:
        ValueError: two claims have the same id.
    """
    ids = [claim.id for claim in claims]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"the id '{twice}' is given twice")
    return claims


def of_study(text: str) -> tuple[Claim, ...]:
    """The claims of a study's text.

    Raises:
        UserError: the text is no YAML, or a claim is malformed; with line and column.
    """
    document = parse(text, "study.yaml")
    document.check()
    stated = document.data.get("claims") if isinstance(document.data, Mapping) else None
    try:
        return tuple(check_claims(TypeAdapter(list[Claim]).validate_python(stated or [])))
    except ValidationError as error:
        for item in error.errors():
            message = item["msg"].removeprefix("Value error, ")
            document.mistake(("claims", *item["loc"]), message[:1].lower() + message[1:])
    except ValueError as error:
        document.mistake(("claims",), str(error))
    document.check()
    raise AssertionError("a mistake without a message")


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
    seen: frozenset[tuple[Any, ...]]  # the instances that it rests on


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
        value = _compared(claim, ours.value, against.value if against else claim.paper)
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
    )


def _compared(claim: Claim, ours: float, other: float | None) -> float:
    if claim.compare == "value" or other is None:
        return ours
    if claim.compare == "difference":
        return ours - other
    if other == 0:
        raise _NotRun("a ratio to 0 has no value")
    return ours / other


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
    note = _left_out(rows, done, used, side.column)
    if not len(used):
        raise _NotRun(f"nothing to take the {side.reduce} of: {note}")
    variants = used["variant"].unique() if "variant" in used.columns else ()
    if len(variants) > 1:
        note = "; ".join(filter(None, (note, f"mixes the variants {', '.join(map(str, variants))}")))
    seen = frozenset(map(tuple, used[[key for key in keys if key in used.columns]].astype(str).to_numpy()))
    return _Side(float(getattr(np, side.reduce)(values[np.isfinite(values)])), note, seen)


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


def _left_out(rows: Any, done: Any, used: Any, column: str) -> str:
    """How many rows do not count, and why."""
    parts = []
    if len(done) < len(rows):
        statuses = rows.loc[rows["status"] != "done", "status"].value_counts()
        counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
        parts.append(f"left out {counts} of {len(rows)} rows")
    if len(used) < len(done):
        parts.append(f"{len(done) - len(used)} of {len(done)} finished rows have no {column}")
    return "; ".join(parts)


def _shared(ours: Quantity, other: Quantity) -> list[str]:
    """Columns by which the instances of both sides are matched."""
    if ours.analysis != other.analysis:
        return []
    return [name for name in _SAME if ours.where.get(name) == other.where.get(name)]


def _lacking(ours: _Side, against: _Side) -> list[str]:
    """Notes on instances that only one side rests on: a mean over fewer instances may be a better one."""
    return [
        f"{side} lacks {len(gone)} instances that the other side has"
        for side, gone in (("ours", against.seen - ours.seen), ("against", ours.seen - against.seen))
        if gone
    ]
