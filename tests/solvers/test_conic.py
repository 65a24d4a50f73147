"""The optimum by cvxpy: against optimality conditions, and FISTA against it."""

import math
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from typing import Any

import cvxpy
import pytest
import torch
from invbench_solvers import conic
from invbench_solvers.conic import Conic
from invbench_solvers.fista import FISTA
from torch import Tensor, nn

from invbench.domains import Box, Domain, L2Ball, LinfBall, ModelSparse, Reals
from invbench.errors import UserError
from invbench.filters import code_shape, random_filters, synthesis
from invbench.losses import CrossEntropy, SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.priors import L1, SquaredL2, Standardised
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness, Solver
from tests.modules import sequential
from tests.toys import tiny_problems


def weigh(weight: float, scale: float = 1.0) -> tuple[WeightedPrior, ...]:
    return (WeightedPrior("l1", weight, Standardised(L1(), scale) if scale != 1 else L1()),)


def recovery(
    size: tuple[int, int, int] = (12, 4, 3), length: int = 10, k: int = 3, batch: int = 2, scale: float = 1.0
) -> Problem:
    """Sparse codes seen through random filters (K, M, l)."""
    generator = torch.Generator().manual_seed(0)
    weight = random_filters(*size[:2], (size[2], 1), generator)
    network = parse(synthesis(weight, (length, 1)), code_shape(weight, (length, 1)))
    z = torch.randn(batch, *network.input_shape, generator=generator, dtype=torch.float64)
    target = network(scale * ModelSparse(k).project(z))
    return Problem(network, target, SquaredError("none"), Reals(), (), Meter(batch))


def solve(problem: Problem, solver: Solver | None = None, count: int = 1) -> Tensor:
    x, solver = problem.target.new_zeros(problem.shape), solver or Conic()
    assert solver.refuses(problem) is None
    iterates = solver.iterates(problem, x, Randomness(0, range(len(x)), x))
    *_, last = (z.clone() for z in islice(iterates, count))
    return last


def slopes(problem: Problem, z: Tensor) -> Tensor:
    """The gradient of the loss at z, (B, n), by autograd."""
    return replace(problem, priors=()).value_and_gradient(z)[1].flatten(1)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("domain", [Reals(), Box(-0.3, 0.2), Box(0.0, math.inf)], ids=str)
def test_the_gradient_balances_the_prior_and_the_bounds(domain: Domain, scale: float) -> None:
    problem = recovery(scale=scale)
    weight = 0.6 * scale
    low, high = (bound * scale for bound in domain.bounds or ())
    problem = replace(problem, domain=Box(low, high), priors=weigh(weight / 2, 2.0))
    found = solve(problem)
    assert problem.domain.contains(found, 0.0).all()
    slope, z, small = slopes(problem, found), found.flatten(1), 1e-5 * scale
    inside = (z > low + small) & (z < high - small)
    active = inside & (z.abs() > small)
    assert active.any()
    torch.testing.assert_close(slope[active], -weight * z[active].sign(), rtol=1e-4, atol=0.0)
    assert (slope[inside & ~active].abs() <= weight * (1 + 1e-4)).all()
    assert (slope[(z <= low + small) & (z.abs() > small)] >= weight * (1 - 1e-4)).all()
    assert (slope[z >= high - small] <= -weight * (1 - 1e-4)).all()


def test_without_a_prior_it_is_least_squares() -> None:
    problem = recovery(size=(3, 4, 3))
    units = torch.eye(24, dtype=torch.float64).view(-1, 3, 8, 1)
    A = problem.network(units).flatten(1).T
    exact = torch.linalg.lstsq(A, problem.target.flatten(1).T).solution.T
    torch.testing.assert_close(solve(problem).flatten(1), exact, rtol=1e-6, atol=1e-6)


CENTRES = torch.tensor([0.05, -0.05], dtype=torch.float64).view(2, 1, 1, 1)


