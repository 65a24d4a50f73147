import csv
import gzip
import io
import re
import time
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from invbench.report import render, terminal
from invbench.report.attachment import attach, final_rows
from invbench.report.comparisons import Method, compare
from invbench.report.figures import inline
from invbench.report.pictures import choose, grids
from invbench.report.priors import learned_priors
from invbench.report.prose import environment_rows, skipped, summary
from invbench.report.scores import Scores, score
from invbench.store import Store, load
from tests.results_folder import Folder, quick

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return quick(tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def page(results):
    return render(results, "invbench run quick --out here")


class Page(HTMLParser):
    """Elements, attributes, ids and text of a page; complains about tags that do not match."""

    VOID = frozenset(["meta", "link", "br", "wbr", "img", "input", "hr"])

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.attributes, self.tags, self.text, self.styles = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.styles if self.open and self.open[-1] == "style" else self.text).append(data)

    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def ids(self) -> list[str]:
        return [value for _, name, value in self.attributes if name == "id"]


def references(page: Page) -> list[str]:
    """Everything in a page that a browser might fetch."""
    linking = {"src", "href", "xlink:href", "srcset", "poster", "action", "data", "background", "formaction"}
    found = [value for _, name, value in page.attributes if name in linking]
    styles = page.styles + [
        value for _, name, value in page.attributes if name in ("style", "clip-path", "fill")
    ]
    for style in styles:
        assert "@import" not in style
        found += re.findall(r"url\(\s*['\"]?([^)'\"]*)", style)
    return found


def test_the_page_refers_to_nothing_outside(page):
    parsed = Page(page)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    for reference in references(parsed):
        assert reference.startswith(("data:", "#"))
        if reference.startswith("#"):
            assert reference[1:] in ids
    assert "http://" not in page and "https://" not in page


def test_the_page_admits_its_own_script_only(page):
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in page or f"script-src 'sha256-{digest}'" in page
    assert not [name for _, name, _ in Page(page).attributes if name.startswith("on")]


def test_sections_stand_in_order_and_name_what_was_run(page):
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections == [
        "ranking", "outcome", "speed", "profiles", "convergence", "depth", "images", "environment",
        "definitions", "data",
    ]  # fmt: skip
    words = Page(page).words()
    for wanted in (
        "6 methods on 5 trials with 1 seed: 30 cells of 8 instances each",
        "It ran on Abacus 3000 (cpu) with 1 thread on 2030-01-02 at 03:04 UTC.",
        "invbench run quick --out here", "27 done 1 refused 1 diverged 0 timeout 1 failed",
        "needs a smooth objective", "RuntimeError: odd shapes", "torn.jpg: truncated", "study: quick",
        "gaussian_weights", "networks.lenet.accuracy",
    ):  # fmt: skip
        assert wanted in words


def test_columns_without_values_are_dropped(page):
    table = re.search(r'<table class="ranking" id="rank-c4">.*?</table>', page, re.DOTALL)[0]
    words = Page(table).words()
    assert "objective" in words and "SSIM" not in words and "success" not in words


def test_same_results_same_bytes(results, page):
    again = render(load(results.folder), "invbench run quick --out here")
    assert again == page


def test_a_quick_study_is_small_and_fast(tmp_path):
    results = quick(tmp_path, side=32)
    start = time.process_time()
    html = render(results)
    assert time.process_time() - start < 5
    assert len(html) < 3e6


