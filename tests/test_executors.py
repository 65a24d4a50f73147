"""Resume: what is finished is kept, whatever happens."""

import json
from pathlib import Path
from typing import Any

import pytest

from invbench import executors
from invbench.errors import UserError
from invbench.harness import Bench
from invbench.store import Store, load
from invbench.study import Study
from tests.studies import planned, run_and_kill

STUDY = """
study: resumable
images: {source: bundled, count: 2}
trials:
- preimage: {layers: [conv1, pool1, conv2, pool2, fc1, fc2, fc3], priors: {tv: [0, 1, 2]}}
methods: [adam, lbfgs]
budget: {iterations: 4}
"""
SMALL = STUDY.replace("[conv1, pool1, conv2, pool2, fc1, fc2, fc3]", "[pool1, fc1]").replace("[0, 1, 2]", "1")


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}


def run(study: Study, folder: Path, **options: Any) -> executors.Summary:
    return executors.run(study, Store(folder), Bench(), **options)


def test_a_second_run_runs_nothing(tmp_path: Path) -> None:
    first = run(planned(SMALL), tmp_path)
    before = times(tmp_path)
    second = run(planned(SMALL), tmp_path)
    assert first.statuses == second.statuses == {"done": 4}
    assert (first.resumed, second.resumed, second.stale) == (0, 4, 0)
    assert times(tmp_path) == before
    assert first.exit_code == 0


def test_a_longer_study_runs_only_what_is_new_and_a_shorter_one_shows_only_its_own(tmp_path: Path) -> None:
    run(planned(SMALL), tmp_path)
    longer = run(planned(SMALL.replace("[adam, lbfgs]", "[adam, lbfgs, momentum]")), tmp_path)
    assert (longer.resumed, sum(longer.statuses.values())) == (4, 6)
    run(planned(SMALL.replace("[adam, lbfgs]", "[adam]")), tmp_path)
    assert {record["labels"]["solver"] for record in load(tmp_path).records} == {"adam"}


def test_failed_cells_are_tried_again_and_make_the_exit_code_1(tmp_path: Path) -> None:
    run(planned(SMALL), tmp_path)
    path = next((tmp_path / "cells").glob("*.json"))
    record = json.loads(path.read_text()) | {"status": "failed"}
    path.write_text(json.dumps(record))
    assert executors.Summary(statuses=executors.Counter(failed=1, done=3)).exit_code == 1
    assert executors.Summary(statuses=executors.Counter(refused=1, diverged=3)).exit_code == 0
    summary = run(planned(SMALL), tmp_path)
    assert summary.resumed == 3
    assert json.loads(path.read_text())["status"] == "done"


def test_cells_of_other_code_are_kept_and_counted_or_run_again(tmp_path: Path) -> None:
    run(planned(SMALL), tmp_path)
    path = next((tmp_path / "cells").glob("*.json"))
    record = json.loads(path.read_text())
    record["labels"]["version"] = "0.0.1+older"
    path.write_text(json.dumps(record))
    kept = run(planned(SMALL), tmp_path)
    assert (kept.resumed, kept.stale) == (4, 1)
    again = run(planned(SMALL), tmp_path, stale="rerun")
    assert (again.resumed, again.stale) == (3, 0)


def test_nothing_runs_when_a_trial_cannot_be_posed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pool9"):
        run(planned(SMALL.replace("[pool1, fc1]", "[pool1, pool9]")), tmp_path)
    assert times(tmp_path) == {}


def test_repeated_runs_agree_bit_for_bit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(planned(SMALL), tmp_path / name)
    for left, right in zip(load(tmp_path / "a").records, load(tmp_path / "b").records, strict=True):
        for series, values in left["trace"]["series"].items():
            assert values == right["trace"]["series"][series]


def test_there_is_no_such_executor() -> None:
    with pytest.raises(UserError, match="no executor 'cluster': choose serial"):
        executors.find_executor("cluster")


def test_sigkill_loses_the_running_cell_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_and_kill(STUDY, out, lambda: times(out), 3)
    before = times(out)
    assert 3 <= len(before) < 42
    summary = run(planned(STUDY), out)
    assert summary.resumed == len(before)
    assert summary.statuses == {"done": 42}
    after = times(out)
    assert {name: after[name] for name in before} == before
    assert not list(out.rglob("*.part")) or len(list(out.rglob("*.part"))) == 1
    assert len(load(out).table.query("final")) == 42 * 2
