"""Errors of modules, alone and chained, against modules that are written down by hand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from invbench_solvers.adam import Adam
from invbench_solvers.inverting_network import InvertingNetwork
from torch import Tensor

from invbench.activations import Identity
from invbench.analyses.contract import Refused
from invbench.analyses.inverting_modules import InvertingModules
from invbench.errors import UserError
from invbench.images import open_images
from invbench.network import Stage
from invbench.operators import Convolution, Diagonal, Upsampling
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Solver
from invbench.trials.contract import Scene
from tests.scenes import scene_of
from tests.toys import SHAPE, tiny_network


def scene() -> Scene:
    pixels = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return scene_of(tiny_network(), pixels)


def by_hand() -> list[Stage]:
    """Pooled values repeated, times 1.1; and a convolution of 8 channels to 3."""
    weight = torch.randn(3, 8, 3, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    large = (8, 8, 8)
    return [
        Stage("0", Upsampling((8, 4, 4), (8, 8)), Identity()),
        Stage("1", Diagonal(large, torch.tensor(1.1, dtype=torch.float64)), Identity()),
        Stage("2", Diagonal(large), Identity()),
        Stage("3", Convolution(weight, None, large, padding=(1, 1)), Identity()),
    ]


@dataclass(frozen=True)
class ByHand(Solver):
    """The modules above."""

    def decoder(self, problem: Problem) -> Sequence[Stage]:
        """The modules above."""
        return by_hand()

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """Never asked for."""
        yield x


def test_it_is_found_by_its_file() -> None:
    assert catalogue().analyses["inverting_modules"] is InvertingModules


def test_errors_are_those_of_the_definition() -> None:
    here = scene()
    x = here.images.pixels
    features, pooled = (here.network.cut(stage)(x) for stage in ("conv1", "pool1"))
    upper, lower = by_hand()[:2], by_hand()[2:]
    given = upper[1](upper[0](pooled))
    image_alone, image = lower[1](features), lower[1](given)

    def error(found: Tensor, wanted: Tensor) -> float:
        return float((found - wanted).square().sum() / wanted.square().sum())

    first, second = InvertingModules(solver=ByHand(), layer="pool1").measure(here)
    assert (first["depth"], second["depth"]) == (1, 2)
    assert (first["operation"], second["operation"]) == ("pool1: Convolution", "pool1: MaxPool")
    assert first["alone"] == pytest.approx(error(image_alone, x))
    assert first["chained"] == pytest.approx(error(image, x))
    assert second["alone"] == second["chained"] == pytest.approx(error(given, features))


def test_a_network_is_trained_for_it() -> None:
    images = open_images("bundled", 8)
    here = replace(scene_of(tiny_network(torch.float32), images.draw("test", 8).pixels), source=images)
    first, second = InvertingModules(solver=InvertingNetwork.tiny(), layer="pool1").measure(here)
    assert 0 < first["alone"] < 1 and 0 < first["chained"] < 1  # type: ignore[operator]
    assert second["alone"] == second["chained"]


def test_refusals_and_mistakes_are_told() -> None:
    with pytest.raises(Refused, match="Adam has no modules to look into"):
        InvertingModules(solver=Adam(), layer="pool1").measure(scene())
    with pytest.raises(Refused, match="solo modules are for one operation each"):
        InvertingModules(solver=InvertingNetwork(regime="solo"), layer="pool1").measure(scene())
    with pytest.raises(UserError, match="no stage 'pool9'"):
        InvertingModules(solver=Adam(), layer="pool9").check(scene())
