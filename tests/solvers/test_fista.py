"""Accelerated proximal gradient: optimality, restart and step length against plain formulas."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from invbench_solvers.fista import FISTA
from torch import Tensor, nn

from invbench.domains import Box, Domain, L2Ball, LinfBall, ModelSparse, Reals
from invbench.filters import code_shape, random_filters, synthesis
from invbench.losses import CrossEntropy, SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.priors import L1, AlphaNorm, Prior, Range, SquaredL2, Standardised, TotalVariation
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness
from tests.modules import sequential
from tests.toys import tiny_problems

SIDES = (10, 1)


def weigh(prior: Prior, weight: float) -> tuple[WeightedPrior, ...]:
    return (WeightedPrior(prior.name, weight, prior),)


def recovery(
    *priors: WeightedPrior,
    domain: Domain | None = None,
    loss: Any = None,
    batch: int = 3,
    size: tuple[int, int, int] = (12, 4, 3),
    sides: tuple[int, int] = SIDES,
    loss_weight: float = 1.0,
    scale: float = 1.0,
) -> Problem:
    """Sparse codes seen through random filters (K, M, l)."""
    count, channels, length = size
    generator = torch.Generator().manual_seed(0)
    weight = scale * random_filters(count, channels, (length, 1), generator)
    network = parse(synthesis(weight, sides), code_shape(weight, sides))
    z = torch.randn(batch, *network.input_shape, generator=generator, dtype=torch.float64)
    z = ModelSparse(3).project(z)
    loss = loss or SquaredError("none")
    return Problem(network, network(z), loss, domain or Reals(), priors, Meter(batch), loss_weight)


def matrix(problem: Problem) -> Tensor:
    """A, (measurements, unknowns), of a network without bias."""
    shape = problem.network.input_shape
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return problem.network(units).flatten(1).T


def highest(problem: Problem) -> float:
    """The least lambda at which every code is 0."""
    return float(2 * (problem.target.flatten(1) @ matrix(problem)).abs().amax())


def solve(problem: Problem, count: int, x: Tensor | None = None) -> Tensor:
    solver, x = FISTA(), problem.target.new_zeros(problem.shape) if x is None else x
    assert solver.refuses(problem) is None
    iterates = solver.iterates(problem, x, Randomness(0, range(len(x)), x))
    *_, last = (z.clone() for z in islice(iterates, count))
    return last


def gap(problem: Problem, z: Tensor, weight: float) -> Tensor:
    """The relative gap of |y - A z|^2 + weight |z|_1 to its Fenchel dual: a bound on what is left to gain.

    The dual is max <u, y> - |u|^2 / 4 over |A^T u|_inf <= weight; the residual, scaled to be feasible, is a
    point of it.
    """
    A, y = matrix(problem), problem.target.flatten(1)
    r = y - z.flatten(1) @ A.T
    value = r.square().sum(1) + weight * z.flatten(1).abs().sum(1)
    u = 2 * r
    u = u * (weight / (u @ A).abs().amax(1)).clamp(max=1)[:, None]
    return (value - ((u * y).sum(1) - u.square().sum(1) / 4)) / value


@pytest.mark.parametrize("fraction", [0.3, 0.1, 0.01])
def test_it_reaches_the_optimum_to_rounding(fraction: float) -> None:
    problem = recovery()
    weight = fraction * highest(problem)
    found = solve(replace(problem, priors=weigh(L1(), weight)), 400)
    assert (gap(problem, found, weight) < 1e-12).all()
    assert ((found != 0).flatten(1).sum(1) < 30).all(), "zeros are exact"


def test_above_the_highest_weight_the_code_is_zero() -> None:
    problem = recovery()
    problem = replace(problem, priors=weigh(L1(), 1.001 * highest(problem)))
    start = torch.randn(problem.shape, generator=torch.Generator().manual_seed(1)).double()
    assert not solve(problem, 200, start).any()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_filters_does_not_matter(scale: float) -> None:
    """A z = (s A) (z / s): the weight of |z|_1 grows by s."""
    unit, scaled = recovery(), recovery(scale=scale)
    weight = 0.1 * highest(unit)
    problem = replace(unit, priors=weigh(L1(), weight))
    scaled = replace(scaled, target=unit.target, priors=weigh(L1(), weight * scale))
    torch.testing.assert_close(scale * solve(scaled, 30), solve(problem, 30), rtol=1e-9, atol=1e-9)


def test_weights_of_loss_and_prior_and_normalisation_only_scale() -> None:
    """5 |r|^2 / |y|^2 + w |z|_1 has the minimiser of |r|^2 + w |y|^2 / 5 |z|_1, instance by instance."""
    problem = recovery(*weigh(Standardised(L1(), 0.5), 0.2), loss=SquaredError(), loss_weight=5.0)
    found = solve(problem, 300)
    for n, y in enumerate(problem.target):
        alone = replace(recovery(), meter=Meter(1), target=y[None])
        weight = 0.2 * 0.5 * float(y.square().sum()) / 5
        assert (gap(alone, found[n : n + 1], weight) < 1e-12).all()


@pytest.mark.parametrize(
    ("prior", "weight"), [(L1(), 0.3), (AlphaNorm(4.0, 0.1), 0.5), (SquaredL2(0.2), 1.0), (L1(), 0.0)]
)
@pytest.mark.parametrize("domain", [Reals(), Box(-0.1, 0.15), LinfBall(0.05, 0.1)], ids=lambda d: d.name)
def test_no_small_proximal_step_leads_away_from_what_it_finds(
    prior: Prior, weight: float, domain: Domain
) -> None:
    """The gradient of the loss by autograd; the proximal point by a search over every element's grid."""
    problem = recovery(*weigh(prior, weight), domain=domain, size=(6, 4, 3))
    found = solve(problem, 2000)
    assert domain.contains(found, 0.0).all()
    objective = problem.objective(found)
    for size in (1e-2, 1e-4):
        for seed in range(20):
            noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed)).double()
            other = domain.project(found + size * noise)
            assert (problem.objective(other) >= objective - 1e-12).all()
    low, high = (-torch.inf, torch.inf) if domain.bounds is None else domain.bounds
    for i in range(found[0].numel()):  # one coordinate at a time, up and down
        for change in (-1e-5, 1e-5):
            other = found.clone()
            other.flatten(1)[:, i] = (other.flatten(1)[:, i] + change).clamp(low, high)
            assert (problem.objective(other) >= objective - 1e-13).all()


