import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from invbench.claims import evaluate, of_study
from invbench.cli.pack import command
from invbench.errors import UserError
from invbench.packing import pack
from invbench.report import render
from invbench.report.attachment import final_rows
from invbench.report.comparisons import compare
from invbench.report.pictures import choose, grids
from invbench.report.scores import score
from invbench.store import Results, load
from tests.results_folder import ENVIRONMENT, METHODS, Folder, quick

CLAIMS = """study: quick
claims:
  - {id: first, source: ours, ours: {where: {solver: lbfgs, trial: preimage}, column: mse},
     against: {where: {solver: adam}}, as: ratio, agree: {at_most: 1}}
  - {id: second, source: ours, ours: {where: {trial: adversarial}, column: success}, agree: {at_least: 2}}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = quick(tmp_path_factory.mktemp("whole"), instances=9, layers=("pool1",)).folder
    (folder / "study.yaml").write_text(CLAIMS)
    (folder / "analyses").mkdir()
    picture = {"title": "one pixel", "png": "iVBORw0KGgo=", "width": 1, "height": 1}
    record = {"name": "coherence", "parameters": {}, "rows": [{"max": 1}], "pictures": [picture]}
    (folder / "analyses" / "k.json").write_text(json.dumps(record))
    whole = load(folder)
    (folder / "report.html").write_text(render(whole))
    return whole


@pytest.fixture(scope="module")
def packed(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Results:
    dest = tmp_path_factory.mktemp("packed") / "deep" / "results"
    pack(results.folder, dest)
    return load(dest)


@pytest.fixture
def small(tmp_path: Path) -> Results:
    builder = Folder(tmp_path / "small", instances=2)
    builder.add()
    builder.finish()
    (tmp_path / "small" / "report.html").write_text("the page")
    return load(tmp_path / "small")


def test_the_table_is_the_same(results: Results, packed: Results) -> None:
    assert packed.packed
    assert not results.packed
    pd.testing.assert_frame_equal(packed.table, results.table, rtol=5e-4, atol=0)
    final = results.table["final"]
    pd.testing.assert_frame_equal(packed.table[final], results.table[final], check_exact=True)
    exact = ["instance", "iteration"]
    pd.testing.assert_frame_equal(packed.table[exact], results.table[exact], check_exact=True)


def test_curves_are_rounded(results: Results, packed: Results) -> None:
    curve = ~results.table["final"]
    value = results.table.loc[curve, "objective"].dropna().iloc[0]
    assert packed.table.loc[curve, "objective"].dropna().iloc[0] == float(f"{value:.5g}") != value


def test_the_rest_is_the_same(results: Results, packed: Results) -> None:
    assert packed.study == results.study
    assert packed.environment == results.environment == ENVIRONMENT
    assert packed.missing == 0
    assert packed.analyses == results.analyses
    assert len(packed.analyses) == 1
    assert packed.analyses[0]["pictures"][0]["title"] == "one pixel"
    for ours, theirs in zip(packed.records, results.records, strict=True):
        assert "trace" not in ours
        assert ours == {key: value for key, value in theirs.items() if key not in ("trace", "traceback")} | (
            {"traceback": "RuntimeError"} if "traceback" in theirs else {}
        )


def test_the_files_are_those_published(packed: Results) -> None:
    names = {path.name for path in packed.folder.iterdir()}
    assert names == {
        "study.yaml",
        "environment.json",
        "plan.json",
        "table.csv.gz",
        "cells.json.gz",
        "analyses",
        "images",
        "report.html",
    }


def test_claims_agree(results: Results, packed: Results) -> None:
    verdicts = evaluate(of_study(packed.study), packed.table, packed.analyses)
    assert verdicts == evaluate(of_study(results.study), results.table, results.analyses)
    assert [verdict.verdict for verdict in verdicts] == ["reproduced", "differs"]


def test_the_report_can_be_made_again(results: Results, packed: Results) -> None:
    page, original = render(packed), (results.folder / "report.html").read_text()
    assert page.count("<img") == original.count("<img")
    assert page.count('id="grid-') == original.count('id="grid-') > 0
    assert final_rows(packed) == final_rows(results)


def test_what_the_page_shows_is_kept_and_nothing_else(results: Results, packed: Results) -> None:
    comparisons = compare(results)
    scores = {comparison: score(comparison) for comparison in comparisons}
    shown = grids(results, comparisons, scores)
    again = compare(packed)
    assert [grid.methods for grid in shown] == [
        grid.methods for grid in grids(packed, again, {comparison: score(comparison) for comparison in again})
    ]
    for comparison in comparisons:
        if f"grid-{comparison.anchor}" not in {grid.anchor for grid in shown}:
            continue
        (method, *_) = comparison.methods
        (cell, *_) = comparison.by_method()[method]
        whole, kept = results.reconstruction(cell.record), packed.reconstruction(cell.record)
        assert whole is not None
        assert kept is not None
        assert kept.shape == whole.shape
        seen = sorted(choose(scores[comparison]))
        assert np.isfinite(kept).all((1, 2, 3)).nonzero()[0].tolist() == seen
        np.testing.assert_allclose(kept[seen], np.clip(whole[seen], 0, 1), atol=0.6 / 65535)
        if cell.record["truth"]:
            truth = packed.truth(cell.record)
            assert truth is not None
            np.testing.assert_allclose(truth[seen], results.truth(cell.record)[seen], atol=0.6 / 65535)  # type: ignore[index]


def test_other_seeds_and_methods_beyond_the_grid_leave_no_image(tmp_path: Path) -> None:
    builder = Folder(tmp_path / "whole", instances=3)
    for n in range(10):
        for seed in (1, 0):
            builder.add(f"method-{n}", level=0.01 * (n + 1), seed=seed)
    builder.finish()
    pack(tmp_path / "whole", tmp_path / "packed")
    whole = load(tmp_path / "whole")
    shown = [record["key"] for record in whole.records if record["labels"]["seed"] == 0][:8]
    kept = {path.stem for path in (tmp_path / "packed" / "images").iterdir()}
    assert kept == {*shown, "truth-photos"}


def test_large_images_are_averaged_as_on_the_page(tmp_path: Path) -> None:
    builder = Folder(tmp_path / "whole", instances=1, side=257)
    builder.add(level=0.01)
    whole = builder.finish()
    pack(whole.folder, tmp_path / "packed")
    (record,) = whole.records
    found, kept = whole.reconstruction(record), load(tmp_path / "packed").reconstruction(record)
    assert kept is not None
    assert found is not None
    assert kept.shape == (1, 3, 85, 85)
    np.testing.assert_allclose(kept[0, :, 1, 2], found[0, :, 3:6, 6:9].mean((1, 2)), atol=1e-4)
    assert 'id="grid-' in render(load(tmp_path / "packed"))


def test_the_page_is_copied_or_made(
    results: Results, packed: Results, small: Results, tmp_path: Path
) -> None:
    text = "Traceback\nRuntimeError"
    assert text in (results.folder / "report.html").read_text()
    assert text not in (packed.folder / "report.html").read_text(), "it may name files of somebody's machine"
    pack(small.folder, tmp_path / "copied")
    assert (tmp_path / "copied" / "report.html").read_text() == "the page"
    (small.folder / "report.html").unlink()
    pack(small.folder, tmp_path / "made")
    assert (tmp_path / "made" / "report.html").read_text() == render(small)


def test_same_results_same_bytes(small: Results, tmp_path: Path) -> None:
    pack(small.folder, tmp_path / "one")
    pack(small.folder, tmp_path / "two")
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_the_table_is_plain_csv(results: Results, packed: Results) -> None:
    text = gzip.decompress((packed.folder / "table.csv.gz").read_bytes()).decode()
    table = pd.read_csv(io.StringIO(text))
    assert list(table.columns) == list(results.table.columns)
    assert len(table) == len(results.table)
    assert set(table["solver"]) == set(METHODS)


def test_any_text_and_any_number_survive(tmp_path: Path) -> None:
    names = ['a,"b"', "nan", "line\nbreak\r\n", " é=1 ", "", "NA", "1", "true"]
    builder = Folder(tmp_path / "whole", truth=np.zeros((8, 3, 4, 4), dtype=np.float32))
    builder.add(names=names, level=1e-30, diverged=(2,), layer="None")
    builder.add(
        names=names, level=1e30, solver='q"', parameters="NA", oracle="oracle", seed=None, truth=False
    )
    builder.add("x", status="refused", reason='no, "never"')
    builder.finish()
    pack(tmp_path / "whole", tmp_path / "packed")
    whole, packed = load(tmp_path / "whole").table, load(tmp_path / "packed").table
    pd.testing.assert_frame_equal(packed, whole, rtol=5e-4, atol=0)
    assert names == packed["instance_name"].drop_duplicates().tolist()[:8]
    assert packed["seed"].isna().any()


def test_only_the_last_line_of_a_traceback_is_published(tmp_path: Path) -> None:
    builder = Folder(tmp_path / "whole")
    builder.add()
    text = 'Traceback:\n  File "/home/somebody/x.py", line 1\nValueError: odd\n\n'
    builder.add("broken", status="failed", reason="ValueError: odd", traceback=text)
    builder.finish()
    (tmp_path / "whole" / "report.html").write_text("/home/somebody")
    pack(tmp_path / "whole", tmp_path / "packed")
    _, failed = load(tmp_path / "packed").records
    assert failed["traceback"] == "ValueError: odd"
    for path in (tmp_path / "packed").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            assert b"somebody" not in data, path


def test_what_cannot_be_packed_is_a_sentence(results: Results, packed: Results, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="packed already"):
        pack(packed.folder, tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for taken in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(UserError, match="is not an empty folder"):
            pack(results.folder, taken)
    with pytest.raises(UserError, match="cannot write to"):
        pack(results.folder, tmp_path / "full" / "file" / "below")
    with pytest.raises(UserError, match="holds no results"):
        pack(tmp_path / "full", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unfinished_folders_need_force(tmp_path: Path) -> None:
    builder = Folder(tmp_path / "whole")
    builder.add()
    builder.keys += ["later", "even-later"]
    builder.finish()
    with pytest.raises(UserError, match=r"lacks 2 of 3 cells: .* --force"):
        pack(tmp_path / "whole", tmp_path / "packed")
    pack(tmp_path / "whole", tmp_path / "packed", force=True)
    assert load(tmp_path / "packed").missing == 2


def test_a_folder_without_cells_in_its_plan(tmp_path: Path) -> None:
    Folder(tmp_path / "whole").finish()
    pack(tmp_path / "whole", tmp_path / "packed")
    pd.testing.assert_frame_equal(load(tmp_path / "packed").table, load(tmp_path / "whole").table)


def test_cells_of_other_plans_stay_behind(results: Results, tmp_path: Path) -> None:
    shutil.copytree(results.folder, tmp_path / "whole")
    key = results.records[0]["key"]
    (tmp_path / "whole" / "plan.json").write_text(json.dumps({"cells": [key]}))
    pack(tmp_path / "whole", tmp_path / "packed")
    (record,) = load(tmp_path / "packed").records
    assert record["key"] == key


def test_the_command_says_how_large_it_is(small: Results, tmp_path: Path) -> None:
    dest = tmp_path / "packed"
    outcome = CliRunner().invoke(command, [str(small.folder), str(dest)])
    assert outcome.exit_code == 0, outcome.output
    size = sum(path.stat().st_size for path in dest.rglob("*") if path.is_file())
    assert outcome.output.startswith(f"{dest}: {size / 1e6:.1f} MB (")
    assert CliRunner().invoke(command, [str(small.folder), str(dest), "--force"]).exit_code != 0


def test_packing_is_worth_it(results: Results, packed: Results) -> None:
    def size(of: Results) -> int:
        return sum(
            path.stat().st_size for path in of.folder.rglob("*") if path.suffix != ".html" and path.is_file()
        )

    assert size(packed) < size(results) / 2
