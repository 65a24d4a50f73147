"""ADMM against cvxpy where the problem is convex, and its promises where it is not."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, get_args

import cvxpy as cp
import pytest
import torch
from invbench_solvers.admm import ADMM, State
from torch import Tensor, nn

from invbench.domains import Box, Reals
from invbench.losses import CrossEntropy, SquaredError, TargetedMargin
from invbench.meter import Meter
from invbench.network import Network, parse
from invbench.penalties import penalty
from invbench.priors import L1, SquaredL2, TotalVariation
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness
from invbench.splitting import Order
from tests.modules import seeded, sequential
from tests.toys import tiny_network, tiny_problems

SHAPE = (1, 3, 4)
ORDERS = get_args(Order)


def linear(outputs: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(OrderedDict(fc=nn.Sequential(nn.Flatten(), nn.Linear(12, outputs))))
    return parse(module.double(), SHAPE, "linear")


def sweeps(solver: ADMM, problem: Problem, x: Tensor, count: int) -> State:
    *_, last = islice(solver.states(problem, x, Randomness(0, range(len(x)), x)), count)
    return last


def weights(network: Network) -> tuple[Any, Any]:
    layer = network.module[0][1]  # type: ignore[index]
    return layer.weight.numpy(), layer.bias.numpy()


@pytest.mark.parametrize("order", ORDERS)
def test_box_constrained_least_squares(order: Order, generator: torch.Generator) -> None:
    network = linear(9)
    target = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    problem = Problem(network, target, SquaredError("none"), Box(0.0, 1.0), (), Meter(2))
    state = sweeps(
        ADMM(rho=0.5, growth=1.0, order=order), problem, torch.full((2, *SHAPE), 0.5).double(), 3000
    )
    W, b = weights(network)
    for i in range(2):
        v = cp.Variable(12)
        best = cp.Problem(
            cp.Minimize(cp.sum_squares(W @ v + b - target[i].numpy())), [v >= 0, v <= 1]
        ).solve()
        assert float(problem.objective(state.x)[i]) == pytest.approx(best, rel=1e-5, abs=1e-8)
    assert problem.domain.contains(state.x).all()


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_the_default_solves_an_l1_problem(weight: float, generator: torch.Generator) -> None:
    """Where the prior holds against the loss to the end, so that forces do not vanish."""
    network = linear(9)
    target = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    priors = (WeightedPrior("l1", weight, L1()),)
    problem = Problem(network, target, SquaredError("none"), Reals(), priors, Meter(2))
    state = sweeps(ADMM(), problem, torch.zeros(2, *SHAPE).double(), 300)
    W, b = weights(network)
    for i in range(2):
        v = cp.Variable(12)
        misfit = cp.sum_squares(W @ v + b - target[i].numpy())
        best = cp.Problem(cp.Minimize(misfit + weight * cp.norm1(v))).solve()
        assert float(problem.objective(state.x)[i]) == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize("order", ORDERS)
def test_least_squares_through_two_stages(order: Order, generator: torch.Generator) -> None:
    """A leaky rectifier of slope 1 is no bend: the copies between the stages are tied by a linear graph."""
    first = nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.LeakyReLU(1.0))
    network = parse(seeded(sequential(fc1=first, fc2=nn.Linear(10, 9))).double(), SHAPE)
    assert network.chain is not None
    assert [stage.name for stage in network.chain] == ["fc1", "fc2"]
    target = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    problem = Problem(network, target, SquaredError("none"), Box(0.0, 1.0), (), Meter(2))
    start = torch.full((2, *SHAPE), 0.5).double()
    state = sweeps(ADMM(rho=0.5, growth=2.0, order=order), problem, start, 600)
    W1, b1, W2, b2 = (value.detach().numpy() for value in network.module.parameters())
    for i in range(2):
        v = cp.Variable(12)
        cost = cp.sum_squares(W2 @ (W1 @ v + b1) + b2 - target[i].numpy())
        best = cp.Problem(cp.Minimize(cost), [v >= 0, v <= 1]).solve()
        assert float(problem.objective(state.x)[i]) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_cross_entropy_with_a_prior_in_a_box(order: Order, generator: torch.Generator) -> None:
    network = linear(5)
    labels, centre = torch.tensor([1, 4]), torch.rand(2, *SHAPE, generator=generator, dtype=torch.float64)
    prior = WeightedPrior("l2", 0.3, SquaredL2(centre))
    problem = Problem(network, labels, CrossEntropy(), Box(0.2, 0.8), (prior,), Meter(2))
    state = sweeps(
        ADMM(rho=0.3, growth=1.0, order=order), problem, torch.full((2, *SHAPE), 0.5).double(), 300
    )
    W, b = weights(network)
    for i in range(2):
        v = cp.Variable(12)
        f = W @ v + b
        cost = cp.log_sum_exp(f) - f[int(labels[i])] + 0.15 * cp.sum_squares(v - centre[i].flatten().numpy())
        best = cp.Problem(cp.Minimize(cost), [v >= 0.2, v <= 0.8]).solve()
        assert float(problem.objective(state.x)[i]) == pytest.approx(best, rel=1e-5)


def residuals(state: State) -> float:
    pairs: Sequence[tuple[Tensor, Tensor]] = [
        *zip(state.v, state.z, strict=True),
        *zip(state.w, state.y, strict=True),
    ]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("stage", ["conv1", "pool1"])
def test_features_are_reached_and_the_copies_agree(stage: str) -> None:
    network = tiny_network().cut(stage)
    _, start = tiny_problems()["features in a box"]
    truth = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(5)).double()
    problem = Problem(network, network(truth), SquaredError(), Box(0.0, 1.0), (), Meter(3))
    state = sweeps(ADMM(), problem, start, 300)
    assert (problem.objective(state.x) < 2e-3 * problem.objective(start)).all()
    assert residuals(state) < 0.05
    assert torch.equal(state.x, problem.domain.project(state.x))


def test_the_variables_are_those_of_the_chain() -> None:
    problem, start = tiny_problems()["class in a box"]
    state = sweeps(ADMM(rho=1e-3), problem, start, 3)
    assert problem.network.chain is not None
    for stage, z, y in zip(problem.network.chain, state.z, state.y, strict=True):
        torch.testing.assert_close(stage.affine(z), y)
    for stage, w, v in zip(problem.network.chain[:-1], state.w, state.v[1:], strict=False):
        assert torch.equal(stage.activation(w), v), "the copies lie on the graph of the activation"


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_chosen_penalties_are_those_of_the_problem(strength: float) -> None:
    """For features they are the same as given ones, instance by instance."""
    problem, start = tiny_problems()["features in a box"]
    problem = replace(problem, priors=())
    assert ADMM().growth is None
    chosen = sweeps(ADMM(strength=strength), problem, start, 5)
    for i in range(len(start)):
        alone, x = problem.select(torch.tensor([i])), start[i : i + 1]
        rho = strength * float(penalty(alone, x, ([1.0], [2.0**0.5])))
        given = sweeps(ADMM(rho=rho, growth=2.0), alone, x, 5)
        torch.testing.assert_close(chosen.x[i : i + 1], given.x, rtol=1e-9, atol=1e-11)


def test_refusals_say_why() -> None:
    problems = tiny_problems()
    in_box, _ = problems["features in a box"]
    rough = WeightedPrior("tv", 1.0, TotalVariation(1.0))
    refused = ADMM().refuses(replace(in_box, priors=(rough,)))
    assert refused == "admm takes priors with a proximal map, and tv has none"
    assert "block1" in str(ADMM().refuses(problems["features of a black box"][0]))
    behind = replace(in_box, priors=(), loss=TargetedMargin(), target=torch.zeros(3, dtype=torch.int64))
    assert "only behind an affine map" in str(ADMM().refuses(behind))
    module = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 4, 3), norm1=nn.LocalResponseNorm(3)))
    lrn = parse(module.double(), (3, 8, 8), "lrn")
    problem = Problem(lrn, lrn(torch.rand(2, 3, 8, 8).double()), SquaredError(), Box(), (), Meter(2))
    assert "projections onto the graphs" in str(ADMM().refuses(problem))