@pytest.mark.parametrize("domain", [Reals(), L2Ball(0.0, 0.4)], ids=lambda domain: domain.name)
def test_without_a_prior_it_projects(domain: Domain) -> None:
    problem = recovery(domain=domain, size=(3, 4, 3))
    found = solve(problem, 500).flatten(1)
    A, y = matrix(problem), problem.target.flatten(1)
    gradient = (found @ A.T - y) @ A
    if isinstance(domain, Reals):
        torch.testing.assert_close(found, torch.linalg.lstsq(A, y.T).solution.T, rtol=1e-9, atol=1e-10)
    else:  # the gradient points to the centre
        cosine = torch.nn.functional.cosine_similarity(found, -gradient)
        torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-10, atol=0.0)


def test_a_bias_of_the_network_is_part_of_the_target() -> None:
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(12, 5).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    network = parse(sequential(fc=nn.Sequential(nn.Flatten(), layer)), (3, 2, 2))
    y = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    problem = Problem(network, y, SquaredError("none"), Reals(), weigh(L1(), 0.5), Meter(2))
    found = solve(problem, 2000).flatten(1)
    slope = 2 * (found @ layer.weight.T + layer.bias - y) @ layer.weight
    active = found != 0
    torch.testing.assert_close(slope[active], -0.5 * found[active].sign(), rtol=1e-9, atol=1e-9)
    assert (slope[~active].abs() <= 0.5).all()


def test_an_iterate_is_one_application_and_one_adjoint() -> None:
    problem = recovery(*weigh(L1(), 0.1))
    x = torch.zeros(problem.shape, dtype=torch.float64)
    source = FISTA().iterates(problem, x, Randomness(0, range(3), x))
    assert isinstance(problem.meter, Meter)
    for n in range(1, 40):
        next(source)
        assert problem.meter.total("adjoints").tolist() == [n] * 3
        assert problem.meter.total("applications").tolist() == [n + 2] * 3  # the bias, and the start


def plain(A: Tensor, y: Tensor, weight: float, count: int) -> Tensor:
    """Beck & Teboulle 2009 with the step 1 / (2 |A|^2) and without restart: (n,)."""
    L = 2 * torch.linalg.matrix_norm(A, 2) ** 2
    z = v = A.new_zeros(A.shape[1])
    t = 1.0
    for _ in range(count):
        p = v - 2 * A.T @ (A @ v - y) / L
        new = p.sign() * (p.abs() - weight / L).clamp(min=0)
        t, before = (1 + (1 + 4 * t**2) ** 0.5) / 2, t
        z, v = new, new + (before - 1) / t * (new - z)
    return z


def test_it_needs_a_fraction_of_the_iterates_of_the_plain_method() -> None:
    problem = recovery(batch=1, size=(40, 8, 5), sides=(20, 1))
    A, y = matrix(problem), problem.target[0].flatten()
    weight = 0.05 * highest(problem)
    slow = plain(A, y, weight, 60).view(1, *problem.network.input_shape)
    fast = solve(replace(problem, priors=weigh(L1(), weight)), 60)
    assert gap(problem, fast, weight) < 1e-4 * gap(problem, slow, weight)


