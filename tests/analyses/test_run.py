"""Running analyses: records, resuming, an edited study, packing, and the command line."""

import io
import json
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from invbench import executors
from invbench.analyses.contract import Analysis, Findings, Picture, Plot, Refused, Row
from invbench.claims import evaluate, of_study
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.packing import pack
from invbench.store import Store, load
from invbench.trials.contract import Scene
from tests.studies import planned, run_and_kill

STUDY = """
study: small
images: {source: bundled, count: 2}
trials:
- preimage: {layer: pool1, priors: {}}
methods: [adam]
budget: {iterations: 3}
seeds: [0, 1]
analyses:
- residuals:
    trial: {preimage: {layer: pool2, priors: {}}}
    solver: [admm, adam]
    iterations: 3
claims:
- id: the-gap-is-below-the-value
  source: ours
  ours: {analysis: residuals, where: {iteration: 3, copy: input, stage: pool2}, column: residual}
  agree: {at_most: 1}
"""


def run(folder: Path, text: str = STUDY, **options: Any) -> executors.Summary:
    return executors.run(planned(text), Store(folder), Bench(), **options)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "analyses").glob("*.json")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    summary = run(path)
    assert summary.statuses == {"done": 4, "refused": 2}
    assert summary.exit_code == 0, "a refusal is a result"
    return path


# -- one analysis --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Toy(Analysis):
    """Does what a test tells it to."""

    plot = Plot(x="n", y="square")
    script: Callable[[Scene], list[Row]] = lambda scene: [{"n": 1, "square": 1.0}]

    def measure(self, scene: Scene) -> list[Row]:
        """Follow the script."""
        return self.script(scene)


def record_of(script: Callable[[Scene], Any], **changes: Any) -> dict[str, Any]:
    first = planned(STUDY).measurements[0]
    measurement = replace(first, name="toy", analysis=Toy(script=script), given={"n_max": 1}, **changes)
    return run_analysis(measurement, Bench(), "key")


def test_a_record_says_everything() -> None:
    record = record_of(lambda scene: [{"n": scene.images.pixels.shape[0], "square": 4.0}])
    assert record["rows"] == [{"n": 2, "square": 4.0}]
    assert (record["key"], record["name"], record["status"], record["reason"]) == ("key", "toy", "done", "")
    assert record["parameters"] == {
        "n_max": 1,
        "network": "lenet",
        "images": "bundled 2 x 32 px",
        "seed": 0,
    }
    assert record["plot"]["x"] == "n"
    assert record["seconds"] >= 0
    assert record["threads"] == 1
    assert record["version"]
    json.dumps(record, allow_nan=False)


def _refuse(scene: Scene) -> list[Row]:
    raise Refused("needs a magnet")


def _break(scene: Scene) -> list[Row]:
    raise ZeroDivisionError("by zero")


def _sleep(scene: Scene) -> list[Row]:
    time.sleep(5)
    return []


def test_what_goes_wrong_becomes_part_of_the_record() -> None:
    refused, failed, late = record_of(_refuse), record_of(_break), record_of(_sleep, timeout=0.05)
    assert (refused["status"], refused["reason"]) == ("refused", "needs a magnet")
    assert (failed["status"], failed["reason"]) == ("failed", "ZeroDivisionError: by zero")
    assert "in _break" in failed["traceback"]
    assert (late["status"], late["reason"]) == ("timeout", "took longer than 0.05 s")


def test_rows_are_plain_and_keep_off_the_parameters() -> None:
    assert "column n holds a list; rows hold text and numbers" in record_of(lambda _: [{"n": []}])["reason"]
    assert "column seed bears the name of a parameter" in record_of(lambda _: [{"seed": 1}])["reason"]


def pictured(*pixels: Any, title: str = "noise") -> dict[str, Any]:
    """The record of an analysis that finds these pictures."""
    return record_of(lambda _: Findings([{"n": 1}], [Picture(title, one) for one in pixels]))