def test_hostile_names_stay_text(tmp_path):
    folder = Folder(tmp_path, 2)
    cell = {
        "parameters": HOSTILE, "study": HOSTILE, "network": HOSTILE, "images": HOSTILE, "reason": HOSTILE,
        "names": [HOSTILE, "=1+1"], "trial": HOSTILE, "oracle": "oracle",
        "ranked_by": 'mse"><img src=x>$\\a$',
    }  # fmt: skip
    for solver in (HOSTILE, '"><svg onload=alert(1)>'):
        folder.add(solver, HOSTILE, status="diverged", diverged=(0,), **cell)
        folder.add(solver, "other", **cell)
        folder.add(solver, "third", status="failed", traceback=HOSTILE, **cell)
    results = folder.finish(HOSTILE, {"processor": HOSTILE, HOSTILE: HOSTILE, "skipped": [HOSTILE]})
    html = render(results, HOSTILE)
    parsed = Page(html)
    assert parsed.tags.count("script") == 1
    assert "img" not in parsed.tags
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert all(reference.startswith(("data:", "#")) for reference in references(parsed))
    assert HOSTILE in "".join(parsed.text)


def test_an_empty_folder_gives_a_page(tmp_path):
    Store(tmp_path)
    parsed = Page(render(load(tmp_path)))
    assert "no finished cell" in parsed.words()
    assert "table" not in parsed.tags


def test_all_refused_gives_a_page(tmp_path):
    folder = Folder(tmp_path, 2)
    for layer in ("pool1", "fc1"):
        for solver in ("admm", "iht"):
            folder.add(solver, layer, status="refused", reason=f"{solver} needs a chain")
    words = Page(render(folder.finish())).words()
    assert "4 refused" in words and "admm needs a chain" in words and "Convergence" not in words[:600]


def test_cells_that_were_not_run_are_counted(tmp_path):
    folder = Folder(tmp_path, 2)
    folder.add("adam")
    folder.keys.append("0" * 16)
    assert "1 not run yet" in Page(render(folder.finish())).words()


def test_limits_hold_for_many_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("invbench.report.figures.COMPARISONS", 1)
    monkeypatch.setattr("invbench.report.pareto.COMPARISONS", 1)
    monkeypatch.setattr("invbench.report.figures.METHODS", 2)
    monkeypatch.setattr("invbench.report.pictures.GRIDS", 2)
    monkeypatch.setattr("invbench.report.pictures.METHODS", 3)
    folder = Folder(tmp_path, 2)
    for layer in range(10):
        for solver in range(4):
            folder.add(f"solver{solver}", f"layer{layer}", level=0.01 * (solver + 1))
    html = render(folder.finish())
    assert html.count('id="plot-') == 1
    assert html.count('class="panel" id="grid-') == 2
    assert "2 others are in the table" in html and "1 other is in the table" in html
    assert '<details class="fold"><summary>Rankings of the 10 trials' in html


def test_ids_of_figures_do_not_collide():
    svg = (
        '<?xml version="1.0"?><svg viewBox="0 0 9 9" xmlns="x"><metadata>m</metadata><g id="axes_1">'
        '<path id="p1" d="M 1.2345 2.5\nL 3 4 "/><use xlink:href="#p1" style="stroke: #fe0002"/>'
        '<g id="series-3" clip-path="url(#p1)"/>'
        '<text style="font: 9px serif; fill: #fd0000">0.005</text></g></svg>'
    )
    first, second = (Page(inline(svg, name, 'a "b"')) for name in ("one", "two"))
    assert first.ids() == ["one-p1"] and second.ids() == ["two-p1"]
    assert references(first) == ["#one-p1"] * 2
    assert "".join(first.text) == "0.005"
    assert ("use", "style", "stroke: var(--m2)") in first.attributes
    assert ("path", "d", "M 1.2 2.5 L 3 4") in first.attributes
    assert ("g", "clip-path", "url(#one-p1)") in first.attributes
    assert ("svg", "aria-label", 'a "b"') in first.attributes


def test_images_are_best_median_worst_and_the_first_other():
    def chosen(*values, ranked_by="mse"):
        array = np.array(values)[None, :, None, None]
        return choose(
            Scores(
                (Method("a"),),
                (ranked_by,),
                ranked_by,
                array,
                len(values),
                np.zeros(1),
                (False,),
                np.ones((1, len(values), 1), bool),
            )
        )

    assert chosen(5, 1, 4, 3, 2) == {1: "best", 3: "median", 0: "worst", 2: "first other"}
    assert chosen(5, 1, 4, 3, 2, ranked_by="ssim") == {0: "best", 3: "median", 1: "worst", 2: "first other"}
    assert chosen(2, 1) == {1: "best, median", 0: "worst"}
    assert chosen(7) == {0: "best, median, worst"}


