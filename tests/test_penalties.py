"""The choice of penalties against closed forms, finite differences and dense Jacobians."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invbench.domains import Box, LinfBall, LinfBallInBox
from invbench.losses import CrossEntropy, InnerProduct, Loss, SquaredError, TargetedMargin
from invbench.meter import Meter
from invbench.network import Network, parse
from invbench.penalties import (
    GREATEST,
    LEAST,
    REMAINDER,
    STIFFNESS,
    balanced,
    growing,
    output_curvature,
    penalty,
)
from invbench.priors import L1, SquaredL2
from invbench.problem import Problem, WeightedPrior
from invbench.splitting import ChainProblem
from tests.modules import seeded, sequential

SHAPE = (3, 2, 2)


@pytest.fixture
def network() -> Network:
    """Two dense stages, a rectifier between them."""
    module = sequential(fc1=nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU()), fc2=nn.Linear(9, 5))
    return parse(seeded(module).double(), SHAPE)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.rand(3, *SHAPE, generator=generator, dtype=torch.float64)


def classes(network: Network, **changes: Any) -> Problem:
    """Three instances of class inversion in a box."""
    labels = torch.tensor([0, 3, 4])
    return replace(Problem(network, labels, CrossEntropy(), Box(0.0, 1.0), (), Meter(3)), **changes)


def test_growing_weights() -> None:
    c, d = growing(4, 3.0)
    assert c == [1.0, 3.0, 9.0, 27.0]
    assert d == pytest.approx([value * 3**0.5 for value in c])


# -- curvature at the output -----------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["target", "size", "variance", "none"])
def test_the_curvature_of_a_squared_error_is_its_second_difference(
    normalisation: Any, generator: torch.Generator
) -> None:
    loss = SquaredError(normalisation)
    output, target, way = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    way /= way.norm(dim=1, keepdim=True)
    bend = loss(output + way, target) + loss(output - way, target) - 2 * loss(output, target)
    torch.testing.assert_close(output_curvature(loss, output, target), bend)
    torch.testing.assert_close(output_curvature(loss, target, target), bend)


@pytest.mark.parametrize("loss", [CrossEntropy(), TargetedMargin(5.0)], ids=lambda loss: loss.name)
def test_the_curvature_of_another_loss_is_that_of_the_parabola(
    loss: Loss, generator: torch.Generator
) -> None:
    """Its slope by finite differences."""
    output, target = torch.randn(3, 5, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2])
    step = 1e-6 * torch.eye(5, dtype=torch.float64)
    slopes = [(loss(output + e, target) - loss(output - e, target)) / 2e-6 for e in step]
    steepness = torch.stack(slopes, 1).square().sum(1)
    expected = steepness / (2 * loss(output, target).abs())
    torch.testing.assert_close(output_curvature(loss, output, target), expected, rtol=1e-6, atol=0)


def test_the_curvature_is_positive_and_finite_where_the_loss_is_flat_or_zero() -> None:
    output, target = torch.tensor([[9.0, 0.0], [0.0, 1e-30]]), torch.tensor([0, 0])
    flat = output_curvature(TargetedMargin(0.0), output, target)
    zero = output_curvature(InnerProduct(), torch.zeros(1, 2), torch.ones(1, 2))
    assert flat.tolist() == pytest.approx([LEAST, GREATEST])
    assert zero.tolist() == pytest.approx([GREATEST])


# -- weights ---------------------------------------------------------------------------------------------


def test_balanced_weights_are_norms_of_back_propagated_forces(network: Network, x: Tensor) -> None:
    """With dense Jacobians: the force of the output arrives at a cut as J^T f."""
    draws = torch.Generator().manual_seed(0)
    probe = 0.5 + 0.05 * torch.randn(1, *SHAPE, generator=draws, dtype=torch.float64)
    force = torch.randn(1, 5, generator=draws, dtype=torch.float64)[0]
    first, second = network.module[0][1], network.module[1]  # type: ignore[index]
    y0 = first(probe.flatten())
    through = second.weight * (y0 > 0)
    at = {"y1": force, "z1": second.weight.T @ force, "y0": through.T @ force}
    at["z0"] = first.weight.T @ at["y0"]
    size = {name: float(value.norm() / at["z0"].norm()) for name, value in at.items()}
    c, d = balanced(ChainProblem.of(classes(network)), x)
    assert c == pytest.approx([1.0, size["z1"]])
    assert d == pytest.approx([size["y0"], size["y1"]])


def test_balanced_weights_cost_every_instance_one_pass_and_back(network: Network, x: Tensor) -> None:
    problem = classes(network)
    balanced(ChainProblem.of(problem), x)
    assert isinstance(problem.meter, Meter)
    assert problem.meter.multiply_adds.tolist() == [2 * network.multiply_adds] * 3


def test_weights_of_dead_stages_are_positive(network: Network, x: Tensor) -> None:
    network.module[0][1].bias[:] = -100  # type: ignore[index]
    for weights in balanced(ChainProblem.of(classes(network)), x):
        assert all(0 < value < float("inf") for value in weights)


# -- penalties -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_features_need_a_part_of_the_curvature_of_the_loss(size: float, network: Network, x: Tensor) -> None:
    """Whatever the unit in which features are measured."""
    target = size * network(x)
    problem = Problem(network, target, SquaredError(), Box(0.0, 1.0), (), Meter(3), loss_weight=3.0)
    expected = 3 * STIFFNESS * 2 / target.square().sum(1) / 4.0
    torch.testing.assert_close(penalty(problem, x, ([1.0, 2.0], [1.0, 4.0])), expected)


def test_through_a_linear_network_a_squared_error_asks_for_all_of_its_curvature(x: Tensor) -> None:
    module = sequential(fc1=nn.Sequential(nn.Flatten(), nn.Linear(12, 9)))
    network = parse(seeded(module).double(), SHAPE)
    target = network(x) + 1
    problem = Problem(network, target, SquaredError("none"), Box(0.0, 1.0), (), Meter(3))
    expected = torch.full((3,), 2 / 4.0, dtype=torch.float64)
    torch.testing.assert_close(penalty(problem, x, ([1.0], [4.0])), expected)


@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_scores_with_a_squared_prior_need_its_weight(weight: float, network: Network, x: Tensor) -> None:
    prior = WeightedPrior("l2", weight, SquaredL2(0.3))
    rho = penalty(classes(network, priors=(prior,)), x, ([2.0, 1.0], [1.0, 1.0]))
    torch.testing.assert_close(rho, torch.full_like(rho, weight / 2))


def slope(problem: Problem, x: Tensor) -> Tensor:
    """|g| by autograd, (B,)."""
    leaf = x.clone().requires_grad_()
    output = problem.network.module(leaf)
    loss = nn.functional.cross_entropy(output, problem.target, reduction="sum")
    (g,) = torch.autograd.grad(loss, leaf)
    return g.flatten(1).norm(dim=1)


@pytest.mark.parametrize(
    "priors", [(), (WeightedPrior("l2", 0.0, SquaredL2()),)], ids=["no prior", "a prior without weight"]
)
def test_scores_in_a_ball_need_a_part_of_the_gradient_over_its_radius(
    priors: Any, network: Network, x: Tensor
) -> None:
    problem = classes(network, domain=LinfBall(x, 0.02), priors=priors)
    rho = penalty(problem, x, ([2.0, 1.0], [1.0, 1.0]))
    half_diagonal = 0.02 * 12**0.5
    torch.testing.assert_close(rho, REMAINDER * slope(problem, x) / half_diagonal / 2)


def test_what_a_box_cuts_off_a_ball_does_not_count(network: Network, x: Tensor) -> None:
    problem = classes(network, domain=LinfBallInBox(torch.zeros_like(x), 0.02, 0.0, 1.0))
    rho = penalty(problem, torch.zeros_like(x), ([1.0, 1.0], [1.0, 1.0]))
    expected = REMAINDER * slope(problem, torch.zeros_like(x)) / (0.01 * 12**0.5)
    torch.testing.assert_close(rho, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_prior_without_curvature_counts_as_none(dtype: torch.dtype, network: Network, x: Tensor) -> None:
    """L1 away from its kink only pushes: what rounding leaves of its second difference is no curvature."""
    x, network = (x + 0.2).to(dtype), network.to(dtype=dtype)
    problem = classes(network, priors=(WeightedPrior("l1", 0.1, L1()),), domain=LinfBall(x, 0.02))
    _, g = problem.value_and_gradient(x)
    rho = penalty(problem, x, ([1.0, 1.0], [1.0, 1.0]))
    torch.testing.assert_close(rho, REMAINDER * g.flatten(1).norm(dim=1) / (0.02 * 12**0.5))


@pytest.mark.parametrize("radius", [0.0, 1e-30, 0.1])
def test_without_a_gradient_or_room_the_penalty_is_still_positive_and_finite(
    radius: float, network: Network, x: Tensor
) -> None:
    ball = LinfBall(x, radius)
    alive = penalty(classes(network, domain=ball), x, growing(2, 2.0))
    network.module[0][1].bias[:] = -100  # type: ignore[index]
    dead = penalty(classes(network, domain=ball), x, growing(2, 2.0))
    assert ((alive >= LEAST) & (alive <= GREATEST)).all()
    assert torch.equal(dead, torch.full_like(dead, LEAST))


def test_instances_choose_their_own(network: Network, x: Tensor) -> None:
    problem = classes(network, domain=LinfBall(0.5, 0.02))
    weights = growing(2, 2.0)
    together = penalty(problem, x, weights)
    for i in range(3):
        only = torch.tensor([i])
        torch.testing.assert_close(penalty(problem.select(only), x[only], weights), together[only])
    assert all(a != b for a, b in pairwise(together.tolist()))
