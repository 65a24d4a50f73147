"""Filters of a prior: their spectra against sums by definition and waves that are known, and their sheet."""

import cmath
import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from invbench import prior_training, priors
from invbench.analyses.prior_filters import DRAWS, GRID, SHOWN, PriorFilters, peak, sheet
from invbench.errors import UserError
from invbench.filters import random_filters
from invbench.harness import Bench, run_analysis
from invbench.harness.analysing import check_analyses
from invbench.priors import LearnedPrior, Lesson
from invbench.registry import catalogue
from tests.studies import mistakes, of_analyses, planned

WEIGHTS = (0.5, 2.0, 1.0)


@dataclass(frozen=True)
class Toy(LearnedPrior):
    """Three random filters for the channels of what it learns from."""

    name: ClassVar[str] = "toy"
    size: int = 4

    def fit(self, lesson: Lesson) -> "Toy":
        """The filters, whatever the lesson is."""
        generator = torch.Generator().manual_seed(self.size)
        filters = random_filters(3, lesson.train.shape[1], (self.size, self.size), generator, torch.float32)
        return replace(self, learned={"full.filters": filters, "full.weights": torch.tensor([WEIGHTS])})

    def __call__(self, x: Tensor) -> Tensor:
        """No energy."""
        raise NotImplementedError


@dataclass(frozen=True)
class Blind(Toy):
    """A learned prior without filters."""

    name: ClassVar[str] = "blind"

    def fit(self, lesson: Lesson) -> "Blind":
        """A number."""
        return replace(self, learned={"mean": lesson.train.mean()})


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    known = priors.find() | {"toy": Toy, "blind": Blind}
    monkeypatch.setattr(priors, "find", lambda: known)
    monkeypatch.setattr(prior_training, "IMAGES", {"train": 20, "validation": 5})


#: Shared, because the places of bundled crops take longer than all that is measured here.
BENCH = Bench()


def records(entry: str) -> list[dict[str, Any]]:
    study = planned(of_analyses(f"- prior_filters: {entry}"))
    check_analyses(study.measurements, BENCH)
    return [run_analysis(one, BENCH, "key") for one in study.measurements]


# -- spectra -------------------------------------------------------------------------------------------------


def wave(frequency: float, degrees: float, size: int = 15, width: float = 3.0) -> Tensor:
    """A Gabor filter whose wave runs in a direction, counter-clockwise from the right: (1, size, size)."""
    places = torch.arange(size, dtype=torch.float64) - size // 2
    down, right = torch.meshgrid(places, places, indexing="ij")
    along = right * math.cos(math.radians(degrees)) - down * math.sin(math.radians(degrees))
    return ((-(down**2 + right**2) / (2 * width**2)).exp() * (2 * math.pi * frequency * along).cos())[None]


def by_definition(kernel: Tensor) -> tuple[float, float, float]:
    """The peak and what is near it, frequency by frequency."""
    steps = [n / GRID - (n >= GRID // 2) for n in range(GRID)]
    power: dict[tuple[float, float], float] = {}
    places = list(product(range(kernel.shape[1]), range(kernel.shape[2])))
    for down, right in product(steps, steps):
        turns = [cmath.exp(-2j * math.pi * (down * i + right * j)) for i, j in places]
        power[down, right] = sum(
            abs(sum(value * turn for value, turn in zip(channel.flatten().tolist(), turns, strict=True))) ** 2
            for channel in kernel
        )
    top = max(power, key=lambda at: power[at])
    near = 0.0
    for at, value in power.items():
        if at == (0, 0) or not 0.5 <= math.hypot(*at) / math.hypot(*top) * (1 + 1e-12) <= 2 * (1 + 2e-12):
            continue
        cosine = abs(at[0] * top[0] + at[1] * top[1]) / math.hypot(*at) / math.hypot(*top)
        near += value if cosine >= math.cos(math.radians(30)) - 1e-12 else 0.0
    orientation = math.degrees(math.atan2(-top[0], top[1])) % 180
    return math.hypot(*top), orientation, near / sum(power.values())


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 5, 3)])
def test_it_is_the_peak_of_the_definition(shape: tuple[int, int, int]) -> None:
    for seed in range(2):
        kernel = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found, (frequency, orientation, near) = peak(kernel), by_definition(kernel)
        assert found.frequency == pytest.approx(frequency)
        turn = abs(found.orientation - orientation)
        assert min(turn, 180 - turn) == pytest.approx(0, abs=1e-9)
        assert found.near == pytest.approx(near)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 120, 165])