@pytest.mark.parametrize("domain", [Reals(), LinfBall(CENTRES, 0.1)], ids=lambda domain: domain.name)
def test_fista_reaches_its_optimum(domain: Domain) -> None:
    """With a bias, weights of loss and prior, a loss that is normalised by each target."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(40, 15).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    network = parse(sequential(fc=nn.Sequential(nn.Flatten(), layer)), (10, 4, 1))
    y = torch.randn(2, 15, generator=generator, dtype=torch.float64)
    problem = Problem(network, y, SquaredError(), domain, weigh(0.2), Meter(2), 3.0)
    best = problem.objective(solve(problem))
    found = problem.objective(solve(problem, FISTA(), 3000))
    torch.testing.assert_close(found, best, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize(("count", "channels", "fraction"), [(96, 32, 0.01), (48, 16, 0.1)])
def test_fista_reaches_its_optimum_at_the_size_of_the_paper(
    count: int, channels: int, fraction: float
) -> None:
    """And at half of it, where the weight is larger; Clarabel takes seconds for more."""
    problem = recovery((count, channels, 5), 32, k=10, batch=1)
    highest = slopes(problem, torch.zeros(problem.shape).double()).abs().max()
    weight = fraction * float(highest)  # of the least weight for which the code is zero
    problem = replace(problem, priors=weigh(weight))
    best = problem.objective(solve(problem))
    for iterates, accuracy in ((60, 1e-6), (90, 1e-8)):
        found = problem.objective(solve(problem, FISTA(), iterates))
        torch.testing.assert_close(found, best, rtol=accuracy, atol=0.0)


def test_a_target_of_zeros_has_the_code_zero() -> None:
    problem = recovery()
    problem = replace(problem, target=torch.zeros_like(problem.target), priors=weigh(0.1))
    torch.testing.assert_close(solve(problem), torch.zeros(problem.shape).double(), rtol=0.0, atol=1e-8)


def test_one_adjoint_is_charged_for_each_measurement() -> None:
    problem = replace(recovery(), priors=weigh(0.1))
    solve(problem)
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("adjoints").tolist() == [40, 40]
    assert problem.meter.total("applications").tolist() == [1, 1]  # the bias


def test_refusals_say_why() -> None:
    problem = replace(recovery(), priors=weigh(0.1))

    def reason(solver: Conic | None = None, **changes: Any) -> str:
        return str((solver or Conic()).refuses(replace(problem, **changes)))

    assert reason() == "None"
    assert "no priors but l1 on x: l2" in reason(priors=(WeightedPrior("l2", 1.0, SquaredL2()),))
    assert "no priors but l1 on x" in reason(priors=weigh(-1.0))
    assert "the domain reals or a box, not l2_ball" in reason(domain=L2Ball(0.0, 1.0))
    assert "not model_sparse" in reason(domain=ModelSparse(2))
    assert "needs the loss squared_error" in reason(loss=CrossEntropy())
    features, _ = tiny_problems()["features without constraint"]
    assert "needs a linear network" in str(Conic().refuses(features))
    assert "at most 3,839 unknowns times measurements, and here they are 3,840" in reason(Conic(limit=3839))
    assert reason(Conic(limit=3840)) == "None"
    assert "finds no GUROBI2 here, but" in reason(Conic("GUROBI2"))


def test_without_cvxpy_the_module_loads_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    spec = spec_from_file_location("bare", conic.__file__)
    assert spec is not None and spec.loader is not None
    bare = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bare", bare)
    spec.loader.exec_module(bare)
    assert "pip install 'invbench[reference]'" in str(bare.Conic().refuses(recovery()))


def test_a_library_that_gives_up_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(program: cvxpy.Problem, **options: Any) -> None:
        raise cvxpy.SolverError("no luck")

    monkeypatch.setattr(cvxpy.Problem, "solve", lambda program, **options: None)
    with pytest.raises(UserError, match="CLARABEL found no solution"):
        solve(recovery())
    monkeypatch.setattr(cvxpy.Problem, "solve", fails)
    with pytest.raises(UserError, match="CLARABEL found no solution: no luck"):
        solve(recovery())
