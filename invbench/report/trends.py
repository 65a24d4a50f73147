"""The speed of this code over its commits, as asv has measured it: a part of the page."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from markupsafe import Markup

from invbench.errors import UserError
from invbench.report.quantities import MISSING, number

#: A change beyond this factor is marked; asv's own default is 1.1.
FACTOR = 1.1
_WIDTH, _HEIGHT, _ROOM = 180, 36, 5


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        commit: hash.
        date: of the commit, in milliseconds since 1970.
        value: lower is better.
    """

    commit: str
    date: int
    value: float


@dataclass(frozen=True)
class Trend:
    """One benchmark on one machine in one environment.

    Attributes:
        machine: its name.
        environment: asv's name of it: the Python and the pinned requirements.
        benchmark: its name.
        parameters: as asv writes them, "" where there are none.
        unit: of the values.
        points: by date of the commit; at least one.
    """

    machine: str
    environment: str
    benchmark: str
    parameters: str
    unit: str
    points: tuple[Point, ...]

    @property
    def change(self) -> float:
        """The last value over the one before; NaN where there is none, or nothing to divide by."""
        if len(self.points) < 2 or self.points[-2].value <= 0:
            return math.nan
        return self.points[-1].value / self.points[-2].value


def trends(folder: Path) -> list[Trend]:
    """Every series in a folder of results of asv (`.asv/results`), by machine, environment and benchmark.

    Values of an earlier version of a benchmark, which measured something else, are left out, and so is what
    does not apply (n/a) or has failed.

    Args:
        folder: with `benchmarks.json` and a folder a machine.

    Raises:
        UserError: it holds no results of asv.
    """
    known = _read(folder / "benchmarks.json")
    points: dict[tuple[str, str, str, str], list[Point]] = defaultdict(list)
    for path in sorted(folder.glob("*/*.json")):
        if path.name == "machine.json":
            continue
        run = _read(path)
        for name, parameters, value in _values(run, known):
            key = (path.parent.name, run["env_name"], name, parameters)
            points[key].append(Point(run["commit_hash"], int(run["date"]), value))
    return [
        Trend(*key, unit=known[key[2]].get("unit", ""), points=tuple(sorted(found, key=lambda p: p.date)))
        for key, found in sorted(points.items())
    ]


def section(folder: Path) -> Markup:
    """The trends as HTML: a table a machine and environment, regressions first, a small chart a row.

    Args:
        folder: results of asv.

    Raises:
        UserError: it holds no results of asv.
    """
    groups: dict[tuple[str, str], list[Trend]] = defaultdict(list)
    for trend in trends(folder):
        groups[trend.machine, trend.environment].append(trend)
    tables = (_table(*group, found) for group, found in groups.items())
    return Markup("").join(tables) or Markup('<p class="note">asv has no results yet.</p>')


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        sentence = f"cannot read {path}, so there are no trends: give the folder of asv's results ({error})"
        raise UserError(sentence) from None
    return found


def _values(run: dict[str, Any], known: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Benchmark, parameters and value of everything that a run has measured."""
    for name, columns in run.get("results", {}).items():
        result = dict(zip(run["result_columns"], columns, strict=False))
        if name not in known or result.get("version") != known[name].get("version"):
            continue
        values = result.get("result") or []
        for parameters, value in zip(product(*(result.get("params") or [])), values, strict=False):
            if isinstance(value, int | float) and math.isfinite(value):
                yield name, ", ".join(text.strip("'") for text in parameters), float(value)


def _table(machine: str, environment: str, found: Sequence[Trend]) -> Markup:
    commits = {point.commit for trend in found for point in trend.points}
    ordered = sorted(found, key=lambda trend: (-_worse(trend), trend.benchmark, trend.parameters))
    head = Markup(
        '<h3>{} <span class="by">{}</span></h3><p class="note">{} benchmarks, {} commits; lower is better. '
        "What got worse by more than {:.0f} % since the commit before comes first.</p>"
    ).format(machine, environment, len(found), len(commits), 100 * (FACTOR - 1))
    columns = Markup(
        '<thead><tr><th scope="col">benchmark</th><th scope="col">over the commits</th>'
        '<th scope="col" class="number">latest</th><th scope="col" class="number">against the one before</th>'
        "</tr></thead>"
    )
    rows = Markup("").join(_row(trend) for trend in ordered)
    return Markup('{}<div class="scroll"><table class="trends">{}<tbody>{}</tbody></table></div>').format(
        head, columns, rows
    )


def _worse(trend: Trend) -> float:
    """By how much it got worse, 0 where that is within the noise."""
    return trend.change if trend.change > FACTOR else 0.0


def _row(trend: Trend) -> Markup:
    last, change = trend.points[-1], trend.change
    look = "bad" if change > FACTOR else "good" if change < 1 / FACTOR else "same"
    return Markup(
        '<tr><th scope="row">{} <span class="by">{}</span></th><td>{}</td><td class="number">{}</td>'
        '<td class="number {}">{}</td></tr>'
    ).format(
        trend.benchmark,
        trend.parameters,
        _chart(trend),
        show(last.value, trend.unit),
        look,
        MISSING if math.isnan(change) else f"× {change:.2f}",
    )


def _chart(trend: Trend) -> Markup:
    """A line over the commits, evenly spaced, from 0 to the largest value; the last one has a dot."""
    values = [point.value for point in trend.points]
    top = max(*values, 0.0) or 1.0
    wide, high = _WIDTH - 2 * _ROOM, _HEIGHT - 2 * _ROOM
    step = wide / max(len(values) - 1, 1)
    places = [
        (_WIDTH - _ROOM - step * (len(values) - 1 - n), _ROOM + high * (1 - max(value, 0.0) / top))
        for n, value in enumerate(values)
    ]
    dates = (datetime.fromtimestamp(trend.points[n].date / 1000, UTC).date() for n in (0, -1))
    told = f"{show(values[0], trend.unit)} to {show(values[-1], trend.unit)}, {' to '.join(map(str, dates))}"
    return Markup(
        '<svg class="trend" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">'
        '<title>{2}</title><path d="M0 {3}H{0}" fill="none" stroke="var(--line)"/>'
        '<polyline points="{4}" fill="none" stroke="var(--m0)" stroke-width="1.6"/>'
        '<circle cx="{5:.1f}" cy="{6:.1f}" r="2.6" fill="var(--m0)"/></svg>'
    ).format(
        _WIDTH, _HEIGHT, told, _HEIGHT - _ROOM, " ".join(f"{x:.1f},{y:.1f}" for x, y in places), *places[-1]
    )


def show(value: float, unit: str) -> str:
    """A value with its unit, in the size that people read.

    Example:
        >>> show(0.0092, "seconds"), show(671e6, "bytes"), show(1.02, "passes"), show(0.095, "unit")
        ('9.20 ms', '671 MB', '1.02 passes', '0.0950')
    """
    if unit == "seconds":
        for name, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
            if value >= size:
                return f"{number(value / size)} {name}"
        return f"{number(value / 1e-9)} ns"
    if unit == "bytes":
        return f"{number(value, 'peak_memory')}B"
    return number(value) if unit in ("", "unit") else f"{number(value)} {unit}"