def decoded(picture: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(picture["png"]))))


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_pictures_are_kept_to_the_pixel() -> None:
    colour, grey = noise(3, 5, 7), noise(1, 512, 2).double()
    record = pictured(colour, grey)
    assert (record["status"], record["rows"]) == ("done", [{"n": 1}])
    first, second = record["pictures"]
    assert (first["title"], first["width"], first["height"]) == ("noise", 7, 5)
    assert (second["width"], second["height"]) == (2, 512)
    found, other = decoded(first), decoded(second)
    assert (found.dtype, found.shape, other.shape) == (np.uint8, (5, 7, 3), (512, 2))
    assert np.abs(found / 255 - colour.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert np.abs(other / 255 - grey[0].numpy()).max() <= 0.5 / 255 + 1e-9
    ends = decoded(pictured(torch.tensor([[[0.0, 1.0, 0.5]]]))["pictures"][0])
    assert ends.tolist() == [[0, 255, 128]]
    json.dumps(record, allow_nan=False)


def test_rows_alone_have_no_pictures() -> None:
    assert record_of(lambda _: [{"n": 1}])["pictures"] == []
    assert record_of(_refuse)["pictures"] == []


def test_large_pictures_are_averaged_down() -> None:
    large = noise(1, 1030, 4)
    (picture,) = pictured(large)["pictures"]
    assert (picture["width"], picture["height"]) == (2, 344)
    found = decoded(picture) / 255
    assert found[5, 0] == pytest.approx(float(large[0, 15:18, :3].mean()), abs=1.5 / 255)
    assert found[-1, -1] == pytest.approx(float(large[0, 1029:, 3:].mean()), abs=1.5 / 255), "the border"


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (noise(2, 4, 4), "picture 'noise' has the shape (2, 4, 4); give (C, H, W) with C 1 or 3"),
        (noise(4, 4), "has the shape (4, 4)"),
        (noise(1, 0, 4), "has the shape (1, 0, 4)"),
        (noise(1, 4, 4) + 1, "picture 'noise' has values outside [0, 1]"),
        (noise(1, 4, 4) - 1, "has values outside [0, 1]"),
        (noise(1, 4, 4) * torch.nan, "has values outside [0, 1]"),
        (noise(1, 4, 4).byte(), "is of torch.uint8; give real numbers in [0, 1]"),
        (noise(1, 4, 4).numpy(), "holds a ndarray; its pixels are a tensor (C, H, W)"),
    ],
)
def test_what_is_no_picture_is_a_failure_with_a_sentence(pixels: Any, sentence: str) -> None:
    record = pictured(noise(1, 2, 2), pixels)
    assert record["status"] == "failed"
    assert sentence in record["reason"]
    assert record["pictures"] == []


def test_a_picture_needs_a_title_and_its_kind() -> None:
    assert "has the title ''; say what is seen" in pictured(noise(1, 2, 2), title="")["reason"]
    record = record_of(lambda _: Findings([], [noise(1, 2, 2)]))  # type: ignore[list-item]
    assert "among the pictures is a Tensor; give Picture(title, pixels)" in record["reason"]


# -- a study -------------------------------------------------------------------------------------------------


def test_records_are_in_the_order_of_the_study(folder: Path) -> None:
    results = load(folder)
    assert results.missing == 0
    found = [(one["parameters"]["solver"], one["parameters"]["seed"]) for one in results.analyses]
    assert found == [("admm", 0), ("admm", 1), ("adam", 0), ("adam", 1)]
    assert [one["status"] for one in results.analyses] == ["done", "done", "refused", "refused"]
    assert len(results.analyses[0]["rows"]) == 3 * 2 * 2, "iterations, stages, copies"


def test_a_second_run_runs_nothing(folder: Path) -> None:
    before = times(folder)
    summary = run(folder)
    assert (summary.resumed, summary.stale) == (6 + 0, 0)
    assert times(folder) == before


def test_the_claim_is_judged(folder: Path) -> None:
    results = load(folder)
    (verdict,) = evaluate(of_study(results.study), results.table, results.analyses)
    assert verdict.verdict == "reproduced", verdict.note
    last = [
        row["residual"]
        for one in results.analyses
        for row in one["rows"]
        if (row["iteration"], row["copy"], row["stage"]) == (3, "input", "pool2")
    ]
    assert len(last) == 2
    assert verdict.ours == pytest.approx(sum(last) / 2)


def test_a_claim_without_rows_says_why(folder: Path) -> None:
    results = load(folder)
    refused = [one for one in results.analyses if one["status"] == "refused"]
    (verdict,) = evaluate(of_study(results.study), results.table, refused)
    assert verdict.verdict == "not run"
    assert "there are no rows of the analysis residuals; Adam has no states" in verdict.note


def test_an_edited_study_shows_only_its_own(tmp_path: Path) -> None:
    run(tmp_path)
    shorter = STUDY.replace("solver: [admm, adam]", "solver: admm").replace(
        "iterations: 3\nc", "iterations: 2\nc"
    )
    summary = run(tmp_path, shorter.replace("seeds: [0, 1]", "seeds: [0]"))
    assert (summary.resumed, sum(summary.statuses.values())) == (1, 2), "the cell was there"
    (record,) = load(tmp_path).analyses
    assert record["parameters"]["iterations"] == 2
    assert len(times(tmp_path)) == 5
    run(tmp_path, STUDY[: STUDY.index("analyses:")])
    assert load(tmp_path).analyses == ()


