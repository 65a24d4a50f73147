"""Mistakes in plain data, told in short sentences at their places in the document."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from invbench.documents import Document, Place

T = TypeVar("T")

#: Steps with which pydantic names the branch of a union; they are no places in the document.
_BRANCHES = ("str", "dict[str,nullable[dict[str,any]]]")


def validate(
    document: Document, kind: type[T], data: Any, place: Place, told: Collection[str] = ()
) -> T | None:
    """An object of this kind from plain data; None, with the mistakes noted, if it is none.

    Args:
        document: where mistakes are noted.
        kind: of the object.
        data: plain data.
        place: of the data in the document.
        told: fields that are left out because their mistakes have been noted already.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        names = _parameters(kind)
        for item in error.errors():
            if item["loc"][:1] and item["loc"][0] in told:
                continue
            steps = (step for step in item["loc"] if step not in _BRANCHES)
            document.mistake((*place, *steps), sentence(item, names))
        return None


def known(document: Document, kind: str, name: Any, names: Any, place: Place) -> bool:
    """Whether a name is known; if not, the mistake is noted with the nearest name."""
    if name in names:
        return True
    near = get_close_matches(str(name), list(names), 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(names))}"
    document.mistake(place, f"unknown {kind} '{name}': {hint}")
    return False


def sentence(error: Any, names: Sequence[str]) -> str:
    """What pydantic found, as one short sentence."""
    got = error.get("input")
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than":
            return f"must be > {context['gt']:g} (got {got})"
        case "greater_than_equal":
            return f"must be >= {context['ge']:g} (got {got})"
        case "less_than":
            return f"must be < {context['lt']:g} (got {got})"
        case "less_than_equal":
            return f"must be <= {context['le']:g} (got {got})"
        case "literal_error":
            return f"must be one of {context['expected']} (got {got})"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "is required"
        case "unexpected_keyword_argument" | "extra_forbidden":
            name = str(error["loc"][-1])
            near = get_close_matches(name, names, 1)
            return (
                f"is unknown: did you mean '{near[0]}'?"
                if near
                else f"is unknown: known are {', '.join(names)}"
            )
        case "value_error":
            return str(context["error"])
        case _:
            return f"{error['msg'][0].lower()}{error['msg'][1:]} (got {got!r})"


def _parameters(kind: Any) -> list[str]:
    names = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    return sorted(name for name in names if name != "learned")
