"""What `invbench run --plan` prints: every run is in it, and nothing is cut off."""

import re
from dataclasses import replace

import pytest

from invbench.cli import plan as shown
from invbench.cli.plan import Line, lines
from invbench.study import Study
from tests.studies import planned

STUDY = """
study: example
images: {source: bundled, count: 4}
network: [{name: lenet, seed: [0, 1]}, {name: alexnet, width: 0.25, norm: batch}]
trials:
- preimage: {layers: [pool1, pool2], start: [noise, black], priors: {}}
- class_inversion: {priors: {l2: 1}, networks: lenet, methods: [adam, two], budget: {seconds: 3}}
methods:
- adam: {lr: [0.01, 0.1]}
- lbfgs
- pipeline: {name: two, stages: [adam, lbfgs], shares: [0.5, 0.5]}
budget: {seconds: 5}
seeds: [0, 3]
tuning: {trials: 4, images: 2}
"""
ANALYSIS = "- residuals: {trial: {preimage: {layer: pool1, priors: {}}}, solver: admm, iterations: [7, 9]}\n"


def printed(study: Study, width: int | None = None) -> list[str]:
    seconds = [cell.budget.seconds or 0.0 for cell in study.cells]
    return "\n".join(line.wrapped(width) for line in lines(study, seconds)).splitlines()


def rows(text: list[str]) -> list[tuple[int, str, str]]:
    """Runs, time and conditions of every row."""
    found = (re.fullmatch(r" +(\d+)  +(\?|\d.*? (?:s|min))(?:  (.*))?", line) for line in text)
    return [(int(row[1]), row[2], row[3] or "") for row in found if row]


def test_every_cell_and_second_is_in_a_row() -> None:
    study = planned(STUDY)
    table = rows(printed(study))
    assert sum(runs for runs, _, _ in table) == len(study.cells)
    assert len(table) == 3 * 2 * 2 + 2, "networks, layers, starts; networks"
    assert table[0] == (2 * 6, "1 min 0 s", "lenet (seed=0); layer pool1; start noise"), "2 seeds"
    assert table[-1] == (2 * 4, "24 s", "lenet (seed=1)")
    assert printed(study)[-1].startswith(f"{len(study.cells)} cells, about 12 min 48 s, found from")


def test_what_is_the_same_is_said_once() -> None:
    text = printed(planned(STUDY))
    assert text[0].startswith("example: ")
    assert text[1] == (
        "everywhere: images bundled 4 x 32 px; seeds 0, 3; on cpu; "
        "tuned: the best of 4 settings on 2 other images"
    )
    assert [line for line in text if not line.startswith(" ") and ": " in line][2:4] == [
        "preimage: priors none; 5 seconds",
        "class_inversion: start grey; priors l2=1; 3 seconds",
    ]
    one = printed(planned(STUDY.replace(", seed: [0, 1]}, {name: alexnet, width: 0.25, norm: batch}", "}")))
    assert one[1].startswith("everywhere: lenet; images"), "a single network, too"


def test_methods_are_told_apart_by_variant_and_where_they_share_a_name_by_parameters() -> None:
    text = printed(planned(STUDY))
    assert "  methods: adam (lr=0.01); adam (lr=0.1); lbfgs; two" in text
    tuned = [line for line in text if line.startswith("  tuned: ")]
    assert tuned == ["  tuned: lbfgs; two", "  tuned: two"], "the rate of adam is set"
    alone = printed(planned(STUDY.replace("[0.01, 0.1]", "0.1")))
    assert "  methods: adam; lbfgs; two" in alone


def test_analyses_are_listed() -> None:
    study = planned(STUDY + "analyses:\n" + ANALYSIS)
    text = printed(study)
    at = next(n for n, line in enumerate(text) if line.startswith("analysis residuals: "))
    assert "trial.layer=pool1" in text[at] and "solver=admm" in text[at]
    assert rows(text[at:])[0] == (2, "?", "lenet (seed=0); iterations=7")
    assert len(rows(text[at:])) == 3 * 2
    assert text[-1] == "analyses, whose time nothing foretells: 12 residuals"


@pytest.mark.parametrize("width", [40, 80])
def test_long_lines_are_folded_and_lose_nothing(width: int) -> None:
    study = planned(STUDY + "analyses:\n" + ANALYSIS)
    whole, folded = printed(study), printed(study, width)
    assert max(map(len, folded)) <= width < max(map(len, whole))
    assert " ".join(folded).split() == " ".join(whole).split()


def test_a_word_longer_than_a_line_is_broken_not_lost() -> None:
    text = Line("  network my_package.networks:build", indent=22).wrapped(16)
    assert max(map(len, text.splitlines())) <= 16
    assert "".join(text.split()) == "networkmy_package.networks:build"


def test_four_hundred_cells_fit_on_some_screens() -> None:
    study = planned(STUDY)
    cells = [replace(cell, seed=seed) for cell in study.cells for seed in range(400 // len(study.cells) + 1)]
    many = replace(study, cells=tuple(cells))
    assert len(many.cells) >= 400
    assert len(printed(many, 80)) < 50


def test_only_a_terminal_folds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    study = planned(STUDY)
    seconds = [1.0] * len(study.cells)
    monkeypatch.setenv("COLUMNS", "50")
    shown.show_plan(study, seconds)
    piped = capsys.readouterr().out.splitlines()
    assert max(map(len, piped)) > 50
    monkeypatch.setattr(shown.sys.stdout, "isatty", lambda: True, raising=False)
    shown.show_plan(study, seconds)
    folded = capsys.readouterr().out.splitlines()
    assert max(map(len, folded)) <= 50
    assert " ".join(folded).split() == " ".join(piped).split()
