"""Statistics of features against fields whose covariance is known, and against loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import toeplitz
from scipy.stats import kurtosis as scipy_kurtosis
from torch import Tensor, nn

from invbench.analyses.contract import Findings, Refused
from invbench.analyses.feature_statistics import (
    FeatureStatistics,
    effective_rank,
    inverse,
    kurtosis,
    off_diagonal,
    scaled,
    toeplitz_distance,
)
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.images import open_images
from invbench.network import parse
from invbench.trials.contract import Scene
from tests.modules import lenet, sequential
from tests.scenes import scene_of
from tests.studies import of_analyses, planned

SIDE = 6


def noise(count: int, channels: int = 3, side: int = SIDE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)


def scene(pixels: Tensor, network: nn.Module | None = None) -> Scene:
    module = (sequential(same=nn.Identity()) if network is None else network).double()
    return scene_of(replace(parse(module, tuple(pixels.shape[1:]), "toy"), dtype=torch.float64), pixels)


def row(pixels: Tensor, **own: int | float) -> dict[str, float]:
    (found,) = FeatureStatistics(samples=len(pixels), **own).measure(scene(pixels)).rows  # type: ignore[arg-type]
    return {key: value for key, value in found.items() if not isinstance(value, str)}


def matrix(findings: Findings, title: str) -> Tensor:
    """What a picture shows, from its grey values and the scale in its title."""
    (picture,) = (one for one in findings.pictures if title in one.title)
    largest = float(picture.title.split()[-2])
    return (2 * picture.pixels[0].double() - 1) * largest


def field(count: int, roots: Tensor) -> Tensor:
    """Gaussian maps with the covariance R R^T between positions."""
    return (noise(count).flatten(2) @ roots.T).unflatten(2, (SIDE, SIDE))


def test_white_noise_gives_the_identity() -> None:
    findings = FeatureStatistics(samples=4000, ridge=1e-6).measure(scene(noise(4000)))
    for title in ("covariance of positions", "its inverse"):
        found = matrix(findings, title)
        torch.testing.assert_close(found, torch.eye(SIDE**2, dtype=torch.float64), atol=0.08, rtol=0)
    found = row(noise(4000))
    assert found["toeplitz"] < 0.07
    assert found["inverse_toeplitz"] < 0.07
    assert max(found["correlation"], found["partial"], found["cosine"]) < 0.01
    assert found["effective_rank"] == pytest.approx(3, abs=1e-3)
    assert found["nonzero"] == 1
    assert found["kurtosis"] == pytest.approx(3, abs=0.05)


def test_a_stationary_field_is_close_to_toeplitz_and_another_is_not() -> None:
    """First-order autoregression along rows and columns: its covariance is a Kronecker product."""
    line = torch.from_numpy(toeplitz(0.7 ** np.arange(SIDE)))
    covariance = torch.kron(line, line)
    stationary = field(4000, torch.linalg.cholesky(covariance))
    found = row(stationary, ridge=1e-6)
    assert found["toeplitz"] < 0.06
    assert found["inverse_inside"] < 0.1 < found["inverse_toeplitz"], "an inverse is Toeplitz but for borders"
    findings = FeatureStatistics(samples=4000).measure(scene(stationary))
    torch.testing.assert_close(matrix(findings, "covariance of positions"), covariance, atol=0.08, rtol=0)
    scale = torch.linspace(0.1, 3, SIDE**2, dtype=torch.float64)
    assert row(field(1000, torch.diag(scale)))["toeplitz"] > 0.5


def test_the_distance_is_that_to_the_best_translation_invariant_matrix() -> None:
    """Least squares over a basis of one matrix a displacement."""
    height, width = 3, 4
    places = [(r, c) for r in range(height) for c in range(width)]
    shifts = sorted({(r - s, c - d) for r, c in places for s, d in places})
    basis = np.array([[[(r - s, c - d) == shift for s, d in places] for r, c in places] for shift in shifts])
    design = basis.reshape(len(shifts), -1).T.astype(float)
    given = np.random.RandomState(0).randn(12, 12)
    solution = np.linalg.lstsq(design, given.ravel(), rcond=None)[0]
    expected = np.linalg.norm(design @ solution - given.ravel()) / np.linalg.norm(given)
    assert toeplitz_distance(torch.from_numpy(given), height, width) == pytest.approx(expected, rel=1e-12)
    exact = torch.from_numpy((design @ solution).reshape(12, 12))
    assert toeplitz_distance(exact, height, width) < 1e-14
    assert toeplitz_distance(exact, width, height) > 0.1


def test_matrices_against_loops() -> None:
    pixels = noise(5, side=2).relu()
    findings = FeatureStatistics(samples=5).measure(scene(pixels))
    one = pixels.flatten(2)
    gram, positions, between = torch.zeros(3, 3), torch.zeros(4, 4), torch.zeros(3, 3)
    mean = one.mean(0)
    for n in range(5):
        for c in range(3):
            for d in range(3):
                for p in range(4):
                    gram[c, d] += float(one[n, c, p] * one[n, d, p]) / 20
                    product = (one[n, c, p] - mean[c, p]) * (one[n, d, p] - mean[d, p])
                    between[c, d] += float(product) / (4 * 4)
            for p in range(4):
                for q in range(4):
                    product = (one[n, c, p] - mean[c, p]) * (one[n, c, q] - mean[c, q])
                    positions[p, q] += float(product) / (4 * 3)
    correlation = between / between.diagonal().outer(between.diagonal()).sqrt()
    expected = {
        "Gram matrix": gram,
        "covariance of positions": positions,
        "correlation of channels": correlation,
    }
    for title, wanted in expected.items():
        torch.testing.assert_close(matrix(findings, title).float(), wanted, atol=1e-6, rtol=0.06)  # 2 digits
    found = row(pixels)
    assert found["correlation"] == pytest.approx(
        np.mean([abs(float(correlation[c, d])) for c in range(3) for d in range(3) if c != d]), rel=1e-5
    )
    precision = np.linalg.inv(between.numpy() + 1e-3 * np.trace(between.numpy()) / 3 * np.eye(3))
    partial = [
        abs(precision[c, d]) / math.sqrt(precision[c, c] * precision[d, d])
        for c in range(3)
        for d in range(c)
    ]
    assert found["partial"] == pytest.approx(np.mean(partial), rel=1e-4)
    assert found["nonzero"] == pytest.approx(float((pixels > 0).double().mean()), rel=1e-12)
    assert found["kurtosis"] == pytest.approx(
        np.mean([scipy_kurtosis(pixels[:, c].numpy(), axis=None, fisher=False) for c in range(3)]), rel=1e-9
    )


def test_pieces_whose_values_are_known() -> None:
    assert effective_rank(torch.tensor([2.0, 2.0, 0.0])) == pytest.approx(2)
    assert effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1)
    torch.testing.assert_close(
        inverse(torch.diag(torch.tensor([1.0, 3.0])), 0.5), torch.diag(torch.tensor([0.5, 0.25]))
    )
    assert off_diagonal(torch.tensor([[9.0, -0.5], [0.25, 9.0]])) == 0.375
    found = scaled(torch.tensor([[4.0, 2.0, 0.0], [2.0, 9.0, 0.0], [0.0, 0.0, 0.0]]))
    assert found[0, 1] == pytest.approx(2 / 6)
    assert found[2].isnan().all()
    coin = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    assert kurtosis(torch.cat([coin, torch.ones_like(coin)], 1)) == 1


def test_the_window_is_centred_and_steps_of_channels_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(20, side=8)
    inner = row(pixels[:, :, 2:6, 2:6])
    found = row(pixels, window=4)
    assert (found.pop("height"), found.pop("width")) == (8, 8)
    assert found == {key: value for key, value in inner.items() if key not in ("height", "width")}
    monkeypatch.setattr("invbench.analyses.feature_statistics.CHANNELS", 2)
    fewer = row(pixels, window=4)
    assert fewer["cosine"] == row(pixels[:, [0, 2]], window=4)["cosine"]
    assert fewer["toeplitz"] == found["toeplitz"], "covariances of positions are over all channels"


def test_what_lacks_samples_or_positions_has_no_value() -> None:
    few = row(noise(3))  # 3 channels times 2 degrees of freedom for 36 positions
    assert math.isnan(few["inverse_toeplitz"])
    assert math.isnan(few["inverse_inside"])
    assert few["toeplitz"] > 0
    assert few["partial"] > 0
    vector = row(noise(3, channels=5, side=1))
    assert math.isnan(vector["toeplitz"])
    assert math.isnan(vector["partial"])
    assert vector["effective_rank"] > 1
    still = row(torch.zeros(4, 3, 2, 2, dtype=torch.float64))
    assert still["nonzero"] == 0
    assert all(math.isnan(still[key]) for key in ("toeplitz", "inverse_toeplitz", "cosine", "kurtosis"))


def test_stages_and_refusals() -> None:
    given = scene(noise(30, side=16), lenet())
    rows = FeatureStatistics().measure(given).rows
    assert [one["layer"] for one in rows] == list(given.network.stages)
    (only,) = FeatureStatistics(layers="pool1").measure(given).rows
    assert {**only, "depth": 0} == {**rows[list(given.network.stages).index("pool1")], "depth": 0}
    both = FeatureStatistics(layers=("conv1", "fc1")).measure(given)
    assert [one["layer"] for one in both.rows] == ["conv1", "fc1"]
    assert all(picture.pixels.min() >= 0 and picture.pixels.max() <= 1 for picture in both.pictures)
    with pytest.raises(UserError, match="has no stage 'conv9'"):
        FeatureStatistics(layers="conv9").check(given)
    with pytest.raises(Refused, match="covariances need two images"):
        FeatureStatistics().measure(scene(noise(1)))
    with pytest.raises(Refused, match="has no stages"):
        FeatureStatistics().measure(scene(noise(2), nn.Flatten()))


def test_images_are_the_studys_then_others() -> None:
    own, natural = noise(4), noise(6, seed=1)
    given = replace(scene(own), natural=natural)
    together = row(torch.cat([own, natural]))
    (found,) = FeatureStatistics().measure(given).rows
    assert found["count"] == 10
    assert found["toeplitz"] == together["toeplitz"]
    (some,) = FeatureStatistics(samples=3).measure(given).rows
    assert some["toeplitz"] == row(own[:3])["toeplitz"]
    (same,) = FeatureStatistics().measure(replace(given, natural=given.images.pixels)).rows
    assert same["count"] == 4, "no image counts twice"
    source = open_images("bundled", SIDE * 2)
    study = scene(source.draw("test", 2).pixels.double())
    (more,) = FeatureStatistics(samples=9).measure(replace(study, source=source)).rows
    assert more["count"] == 9


def test_a_study_measures_it() -> None:
    study = planned(of_analyses("- feature_statistics: {samples: 40, window: 4, layers: [[conv1, pool2]]}"))
    record = run_analysis(study.measurements[0], Bench(), "key")
    assert record["status"] == "done", record["reason"]
    assert [one["layer"] for one in record["rows"]] == ["conv1", "pool2"]
    assert all(0 < one["toeplitz"] < 1 for one in record["rows"])
