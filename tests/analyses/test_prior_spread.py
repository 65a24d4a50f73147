"""Spread of energies against their definitions, and images that are known to be no natural ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invbench.analyses import prior_spread as module
from invbench.analyses.prior_spread import PriorSpread, _blurred, _shuffled
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.priors import TotalVariation
from invbench.trials.contract import Scene
from tests.scenes import scene_of
from tests.studies import mistakes, of_analyses, planned
from tests.toys import tiny_network


def smooth(count: int, seed: int) -> Tensor:
    """Images of low frequencies, (count, 3, 8, 8) in [0, 1]."""
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear", align_corners=True)


def scene(count: int = 7, seed: int = 0) -> Scene:
    return replace(scene_of(tiny_network(), smooth(count, 0), seed), natural=smooth(5, 1))


def rows(given: Scene, **priors: Any) -> list[Any]:
    return PriorSpread(priors=priors).measure(given)


def close(row: dict[str, Any]) -> dict[str, Any]:
    """The same row up to rounding."""
    return {
        key: value if isinstance(value, str) else pytest.approx(value, rel=1e-9) for key, value in row.items()
    }


def test_columns_are_statistics_of_the_standardised_energy() -> None:
    given = scene()
    one, double = rows(given, tv=1, l2={"weight": 2})
    energies = TotalVariation()(given.images.pixels).numpy() / TotalVariation()(given.natural).numpy().mean()
    energies = 0.09 * energies
    assert one["prior"] == "tv"
    for name in ("mean", "std", "min", "median", "max"):
        assert one[name] == pytest.approx(getattr(np, name)(energies)), name
    low, high = np.quantile(energies, [0.05, 0.95])
    assert one["ratio"] == pytest.approx(high / low)
    assert one["standard"] == pytest.approx(0.09)
    assert double["standard"] == pytest.approx(0.18)


def test_a_raw_weight_is_taken_as_it_is() -> None:
    (row,) = rows(scene(), tv={"raw": 3})
    assert row["mean"] == pytest.approx(3 * float(TotalVariation()(smooth(7, 0)).mean()))


def test_priors_of_features_see_the_features_of_all_images() -> None:
    given = scene()
    (row,) = rows(given, **{"tv@conv1": 1})
    cut, x = given.network.cut("conv1"), given.images.pixels
    of_images = TotalVariation()(cut(x))
    scale = 0.09 / float(TotalVariation()(cut(given.natural)).mean())
    assert row["mean"] == pytest.approx(scale * float(of_images.mean()))
    grey = TotalVariation()(cut(torch.full_like(x, 0.5)))
    assert row["grey"] == pytest.approx(float(grey.mean() / of_images.mean()))
    assert row["grey"] > 0, "features of grey differ at the border"
    blurred = TotalVariation()(cut(_blurred(x)))
    assert row["blurred"] == pytest.approx(float(blurred.mean() / of_images.mean()))


def test_what_is_no_natural_image_costs_what_it_must() -> None:
    """A norm sees colours alone, so noise of the same colours costs as much; total variation sees edges."""
    norm, tv = rows(scene(), alpha_norm=1, tv=1)
    assert norm["noise"] == pytest.approx(1)
    assert norm["grey"] == 0
    assert tv["noise"] > 3
    assert tv["grey"] == 0
    assert 0 < tv["blurred"] < 1


def test_shuffling_keeps_the_colours_and_nothing_else() -> None:
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shuffled = _shuffled(x, torch.Generator().manual_seed(1))
    pixels, others = x.flatten(2).mT, shuffled.flatten(2).mT
    for ours, theirs in zip(pixels, others, strict=True):
        assert not torch.equal(ours, theirs)
        assert sorted(ours.tolist()) == sorted(theirs.tolist())
    assert torch.equal(shuffled, _shuffled(x, torch.Generator().manual_seed(1)))
    places = _shuffled(torch.arange(64.0).reshape(1, 1, 8, 8).repeat(2, 1, 1, 1), torch.Generator())
    assert not torch.equal(places[0], places[1]), "every image in an order of its own"


def test_blurring_is_a_gaussian() -> None:
    x = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    window = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    kernel = np.outer(window, window) / window.sum() ** 2
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="symmetric")
    found = _blurred(x)
    for i in range(6):
        for j in range(9):
            expected = (padded[:, :, i : i + 9, j : j + 9] * kernel).sum((2, 3))
            np.testing.assert_allclose(found[:, :, i, j].numpy(), expected, atol=1e-12)
    assert _blurred(x.float()).dtype == torch.float32


def test_chunks_leave_nothing_out_and_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    given = scene()
    (whole,) = rows(given, **{"tv@pool1": 1})
    monkeypatch.setattr(module, "CHUNK", 3)
    (parts,) = rows(given, **{"tv@pool1": 1})
    assert parts == close(whole)
    (other,) = rows(scene(seed=1), **{"tv@pool1": 1})
    assert other["noise"] != whole["noise"]
    assert other["mean"] == pytest.approx(whole["mean"])


def test_a_study_measures_it() -> None:
    study = planned(of_analyses("- prior_spread: {priors: {tv: 1, alpha_norm: {weight: 2, alpha: 4}}}"))
    record = run_analysis(study.measurements[0], Bench(), "key")
    assert record["status"] == "done", record["reason"]
    tv, norm = record["rows"]
    assert tv["standard"] == pytest.approx(0.09, rel=1e-5)
    assert norm["standard"] == pytest.approx(0.18, rel=1e-5)
    assert tv["noise"] > 2 > 1 > tv["blurred"], "of photographs"
    assert record["parameters"]["priors.alpha_norm.alpha"] == 4


def test_mistakes_are_told() -> None:
    assert mistakes(of_analyses("- prior_spread"))[0].endswith("is required")
    assert "at least 1 item" in mistakes(of_analyses("- prior_spread: {priors: {}}"))[0]
    (line,) = mistakes(of_analyses("- prior_spread: {priors: {tvv: 1}}"))
    assert line.endswith("unknown prior 'tvv': did you mean 'tv'?")
    with pytest.raises(UserError, match="has no stage 'pool9'"):
        PriorSpread(priors={"tv@pool9": 1}).check(scene())


def test_devices_agree(device: torch.device) -> None:
    given = scene()
    network = given.network.to(device=device)
    images = replace(given.images, pixels=given.images.pixels.to(device))
    there = replace(given, network=network, images=images, natural=given.natural.to(device))
    for ours, theirs in zip(rows(given, **{"tv@conv1": 1}), rows(there, **{"tv@conv1": 1}), strict=True):
        assert theirs == close(ours)
