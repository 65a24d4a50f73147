"""The landscape and the basins of Gabor parameters, against what is computed otherwise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from invbench_solvers.adam import Adam
from torch import Tensor

from invbench.analyses.contract import Findings, Refused
from invbench.analyses.gabor_basins import CELL, GaborBasins
from invbench.analyses.gabor_landscape import GaborLandscape
from invbench.gabor import PARAMETERS, gabor_kernel
from invbench.gabor.filtering import filtered
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Solver
from invbench.trials.contract import Scene
from invbench.trials.gabor import Gabor
from invbench.trials.preimage import Preimage
from tests.scenes import scene_of
from tests.toys import black_box

TRIAL = Gabor(
    parameters="theta", draws=1, wavelength=(2.5, 3.0), truth={"theta": math.pi / 4, "psi": 0.0},
    start={"theta": -0.7},
)  # fmt: skip
EVERYTHING = replace(TRIAL, parameters="all")


def scene() -> Scene:
    pixels = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return scene_of(black_box(), pixels)


@dataclass(frozen=True)
class Halfway(Solver):
    """Goes half of the way to a point at every iterate."""

    goal: float = 0.0

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """Theta alone moves."""
        x = x.clone()
        while True:
            x[..., 1] = (x[..., 1] + self.goal) / 2
            yield x


def test_they_are_found_by_their_files() -> None:
    assert catalogue().analyses["gabor_landscape"] is GaborLandscape
    assert catalogue().analyses["gabor_basins"] is GaborBasins


def test_the_curve_is_the_relative_error_of_the_filtered_image() -> None:
    here = scene()
    posed = TRIAL.pose(here)
    assert posed.truth is not None
    rows = GaborLandscape(trial=TRIAL, solver=Halfway(), iterations=9, points=12).measure(here)
    curve = [row for row in rows if row["line"] == "loss"]
    assert [row["degrees"] for row in curve] == pytest.approx(range(-180, 181, 30))
    image = here.images.pixels[0].double().mean(0)
    for row in curve:
        x = posed.truth[0].clone()
        x[0, PARAMETERS.index("theta")] = math.radians(float(row["degrees"]))
        size = int(posed.problem.network.module.size)  # type: ignore[arg-type]
        y, found = (filtered(image, gabor_kernel(p, size)) for p in (posed.truth[0], x))
        assert row["objective"] == pytest.approx(float((found - y).square().sum() / y.square().sum()))
    assert min(curve, key=lambda row: row["objective"])["objective"] > 0, "45 degrees lie between the points"


def test_the_way_is_that_of_the_solver_from_the_start() -> None:
    rows = GaborLandscape(trial=TRIAL, solver=Halfway(goal=0.1), iterations=9, points=8).measure(scene())
    way = [row for row in rows if row["line"] == "iterates"]
    assert [row["iteration"] for row in way] == [0, 1, 2, 3, 4, 5, 7, 9]
    for row in way:
        expected = 0.1 + (-0.7 - 0.1) / 2 ** int(row["iteration"])
        assert row["degrees"] == pytest.approx(math.degrees(expected))


def test_basins_tell_where_a_solver_ends() -> None:
    """A solver that goes to 45 degrees from everywhere finds all; one that goes elsewhere, nothing."""
    for goal, rate, grey in ((math.pi / 4, 1.0, 1.0), (math.pi / 4 + math.radians(45), 0.0, 0.425)):
        found = GaborBasins(
            trial=EVERYTHING, solver=Halfway(goal=goal), across="theta", down="psi", points=4, iterations=60
        ).measure(scene())
        assert isinstance(found, Findings)
        assert len(found.rows) == 16
        assert [row["error"] for row in found.rows] == pytest.approx([45 * (1 - rate)] * 16, abs=1e-6)
        assert [row["success"] for row in found.rows] == [rate] * 16
        (picture,) = found.pictures
        assert picture.pixels.shape == (1, 4 * CELL, 4 * CELL)
        assert float(picture.pixels.max()) == pytest.approx(grey)


def test_starts_cover_both_ranges_evenly() -> None:
    found = GaborBasins(trial=EVERYTHING, solver=Halfway(), points=4, iterations=1).measure(scene())
    assert sorted({row["first"] for row in found.rows}) == pytest.approx(  # type: ignore[type-var]
        [math.pi * share for share in (-0.75, -0.25, 0.25, 0.75)]
    )
    assert sorted({row["second"] for row in found.rows}) == pytest.approx(  # type: ignore[type-var]
        [2.5 + 0.5 * share for share in (0.125, 0.375, 0.625, 0.875)]
    )


def test_refusals_are_told() -> None:
    for analysis in (GaborLandscape, GaborBasins):
        with pytest.raises(Refused, match="one Gabor filter an instance"):
            analysis(trial=replace(TRIAL, filters=2), solver=Adam()).measure(scene())
        with pytest.raises(Refused, match="one Gabor filter an instance"):
            analysis(trial=Preimage(layer="block1", priors={}), solver=Adam()).measure(scene())
    with pytest.raises(Refused, match="cannot vary lambda, which the trial does not seek"):
        GaborBasins(trial=TRIAL, solver=Adam()).measure(scene())
    with pytest.raises(Refused, match="two different parameters"):
        GaborBasins(trial=EVERYTHING, solver=Adam(), across="psi", down="psi").measure(scene())
