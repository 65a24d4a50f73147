"""The section on analyses: figures, tables, what was refused or has failed, and the files it carries."""

import gzip
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import torch

from invbench.analyses.contract import Picture
from invbench.harness.picturing import plain
from invbench.packing import pack
from invbench.report import render
from invbench.report.analyses import FIGURES, LINES, ROWS, measured
from invbench.report.gallery import BYTES, EACH, LARGE, PAGE, SMALL
from invbench.store import Results, load
from tests.results_folder import Folder
from tests.test_report import HOSTILE, Page, references

PLOT = {"x": "iteration", "y": "residual", "lines": "stage", "panels": "copy", "log_x": True, "log_y": True}


def rows(iterations: int = 30, stages: int = 2) -> list[dict[str, Any]]:
    return [
        {"iteration": n, "stage": f"stage {s}", "copy": copy, "residual": 1 / (n + s) / 7, "instances": 4}
        for n in range(1, iterations + 1)
        for s in range(stages)
        for copy in ("input", "pre-activation")
    ]


def results(path: Path, *records: dict[str, Any], cells: bool = True, study: str = "") -> Results:
    folder = Folder(path, instances=2)
    if cells:
        folder.add()
    for n, record in enumerate(records):
        base = {"key": f"k{n:03}", "name": "residuals", "parameters": {"network": "lenet", "seed": n}}
        folder.store.write(
            f"k{n:03}", base | {"rows": [], "status": "done", "reason": ""} | record, kind="analyses"
        )
    return folder.finish(study) if study else folder.finish()


def section(page: str) -> str:
    start = page.index('<section id="analyses">')
    return page[start : page.index('<section id="images">', start)]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Results:
    failed = {
        "status": "failed",
        "reason": "RuntimeError: odd",
        "traceback": "Traceback\n  in a file\nRuntimeError: odd",
    }
    refused = {"status": "refused", "reason": f"needs {HOSTILE}"}
    return results(tmp_path_factory.mktemp("three"), {"rows": rows(), "plot": PLOT}, refused, failed)


def test_analyses_alone_make_a_page_without_a_ranking(tmp_path: Path) -> None:
    page = render(results(tmp_path, {"rows": rows(), "plot": PLOT}, cells=False, study="study: coherent\n"))
    parsed = Page(page)
    assert "<h1>coherent</h1>" in page
    assert "1 analysis, and no methods to compare." in parsed.words()
    assert 'id="ranking"' not in page
    assert 'id="outcome"' not in page
    assert "no finished cell" not in parsed.words()


def single(value: float, **parameters: Any) -> dict[str, Any]:
    stated = {"draws": 3, "network": "lenet", "seed": 0} | parameters
    return {"name": "accuracy", "parameters": stated, "rows": [{"share": value}]}


def test_single_rows_that_follow_each_other_are_one_table(tmp_path: Path) -> None:
    """With the parameters in which they differ as columns; others stand alone, and nothing is lost."""
    failed = single(0.0) | {"rows": [], "status": "failed", "reason": "RuntimeError: odd"}
    long = single(0.4) | {"rows": [{"share": 0.4}, {"share": 0.5}]}
    other = single(0.6) | {"name": "sparsity"}
    records = [single(0.1), single(0.2, network="vgg11"), single(0.3, seed=1), failed, long, other]
    found = measured(results(tmp_path, *records))
    assert [len(one.rows) for one in found] == [3, 0, 2, 1]
    first = found[0]
    assert first.parameters == "draws=3"
    assert [column.text for column in first.columns] == ["network", "seed", "share"]
    assert first.rows == (("lenet", "0", "0.100"), ("vgg11", "0", "0.200"), ("lenet", "1", "0.300"))
    assert found[1].reason == "RuntimeError: odd"


def by_solver(solver: str, level: float, **parameters: Any) -> dict[str, Any]:
    """An analysis whose lines go by its parameter `solver`."""
    plot = PLOT | {"x": "error", "y": "diversity", "lines": "solver", "panels": ""}
    found = [{"error": error, "diversity": level * error} for error in (0.1, 0.01)]
    stated = {"network": "lenet", "solver": solver, **parameters}
    return {"name": "preimage_diversity", "parameters": stated, "rows": found, "plot": plot}


