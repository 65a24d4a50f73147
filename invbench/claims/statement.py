"""What a study claims: one number of the results against a bound, another number, or a printed one."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, TypeAdapter, ValidationError, model_validator

from invbench.documents import parse

Reduce = Literal["mean", "median", "min", "max"]
Comparison = Literal["ratio", "difference", "value", "wins", "sure_gain"]
Scalar = str | bool | int | float
Finite = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


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
        best: a column, such as `solver`: the rows of each of its values are reduced alone, and the best of
            these numbers counts: the highest of a metric where higher is better, else the lowest.
    """

    where: dict[str, Condition] = Field(default_factory=dict)
    column: Name | None = None
    reduce: Reduce | None = None
    analysis: Name | None = None
    best: Name | None = None


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
            `difference` from it. Without `against` the other side is the paper's number. Image by image:
            the share of those both sides have on which ours is better, its `wins`; how much better it is
            on them in the mean, at the lower end of a 95 % interval, its `sure_gain`.
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
            raise ValueError("against needs 'as: ratio', 'as: difference', 'as: wins' or 'as: sure_gain'")
        if self.compare in ("wins", "sure_gain") and self.against is None:
            raise ValueError(f"as: {self.compare} needs 'against', as it goes image by image")
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
        return words if self.compare == "value" else f"{self.compare.replace('_', ' ')} {words}"


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
