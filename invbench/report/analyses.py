"""What the analyses of a study have measured: figures where one declares them, pictures, and tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from invbench.method import show_parameters
from invbench.report.attachment import Attachment, attach_rows
from invbench.report.comparisons import Array
from invbench.report.drawing import Plot, draw, fit_axis, look
from invbench.report.gallery import Gallery, galleries
from invbench.report.palette import HUES, Style
from invbench.report.quantities import MISSING, label, number
from invbench.store import Record, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Rows of a table that are shown; the others are in the file that the page carries.
ROWS = 40
#: Figures that are drawn at most, and lines that a figure has at most.
FIGURES, LINES = 24, 10


@dataclass(frozen=True)
class Column:
    """Head of a column.

    Attributes:
        text: its name.
        numeric: whether it holds numbers alone.
    """

    text: str
    numeric: bool


@dataclass(frozen=True)
class Legend:
    """One line of the figures."""

    text: str
    style: Style


@dataclass(frozen=True)
class Measured:
    """One analysis of one network.

    Attributes:
        anchor: unique in the page.
        name: kind of analysis.
        parameters: on one line.
        status: how it ended.
        reason: why it did not end as done, or "".
        traceback: of a failure, or "".
        plots: figures side by side.
        legend: of their lines; empty where there is one line.
        note: what the figures leave out, or "".
        gallery: pictures.
        columns: of the table.
        rows: the first `ROWS`, as text.
        left_out: number of the others.
        download: all rows as a file, or None where there are none.
    """

    anchor: str
    name: str
    parameters: str
    status: str
    reason: str
    traceback: str
    plots: tuple[Plot, ...]
    legend: tuple[Legend, ...]
    note: str
    gallery: Gallery
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int
    download: Attachment | None


def measured(results: Results) -> tuple[Measured, ...]:
    """Every analysis of the study, in its order."""
    found, drawn = [], 0
    records = list(_gathered(results.analyses))
    for n, (record, gallery) in enumerate(zip(records, galleries(records), strict=True), start=1):
        one = _measured(f"analysis-{n}", record, FIGURES - drawn, gallery)
        drawn += len(one.plots)
        found.append(one)
    return tuple(found)


def _gathered(records: Sequence[Record]) -> Iterator[Record]:
    """The records; those that follow each other, of one kind, in one figure or in one table.

    Where the lines of a figure go by a parameter, as by `solver`, records that differ in it alone are drawn
    as one. Of records of a single row, parameters in which they differ become its first columns.
    """
    for _, group in groupby(enumerate(records), lambda one: _figure(one[1]) or _table(*one)):
        alike = [record for _, record in group]
        if _figure(alike[0]):
            yield _overlaid(alike)
        elif len(alike) == 1:
            yield alike[0]
        else:
            yield _stacked(alike)


def _overlaid(alike: Sequence[Record]) -> Record:
    """Records whose lines go by a parameter, as one, with this parameter as first column.

    Their first rows come first, then their second ones: what is to be compared stands together.
    """
    line = alike[0]["plot"]["lines"]
    rows = [
        {line: _line(record["parameters"], line)} | record["rows"][n]
        for n in range(max(len(record["rows"]) for record in alike))
        for record in alike
        if n < len(record["rows"])
    ]
    return alike[0] | {"parameters": _beside(alike[0]["parameters"], line), "rows": rows}


def _stacked(alike: Sequence[Record]) -> Record:
    """Records of a single row each, as one table."""
    stated = [record["parameters"] for record in alike]
    shared = {key: value for key, value in stated[0].items() if all(p[key] == value for p in stated)}
    rows = [
        {key: value for key, value in p.items() if key not in shared} | record["rows"][0]
        for p, record in zip(stated, alike, strict=True)
    ]
    return alike[0] | {"parameters": shared, "rows": rows}


def _figure(record: Record) -> tuple[object, ...]:
    """What records share that are lines of one figure; nothing where lines are no parameter."""
    line = (record.get("plot") or {}).get("lines")
    stands_alone = record.get("pictures") or record.get("status") != "done"
    if not line or line not in record["parameters"] or stands_alone:
        return ()
    return (record["name"], *_beside(record["parameters"], line).items())


def _beside(parameters: Mapping[str, Any], line: str) -> dict[str, Any]:
    """The parameters but for that of the lines and those within it."""
    return {key: value for key, value in parameters.items() if not f"{key}.".startswith(f"{line}.")}


def _line(parameters: Mapping[str, Any], line: str) -> str:
    """The name of a line: an entry, with what is set of it."""
    own = {key.removeprefix(f"{line}."): parameters[key] for key in parameters if key.startswith(f"{line}.")}
    return f"{parameters[line]} {show_parameters(own)}".strip()


def _table(n: int, record: Record) -> tuple[object, ...]:
    """What records share whose single rows may stand in one table; the number of one that stands alone."""
    stands_alone = record.get("plot") is not None or record.get("pictures")
    if stands_alone or record.get("status") != "done" or len(record["rows"]) != 1:
        return (n,)
    return (record["name"], *record["parameters"], *record["rows"][0])


def _measured(anchor: str, record: Record, room: int, gallery: Gallery) -> Measured:
    rows: Sequence[Mapping[str, Any]] = record["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row))
    plots, legend, note = _figures(anchor, record, room)
    return Measured(
        anchor=anchor,
        name=record["name"],
        parameters=show_parameters(record["parameters"]),
        status=record.get("status", "done"),
        reason=record.get("reason", ""),
        traceback=record.get("traceback", ""),
        plots=plots,
        legend=legend,
        note=note,
        gallery=gallery,
        columns=tuple(Column(label(name), _numeric(rows, name)) for name in names),
        rows=tuple(tuple(_text(row.get(name), name) for name in names) for row in rows[:ROWS]),
        left_out=max(0, len(rows) - ROWS),
        download=attach_rows(names, rows, f"{record['name']}-{anchor}") if rows else None,
    )


def _numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return not any(isinstance(row.get(name), str) for row in rows)


def _text(value: str | float | None, name: str) -> str:
    """A value as the tables of the page write it: whole numbers stay whole."""
    if value is None:
        return MISSING
    return str(value) if isinstance(value, str | int) else number(value, name)


# -- figures -------------------------------------------------------------------------------------------------

Curves = Mapping[str, tuple[Array, Array]]


def _figures(anchor: str, record: Record, room: int) -> tuple[tuple[Plot, ...], tuple[Legend, ...], str]:
    """The figures that an analysis declares, the legend of their lines, and what they leave out."""
    declared = record.get("plot")
    if not declared or not record["rows"]:
        return (), (), ""
    panels = _panels(record["rows"], declared)
    lines = list(dict.fromkeys(line for curves in panels.values() for line in curves))
    styles = {line: Style(n, n % HUES, n // HUES) for n, line in enumerate(lines[:LINES])}
    if not styles or len(panels) > room:
        return (), (), f"At most {FIGURES} figures of analyses are drawn; the rows are in the table."
    plots = tuple(
        _plot(f"{anchor}-{n}", record["name"], panel, declared, curves, styles)
        for n, (panel, curves) in enumerate(panels.items(), start=1)
    )
    legend = tuple(Legend(line, style) for line, style in styles.items() if line)
    left_out = len(lines) - len(styles)
    note = f"The first {LINES} lines are drawn; {left_out} more are in the table." if left_out else ""
    return plots, legend, note


def _panels(rows: Sequence[Mapping[str, Any]], declared: Mapping[str, Any]) -> dict[str, Curves]:
    """The curves of each figure; points without a place on its axes are left out."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        panel, line = (str(row.get(declared[key], "")) for key in ("panels", "lines"))
        x, y = (_coordinate(row.get(declared[key]), declared[f"log_{key}"]) for key in ("x", "y"))
        curve = points.setdefault(panel, {}).setdefault(line, [])
        if np.isfinite(x) and np.isfinite(y):
            curve.append((x, y))
    curves = {
        panel: {line: _sorted(curve) for line, curve in found.items() if curve}
        for panel, found in points.items()
    }
    return {panel: found for panel, found in curves.items() if found}


