"""The command line as a user meets it, above all with mistakes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invbench import cache, cli
from invbench.cli.list import KINDS
from invbench.trials import offline

STUDY = """
study: small
images: {source: bundled, count: 2}
trials:
- preimage: {layer: pool1}
methods: [adam]
budget: {iterations: 3}
"""


class Outcome:
    """What a call printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def invbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["invbench", *arguments])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return Outcome(int(code or 0), out, err)

    return call


@pytest.fixture
def study(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(old: str = "", new: str = "") -> str:
        assert old in STUDY
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace(old, new) if old else STUDY)
        return str(path)

    return write


def one_sentence(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome.err
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    for part in parts:
        assert part in lines[0]


def test_run_writes_a_report_and_says_where(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = invbench("run", study(), "--device", "cpu")
    assert outcome.code == 0, outcome.err
    page = tmp_path / "results" / "small" / "report.html"
    assert str(page.relative_to(tmp_path)) in outcome.out
    assert "adam" in page.read_text()
    assert invbench("report", "results/small", "-o", "r.html", "--csv", "t.csv").code == 0
    assert (tmp_path / "t.csv").read_text().startswith("study,trial,")
    again = invbench("run", study(), "--device", "cpu")
    assert "1 cells were finished before" in again.out


def test_set_overrides_the_study(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert invbench("run", study(), "--set", "budget.iterations=2", "--set", "methods=[lbfgs]").code == 0
    from invbench.store import load

    (record,) = load(tmp_path / "results" / "small").records
    assert record["labels"]["solver"] == "lbfgs"
    assert record["trace"]["iteration"][-1] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_list(invbench, kind: str) -> None:  # type: ignore[no-untyped-def]
    outcome = invbench("list", kind)
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) >= 1


def test_unknown_study(invbench) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("run", "quik"), "there is no study 'quik'", "quick")


def test_malformed_yaml(invbench, study) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("run", study("methods: [adam]", "methods: [adam")), "study.yaml:", "malformed YAML")


def test_negative_budget(invbench, study) -> None:  # type: ignore[no-untyped-def]
    one_sentence(
        invbench("run", study("iterations: 3", "iterations: -3")), "budget.iterations: must be > 0 (got -3)"
    )


def test_unknown_stage_lists_the_stages(invbench, study) -> None:  # type: ignore[no-untyped-def]
    one_sentence(
        invbench("run", study("pool1", "pool7")), "pool7", "conv1, pool1, conv2, pool2, fc1, fc2, fc3"
    )


def test_unknown_preset_or_method(invbench, study) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("run", study("[adam]", "[mv2014]")), "unknown method 'mv2014'", "did you mean")


def test_unknown_executor(invbench, study) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("run", study(), "--executor", "cloud"), "no executor 'cloud'", "serial")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(invbench, study) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("run", study(), "--device", "cuda"), "no CUDA device", "--device cpu")