def test_the_sprite_holds_original_reconstruction_and_differences(tmp_path):
    folder = Folder(tmp_path, 1, side=4)
    key = folder.add("adam", level=0.3)
    folder.add("adam", "", trial="class_inversion", truth=False)
    results = folder.finish()
    comparisons = compare(results)
    grid, other = grids(results, comparisons, {one: score(one) for one in comparisons})
    sheet = np.asarray(Image.open(io.BytesIO(b64decode(grid.sprite)))) / 255
    tiles = sheet.reshape(4, 4, 4, 3).transpose(1, 3, 0, 2)
    truth = folder.truth[0]
    found = results.reconstruction(results.records[0])[0]
    assert results.records[0]["key"] == key and grid.scale == 0.5
    for tile, wanted in zip(
        tiles, (truth, found, 0.5 + (found - truth), 2 * np.abs(found - truth)), strict=True
    ):
        assert np.abs(tile - np.clip(wanted, 0, 1)).max() <= 0.51 / 255
    row = grid.rows[0]
    places = [row.original, row.results[0].reconstruction, row.results[0].signed, row.results[0].absolute]
    assert [place.x for place in places] == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=1e-3)
    assert other.rows[0].original is None and other.rows[0].results[0].signed is None


def test_small_differences_get_a_scale_of_their_own(results):
    comparisons = compare(results)
    found = grids(results, comparisons, {one: score(one) for one in comparisons})
    assert {grid.title.split(" ")[0]: grid.scale for grid in found if grid.rows[0].original} == {
        "preimage": 0.5, "adversarial": 0.05,
    }  # fmt: skip


def test_large_images_are_averaged_down(tmp_path):
    folder = Folder(tmp_path, 1, side=300)
    folder.add("adam")
    results = folder.finish()
    comparisons = compare(results)
    (grid,) = grids(results, comparisons, {one: score(one) for one in comparisons})
    sheet = np.asarray(Image.open(io.BytesIO(b64decode(grid.sprite)))) / 255
    assert grid.shrunk == 3 and sheet.shape == (100, 400, 3)
    assert sheet[0, 0, 0] == pytest.approx(folder.truth[0, 0, :3, :3].mean(), abs=0.003)


def test_tiles_shrink_to_the_bytes_of_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("invbench.report.pictures.BYTES", 7000)
    folder = Folder(tmp_path, 1, side=16)
    folder.add("adam", "pool1")
    folder.add("adam", "fc1")
    results = folder.finish()
    comparisons = compare(results)
    found = grids(results, comparisons, {one: score(one) for one in comparisons})
    assert [grid.shrunk for grid in found] == [1, 1]
    monkeypatch.setattr("invbench.report.pictures.BYTES", 6000)
    found = grids(results, comparisons, {one: score(one) for one in comparisons})
    assert [grid.shrunk for grid in found] == [2, 2]


def test_codes_are_no_images(tmp_path):
    folder = Folder(tmp_path, 2, truth=np.zeros((2, 7, 4, 4), np.float32))
    folder.add("adam")
    assert 'id="images"' not in render(folder.finish())


def test_the_download_holds_the_final_rows(results, page):
    uri = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)[1]
    rows = list(csv.DictReader(io.StringIO(b64decode(uri).decode())))
    final = results.table[results.table["final"]]
    assert len(rows) == len(final)
    assert [float(row["mse"]) for row in rows[:8]] == pytest.approx(final["mse"].tolist()[:8], rel=1e-8)
    assert rows[0]["solver"] == "adam" and rows[0]["instance_name"] == "photo-0"
    assert "peak_memory" not in rows[0]