def _coordinate(value: Any, logarithmic: bool) -> float:
    """A number, or NaN where it has no place on the axis."""
    if not isinstance(value, int | float) or (logarithmic and value <= 0):
        return np.nan
    return float(value)


def _sorted(points: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    x, y = np.array(sorted(points, key=lambda point: point[0])).T
    return x, y


def _plot(
    name: str,
    title: str,
    panel: str,
    declared: Mapping[str, Any],
    curves: Curves,
    styles: Mapping[str, Style],
) -> Plot:
    def paint(axes: "Axes") -> None:
        everything = [np.concatenate(part) for part in zip(*curves.values(), strict=True)]
        for axis, values, key in zip((axes.xaxis, axes.yaxis), everything, ("log_x", "log_y"), strict=True):
            fit_axis(axis, values, declared[key])
        for line, (x, y) in curves.items():
            if line in styles:  # without the group that the legends of methods choose by
                marks = {"marker": styles[line].mark, "ms": 5, "mew": 0, "markevery": [len(x) - 1]}
                axes.plot(x, y, **look(styles[line]) | {"gid": None} | marks)

    return draw(
        paint,
        name=name,
        title=title,
        caption=f"{label(declared['panels'])}: {panel}" if panel else label(declared["y"]),
        x_label=label(declared["x"]),
        y_label=label(declared["y"]),
    )