def test_what_differs_in_the_parameter_of_the_lines_alone_is_one_figure(tmp_path: Path) -> None:
    records = [
        by_solver("adam", 1.0, **{"solver.lr": 0.1}),
        by_solver("langevin", 2.0),
        by_solver("adam", 3.0, seed=1),
        by_solver("lbfgs", 4.0) | {"rows": [], "status": "failed", "reason": "RuntimeError: odd"},
    ]
    both, other, failed = measured(results(tmp_path, *records))
    assert [line.text for line in both.legend] == ["adam lr=0.1", "langevin"]
    assert (len(both.plots), len(other.plots), len(failed.plots)) == (1, 1, 0)
    assert [row[0] for row in both.rows] == ["adam lr=0.1", "langevin"] * 2, (
        "what is compared stands together"
    )
    assert "solver" not in both.parameters
    assert "seed=1" in other.parameters
    assert failed.reason == "RuntimeError: odd"


def test_the_page_has_a_section_only_where_there_are_analyses(three: Results, tmp_path: Path) -> None:
    page = render(three)
    Page(page)
    assert '<a href="#analyses">Analyses</a>' in page
    assert "analyses: 1 of 3 done" in page
    assert "#analyses" not in render(results(tmp_path))


def test_figures_are_drawn_as_declared(three: Results) -> None:
    first, *others = measured(three)
    assert [plot.caption for plot in first.plots] == ["copy: input", "copy: pre-activation"]
    assert [line.text for line in first.legend] == ["stage 0", "stage 1"]
    assert all("var(--m0)" in plot.svg and "var(--m1)" in plot.svg for plot in first.plots)
    assert not any("series" in plot.svg for plot in first.plots), "the legend of methods leaves them alone"
    assert all(not one.plots and not one.rows for one in others)


def test_the_table_shows_the_first_rows_and_the_file_all(three: Results) -> None:
    first = measured(three)[0]
    assert len(first.rows) == ROWS
    assert first.left_out == 120 - ROWS
    assert first.rows[0] == ("1", "stage 0", "input", "0.143", "4")
    assert first.columns[0].text == "iterations"
    assert first.download is not None
    csv = b64decode(first.download.uri.partition("base64,")[2]).decode().splitlines()
    assert csv[0] == '"iteration","stage","copy","residual","instances"'
    assert len(csv) == 121
    text = section(render(three))
    assert text.count("<tr>") == ROWS + 1
    assert "80 more rows are in the file below" in text


def test_what_was_refused_or_failed_says_why(three: Results) -> None:
    text = section(render(three))
    assert "needs &lt;script&gt;" in text
    assert HOSTILE not in text
    assert "RuntimeError: odd" in text
    assert "in a file" in text


def test_a_packed_folder_shows_the_same(three: Results, tmp_path: Path) -> None:
    pack(three.folder, tmp_path / "packed")
    ours, theirs = section(render(three)), section((tmp_path / "packed" / "report.html").read_text())
    again = section(render(load(tmp_path / "packed")))
    assert "in a file" not in again, "a packed traceback is its last line"
    assert "in a file" not in theirs
    assert again == theirs == ours.replace("Traceback\n  in a file\n", "")


def test_points_without_a_place_on_the_axes_are_left_out(tmp_path: Path) -> None:
    some = rows(3, 1)
    some[0]["residual"], some[2]["residual"] = 0, None
    for row in some:
        if row["copy"] == "pre-activation":
            row["residual"] = None
    (one,) = measured(results(tmp_path, {"rows": some, "plot": PLOT}))
    assert [plot.caption for plot in one.plots] == ["copy: input"]
    assert one.rows[0][3] == "0"
    assert one.rows[1][3] == "–"