def test_no_write_permission(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("")
    one_sentence(invbench("run", study(), "--out", "file/out"), "cannot write results to file/out", "--out")


def test_a_folder_without_images(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    outcome = invbench("run", study("source: bundled", "source: folder, path: empty"))
    one_sentence(outcome, "empty")


def photographs(folder: Path, count: int, side: int = 40) -> None:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for n in range(count):
        pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")


CLASSIFIER = """
from torch import nn

def small(classes=3):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, classes))
"""
NAN = """
from torch import nn

class Bad(nn.Module):
    def forward(self, x):
        return x.flatten(1) * float('nan')

def small():
    return nn.Sequential(Bad())
"""


def test_a_truncated_image_among_good_ones_is_skipped_and_told(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "photos").mkdir()
    photographs(tmp_path / "photos" / "train", 4)
    photographs(tmp_path / "photos" / "test", 4)
    broken = tmp_path / "photos" / "test" / "broken.jpg"
    Image.open(tmp_path / "photos" / "test" / "0.png").save(broken)
    broken.write_bytes(broken.read_bytes()[:700])
    (tmp_path / "own_net.py").write_text(CLASSIFIER)
    path = Path(study("source: bundled, count: 2", "source: folder, path: photos, count: 3"))
    text = path.read_text().replace("pool1", "'0'") + "network: {name: 'own_net:small', classes: 2}\n"
    path.write_text(text + "seeds: [0]\n")
    outcome = invbench("run", str(path), "--device", "cpu")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "results" / "small" / "report.html").read_text()
    assert "broken.jpg" in page
    assert "could not be used" in page


def test_images_smaller_than_asked_for(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photographs(tmp_path / "photos", 5, side=10)
    one_sentence(invbench("run", study("source: bundled", "source: folder, path: photos")), "photos", "32")


def test_images_smaller_than_the_network_takes(invbench, study) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("run", study("count: 2", "count: 2, size: 4")), "lenet", "4")


def test_weights_that_do_not_fit(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.save({"conv1.0.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    outcome = invbench("run", study("methods:", "network: {name: lenet, weights: other.pt}\nmethods:"))
    one_sentence(outcome, "other.pt")


def test_a_pickle_with_code_is_refused(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.save({"weight": print}, tmp_path / "evil.pt")
    outcome = invbench("run", study("methods:", "network: {name: lenet, weights: evil.pt}\nmethods:"))
    one_sentence(outcome, "evil.pt")


def test_a_network_that_returns_nan(invbench, study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "nan_net.py").write_text(NAN)
    text = study("methods:", "network: {name: 'nan_net:small'}\nmethods:")
    Path(text).write_text(Path(text).read_text().replace("pool1", "'0'"))
    one_sentence(invbench("run", text), "nan_net:small", "NaN")


def test_report_of_a_folder_without_results(invbench, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("report", str(tmp_path)), "holds no results")


def test_fit_needs_a_network(invbench) -> None:  # type: ignore[no-untyped-def]
    one_sentence(invbench("fit", "images=bundled"), "network=lenet")
    one_sentence(invbench("fit", "net=lenet"), "network=NAME")


INVERTING = ("solver=inverting_network", "solver.width=4", "solver.steps=2", "trial.layer=conv1")


def test_fit_a_solver(invbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(offline, "IMAGES", {"train": 16, "validation": 8})
    outcome = invbench("fit", *INVERTING, "-o", "weights.safetensors")
    assert outcome.code == 0, outcome.err
    told = dict(line.split(": ", 1) for line in outcome.out.strip().splitlines())
    assert told["origin"] == "trained now"
    assert told["recipe"].startswith("InvertingNetwork(regime='joint'")
    assert told["weights"] == "weights.safetensors"
    # the transposed 5 x 5 convolution, the 3 x 3 convolution, and their biases
    assert int(told["numbers_learned"]) == (16 * 4 * 25 + 4) + (4 * 3 * 9 + 3)
    assert int(told["training_multiply_adds"]) > 0
    kept = cache.read(tmp_path / "weights.safetensors")
    assert kept is not None
    assert sum(tensor.numel() for tensor in kept[0].values()) == int(told["numbers_learned"])
    again = invbench("fit", *INVERTING, "trial.start=black")
    assert "origin: trained before on this machine" in again.out
    assert "origin: trained now" in invbench("fit", *INVERTING, "--refresh").out


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["solver=adam", "trial.layer=pool1"], ["solver 'adam' learns nothing"]),
        (["solver=nonsense", "trial.layer=pool1"], ["unknown method 'nonsense'"]),
        (["solver=inverting_netwrk", "trial.layer=pool1"], ["did you mean", "inverting_network"]),
        (["solver=inverting_network"], ["layer"]),
        (["solver=inverting_network", "trial.layer=pool9"], ["pool9", "conv1, pool1"]),
        (["solver=inverting_network", "trial.layer=pool1", "solver.width=[4, 8]"], ["no lists"]),
        (["solver=inverting_network", "trial.layer=pool1", "solver.width=0"], ["width: must be >= 1"]),
        (["solver=inverting_network", "trial.layer=pool1", "solver.wdth=4"], ["wdth"]),
        (["solver=inverting_network", "trial.layer=[pool1, pool2]"], ["no lists"]),
        (["solver=inverting_network", "trial.layer=pool1", "network.name=[lenet, vgg11]"], ["no lists"]),
        (["solver=inverting_network", "trial.layer=pool2", "solver.regime=solo"], ["nothing to fit"]),
        (["solver=inverting_network", "trial=adversarial"], ["nothing to fit", "takes features"]),
        (["solver=inverting_network", "trial=preimag"], ["preimag", "preimage"]),
        (["solver=inverting_foe", "trial.layer=pool1"], ["fit trains one solver"]),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)  # fmt: skip
def test_mistakes_in_what_is_to_be_fitted(invbench: Any, settings: list[str], parts: list[str]) -> None:
    one_sentence(invbench("fit", *settings), *parts)


def test_help_is_fast_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['invbench', '--help']\n"
        "from invbench.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "names = {'torch', 'numpy', 'pandas', 'matplotlib', 'pydantic', 'yaml', 'rich', 'jinja2'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_plan_shows_the_matrix_and_runs_nothing(invbench, study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = study("methods: [adam]", "methods: [adam, lbfgs]\ntuning: {trials: 3, images: 2}")
    outcome = invbench("run", text, "--plan")
    assert outcome.code == 0, outcome.err
    assert "4 cells, about" in outcome.out
    assert "tuned" in outcome.out
    assert not (tmp_path / "results").exists()


def test_a_warning_to_the_user_is_a_sentence_and_one_about_code_has_its_place() -> None:
    from invbench.cli import format_warning

    assert format_warning(UserWarning("wavelengths alias."), UserWarning, "a.py", 3) == (
        "invbench: wavelengths alias.\n"
    )
    told = format_warning(DeprecationWarning("old"), DeprecationWarning, "a.py", 3, "old()")
    assert told == "a.py:3: DeprecationWarning: old\n  old()\n"