def test_names_in_the_download_are_quoted_and_no_formulas(tmp_path):
    folder = Folder(tmp_path, 3)
    names = ['a,"b"\nc', "=cmd()", "+1"]
    folder.add(names=names)
    results = folder.finish()
    rows = list(csv.DictReader(io.StringIO(final_rows(results))))
    assert [row["instance_name"] for row in rows] == ['a,"b"\nc', "'=cmd()", "'+1"]
    assert attach(results, "../../etc").name == "------etc-final.csv"


def test_a_large_download_is_compressed(results, monkeypatch):
    monkeypatch.setattr("invbench.report.attachment.PLAIN_BYTES", 10)
    found = attach(results, "quick")
    assert found.name == "quick-final.csv.gz"
    assert gzip.decompress(b64decode(found.uri.partition("base64,")[2])).decode() == final_rows(results)


def test_the_terminal_table_has_a_row_per_method_and_trial(results):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal(results))
    lines = console.export_text().splitlines()
    assert len(lines) == 1 + 5 + 30, "a head, five trials, six methods each"
    assert lines[1].split() == ["preimage", "·", "conv1", "MSE"]
    assert lines[2].split()[:2] == ["lbfgs", "★"] and lines[2].split()[-1] == "done"
    assert sum("refused: needs a smooth objective" in line for line in lines) == 1


def test_the_terminal_table_shows_names_as_they_are(tmp_path):
    folder = Folder(tmp_path, 1)
    folder.add("[red]x[/red]\x1b[2J")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal(folder.finish()))
    assert "[red]x[/red] [2J" in console.export_text()


def test_the_environment_may_hold_anything():
    assert environment_rows({"a": {"b": [1, {"c": 2}]}, "n": None, "skipped": ["x"]}) == [("a.b", "1, c 2")]
    assert skipped({"skipped": {"x.jpg": "torn"}}) == ["x.jpg: torn"]
    assert skipped({"skipped": [["x.jpg", "torn"], "y.jpg"]}) == ["x.jpg: torn", "y.jpg"]
    assert skipped({}) == []
    assert "nothing to compare" in summary([], {})


def test_the_page_says_what_the_study_is_and_how_good_its_networks_are(tmp_path):
    results = replace(
        quick(tmp_path, layers=("conv1",)),
        study="study: s\ndescription: >\n  JPEG copies\n  <b>of images</b>\n",
        environment={
            "networks": {"lenet": {"held_out_accuracy": 0.74}, "other": {"held_out_accuracy": None}}
        },
    )
    page = render(results)
    said = "JPEG copies &lt;b&gt;of images&lt;/b&gt; lenet names 74.0 % of its held-out images."
    assert f'<p class="description">{said}</p>' in page


def test_learned_priors_have_a_table_of_their_own(tmp_path):
    about = {
        "name": "foe",
        "recipe": "FieldOfExperts(patch=8, channels='full')",
        "layer": "",
        "images": "'bundled'",
        "origin": "trained now",
        "training_seconds": 41.234,
    }
    other = about | {"recipe": HOSTILE, "layer": "pool1", "images": HOSTILE, "training_seconds": None}
    folder = Folder(tmp_path, 2)
    folder.add()
    page = render(folder.finish(environment={"cores": 2, "priors": [about, other]}))
    table = re.search(r'<table class="priors">.*?</table>', page, re.DOTALL)[0]
    rows = [Page(row).words() for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    assert rows[1] == "foe patch=8, channels=fullpixelsbundledtrained now41.2"
    assert rows[2].endswith("trained now–") and "pool1" in rows[2] and HOSTILE in rows[2]
    assert HOSTILE not in page and "priors.recipe" not in page
    assert environment_rows({"cores": 2, "priors": [about]}) == [("cores", "2")]
    Page(page)


def test_the_table_of_priors_is_there_only_where_there_are_some(tmp_path):
    for environment in ({}, {"priors": []}, {"priors": None}):
        assert learned_priors(environment) == ()
    page = render(quick(tmp_path, layers=("conv1",)))
    assert "Learned priors" not in page and '<table class="priors">' not in page