def test_what_failed_or_comes_from_other_code_is_run_again(tmp_path: Path) -> None:
    run(tmp_path)
    first, second, *_ = sorted((tmp_path / "analyses").glob("*.json"))
    first.write_text(json.dumps(json.loads(first.read_text()) | {"status": "failed"}))
    second.write_text(json.dumps(json.loads(second.read_text()) | {"version": "0.0.1+older"}))
    again = run(tmp_path)
    assert (again.resumed, again.stale) == (5, 1)
    assert run(tmp_path, stale="rerun").resumed == 5
    assert run(tmp_path, stale="rerun").resumed == 6


def test_a_plan_without_analyses_and_a_folder_with_some_missing_are_read(
    folder: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    plans = json.loads((folder / "plan.json").read_text())
    for key in plans["analyses"][:3]:
        store.write(key, json.loads((folder / "analyses" / f"{key}.json").read_text()), kind="analyses")
    store.text("plan.json", json.dumps(plans))
    assert load(tmp_path).missing == 2 + 1
    store.text("plan.json", json.dumps({"cells": []}))
    assert load(tmp_path).missing == 0
    assert len(load(tmp_path).analyses) == 3


def test_packing_keeps_the_analyses_of_the_study(folder: Path, tmp_path: Path) -> None:
    (folder / "analyses" / "0000000000000000.json").write_text("{}")
    pack(folder, tmp_path / "packed")
    results, packed = load(folder), load(tmp_path / "packed")
    assert packed.packed
    assert packed.analyses == results.analyses
    assert packed.missing == 0
    assert len(times(tmp_path / "packed")) == 4
    key = results.analyses[-1]["key"]
    (tmp_path / "packed" / "analyses" / f"{key}.json").unlink()
    assert load(tmp_path / "packed").missing == 1


def test_packing_what_lacks_an_analysis_is_a_sentence(tmp_path: Path) -> None:
    run(tmp_path / "run")
    next((tmp_path / "run" / "analyses").glob("*.json")).unlink()
    with pytest.raises(UserError, match="lacks 1 of 6 cells and analyses"):
        pack(tmp_path / "run", tmp_path / "packed")


def test_nothing_runs_when_an_analysis_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"analysis residuals: .*pool9"):
        run(tmp_path, STUDY.replace("layer: pool2", "layer: pool9"))
    assert not list((tmp_path / "cells").iterdir())


def test_sigkill_loses_the_running_analysis_only(tmp_path: Path) -> None:
    text = STUDY.replace(
        "solver: [admm, adam]", "solver: {admm: {rho: [1.0, 0.5, 0.25, 0.125, 0.1, 0.05, 0.02]}}"
    )
    text = text.replace("seeds: [0, 1]", "seeds: [0, 1, 2]").replace(
        "    iterations: 3", "    iterations: 12"
    )
    out = tmp_path / "out"
    run_and_kill(text, out, lambda: times(out), 2)
    before = times(out)
    assert 2 <= len(before) < 21
    summary = run(out, text)
    assert summary.resumed == 3 + len(before)
    assert summary.statuses == {"done": 3 + 21}
    after = times(out)
    assert {name: after[name] for name in before} == before
    assert load(out).missing == 0


# -- the command line ----------------------------------------------------------------------------------------


def test_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from invbench import cli

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["invbench", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), " ".join(capsys.readouterr().out.split())

    (tmp_path / "study.yaml").write_text(STUDY)
    study = ["run", str(tmp_path / "study.yaml"), "--device", "cpu", "--out", str(tmp_path / "out")]
    code, out = call(*study, "--plan")
    assert code == 0
    assert "analyses, whose time nothing foretells: 4 residuals" in out
    code, out = call(*study)
    assert code == 0
    assert "refused: Adam has no states" in out
    assert "6 cells and analyses were finished before" in call(*study)[1]
    assert "residuals" in call("list", "analyses")[1]
    broken = pytest.MonkeyPatch()
    with broken.context() as patch:
        patch.setattr("invbench.analyses.residuals.Residuals.measure", _broken)
        code, out = call(*study, "--set", "analyses[0].residuals.iterations=4")
    assert code == 1
    assert "failed: RuntimeError: no luck" in out
    (path,) = [one["traceback"] for one in load(tmp_path / "out").analyses if one["parameters"]["seed"] == 0][
        :1
    ]
    assert "no luck" in path


def _broken(self: Analysis, scene: Scene) -> list[Row]:
    raise RuntimeError("no luck")
