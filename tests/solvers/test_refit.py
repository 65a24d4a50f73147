"""Least squares on the support of the start, and the preset that pools before it."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from invbench_solvers.fista import FISTA
from invbench_solvers.refit import Refit
from torch import Tensor, nn
from torch.nn import functional

from invbench.domains import Box, Domain, ModelSparse, Reals
from invbench.filters import code_shape, random_filters, synthesis
from invbench.losses import CrossEntropy, SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.priors import L1
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness
from tests.modules import sequential
from tests.studies import planned


def recovery(
    domain: Domain | None = None, noise: float = 0.1, sides: tuple[int, int] = (6, 6)
) -> tuple[Problem, Tensor]:
    """Codes (5, 4, 4) seen through random filters, and noisy targets; the true codes."""
    generator = torch.Generator().manual_seed(0)
    weight = random_filters(5, 4, (3, 3), generator)
    network = parse(synthesis(weight, sides), code_shape(weight, sides))
    z = torch.randn(3, *network.input_shape, generator=generator, dtype=torch.float64)
    z = ModelSparse(4).project(z)
    y = network(z)
    y = y + noise * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return Problem(network, y, SquaredError("none"), domain or Reals(), (), Meter(3)), z


def solve(problem: Problem, x: Tensor, solver: Refit | None = None) -> Tensor:
    """Its last iterate; it ends by itself."""
    solver = solver or Refit()
    assert solver.refuses(problem) is None
    iterates = solver.iterates(problem, x, Randomness(0, range(len(x)), x))
    kept = [z.clone() for z in islice(iterates, 1000)]
    assert len(kept) < 1000
    return kept[-1]


def dense(problem: Problem, support: Tensor) -> Tensor:
    """The least squares fits on supports (B, ...) by a matrix of their own, the shortest ones."""
    shape = support.shape[1:]
    units = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
    offset = problem.network(torch.zeros(1, *shape, dtype=torch.float64))
    A = (problem.network(units) - offset).flatten(1).T
    y = (problem.target - offset).flatten(1)
    rows = []
    for one, places in zip(y, support.flatten(1), strict=True):
        rows.append(torch.linalg.pinv(A * places) @ one)
    return torch.stack(rows).view(support.shape)


def test_it_is_least_squares_on_the_support_of_each_start() -> None:
    problem, z = recovery()
    generator = torch.Generator().manual_seed(1)
    start = torch.where(z != 0, torch.randn(z.shape, generator=generator, dtype=torch.float64), 0.0)
    start[2, 0, 0, :2] = 0.3  # supports of different sizes
    found = solve(problem, start)
    assert (found[start == 0] == 0).all()
    torch.testing.assert_close(found, dense(problem, start != 0), rtol=1e-9, atol=1e-10)


def test_exact_targets_give_the_code_back() -> None:
    problem, z = recovery(noise=0.0)
    torch.testing.assert_close(solve(problem, z.sign()), z, rtol=1e-10, atol=1e-11)


def test_it_takes_back_the_bias_of_l1() -> None:
    problem, z = recovery(noise=0.0)
    priors = (WeightedPrior("l1", 0.4, L1()),)
    shrunken = replace(problem, priors=priors)
    *_, start = islice(FISTA().iterates(shrunken, torch.zeros_like(z), Randomness(0, range(3), z)), 300)
    found = solve(shrunken, start.clone())
    recovered = ((start != 0) == (z != 0)).flatten(1).all(1)
    assert recovered.any()
    assert ((start - z).flatten(1).norm(dim=1) > 0.05).all()
    torch.testing.assert_close(found[recovered], z[recovered], rtol=1e-9, atol=1e-9)


def test_regions_keep_their_largest_entry_as_pooling_does() -> None:
    problem, _ = recovery()
    start = torch.randn(problem.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start[0, 1] = 0.0  # regions without any entry stay empty
    start[1, :, :2, :2] = torch.tensor([[0.0, 0.5], [0.0, -0.7]])
    pooled, switches = functional.max_pool2d(start.abs(), 2, return_indices=True)
    expected = functional.max_unpool2d(pooled, switches, 2) != 0
    found = solve(problem, start, Refit(region=2))
    assert (found[~expected] == 0).all()
    torch.testing.assert_close(found, dense(problem, expected), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("region", [None, (2, 2)])
def test_a_model_sparse_domain_chooses_the_support(region: tuple[int, int] | None) -> None:
    domain = ModelSparse(3, region)
    problem, z = recovery(domain)
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    found = solve(problem, start)
    assert domain.contains(found, 0.0).all()
    torch.testing.assert_close(found, dense(problem, domain.project(start) != 0), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("domain", [Reals(), ModelSparse(3)], ids=lambda domain: domain.name)
def test_a_start_of_zeros_takes_what_the_target_correlates_with(domain: Domain) -> None:
    """One instance starts from zeros, its neighbours do not."""
    problem, z = recovery(domain)
    start = z.clone()
    start[1] = 0.0
    leaf = torch.zeros_like(z).requires_grad_()
    (problem.network(leaf) * problem.target).sum().backward()
    assert leaf.grad is not None
    places = domain.project(torch.where(start.flatten(1).any(1)[:, None, None, None], start, leaf.grad)) != 0
    found = solve(problem, start)
    torch.testing.assert_close(found, dense(problem, places), rtol=1e-7, atol=1e-8)


def test_a_network_with_a_bias() -> None:
    generator = torch.Generator().manual_seed(4)
    layer = nn.Linear(12, 7).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    network = parse(sequential(fc=nn.Sequential(nn.Flatten(), layer)), (3, 2, 2))
    y = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    problem = Problem(network, y, SquaredError(), Reals(), (), Meter(2))
    start = torch.zeros(problem.shape, dtype=torch.float64)
    start[:, 1] = 1.0
    torch.testing.assert_close(solve(problem, start), dense(problem, start != 0), rtol=1e-9, atol=1e-10)


def test_refusals_say_why() -> None:
    problem, _ = recovery()

    def reason(solver: Refit, **changes: Any) -> str:
        return str(solver.refuses(replace(problem, **changes)))

    assert reason(Refit(2)) == reason(Refit()) == reason(Refit(), domain=ModelSparse(2)) == "None"
    assert "refit needs the loss squared_error" in reason(Refit(), loss=CrossEntropy())
    assert "reals or model_sparse, not box" in reason(Refit(), domain=Box())
    assert "leave out `region`" in reason(Refit(2), domain=ModelSparse(2))
    assert "regions of 3 x 3 do not tile a map of 4 x 4" in reason(Refit(3))


STUDY = """
study: refit
images: {source: bundled, count: 1, size: 32}
network: {name: lenet}
trials: [{sparse_code: {form: l1, count: 8, channels: 8, priors: {l1: {raw: 0.1}}}}]
methods: [l1_refit, {l1_refit: {pooling: 2x2}}]
budget: {iterations: 10}
"""


def test_the_preset_is_algorithm_2() -> None:
    plain, pooled = (cell.method for cell in planned(STUDY).cells)
    assert dict(plain.stages) == {"fista": FISTA(), "refit": Refit()}
    assert dict(pooled.stages) == {"fista": FISTA(), "refit": Refit(region=2)}
    assert plain.shares == pooled.shares == (0.8, 0.2)