def test_lines_and_figures_have_a_limit_that_is_told(tmp_path: Path) -> None:
    many = {"rows": rows(3, LINES + 2), "plot": PLOT}
    found = measured(results(tmp_path, *[many] * (FIGURES // 2 + 1)))
    assert sum(len(one.plots) for one in found) == FIGURES
    assert len(found[0].legend) == LINES
    assert found[0].note == f"The first {LINES} lines are drawn; 2 more are in the table."
    assert found[-1].note == f"At most {FIGURES} figures of analyses are drawn; the rows are in the table."


def test_a_plot_may_do_without_lines_and_panels(tmp_path: Path) -> None:
    plain = {"x": "k", "y": "value", "lines": "", "panels": "", "log_x": False, "log_y": False}
    record = {"rows": [{"k": k, "value": -1.5 * k} for k in range(3)], "plot": plain}
    (one,) = measured(results(tmp_path, record))
    assert [plot.caption for plot in one.plots] == ["value"]
    assert one.legend == ()
    Page(render(load(tmp_path)))


def test_old_records_have_neither_status_nor_plot(tmp_path: Path) -> None:
    folder = Folder(tmp_path, instances=2)
    folder.add()
    folder.store.write("k", {"name": "coherence", "parameters": {}, "rows": [{"max": 0.5}]}, kind="analyses")
    (one,) = measured(folder.finish())
    assert (one.status, one.rows) == ("done", (("0.500",),))
    Page(render(load(tmp_path)))


def test_a_large_table_is_compressed(tmp_path: Path) -> None:
    (one,) = measured(results(tmp_path, {"rows": rows(4000, 3)}))
    assert one.download is not None
    assert one.download.name.endswith(".csv.gz")
    data = gzip.decompress(b64decode(one.download.uri.partition("base64,")[2]))
    assert data.count(b"\n") == 24001


# -- pictures ------------------------------------------------------------------------------------------------


def picture(title: str = "filters", height: int = 8, width: int = 5) -> dict[str, Any]:
    return plain(Picture(title, torch.linspace(0, 1, height * width).reshape(1, height, width)))


def test_pictures_stand_under_their_analysis_with_titles(tmp_path: Path) -> None:
    two = {"rows": [{"max": 0.5}], "pictures": [picture(), picture(HOSTILE, 2, 600)]}
    page = render(results(tmp_path, two, {"rows": [{"max": 0.7}]}))
    parsed, text = Page(page), section(page)
    first, second = re.findall(r"<figure><img ([^>]*)><figcaption>([^<]*)</figcaption></figure>", text)
    assert f'src="data:image/png;base64,{two["pictures"][0]["png"]}"' in first[0]
    assert 'alt="filters"' in first[0]
    assert first[1] == "filters"
    assert second[1] == "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;"
    assert HOSTILE not in text
    assert all(reference.startswith(("data:", "#")) for reference in references(parsed))
    assert text.index("<img") < text.index('id="analysis-2"')


def test_small_pictures_are_enlarged_by_whole_factors(tmp_path: Path) -> None:
    few = {"pictures": [picture(), picture(height=LARGE + 1)]}
    many = {"pictures": [picture()] * 3}
    first, second = measured(results(tmp_path, few, many))
    sizes = [(shown.width, shown.height) for shown in first.gallery.pictures]
    factor = LARGE // 8
    assert sizes == [(5 * factor, 8 * factor), (5, LARGE + 1)]
    assert second.gallery.pictures[0].height == 8 * (SMALL // 8)
    rules = render(load(tmp_path)).partition("</style>")[0]
    assert re.search(r"\.gallery img {[^}]*max-width: 100%[^}]*image-rendering: pixelated", rules)


def test_pictures_have_limits_that_are_told(tmp_path: Path) -> None:
    found = measured(results(tmp_path, *[{"pictures": [picture()] * (EACH + 1)}] * 4))
    assert [len(one.gallery.pictures) for one in found] == [EACH, EACH, PAGE - 2 * EACH, 0]
    assert found[0].gallery.note.startswith(f"The first {EACH} of {EACH + 1} pictures are shown: a page")
    assert found[3].gallery.note.startswith(f"None of {EACH + 1} pictures is shown: a page shows at most")
    assert all(f"of {EACH + 1} pictures" in section(render(load(tmp_path))) for one in found)


def test_pictures_have_a_limit_in_bytes(tmp_path: Path) -> None:
    large = picture() | {"png": "A" * (BYTES // 2 - 4)}
    one, other = measured(results(tmp_path, {"pictures": [large, large, large]}, {"pictures": [picture()]}))
    assert len(one.gallery.pictures) == 2
    assert one.gallery.note.startswith("The first 2 of 3 pictures")
    assert other.gallery.pictures == (), "8 bytes are left"
    assert len(render(load(tmp_path))) < 1.2 * BYTES + 1e6


def test_pictures_without_rows_are_enough_and_keep_an_analysis_apart(tmp_path: Path) -> None:
    alone = {"rows": [], "pictures": [picture()]}
    drawn = single(0.1) | {"pictures": [picture()]}
    page = section(render(results(tmp_path, alone, drawn, single(0.2, seed=1), single(0.3, seed=2))))
    assert "It has no rows" not in page
    assert [len(one.rows) for one in measured(load(tmp_path))] == [0, 1, 2]
    assert page.count("<img") == 2


def test_a_packed_folder_keeps_the_pictures(tmp_path: Path) -> None:
    whole = results(tmp_path / "whole", {"rows": [{"max": 0.5}], "pictures": [picture()]})
    pack(whole.folder, tmp_path / "packed")
    packed = load(tmp_path / "packed")
    assert packed.analyses == whole.analyses
    assert section(render(packed)) == section(render(whole))
    assert picture()["png"] in (tmp_path / "packed" / "report.html").read_text()