@pytest.mark.parametrize("frequency", [0.15, 0.3])
def test_a_gabor_filter_is_where_its_wave_is(frequency: float, degrees: float) -> None:
    found = peak(wave(frequency, degrees))
    assert found.frequency == pytest.approx(frequency, abs=1 / GRID)
    turn = abs(found.orientation - degrees)
    assert min(turn, 180 - turn) < 5
    assert found.near > 0.9


def test_vertical_stripes_have_orientation_0_and_a_turn_adds_to_it() -> None:
    stripes = torch.tensor([[[1.0, -1.0, 1.0, -1.0]] * 6])
    assert peak(stripes).orientation == 0
    assert peak(stripes).frequency == 0.5
    first = wave(0.2, 20)
    turned = torch.rot90(first, 1, (1, 2))
    assert peak(turned).orientation == pytest.approx(peak(first).orientation + 90)


def test_scale_and_place_of_a_filter_do_not_matter() -> None:
    kernel = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    moved = torch.nn.functional.pad(-3 * kernel, (2, 0, 1, 3))
    first, second = peak(kernel), peak(moved)
    assert (second.frequency, second.orientation) == (first.frequency, first.orientation)
    assert second.near == pytest.approx(first.near)


def test_what_is_no_wave_has_no_orientation() -> None:
    blob, nothing = peak(torch.ones(3, 5, 5)), peak(torch.zeros(1, 3, 3))
    assert blob.frequency == 0
    assert math.isnan(nothing.frequency)
    assert all(math.isnan(one.orientation) and math.isnan(one.near) for one in (blob, nothing))


def test_noise_is_less_like_a_wave() -> None:
    noise = random_filters(40, 1, (15, 15), torch.Generator().manual_seed(0))
    shares = torch.tensor([peak(kernel).near for kernel in noise])
    assert float(shares.nanmean()) < 0.5 < peak(wave(0.25, 60)).near


# -- the sheet -----------------------------------------------------------------------------------------------


