"""Random codes and filters: what is drawn, what theory predicts, and figures of the paper's size."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invbench.analyses import isometry
from invbench.analyses.isometry import Found, Isometry
from invbench.analyses.model_rip import ModelRIP, overlaps
from invbench.claims import evaluate
from invbench.claims.statement import Claim
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.report.analyses import measured
from invbench.trials.contract import Scene
from invbench.trials.sparse_code import SparseCode
from tests.results_folder import Folder
from tests.scenes import scene_of
from tests.studies import mistakes, of_analyses, planned
from tests.toys import tiny_network

SMALL: dict[str, Any] = {
    "count": 8,
    "channels": 5,
    "kernel": 3,
    "size": 9,
    "k": 3,
    "samples": 12,
    "bounded": 4,
}
FLAT = {**SMALL, "dimensions": 2, "kernel": 2, "size": 5, "region": 2, "k": 6}

STUDY = of_analyses("- model_rip: {k: 3, count: 8, channels: 5, kernel: 3, size: 9, samples: 20, draws: 2}")


def scene(seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(9)
    pixels = torch.rand(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    return scene_of(tiny_network(), pixels, seed)


def summary(analysis: ModelRIP, seed: int = 0) -> dict[str, dict[str, Any]]:
    rows = analysis.measure(scene(seed))
    return {str(row["quantity"]): dict(row) for row in rows if "quantity" in row}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Isometry, Tensor]]:
    """Every chunk that is measured."""
    found: list[tuple[Isometry, Tensor]] = []
    measure = Isometry.measure

    def spy(self: Isometry, z: Tensor, bounded: int) -> Found:
        found.append((self, z))
        return measure(self, z, bounded)

    monkeypatch.setattr(Isometry, "measure", spy)
    return found


# -- what is drawn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [SMALL, FLAT], ids=["1-d", "2-d"])
def test_codes_are_in_the_model_with_values_on_an_interval(
    parameters: dict[str, Any], seen: list[tuple[Isometry, Tensor]]
) -> None:
    ModelRIP(**{**parameters, "samples": 400, "bounded": 0}).measure(scene())
    domain, z = seen[0][0].domain, torch.cat([z for _, z in seen])
    assert len(z) == 400
    assert bool(domain.contains(z).all())
    assert bool(((z != 0).flatten(1).sum(1) == parameters["k"]).all())
    values = z[z != 0]
    assert values.abs().max() <= 1
    assert float(values.mean()) == pytest.approx(0, abs=4 * (3 * len(values)) ** -0.5)
    assert float(values.square().mean()) == pytest.approx(1 / 3, abs=4 * (0.089 / len(values)) ** 0.5)
    counts = (z != 0).double().sum(0)
    expected = len(values) / counts.numel()
    assert float((counts - expected).square().mean()) == pytest.approx(expected, rel=0.35), (
        "places are uniform"
    )


def test_normal_codes(seen: list[tuple[Isometry, Tensor]]) -> None:
    ModelRIP(**{**SMALL, "samples": 400, "bounded": 0}, codes="normal").measure(scene())
    values = torch.cat([z[z != 0] for _, z in seen])
    assert float(values.square().mean()) == pytest.approx(1, abs=0.15)
    assert float(values.abs().max()) > 2


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize(
    "parameters",
    [SMALL, FLAT, {"layer": "conv1", "k": 3}, {"layer": "conv1", "filters": "learned", "k": 3, "region": 2}],
    ids=["1-d", "2-d", "random layer", "learned layer"],
)
def test_filters_and_codes_are_those_of_the_trial(
    parameters: dict[str, Any], seed: int, seen: list[tuple[Isometry, Tensor]]
) -> None:
    ModelRIP(**parameters | {"samples": 2}).measure(scene(seed))
    shared = {key: value for key, value in parameters.items() if key not in ("samples", "bounded")}
    posed = SparseCode(**shared, draws=2).pose(scene(seed))
    (one, z), *_ = seen
    torch.testing.assert_close(one.affine.linear(z), posed.problem.network(z))
    torch.testing.assert_close(z, posed.truth)


def test_every_draw_has_its_own_filters_and_codes(seen: list[tuple[Isometry, Tensor]]) -> None:
    ModelRIP(**SMALL, draws=3).measure(scene())
    assert len(seen) == 3
    one = torch.eye(8 * 7, dtype=torch.float64).view(-1, 8, 7, 1)
    banks = [isometry_.affine.linear(one).flatten() for isometry_, _ in seen]
    for flat in (banks, [z.flatten() for _, z in seen]):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert abs(float(torch.corrcoef(torch.stack((flat[i], flat[j])))[0, 1])) < 0.2


def test_the_seed_is_the_only_source_of_randomness() -> None:
    first, again, other = (ModelRIP(**SMALL).measure(scene(seed)) for seed in (3, 3, 4))
    assert str(first) == str(again) != str(other)


@pytest.mark.parametrize("entries", [1, 500])
def test_chunks_change_nothing(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = summary(ModelRIP(**SMALL, draws=2))
    monkeypatch.setattr(isometry, "ENTRIES", entries)
    parts = summary(ModelRIP(**SMALL, draws=2))
    for name, row in whole.items():
        for column in set(row) - {"quantity"}:
            value = row[column]
            assert parts[name][column] == pytest.approx(value, rel=1e-9, nan_ok=True), (name, column)


# -- what is predicted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kernel", "padding"),
    [((9, 1), (3, 1), (0, 0)), ((4, 5), (3, 2), (0, 0)), ((4, 4), (3, 3), (1, 1))],
)
def test_overlaps_are_means_over_pairs_of_windows(
    shape: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int]
) -> None:
    (height, width), (kh, kw), (ph, pw) = shape, kernel, padding
    windows = [
        {(i + a, j + b) for a in range(kh) for b in range(kw) if 0 <= i + a < height and 0 <= j + b < width}
        for i in range(-ph, height + ph - kh + 1)
        for j in range(-pw, width + pw - kw + 1)
    ]
    pairs = [len(a & b) / (len(a) * len(b)) for a in windows for b in windows]
    found = overlaps(shape, kernel, padding)
    assert found == pytest.approx((np.mean([1 / len(a) for a in windows]), np.mean(pairs)))


def test_the_predictions_of_the_papers_size() -> None:
    rows = summary(ModelRIP(samples=50, bounded=0))
    assert rows["|W^T z|/|z|"]["predicted"] == 1
    assert rows["|W^T z|/|z|"]["predicted_std"] == pytest.approx(0.0316, abs=5e-4)
    cover = 4.714  # sum c_p^2 / sum c_p
    assert rows["|W W^T z|/|z|"]["predicted"] == pytest.approx(
        math.sqrt(1 + 96 * cover / 160 + 1 / 160), abs=1e-4
    )
    assert rows["error, known support"]["predicted"] == pytest.approx(
        math.sqrt(2 / 160 + 9 * 0.842 / (25 * 32)), abs=1e-4
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"count": 20, "channels": 16, "kernel": 4, "size": 12, "k": 4},
        {"count": 12, "channels": 20, "kernel": 3, "size": 6, "k": 8, "region": 2, "dimensions": 2},
        {"layer": "conv1", "k": 1, "region": 2},
    ],
    ids=["1-d", "2-d", "padded layer of 3 channels"],
)
def test_the_predictions_hold_on_average_over_filters(parameters: dict[str, Any]) -> None:
    rows = summary(ModelRIP(**parameters, samples=40, draws=60, bounded=0))
    for name, close in (
        ("|W^T z|/|z|", 0.005),
        ("|W W^T z|/|z|", 0.015),
        ("|W W^T z|/|z| on the support", 0.01),
    ):
        assert rows[name]["rms"] == pytest.approx(rows[name]["predicted"], rel=close), name
    assert rows["|W^T z|/|z|"]["std"] == pytest.approx(
        rows["|W^T z|/|z|"]["predicted_std"], rel=0.12, abs=1e-9
    )
    known = rows["error, known support"]
    assert known["rms"] == pytest.approx(known["predicted"], rel=0.08, abs=1e-9)


def test_nothing_is_predicted_of_learned_filters() -> None:
    rows = summary(ModelRIP(layer="conv1", filters="learned", k=3, samples=4))
    assert all(math.isnan(row["predicted"]) for row in rows.values())


def test_the_figures_of_the_papers_size() -> None:
    """Leads: .998 +- .032, 1.953, strict .309, known support .143, naive switches 1.43, deltas .271, .456."""
    rows = summary(ModelRIP(samples=120, draws=3, bounded=40))
    expected = {
        "|W^T z|/|z|": (1, 0.02),
        "|W W^T z|/|z|": (1.957, 0.05),
        "|W W^T z|/|z| on the support": (1.01, 0.03),
        "|M(W W^T z)|/|z|": (1.03, 0.03),
        "error, strict": (0.309, 0.025),
        "error, known regions": (0.195, 0.02),
        "error, known support": (0.144, 0.012),
        "error, naive switches": (1.43, 0.03),
        "delta_k, on the support": (0.271, 0.03),
        "delta_2k, on both supports": (0.456, 0.05),
    }
    for name, (value, close) in expected.items():
        assert rows[name]["mean"] == pytest.approx(value, abs=close), name
    assert rows["error over bound"]["max"] < 1


# -- in a study ----------------------------------------------------------------------------------------------


def test_claims_and_figures(tmp_path: Any) -> None:
    record = run_analysis(planned(STUDY).measurements[0], Bench(), "key")
    assert record["status"] == "done", record["reason"]
    claim = Claim.model_validate(
        {
            "id": "concentrates",
            "source": "fig. 2 (a)",
            "ours": {"analysis": "model_rip", "where": {"quantity": "|W^T z|/|z|"}, "column": "mean"},
            "paper": 1.0,
            "agree": {"within": 0.2},
        }
    )
    import pandas as pd

    (verdict,) = evaluate([claim], pd.DataFrame(), [record])
    assert (verdict.verdict, verdict.note) == ("reproduced", "")
    folder = Folder(tmp_path, instances=2)
    folder.add()
    folder.store.write("k", record, kind="analyses")
    (shown,) = measured(folder.finish())
    assert [plot.caption for plot in shown.plots] == ["figure: norms over |z|", "figure: |x_hat - x|/|x|"]
    assert {"|W^T z|/|z|", "error, strict", "error, known support"} <= {line.text for line in shown.legend}
    assert shown.note == ""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("k: 3", "k: 0", "analyses[0].model_rip.k: must be >= 1 (got 0)"),
        ("draws: 2", "draws: 0", "analyses[0].model_rip.draws: must be >= 1 (got 0)"),
        ("draws: 2", "codes: activations", "model_rip.codes: must be one of 'uniform' or 'normal'"),
        ("draws: 2", "dimensions: 3", "model_rip.dimensions: must be one of 1 or 2"),
        ("draws: 2", "bounded: -1", "model_rip.bounded: must be >= 0 (got -1)"),
        ("draws: 2", "region: 0", "model_rip.region: must be >= 1 (got 0)"),
        ("draws: 2", "draw: 2", "model_rip.draw: is unknown: did you mean 'draws'?"),
    ],
)
def test_mistakes_in_a_study(old: str, new: str, sentence: str) -> None:
    (line,) = mistakes(STUDY.replace(old, new))
    assert sentence in line


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": 0}, "k is 0, but at least one non-zero is needed"),
        ({"k": 9}, "k is 9, but the code has only 8 blocks"),
        ({"region": 2}, "do not tile a map of 7 x 1"),
        ({"dimensions": 2, "region": 2}, "regions of 2 x 2 do not tile a map of 7 x 7"),
        ({"kernel": 10}, "filters of 10 x 1 do not fit a signal of 9 x 1"),
        ({"layer": "conv9"}, "network 'tiny' has no convolution 'conv9'; there are: conv1.0"),
        ({"filters": "learned"}, "learned filters and activations need a layer"),
        (
            {"layer": "conv1", "filters": "learned", "draws": 2},
            "learned filters are there once: leave draws at 1",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(ModelRIP(**SMALL), **changes).check(scene())
    assert sentence in str(caught.value)
