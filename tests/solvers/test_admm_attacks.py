"""ADMM on the trials that change an image: it stays in the ball, and reaches the class."""

from itertools import islice
from typing import Any

import pytest
import torch
from invbench_solvers.admm import ADMM
from torch import Tensor

from invbench import metrics
from invbench.images import ImageBatch
from invbench.solver import Randomness
from invbench.trials.adversarial import Adversarial
from invbench.trials.class_inversion import ClassInversion
from invbench.trials.contract import Posed, Scene
from tests.toys import CLASSES, SHAPE, tiny_network

SWEEPS = 150


@pytest.fixture
def scene(generator: torch.Generator) -> Scene:
    pixels = torch.rand(4, *SHAPE, generator=generator, dtype=torch.float64)
    return Scene(
        network=tiny_network(),
        images=ImageBatch(pixels, torch.zeros(4, dtype=torch.int64), tuple("abcd")),
        classes=tuple(f"class {n}" for n in range(CLASSES)),
        natural=pixels,
        seed=0,
    )


def inverted(posed: Posed, solver: ADMM) -> Tensor:
    """The last iterate; each is finite and needs no projection."""
    problem, x = posed.problem, posed.start
    assert solver.refuses(problem) is None
    rng = Randomness(0, range(problem.size), x)
    for y in islice(solver.iterates(problem, posed.start, rng), SWEEPS):
        assert y.isfinite().all()
        assert float((problem.domain.project(y) - y).norm()) < 1e-12
        x = y
    return x


@pytest.mark.parametrize("loss", ["margin", "linear", "cross_entropy"])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.15), ("l2", 1.5)])
def test_attacks_succeed_within_the_ball(loss: Any, norm: Any, radius: float, scene: Scene) -> None:
    posed = Adversarial(loss=loss, norm=norm, radius=radius, target="next").pose(scene)
    found = inverted(posed, ADMM(rho=1.0))
    success = metrics.find()["success"]
    assert not success(posed.start, posed.truth, posed.problem).any()
    assert success(found, posed.truth, posed.problem).all()
    distance = metrics.find()[f"distortion_{norm}"](found, posed.truth, posed.problem)
    assert (distance <= radius * (1 + 1e-9)).all()


def test_the_linear_loss_is_lowered_as_far_as_by_projected_gradients(scene: Scene) -> None:
    """It has no minimum but for the ball, so that its prox alone would move without end."""
    posed = Adversarial(loss="linear", radius=0.15, target="next").pose(scene)
    problem, x = posed.problem, posed.start
    for _ in range(200):
        x = problem.domain.project(x - 0.02 * problem.value_and_gradient(x)[1].sign())
    found = problem.objective(inverted(posed, ADMM(rho=1.0)))
    assert float(found.mean()) < 0.9 * float(problem.objective(x).mean()) < 0


@pytest.mark.parametrize("raw", [0.01, 0.1, 1.0])
def test_class_inversion_around_an_image_lowers_its_objective(raw: float, scene: Scene) -> None:
    trial = ClassInversion(around="image", target="next", priors={"l2": {"raw": raw}})
    posed = trial.pose(scene)
    found = inverted(posed, ADMM(rho=0.1))
    problem = posed.problem
    assert (problem.objective(found) < problem.objective(posed.start)).all()