def test_filters_stand_side_by_side_each_on_its_own_scale() -> None:
    filters = torch.randn(5, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    filters[3] = 0
    found = sheet(filters)
    assert found.shape == (3, 2 * (4 + 1) + 1, 3 * (2 + 1) + 1), "two rows of three"
    for k, kernel in enumerate(filters):
        top, left = 1 + 5 * (k // 3), 1 + 3 * (k % 3)
        expected = 0.5 + 0.5 * kernel / kernel.abs().max() if k != 3 else torch.full_like(kernel, 0.5)
        torch.testing.assert_close(found[:, top : top + 4, left : left + 2], expected)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_of_other_channels_the_strongest_is_shown_in_grey(channels: int) -> None:
    filters = 0.1 * torch.rand(2, channels, 3, 3, generator=torch.Generator().manual_seed(0))
    filters[0, channels - 1] *= 20
    filters[1, 0] *= 30
    found = sheet(filters)
    assert found.shape == (1, 5, 9)
    torch.testing.assert_close(found[0, 1:4, 1:4], 0.5 + 0.5 * filters[0, -1] / filters[0, -1].max())
    torch.testing.assert_close(found[0, 1:4, 5:8], 0.5 + 0.5 * filters[1, 0] / filters[1, 0].max())


# -- of a prior ----------------------------------------------------------------------------------------------


def test_a_study_measures_it() -> None:
    (record,) = records("{prior: toy}")
    assert record["status"] == "done", record["reason"]
    rows = record["rows"]
    assert [(row["filter"], row["weight"]) for row in rows] == [(1, 2.0), (2, 1.0), (0, 0.5)]
    kernels = random_filters(3, 3, (4, 4), torch.Generator().manual_seed(4), torch.float32).double()
    for row in rows:
        found, kernel = peak(kernels[row["filter"]]), kernels[row["filter"]]
        assert row["norm"] == pytest.approx(float(kernel.norm()))
        assert (row["frequency"], row["orientation"], row["near_peak"]) == (
            found.frequency,
            found.orientation,
            found.near,
        )
    draws = random_filters(DRAWS, 3, (4, 4), torch.Generator().manual_seed(0))
    chance = [one for one in (peak(kernel).near for kernel in draws) if not math.isnan(one)]
    assert all(row["chance"] == pytest.approx(sum(chance) / len(chance)) for row in rows)
    (picture,) = record["pictures"]
    assert picture["title"].startswith("All 3 filters of toy (full) by falling weight")
    assert (picture["width"], picture["height"]) == (11, 11)


def test_priors_of_features_and_parameters_that_are_axes() -> None:
    found = records("{prior: {toy@conv1: {size: [4, 5], weight: 3}}}")
    assert [record["status"] for record in found] == ["done"] * 2, [one["reason"] for one in found]
    assert [record["pictures"][0]["width"] for record in found] == [11, 13]
    assert "of 6 channels that with the most energy" in found[0]["pictures"][0]["title"]
    assert found[1]["parameters"]["prior.toy@conv1.size"] == 5
    (plain,) = records("{prior: {toy: 2}}")
    assert "channels" not in plain["pictures"][0]["title"]


def test_parts_of_a_field_of_experts_have_a_sheet_each() -> None:
    tiny = "patch: 4, experts: 5, patches: 500, steps: 2, channels: both"
    (record,) = records(f"{{prior: {{foe: {{{tiny}}}}}}}")
    assert record["status"] == "done", record["reason"]
    full, each = record["pictures"]
    assert full["title"].startswith("All 5 filters of foe (full)")
    assert each["title"].startswith("All 15 filters of foe (each)"), "five of each of three channels"
    assert [row["part"] for row in record["rows"]] == ["full"] * 5 + ["each"] * 15
    assert {row["filter"] for row in record["rows"] if row["part"] == "each"} == set(range(15))
    for part in ("full", "each"):
        weights = [row["weight"] for row in record["rows"] if row["part"] == part]
        assert weights == sorted(weights, reverse=True)


def test_the_strongest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invbench.analyses.prior_filters.SHOWN", 2)
    (record,) = records("{prior: toy}")
    assert record["pictures"][0]["title"].startswith("2 of 3 filters of toy (full)")
    assert (record["pictures"][0]["width"], record["pictures"][0]["height"]) == (11, 6)
    assert len(record["rows"]) == 3
    assert SHOWN == 144


def test_a_prior_without_filters_is_refused() -> None:
    (record,) = records("{prior: blind}")
    assert (record["status"], record["pictures"]) == ("refused", [])
    assert record["reason"] == "prior 'blind' has no filters of patches that could be shown"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("{}", "is required"),
        ("{prior: tv}", "prior 'tv' learns nothing, so it has no filters"),
        ("{prior: toi}", "unknown prior 'toi': did you mean 'toy'?"),
        ("{prior: {toy: {sighs: 3}}}", "prior 'toy' has no parameter 'sighs'"),
        ("{prior: {toy: {}, blind: {}}}", "must name exactly one prior (got 2)"),
        ("{prior: {}}", "must name exactly one prior (got 0)"),
    ],
)
def test_mistakes_are_told(entry: str, sentence: str) -> None:
    (line,) = mistakes(of_analyses(f"- prior_filters: {entry}"))
    assert line.endswith(sentence)


def test_an_unknown_stage_is_told_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"analysis prior_filters: .*has no stage 'conv9'"):
        records("{prior: toy@conv9}")


def test_devices_agree(device: torch.device) -> None:
    measurement = planned(of_analyses("- prior_filters: {prior: toy}")).measurements[0]
    rows = [
        run_analysis(replace(measurement, device=name), BENCH, "key")["rows"] for name in ("cpu", device.type)
    ]
    assert rows[0] == rows[1]


def test_it_is_found_by_its_file() -> None:
    assert catalogue().analyses["prior_filters"] is PriorFilters
