"""What a study will run and how long that takes, as `invbench run --plan` prints it."""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from invbench.study import Cell, Measurement, Study

#: Columns of the table that are conditions of a run; a column with a word is printed behind it.
_CONDITIONS = {
    "network": "",
    "images": "images ",
    "layer": "layer ",
    "start": "start ",
    "priors": "priors ",
    "trial_parameters": "",
    "oracle": "",
    "budget": "",
}
#: Where the last column of a block begins.
_MARGIN = 22


@dataclass(frozen=True)
class Row:
    """Runs that differ in method and seed alone.

    Attributes:
        kind: of trial or analysis.
        methods: that are run as they are; none of an analysis.
        tuned: methods that are tuned first.
        conditions: under which, by name, each as it is printed.
        runs: how many.
        seconds: that they are expected to take, or None where nothing foretells them.
    """

    kind: str
    methods: tuple[str, ...]
    tuned: tuple[str, ...]
    conditions: Mapping[str, str]
    runs: int
    seconds: float | None


@dataclass(frozen=True)
class Line:
    """A line of text whose continuations are indented."""

    text: str = ""
    indent: int = 2

    def wrapped(self, width: int | None) -> str:
        """The line folded to a width; as it is for None."""
        if width is None or len(self.text) <= width:
            return self.text
        margin = " " * min(self.indent, width // 2)
        return textwrap.fill(self.text, width, subsequent_indent=margin, break_on_hyphens=False)


def show_plan(study: "Study", seconds: Sequence[float]) -> None:
    """Print the matrix of a study, folded to the width of the terminal where there is one.

    Args:
        study: what is planned.
        seconds: that each of its cells is expected to take.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines(study, seconds):
        click.echo(line.wrapped(width))


def lines(study: "Study", seconds: Sequence[float]) -> Iterator[Line]:
    """What is the same everywhere, a block for each kind of trial or analysis, and the sum.

    Within a block, too, what all rows share is said once, above them.
    """
    rows = list(_rows(study.cells, seconds))
    everywhere = _shared(rows)
    yield Line(f"{study.name}: {len(study.cells)} cells")
    yield Line(f"everywhere: {'; '.join([*everywhere.values(), *_settings(study)])}")
    for block in _blocks([*rows, *_analyses(study.measurements)]):
        yield Line()
        yield from _block(block, everywhere)
    yield Line()
    total = f"{len(study.cells)} cells, about {duration(sum(seconds))}"
    yield Line(f"{total}, found from timed passes of the networks")
    if study.measurements:
        names = Counter(measurement.name for measurement in study.measurements)
        listed = ", ".join(f"{number} {name}" for name, number in names.items())
        yield Line(f"analyses, whose time nothing foretells: {listed}")


def _block(rows: Sequence[Row], everywhere: Mapping[str, str]) -> Iterator[Line]:
    """Rows of one kind and the same methods, below what they share."""
    shared = {**everywhere, **_shared(rows)}
    told = [text for name, text in shared.items() if name not in everywhere]
    yield Line(": ".join(filter(None, (rows[0].kind, "; ".join(told)))))
    for variant, names in (("methods", rows[0].methods), ("tuned", rows[0].tuned)):
        if names:
            yield Line(f"  {variant}: {'; '.join(names)}", indent=4)
    yield Line("   runs         time")
    for row in rows:
        own = "; ".join(text for name, text in row.conditions.items() if name not in shared)
        time = "?" if row.seconds is None else duration(row.seconds)
        yield Line(f"{row.runs:>7}  {time:>11}  {own}".rstrip(), indent=_MARGIN)


def _rows(cells: Sequence["Cell"], seconds: Sequence[float]) -> Iterator[Row]:
    names = _names(cells)
    groups: dict[tuple[str, ...], list[tuple[Cell, float]]] = {}
    for cell, cost in zip(cells, seconds, strict=True):
        groups.setdefault((cell.trial_name, *_conditions(cell).values()), []).append((cell, cost))
    for group in groups.values():
        plain, tuned = (
            tuple(dict.fromkeys(names[_identity(cell)] for cell, _ in group if bool(cell.tuning) == wanted))
            for wanted in (False, True)
        )
        first, cost = group[0][0], sum(cost for _, cost in group)
        yield Row(first.trial_name, plain, tuned, _conditions(first), len(group), cost)


def _analyses(measurements: Iterable["Measurement"]) -> Iterator[Row]:
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for one in measurements:
        columns = one.parameters()
        scene = {key: f"{_CONDITIONS[key]}{columns.pop(key)}" for key in ("network", "images")}
        conditions = scene | {key: f"{key}={value}" for key, value in columns.items() if key != "seed"}
        groups.setdefault((one.name, *conditions.values()), []).append(conditions)
    for (name, *_), group in groups.items():
        yield Row(f"analysis {name}", (), (), group[0], len(group), None)


def _blocks(rows: Iterable[Row]) -> Collection[list[Row]]:
    """Rows of the same kind and methods."""
    blocks: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        blocks.setdefault((row.kind, row.methods, row.tuned), []).append(row)
    return blocks.values()


def _shared(rows: Sequence[Row]) -> dict[str, str]:
    """The conditions that all rows have."""
    return {
        name: text
        for name, text in rows[0].conditions.items()
        if all(row.conditions.get(name) == text for row in rows)
    }


def _conditions(cell: "Cell") -> dict[str, str]:
    labels = cell.labels()
    labels["priors"] = labels["priors"] or "none"
    return {name: f"{word}{labels[name]}" for name, word in _CONDITIONS.items() if labels[name]}


def _settings(study: "Study") -> Iterator[str]:
    """What a study sets for all cells."""
    seeds = list(dict.fromkeys(str(cell.seed) for cell in study.cells))
    yield f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
    yield f"on {study.cells[0].device}"
    tuning = next((cell.tuning for cell in study.cells if cell.tuning), None)
    if tuning is not None:
        yield f"tuned: the best of {tuning.trials} settings on {tuning.images} other images"


def _names(cells: Iterable["Cell"]) -> dict[tuple[str, str], str]:
    """What methods are called: by name, and with their parameters where several share it."""
    known = dict.fromkeys(map(_identity, cells))
    bearers = Counter(name for name, _ in known)
    return {
        (name, given): f"{name} ({given})" if given and bearers[name] > 1 else name for name, given in known
    }


def _identity(cell: "Cell") -> tuple[str, str]:
    return cell.method.name, str(cell.labels()["parameters"])


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(0.034), duration(75), duration(7300)
        ('0.034 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 9.5:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
