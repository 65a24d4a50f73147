"""The page in words: what was run, where, and when."""

from collections.abc import Mapping, Sequence
from typing import Any

from invbench.report.comparisons import Comparison

#: Keys of the environment that say on what a study ran, best first.
_MACHINE = ("processor", "system")
#: Keys of the environment that have a place of their own on the page.
_ELSEWHERE = ("skipped", "command", "priors")


def summary(
    comparisons: Sequence[Comparison], environment: Mapping[str, Any], analyses: int = 0, missing: int = 0
) -> str:
    """One paragraph: cells, instances, methods, trials, machine, date; of analyses alone, their number."""
    cells = [cell for comparison in comparisons for cell in comparison.cells]
    if not cells:
        if not missing and analyses:
            measured = "1 analysis" if analyses == 1 else f"{analyses} analyses"
            return f"{measured}, and no methods to compare."
        return "This results folder holds no finished cell: there is nothing to compare yet."
    methods = {cell.method for cell in cells}
    seeds = {cell.seed for cell in cells if cell.seed == cell.seed}
    instances = sorted({cell.final("status").size for cell in cells} - {0})
    images = ", ".join(dict.fromkeys(filter(None, (one.conditions["images"] for one in comparisons))))
    sentences = [
        f"{_count(len(methods), 'method')} on {_count(len(comparisons), 'trial')}"
        f" with {_count(len(seeds) or 1, 'seed')}: {_count(len(cells), 'cell')}"
        + (f" of {_span(instances)} instances each" if instances else "")
        + (f" (images: {images})" if images else "")
        + ".",
        _where(comparisons, environment),
    ]
    return " ".join(filter(None, sentences))


def stated(study: str, key: str) -> str:
    """What the author of a study says under a key, such as its description, or nothing."""
    from invbench.documents import parse
    from invbench.errors import UserError

    try:
        data = parse(study, "study.yaml").data
    except UserError:
        return ""
    return " ".join(str(data.get(key) or "").split()) if isinstance(data, dict) else ""


def networks(environment: Mapping[str, Any]) -> str:
    """The networks and their held-out accuracies, in a sentence; nothing where none is known."""
    known = environment.get("networks")
    named = [
        f"{name} names {100 * about['held_out_accuracy']:.1f} % of its held-out images"
        for name, about in (known.items() if isinstance(known, Mapping) else ())
        if isinstance(about, Mapping) and about.get("held_out_accuracy") is not None
    ]
    return f"{'; '.join(named)}." if named else ""


def environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value, nested names joined by dots; what the page shows elsewhere is left out."""
    return list(_flat("", {key: value for key, value in environment.items() if key not in _ELSEWHERE}))


def skipped(environment: Mapping[str, Any]) -> list[str]:
    """Images that could not be read, one line each."""
    found = environment.get("skipped") or []
    if isinstance(found, Mapping):
        return [f"{name}: {reason}" for name, reason in found.items()]
    if isinstance(found, str):
        return [found]
    return [
        ": ".join(map(_line, item.values() if isinstance(item, Mapping) else item))
        if not isinstance(item, str)
        else item
        for item in found
    ]


def _where(comparisons: Sequence[Comparison], environment: Mapping[str, Any]) -> str:
    """On what it ran, and when the first cell started."""
    started = [
        str(cell.record["started"]) for one in comparisons for cell in one.cells if cell.record.get("started")
    ]
    machine = next((_line(environment[key]) for key in _MACHINE if environment.get(key)), "")
    devices = ", ".join(dict.fromkeys(filter(None, (one.conditions["device"] for one in comparisons))))
    threads = ", ".join(dict.fromkeys(filter(None, (one.conditions["threads"] for one in comparisons))))
    parts = [
        f" on {machine}" if machine else "",
        f" ({devices})" if devices else "",
        f" with {threads} thread{'' if threads == '1' else 's'}" if threads else "",
        f" on {min(started)[:16].replace('T', ' at ')} UTC" if started else "",
    ]
    return f"It ran{''.join(parts)}." if any(parts) else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            row
            for key, item in value.items()
            for row in _flat(f"{prefix}.{key}" if prefix else str(key), item)
        ]
    return [] if value is None or value == "" else [(prefix.replace("_", " "), _line(value))]


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_line(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_line(item) for item in value)
    return str(value)