def described(A: Tensor, y: Tensor, weight: float, count: int) -> tuple[list[Tensor], int]:
    """The method as its docstring tells it, for one instance; its iterates, and how many were rejected."""
    z = v = A.new_zeros(A.shape[1])
    L, t, rejections = 1e-20, 1.0, 0
    iterates = []
    for _ in range(count):
        p = v - 2 * A.T @ (A @ v - y) / L
        new = p.sign() * (p.abs() - weight / L).clamp(min=0)
        seen = float(2 * (A @ (new - v)).square().sum() / (new - v).square().sum())
        if seen > L:
            L, v, t, rejections = 1.05 * seen, z, 1.0, rejections + 1
        else:
            t = 1.0 if (v - new) @ (new - z) > 0 else t
            t, before = (1 + (1 + 4 * t**2) ** 0.5) / 2, t
            z, v = new, new + (before - 1) / t * (new - z)
        iterates.append(z)
    return iterates, rejections


def test_it_is_what_its_docstring_says() -> None:
    """Rejections that come late, with momentum, among them."""
    problem = recovery(size=(40, 8, 5), sides=(20, 1))
    weight = 0.002 * highest(problem)
    priors, count = weigh(L1(), weight), 40
    x = torch.zeros(problem.shape, dtype=torch.float64)
    iterates = FISTA().iterates(replace(problem, priors=priors), x, Randomness(0, range(3), x))
    found = torch.stack([z.clone() for z in islice(iterates, count)]).flatten(2)
    rejections = []
    for n, y in enumerate(problem.target.flatten(1)):
        expected, rejected = described(matrix(problem), y, weight, count)
        torch.testing.assert_close(found[:, n], torch.stack(expected), rtol=1e-7, atol=1e-9)
        rejections.append(rejected)
    assert max(rejections) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_shorten_the_steps(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as short as the rounding of z look steep; L never exceeds 1.05 times the curvature 2 |A|^2."""
    seen: list[Tensor] = []
    prox = L1.prox

    def watched(prior: L1, point: Tensor, rho: Tensor) -> Tensor:
        seen.append(rho)
        return prox(prior, point, rho)

    problem = recovery()
    weight = 0.1 * highest(problem)
    exact = replace(problem, priors=weigh(L1(), weight))
    best = exact.objective(solve(exact, 400))
    monkeypatch.setattr(L1, "prox", watched)
    rough = replace(exact, network=problem.network.to(dtype=dtype), target=problem.target.to(dtype))
    found = solve(rough, 1000)
    torch.testing.assert_close(exact.objective(found.double()), best, rtol=1e-5, atol=0.0)
    largest = weight * torch.stack(seen).max()
    assert largest < 1.06 * 2 * torch.linalg.matrix_norm(matrix(problem), 2) ** 2


def test_targets_of_zero_and_optimal_starts_stay() -> None:
    problem = recovery(*weigh(L1(), 0.2))
    zero = replace(problem, target=torch.zeros_like(problem.target))
    assert not solve(zero, 30).any()
    best = solve(problem, 400)
    torch.testing.assert_close(solve(problem, 30, best), best, rtol=0.0, atol=1e-10)


def test_refusals_say_why() -> None:
    problem, solver = recovery(*weigh(L1(), 0.1)), FISTA()

    def reason(**changes: Any) -> str:
        return str(solver.refuses(replace(problem, **changes)))

    assert "at most one prior, one with a proximal map" in reason(priors=weigh(TotalVariation(beta=1.5), 1.0))
    on_output = tuple(replace(term, layer="output") for term in weigh(L1(), 1.0))
    assert "takes a prior on x alone, and l1 is on the output of a stage" in reason(priors=on_output)
    assert "at most one prior" in reason(priors=weigh(L1(), 1.0) * 2)
    assert "a prior with a weight of 0 or more" in reason(priors=weigh(L1(), -1.0))
    assert "needs a convex domain" in reason(domain=ModelSparse(2), priors=())
    assert "no proximal map of range within the domain box" in reason(
        domain=Box(), priors=weigh(Range(), 1.0)
    )
    assert "no proximal map of l1 within the domain l2_ball" in reason(domain=L2Ball(0.0, 1.0))
    assert "needs the loss squared_error" in reason(loss=CrossEntropy())
    features, _ = tiny_problems()["features without constraint"]
    assert "needs a linear network" in str(solver.refuses(features))
    assert reason(domain=Box(-1.0, 1.0), priors=weigh(Standardised(L1(), 2.0), 1.0)) == "None"
    assert reason(priors=weigh(Range(), 1.0)) == "None"
