"""Solvers of Gabor parameters, and of other small problems: what they find, and what that costs."""

from collections import deque
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from invbench_solvers.adam import Adam
from invbench_solvers.differential_evolution import DifferentialEvolution
from invbench_solvers.frequency_vector import FrequencyVector
from invbench_solvers.gabor_spectral import GaborSpectral
from invbench_solvers.levenberg_marquardt import LevenbergMarquardt
from invbench_solvers.multistart import Multistart
from torch import Tensor

from invbench import documents, metrics
from invbench.domains import Box, Reals
from invbench.errors import UserError
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.minimisers import damped_step
from invbench.network import parse
from invbench.planning import plan
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Solver
from invbench.trials.contract import Posed
from invbench.trials.gabor import Gabor
from invbench.unknowns import Unknowns
from tests.modules import sequential
from tests.test_gabor import scene

THETA = 1


def posed(**changes: Any) -> Posed:
    return Gabor(**{"wavelength": (2.5, 3.5), "draws": 64, **changes}).pose(scene(64))


def solved(solver: Solver, one: Posed, iterates: int = 400) -> tuple[Tensor, Problem]:
    problem = replace(one.problem, meter=Meter(one.problem.size))
    rng = Randomness(0, range(problem.size), one.start)
    last = deque(islice(solver.iterates(problem, one.start, rng), iterates), maxlen=1)
    return problem.domain.project(last[0]), problem


def errors(solver: Solver, one: Posed, iterates: int = 400) -> Tensor:
    x, problem = solved(solver, one, iterates)
    return metrics.find()["angular_error"](x, one.truth, problem)


@pytest.mark.parametrize("parameters", ["theta", "all"])
def test_the_spectrum_never_fails(parameters: Any) -> None:
    one = posed(parameters=parameters)
    x, problem = solved(GaborSpectral(), one)
    assert metrics.find()["angular_error"](x, one.truth, problem).max() < 1e-6
    assert metrics.find()["kernel_error"](x, one.truth, problem).max() < 1e-8


def test_the_spectrum_hardly_fails_under_noise() -> None:
    assert errors(GaborSpectral(), posed(noise_db=20.0)).max() < 1


def test_the_spectrum_finds_several_filters_at_once() -> None:
    assert errors(GaborSpectral(), posed(filters=3, draws=8)).max() < 1e-6


def test_descent_fails_often_and_knowing_less_helps_it() -> None:
    """The baseline from any start; letting the known parameters go opens ways around the barriers."""
    one = posed(parameters="theta", draws=48)
    stuck = (errors(Adam(lr=0.1), one, 120) > 1).double().mean()
    assert 0.3 < stuck < 0.9
    assert (errors(FrequencyVector(), one, 120) > 1).double().mean() < 0.75 * stuck


def test_many_starts_help_descent() -> None:
    one = posed(parameters="theta", draws=16)
    alone = (errors(Adam(lr=0.1), one, 60) > 1).double().mean()
    assert (errors(Multistart(Adam(lr=0.1), starts=8), one, 8 * 60) > 1).double().mean() < alone / 2


def test_many_starts_never_lose_the_best_point() -> None:
    one = posed(draws=4)
    source = Multistart(starts=3).iterates(one.problem, one.start, Randomness(0, range(4), one.start))
    values = torch.stack([one.problem.objective(x) for x in islice(source, 20)])
    assert (values.diff(dim=0) <= 0).all()


def test_many_starts_end_when_all_runs_have_ended() -> None:
    one = posed(draws=2)
    solver = Multistart(LevenbergMarquardt(), starts=3)
    source = solver.iterates(one.problem, one.start, Randomness(0, range(2), one.start))
    assert len(list(source)) == 3


@pytest.mark.parametrize("solver", [LevenbergMarquardt(), DifferentialEvolution()])
def test_baselines_find_the_global_minimum_from_nearby(solver: Solver) -> None:
    one = posed(draws=3, parameters="theta")
    assert one.truth is not None
    near = one.truth.clone()
    near[..., THETA] += 0.1
    assert errors(solver, replace(one, start=near), 4).max() < 0.1


