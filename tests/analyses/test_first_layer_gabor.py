"""Gabor filters among those of a first layer: what is counted, what it is compared with, and the picture."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invbench.analyses.contract import Findings, Refused
from invbench.analyses.first_layer_gabor import FirstLayerGabor, dominant, scrambled
from invbench.filters import random_filters
from invbench.gabor import gabor_kernel
from invbench.gabor.layer import GaborConv2d, drawn
from invbench.harness import Bench, run_analysis
from invbench.network import parse
from invbench.networks import find
from invbench.registry import catalogue
from tests.scenes import scene_of
from tests.studies import mistakes, of_analyses, planned


def measured(*layers: nn.Module, **options: Any) -> Findings:
    network = parse(nn.Sequential(*layers), (3, 16, 16), "net")
    found = FirstLayerGabor(**options).measure(scene_of(network, torch.zeros(1, 3, 16, 16)))
    assert isinstance(found, Findings)
    return found


def convolution(weight: Tensor) -> nn.Conv2d:
    with torch.device("meta"):
        layer = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2], padding="same", bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def column(found: Findings, which: str, name: str) -> list[Any]:
    return [row[name] for row in found.rows if row["filters"] == which]


def share(found: Findings, which: str) -> float:
    likes = column(found, which, "gabor_like")
    return sum(likes) / len(likes)


@pytest.mark.parametrize("centred", [False, True])
def test_filters_of_a_gabor_layer_are_gabor_filters_and_noise_is_not(centred: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = GaborConv2d(3, 24, 7)
    found = measured(layer, centred=centred)
    assert share(found, "learned") == share(found, "gabor") == 1
    assert share(found, "random") == 0
    assert share(found, "scrambled") < 0.5
    assert min(column(found, "learned", "explained_whole")) > 0.999
    assert min(column(found, "learned", "one_colour")) > 0.999


def test_parameters_and_colours_are_those_of_the_layer() -> None:
    parameters = torch.tensor([[4.0, 0.7, 0.4, 1.8, 0.8]], dtype=torch.float64)
    kernel = gabor_kernel(parameters, 9)
    for colour, grey in (([1.0, 1, 1], 1.0), ([1.0, -1, 0], 0.0), ([1.0, 0, 0], 1 / 3)):
        found = measured(convolution(torch.tensor(colour, dtype=torch.float64)[None, :, None, None] * kernel))
        (row,) = (row for row in found.rows if row["filters"] == "learned")
        assert row["grey"] == pytest.approx(grey, abs=1e-9)
        assert (row["lambda"], row["sigma"], row["gamma"]) == pytest.approx((4, 1.8, 0.8), rel=1e-3)
        assert row["theta"] == pytest.approx(40.107, abs=0.05)
        assert row["cycles"] == pytest.approx(1.8, rel=1e-3)
        assert (row["x"], row["y"]) == pytest.approx((0, 0), abs=1e-2)
        if sum(colour):
            assert row["psi"] == pytest.approx(22.918, abs=0.3)


def test_filters_with_noise_count_until_too_little_is_explained() -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = gabor_kernel(drawn(12, 11, generator), 11)[:, None].expand(-1, 3, -1, -1)
    kernels = kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None]
    noise = random_filters(12, 3, (11, 11), generator)
    assert share(measured(convolution(kernels + 0.3 * noise)), "learned") == 1
    assert share(measured(convolution(kernels + 3 * noise)), "learned") == 0
    assert share(measured(convolution(kernels + 0.3 * noise), min_explained=0.999), "learned") == 0


def test_blobs_and_slopes_are_no_gabor_filters() -> None:
    places = torch.arange(7, dtype=torch.float64) - 3
    blob = (-(places[:, None] ** 2 + places**2) / 8).exp()
    slope = places.expand(7, 7)
    weight = torch.stack([blob, slope])[:, None].repeat(1, 3, 1, 1)
    found = measured(convolution(weight))
    assert min(column(found, "learned", "explained")) > 0.9
    assert column(found, "learned", "gabor_like") == [0, 0]
    assert column(measured(convolution(weight), min_cycles=0.01), "learned", "gabor_like") == [1, 1]


def test_the_dominant_colour_is_the_best_one() -> None:
    generator = torch.Generator().manual_seed(0)
    filters = random_filters(4, 3, (5, 5), generator)
    colours, shapes = dominant(filters)
    left = (filters - colours[..., None, None] * shapes[:, None]).square().sum((1, 2, 3))
    values = torch.linalg.svdvals(filters.flatten(2))
    torch.testing.assert_close(left, values[:, 1:].square().sum(1))
    assert (colours.sum(1) >= 0).all()
    torch.testing.assert_close(colours.norm(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("size", [5, 6])
def test_scrambled_filters_keep_spectra_and_colours(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    filters = random_filters(4, 3, (size, size), generator)
    found = scrambled(filters, generator)
    torch.testing.assert_close(torch.fft.fft2(found).abs(), torch.fft.fft2(filters).abs())
    grams = [one.flatten(2) @ one.flatten(2).mT for one in (found, filters)]
    torch.testing.assert_close(*grams)
    assert float((found - filters).abs().max()) > 0.1


def test_a_study_measures_it_and_shows_filters_beside_fits() -> None:
    text = of_analyses("- first_layer_gabor: {}").replace("kernel: 3", "kernel: 5")
    (one,) = planned(text).measurements
    record = run_analysis(one, Bench(), "key")
    assert record["status"] == "done", record["reason"]
    assert [row["filters"] for row in record["rows"]] == [
        which for which in ("learned", "scrambled", "random", "gabor") for _ in range(6)
    ]
    assert {row["layer"] for row in record["rows"]} == {"conv1.0"}
    (picture,) = record["pictures"]
    assert picture["title"].startswith("6 of 6 filters of conv1.0 and, right of them, their Gabor fits")
    assert (picture["width"], picture["height"]) == (2 * 19 + 4, 13)


def test_rows_are_the_same_each_time_and_global_randomness_is_untouched() -> None:
    layer = convolution(random_filters(3, 3, (5, 5), torch.Generator().manual_seed(0)))
    before = torch.random.get_rng_state()
    first, second = (measured(layer).rows for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_dead_filter_is_no_gabor_filter() -> None:
    weight = random_filters(3, 3, (5, 5), torch.Generator().manual_seed(0))
    weight[1] = 0
    found = measured(convolution(weight))
    explained = column(found, "learned", "explained")
    assert explained[1] != explained[1]
    assert column(found, "learned", "gabor_like")[1] == 0


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((nn.Flatten(), nn.Linear(768, 2)), "network 'net' has no convolution whose filters could be Gabor"),
        ((nn.Conv2d(3, 4, 3),), "the filters of '0' have 3 x 3 pixels"),
        ((nn.Conv2d(3, 4, (5, 7)),), "the filters of '0' have 5 x 7 pixels"),
    ],
)
def test_what_it_does_not_apply_to_is_refused(layers: tuple[nn.Module, ...], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        measured(*layers)


@pytest.mark.parametrize("entry", ["{min_explained: 0}", "{min_explained: 1.5}", "{min_cycles: 0}"])
def test_mistakes_are_told(entry: str) -> None:
    assert len(mistakes(of_analyses(f"- first_layer_gabor: {entry}"))) == 1


def test_it_is_found_by_its_file_and_takes_gabor_net() -> None:
    assert catalogue().analyses["first_layer_gabor"] is FirstLayerGabor
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = find()["gabor_net"].build(5, 16)
    found = measured(layers)
    assert {row["layer"] for row in found.rows} == {"0.conv1.0"}
    assert share(found, "learned") == 1
