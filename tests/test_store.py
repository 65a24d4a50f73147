import csv
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from invbench.errors import UserError
from invbench.harness import run_cell
from invbench.store import COLUMNS, Store, key_of, load
from invbench.study import Budget
from tests.toys import Scripted, ToyBench, cell_of


def filled(folder: Path) -> Store:
    store, bench = Store(folder), ToyBench()
    scripts = {
        "steady": lambda problem, x: (x * 0.9 for _ in range(100)),
        "broken": lambda problem, x: iter([x * float("nan")]),
    }
    for key, script in scripts.items():
        record, arrays = run_cell(cell_of(Scripted(script=script), budget=Budget(iterations=6)), bench, key)
        store.write(key, record, arrays)
    return store


def test_table_has_a_row_per_instance_and_trace_point(tmp_path: Path) -> None:
    filled(tmp_path)
    table = load(tmp_path).table
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    steady = table[table["cell"] == "steady"]
    assert len(steady) == 3 * 7
    assert steady.groupby("instance")["final"].sum().tolist() == [1, 1, 1]
    assert steady[steady["final"]]["iteration"].tolist() == [6, 6, 6]
    assert steady["mse"].notna().all()
    assert steady["prior:tv"].notna().all()
    assert steady["ssim"].isna().all(), "what does not apply is empty, never 0"
    assert set(steady["instance_name"]) == {"a", "b", "c"}


def test_a_diverged_instance_ends_where_it_was_finite(tmp_path: Path) -> None:
    filled(tmp_path)
    broken = load(tmp_path).table.query("cell == 'broken'")
    assert len(broken) == 3
    assert broken["iteration"].tolist() == [0, 0, 0]
    assert broken["final"].all()
    assert (broken["status"] == "diverged").all()


def test_a_cell_without_trace_gives_one_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    labels = {"cell": "k", "solver": "picky", "seed": 3}
    store.write(
        "k",
        {"key": "k", "status": "refused", "reason": "no", "labels": labels, "trace": None, "instances": []},
    )
    (row,) = load(tmp_path).table.to_dict("records")
    assert (row["status"], row["reason"], row["solver"], row["seed"]) == ("refused", "no", "picky", 3)
    assert np.isnan(row["instance"])
    assert np.isnan(row["objective"])


def test_values_survive_the_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("a", {"x": np.float64(0.1), "n": [np.nan, np.inf], "i": 3, "s": "é"}, {"x": np.arange(3.0)})
    assert store.find("a") == {"x": 0.1, "n": [None, None], "i": 3, "s": "é"}
    assert store.find("b") is None


def test_nothing_half_written_is_ever_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write("a", {"x": 1})
    monkeypatch.undo()
    assert store.find("a") is None
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_cell_counts_as_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "cells" / "a.json").write_text('{"x": ')
    assert store.find("a") is None


def test_the_plan_decides_what_belongs_to_the_study(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.text("plan.json", json.dumps({"cells": ["broken", "steady", "later"]}))
    results = load(tmp_path)
    assert [record["key"] for record in results.records] == ["broken", "steady"]
    assert results.missing == 1


def test_keys_do_not_depend_on_order() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1}) != key_of({"a": 1, "b": [2, 1]})


def test_a_folder_without_results_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results"):
        load(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write results"):
        Store(tmp_path / "file" / "results")


def test_analyses_are_read_in_the_order_of_their_keys(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert load(tmp_path).analyses == ()
    (tmp_path / "analyses").mkdir()
    for key in ("b", "a"):
        store.text(f"analyses/{key}.json", json.dumps({"name": key, "parameters": {}, "rows": []}))
    assert [record["name"] for record in load(tmp_path).analyses] == ["a", "b"]


def packed_by_hand(folder: Path) -> None:
    """What the layout of a packed folder promises, without the code that writes it."""
    cells = [
        {"key": key, "status": "done", "labels": {"cell": key, "solver": solver, "seed": 3}, "instances": []}
        for key, solver in (("k", "adam"), ("l", "lbfgs"))
    ]
    (folder / "cells.json.gz").write_bytes(gzip.compress(json.dumps(cells).encode()))
    (folder / "plan.json").write_text('{"cells": ["k", "l", "never-run"]}')
    adam = {
        "solver": "ignored",
        "seed": 9,
        "cell": "k",
        "instance": 0.0,
        "instance_name": "nan",
        "status": "done",
    }
    rows = [
        {**adam, "final": False, "mse": "0.30000000000000004"},
        {**adam, "final": True, "mse": "1e-300"},
        {"cell": "l", "status": "refused", "reason": 'no, "never"', "final": True},
    ]
    with gzip.open(folder / "table.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "images").mkdir()
    np.savez(
        folder / "images" / "k.npz",
        x=np.array([[[[0, 65535]]], [[[13107, 52428]]]], dtype=np.uint16),
        kept=np.array([2, 0]),
        count=np.array(3),
    )


def test_a_packed_folder_is_read(tmp_path: Path) -> None:
    packed_by_hand(tmp_path)
    results = load(tmp_path)
    assert results.packed
    assert results.missing == 1
    table = results.table
    assert list(table.columns) == list(COLUMNS)
    assert table["solver"].tolist() == ["adam", "adam", "lbfgs"]
    assert table["seed"].tolist() == [3, 3, 3], "what belongs to a cell is taken from its record"
    assert table["final"].tolist() == [False, True, True]
    assert table["mse"].tolist()[:2] == [0.1 + 0.2, 1e-300]
    assert table["instance_name"].tolist() == ["nan", "nan", ""]
    assert table["reason"].tolist() == ["", "", 'no, "never"']
    assert np.isnan(table["mse"].iloc[2])
    assert table["ssim"].isna().all()


def test_images_that_were_not_kept_are_nan(tmp_path: Path) -> None:
    packed_by_hand(tmp_path)
    results = load(tmp_path)
    images = results.reconstruction(results.records[0])
    assert images is not None
    assert images.dtype == np.float32
    assert np.isnan(images[1]).all()
    np.testing.assert_allclose(images[[2, 0], 0, 0], [[0, 1], [0.2, 0.8]], rtol=1e-6)
    assert results.reconstruction(results.records[1]) is None
