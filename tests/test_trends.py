"""Trends from results in the format of asv 0.6."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from invbench.errors import UserError
from invbench.report.trends import Point, Trend, section, show, trends

COLUMNS = ["result", "params", "version", "started_at", "duration", "stats_ci_99_a"]
DAY = 86_400_000
STEP, SIZE = "solvers.adam.time_iterate", "report.Report.track_size"


def asv_results(
    folder: Path, steps: list[list[float | None]], machine: str = "abacus", **changes: str
) -> Path:
    """Results of so many commits: the benchmark of two parameters, and one without, whose value is 1000."""
    known = {
        STEP: {"name": STEP, "unit": "seconds", "version": "v2", "params": [["'cpu'", "'cuda'"]]},
        SIZE: {"name": SIZE, "unit": "bytes", "version": "v1", "params": []},
        "version": 2,
    }
    (folder / machine).mkdir(parents=True)
    (folder / "benchmarks.json").write_text(json.dumps(known))
    (folder / machine / "machine.json").write_text(json.dumps({"machine": machine, "version": 1}))
    for n, values in enumerate(steps):
        run = {
            "commit_hash": f"{n:040}",
            "date": (20_000 - n) * DAY,  # files sort by hash, commits by date
            "env_name": "virtualenv-py3.11",
            "params": {"machine": machine},
            "result_columns": COLUMNS,
            "results": {
                STEP: [values, [["'cpu'", "'cuda'"]], changes.get("version", "v2"), 0, 1.0],
                SIZE: [[1000], [], "v1", 0, 1.0],
            },
            "version": 2,
        }
        (folder / machine / f"{n:08}-virtualenv-py3.11.json").write_text(json.dumps(run))
    return folder


def test_series_are_sorted_by_the_date_of_the_commits(tmp_path: Path) -> None:
    found = {
        (t.benchmark, t.parameters): t for t in trends(asv_results(tmp_path, [[3.0, 1], [2.0, 1], [4.0, 1]]))
    }
    assert found.keys() == {(STEP, "cpu"), (STEP, "cuda"), (SIZE, "")}
    step = found[STEP, "cpu"]
    assert [point.value for point in step.points] == [4.0, 2.0, 3.0]
    assert (step.machine, step.environment, step.unit) == ("abacus", "virtualenv-py3.11", "seconds")
    assert step.change == 1.5


def test_what_does_not_apply_or_failed_is_left_out(tmp_path: Path) -> None:
    found = trends(asv_results(tmp_path, [[1.0, math.nan], [2.0, None]]))
    assert [(t.benchmark, t.parameters, len(t.points)) for t in found] == [(SIZE, "", 2), (STEP, "cpu", 2)]


def test_a_benchmark_that_failed_as_a_whole_is_left_out(tmp_path: Path) -> None:
    folder = asv_results(tmp_path, [[1.0, 1.0]])
    path = next((folder / "abacus").glob("0*.json"))
    run = json.loads(path.read_text())
    run["results"][STEP] = [None, [["'cpu'", "'cuda'"]], "v2"]
    path.write_text(json.dumps(run))
    assert [t.benchmark for t in trends(folder)] == [SIZE]


def test_values_of_an_earlier_version_of_a_benchmark_are_left_out(tmp_path: Path) -> None:
    assert [t.benchmark for t in trends(asv_results(tmp_path, [[1.0, 1.0]], version="v1"))] == [SIZE]


def test_machines_are_kept_apart(tmp_path: Path) -> None:
    asv_results(tmp_path, [[1.0, 1.0]], "abacus")
    page = section(asv_results(tmp_path, [[2.0, 1.0]], "z1"))
    assert re.findall(r"<h3>(\S+)", page) == ["abacus", "z1"]


def test_one_commit_has_no_change() -> None:
    assert math.isnan(Trend("m", "e", "b", "", "", (Point("c", 0, 1.0),)).change)
    assert math.isnan(Trend("m", "e", "b", "", "", (Point("c", 0, 0.0), Point("d", 1, 1.0))).change)


def test_regressions_come_first(tmp_path: Path) -> None:
    page = section(asv_results(tmp_path, [[1.0, 3.0], [1.0, 2.0]]))
    rows = re.findall(
        r'<th scope="row">(\S+) <span class="by">(\w*)</span>.*?class="number (\w+)">(.*?)<', page
    )
    assert rows == [
        (STEP, "cuda", "bad", "× 1.50"),
        (SIZE, "", "same", "× 1.00"),
        (STEP, "cpu", "same", "× 1.00"),
    ]


def test_the_section_is_well_formed_and_refers_to_nothing(tmp_path: Path) -> None:
    page = section(asv_results(tmp_path, [[1.0, 3.0], [1.0, 2.0], [0.0, 1.0]]))
    tree = ElementTree.fromstring(f"<div>{page}</div>")
    charts = tree.findall(".//svg")
    assert len(charts) == 3
    for chart in charts:
        line = chart.find("polyline")
        assert line is not None
        places = [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
        assert len(places) == 3
        assert all(0 <= x <= 180 and 0 <= y <= 36 for x, y in places)
        assert chart.attrib["aria-label"]
    assert not re.search(r"https?:|href|src=|url\(", page)


def test_a_larger_value_is_drawn_higher(tmp_path: Path) -> None:
    page = section(asv_results(tmp_path, [[3.0, 1.0], [1.0, 1.0]]))  # from 1 to 3
    charts = re.findall(r'points="(\S+) (\S+)"', page)
    rising = [[float(place.split(",")[1]) for place in places] for places in charts]
    assert [first > last for first, last in rising] == [True, False, False], "SVG counts downwards"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    page = section(asv_results(tmp_path, [[1.0, 1.0]], "<script>alert(1)<"))
    assert "<script" not in page and "&lt;script" in page


@pytest.mark.parametrize("content", [None, "not JSON"])
def test_a_folder_without_results_is_a_mistake_of_the_user(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "benchmarks.json").write_text(content)
    with pytest.raises(UserError, match=r"benchmarks\.json.*give the folder"):
        section(tmp_path)


def test_results_without_a_value_say_so(tmp_path: Path) -> None:
    assert "no results yet" in section(asv_results(tmp_path, []))


def test_values_have_units_that_people_read() -> None:
    assert show(2.5, "seconds") == "2.50 s"
    assert show(2.5e-4, "seconds") == "250 µs"
    assert show(5e-8, "seconds") == "50.0 ns"
    assert show(0.0, "seconds") == "0 ns"
    assert show(0.31, "us") == "0.310 us"


def test_the_command_draws_them_into_the_page(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from invbench.cli import cli
    from tests.results_folder import quick

    results = quick(tmp_path / "results", layers=("conv1",))
    asv = asv_results(tmp_path / "asv", [[1.0, None], [2.0, None]])
    page = tmp_path / "page.html"
    arguments = ["report", str(results.folder), "-o", str(page), "--asv", str(asv)]
    outcome = CliRunner().invoke(cli, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert 'id="trends"' in page.read_text()
    assert STEP in page.read_text()
