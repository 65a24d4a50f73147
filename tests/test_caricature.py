"""Caricatures: what a layer sees in an image, exaggerated."""

from itertools import islice

import pytest
import torch
from invbench_solvers.adam import Adam
from torch import Tensor

from invbench import metrics
from invbench.domains import Box
from invbench.solver import Randomness
from invbench.trials.caricature import Caricature, direction
from tests.scenes import scene_of
from tests.toys import SHAPE, tiny_network

FOUND = metrics.find()
METRICS = ("activation", "distortion_l2", "distortion_linf")


def photographs(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, *SHAPE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("layer", ["conv1", "pool1", "fc1"])
def test_the_loss_is_that_of_its_definition(layer: str) -> None:
    pixels, x = photographs(), photographs(5)
    posed = Caricature(layer=layer, priors={}).pose(scene_of(tiny_network(), pixels))
    cut = tiny_network().cut(layer)
    for i in range(3):
        y, f = (cut(images)[i].flatten().tolist() for images in (pixels, x))
        y = [max(value, 0) for value in y]
        expected = -sum(a * b for a, b in zip(f, y, strict=True)) / sum(b * b for b in y)
        assert float(posed.problem.objective(x)[i]) == pytest.approx(expected)
        assert float(FOUND["activation"](x, posed.truth, posed.problem)[i]) == pytest.approx(-expected)


@pytest.mark.parametrize("layer", ["conv1", "pool1"])
def test_it_starts_at_the_image_where_the_loss_is_minus_1(layer: str) -> None:
    pixels = photographs()
    posed = Caricature(layer=layer).pose(scene_of(tiny_network(), pixels))
    assert torch.equal(posed.start, pixels)
    assert posed.problem.domain == Box(0.0, 1.0)
    torch.testing.assert_close(posed.problem.terms(pixels)["loss"], -torch.ones(3).double())
    values = [FOUND[name](pixels, posed.truth, posed.problem).tolist() for name in METRICS]
    assert values[0] == pytest.approx([1, 1, 1])
    assert values[1:] == [[0, 0, 0], [0, 0, 0]]


def test_other_starts_know_no_image() -> None:
    trials = [Caricature(layer="pool1", start=start) for start in ("noise", "grey", "black")]
    starts = [trial.pose(scene_of(tiny_network(), photographs())).start for trial in trials]
    others = [trial.pose(scene_of(tiny_network(), photographs(9))).start for trial in trials]
    assert all(torch.equal(a, b) for a, b in zip(starts, others, strict=True))


def test_the_centre_of_l2_is_the_image() -> None:
    pixels, x = photographs(), photographs(5)
    problem = (
        Caricature(layer="pool1", priors={"l2": {"raw": 2}}).pose(scene_of(tiny_network(), pixels)).problem
    )
    torch.testing.assert_close(problem.terms(x)["prior:l2"], (x - pixels).square().sum((1, 2, 3)) / 2)


def test_what_is_seen_grows() -> None:
    posed = Caricature(layer="pool1").pose(scene_of(tiny_network(), photographs()))
    problem, x = posed.problem, posed.start
    for found in islice(Adam(lr=0.05).iterates(problem, x, Randomness(0, range(3), x)), 30):
        x = problem.domain.project(found).clone()
    assert (problem.objective(x) < problem.objective(posed.start) - 0.1).all()
    assert (FOUND["activation"](x, posed.truth, problem) > 1.1).all()
    assert (FOUND["distortion_l2"](x, posed.truth, problem) > 0).all()


def test_the_gradient_is_that_of_finite_differences() -> None:
    posed = Caricature(layer="fc1").pose(scene_of(tiny_network(), photographs()))
    problem, x, step = posed.problem, photographs(5), 1e-6
    _, gradient = problem.value_and_gradient(x)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = (problem.objective(x + step * way) - problem.objective(x - step * way)) / (2 * step)
    torch.testing.assert_close((gradient * way).flatten(1).sum(1), expected, rtol=1e-5, atol=1e-8)


def test_an_image_that_nothing_sees_has_no_direction() -> None:
    features = torch.tensor([[[-1.0, -2.0]], [[3.0, -4.0]]])
    assert torch.equal(direction(features), torch.tensor([[[0.0, 0.0]], [[1 / 3, 0.0]]]))