def test_levenberg_marquardt_solves_linear_least_squares_within_bounds() -> None:
    """Against the solution of the normal equations, with a coordinate that its bounds fix."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(4, 9, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(9, 4, generator=generator, dtype=torch.float64))
    network = parse(sequential(fc=layer), (4,))
    target = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    high = torch.full((1, 4), 50.0, dtype=torch.float64)
    high[0, 2] = -50.0
    box = Box(torch.full((1, 4), -50.0, dtype=torch.float64), high)
    problem = Problem(network, target, SquaredError(), box, (), Meter(2))
    start = box.project(torch.zeros(2, 4, dtype=torch.float64))
    (x,) = LevenbergMarquardt().iterates(problem, start, Randomness(0, range(2), start))
    kept = [0, 1, 3]
    W = layer.weight.detach()
    expected = torch.linalg.lstsq(W[:, kept], (target + 50 * W[:, 2]).T).solution.T
    torch.testing.assert_close(x[:, kept], expected)
    assert (x[:, 2] == -50).all()


def test_the_damped_step_solves_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    J, r = (torch.randn(3, 8, n, generator=generator, dtype=torch.float64) for n in (4, 1))
    J[1, :, 2] = 0  # nothing depends on it
    free = torch.ones(3, 4, dtype=torch.bool)
    free[2, 1] = False
    mu = torch.tensor([1e-3, 0.1, 10.0], dtype=torch.float64)
    step = damped_step(J, r[..., 0], mu, free)
    assert step[1, 2] == 0
    assert step[2, 1] == 0
    for b in range(3):
        kept = [n for n in range(4) if free[b, n] and bool(J[b, :, n].any())]
        A = J[b][:, kept]
        H = A.T @ A
        expected = -torch.linalg.solve(H + mu[b] * torch.diag(H.diag()), A.T @ r[b])[:, 0]
        torch.testing.assert_close(step[b, kept], expected)


def test_unknowns_are_the_coordinates_with_a_choice() -> None:
    one = posed(parameters="theta", draws=1)
    unknowns = Unknowns.of(one.problem, one.start)
    assert unknowns.places.tolist() == [THETA]
    x = unknowns.at(unknowns.vector + 0.5)
    torch.testing.assert_close((x - one.start).flatten(), torch.tensor([0, 0.5, 0, 0, 0]).double())
    assert unknowns.directions.flatten().tolist() == [0, 1, 0, 0, 0]


def test_what_they_cannot_take_is_told() -> None:
    problem = posed(draws=2).problem
    open_ = replace(problem, domain=Reals())
    for solver in (DifferentialEvolution(), Multistart()):
        assert "bounded box" in str(solver.refuses(open_))
    learner = catalogue().solvers["what_where_decoder"].tiny()
    assert "offline work" in str(Multistart(learner).refuses(problem))
    assert "needs a budget" in str(Multistart(Adam(schedule="cosine")).refuses(problem))


def test_a_study_names_the_inner_solver() -> None:
    text = """
study: s
trials: [{gabor: {wavelength: [[2.5, 3]]}}]
methods: [{multistart: {inner: {adam: {lr: [0.01, 0.1]}}, starts: 4}}]
budget: {iterations: 3}
"""
    cells = plan(documents.parse(text, "s"), catalogue()).cells
    assert [cell.method.stages[0][1] for cell in cells] == [
        Multistart(Adam(lr=lr), starts=4) for lr in (0.01, 0.1)
    ]


@pytest.mark.parametrize(
    ("inner", "said"), [("adma", "unknown solver .adma.: did you mean"), ("{adam: {lr: -1}}", "must be > 0")]
)
def test_a_wrong_inner_solver_is_told_at_its_place(inner: str, said: str) -> None:
    text = f"""
study: s
trials: [gabor]
methods: [{{multistart: {{inner: {inner}}}}}]
budget: {{iterations: 3}}
"""
    with pytest.raises(UserError, match=said):
        plan(documents.parse(text, "s"), catalogue())
