"""What every solver found must keep to, on every tiny problem."""

import pickle
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from invbench.gabor import Filtering
from invbench.meter import Meter
from invbench.metered import MeteredGramSolver
from invbench.operators import Convolution, Dense, TransposedConvolution
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Solver
from tests.toys import tiny_problems, tiny_setting

SOLVERS = sorted(catalogue().solvers)
PROBLEMS = tiny_problems()
FORBIDDEN = {"max_iter", "max_iterations", "tol", "tolerance", "callback", "verbose", "device", "seed"}


def solver_of(name: str) -> Solver:
    return catalogue().solvers[name].tiny()


@cache
def prepared(name: str, which: str) -> Solver:
    """The solver after its offline work, if it has any, for a problem that it does not refuse."""
    solver = solver_of(name)
    return solver.prepare(tiny_setting(PROBLEMS[which][0])) if solver.learns() else solver


def take(
    solver: Solver, problem: Problem, x: Tensor, count: int, seed: int = 0, ids: range | None = None
) -> list[Tensor]:
    problem = replace(problem, meter=Meter(problem.size))
    rng = Randomness(seed, ids or range(problem.size), x)
    with closing(solver.iterates(problem, x.clone(), rng)) as source:  # type: ignore[type-var]
        return [y.clone() for y in islice(source, count)]


@pytest.fixture(
    params=[(s, p) for s in SOLVERS for p in PROBLEMS], ids=lambda pair: f"{pair[0]} on {pair[1]}"
)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Solver, Problem, Tensor]]:
    name, which = request.param
    solver, (problem, start) = solver_of(name), PROBLEMS[which]
    reason = solver.refuses(problem)
    if reason is not None:
        assert len(reason.split()) > 3, "a refusal is a sentence"
        return pytest.skip(f"refused: {reason}")
    yield prepared(name, which), problem, start


def test_yields_what_the_problem_asks_for(case: tuple[Solver, Problem, Tensor]) -> None:
    solver, problem, start = case
    iterates = take(solver, problem, start, 5)
    assert iterates
    for x in iterates:
        assert (x.shape, x.dtype, x.device) == (start.shape, start.dtype, start.device)
        assert not x.requires_grad
        assert x.isfinite().all()
        assert problem.domain.contains(x, 1e-6).all()


def test_same_seed_same_iterates(case: tuple[Solver, Problem, Tensor]) -> None:
    solver, problem, start = case
    for a, b in zip(take(solver, problem, start, 4), take(solver, problem, start, 4), strict=True):
        assert torch.equal(a, b)


def test_a_batch_equals_its_members(case: tuple[Solver, Problem, Tensor]) -> None:
    solver, problem, start = case
    together = take(solver, problem, start, 6)
    for i in range(len(start)):
        alone = take(solver, problem.select(torch.tensor([i])), start[i : i + 1], 6, ids=range(i, i + 1))
        for x, y in zip(together, alone, strict=False):
            torch.testing.assert_close(x[i : i + 1], y, rtol=1e-7, atol=1e-9)


def test_leaves_the_world_as_it_was(case: tuple[Solver, Problem, Tensor]) -> None:
    solver, problem, start = case
    before, digest, state = start.clone(), problem.network.digest, torch.random.get_rng_state()
    source = solver.iterates(
        replace(problem, meter=Meter(problem.size)), start, Randomness(0, range(3), start)
    )
    next(source)
    assert torch.is_grad_enabled(), "grad mode leaks to the consumer"
    next(source, None)
    source.close()  # type: ignore[attr-defined]
    assert torch.is_grad_enabled()
    assert torch.equal(start, before), "the start was written into"
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state was used"
    fresh = type(problem.network)(
        **{f.name: getattr(problem.network, f.name) for f in fields(problem.network)}
    )
    assert fresh.digest == digest, "parameters were changed"
    assert all(p.grad is None for p in problem.network.module.parameters())


def test_the_meter_agrees_with_what_was_applied(
    case: tuple[Solver, Problem, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks count the passes through the module, and patches those through the maps of its chain."""
    solver, problem, start = case
    problem = replace(problem, meter=Meter(problem.size))
    passes, price = Counter[str](), 0
    solving = False

    def forward(module: object, inputs: tuple[Tensor], output: Tensor) -> None:
        if solving:
            return
        note("applications", len(output), problem.network.multiply_adds)
        if output.requires_grad:
            output.register_hook(lambda g: note("adjoints", len(g), problem.network.multiply_adds))

    def note(kind: str, count: int, multiply_adds: int) -> None:
        nonlocal price
        passes[kind] += count
        price += count * multiply_adds

    def counted(kind: str, apply: Any) -> Any:
        def call(affine: Any, x: Tensor) -> Any:
            if not solving:  # a batch may share one pass of set-up, which every member is charged
                note(kind, problem.size if len(x) == 1 else len(x), affine.multiply_adds)
            return apply(affine, x)

        return call

    def with_output(gram: MeteredGramSolver, r: Tensor) -> Any:
        nonlocal solving
        solving = True
        result = solve(gram, r)
        solving = False
        note("gram_solves", len(r), gram.solver.multiply_adds_with_output)
        return result

    def linearised(problem: Problem, x: Tensor, directions: Tensor) -> Any:
        nonlocal solving
        solving = True
        result = linearise(problem, x, directions)
        solving = False
        note("applications", len(x) * (1 + len(directions)), problem.network.multiply_adds)
        assert result[1].shape == (len(directions), *result[0].shape)
        return result

    linearise = Problem.linearised
    monkeypatch.setattr(Problem, "linearised", linearised)
    solve = MeteredGramSolver.with_output
    monkeypatch.setattr(MeteredGramSolver, "with_output", with_output)
    for kind in (Convolution, TransposedConvolution, Dense, Filtering):
        monkeypatch.setattr(kind, "__call__", counted("applications", kind.__call__))
        monkeypatch.setattr(kind, "linear", counted("applications", kind.linear))
        monkeypatch.setattr(kind, "adjoint", counted("adjoints", kind.adjoint))
    hook = problem.network.module.register_forward_hook(forward)
    try:
        rng = Randomness(0, range(3), start)
        with closing(solver.iterates(problem, start.clone(), rng)) as source:  # type: ignore[type-var]
            list(islice(source, 4))
    finally:
        hook.remove()
    meter = problem.meter
    assert isinstance(meter, Meter)
    assert passes["applications"] > 0
    for kind in ("applications", "adjoints", "gram_solves"):
        assert meter.total(kind).sum() == passes[kind]
    assert meter.multiply_adds.sum() == price


@pytest.mark.parametrize("name", SOLVERS)
def test_improves_some_tiny_problem(name: str) -> None:
    improved = []
    for which, (problem, start) in PROBLEMS.items():
        solver = solver_of(name)
        if solver.refuses(problem) is None:
            x = problem.domain.project(take(prepared(name, which), problem, start, 30)[-1])
            first = problem.objective(problem.domain.project(start))
            improved.append((which, bool((problem.objective(x) < first).all())))
    assert any(good for _, good in improved), improved


@pytest.mark.parametrize("name", SOLVERS)
def test_is_a_frozen_dataclass_that_pickles_and_cites(name: str) -> None:
    solver = solver_of(name)
    assert is_dataclass(solver)
    assert pickle.loads(pickle.dumps(solver)) == solver
    with pytest.raises(AttributeError):
        solver.learned = None  # type: ignore[misc]
    assert not FORBIDDEN & {f.name for f in fields(solver)}, "outer stopping belongs to the harness"
    documentation = type(solver).__doc__ or ""
    assert "References:" in documentation, "the docstring names its paper"
    assert any(year in documentation for year in map(str, range(1800, 2100)))


@pytest.mark.parametrize("name", SOLVERS)
def test_search_spaces_contain_their_defaults(name: str) -> None:
    solver = solver_of(name)
    for f in fields(solver):
        if "search" in f.metadata:
            low, high, scale = f.metadata["search"]
            assert low <= getattr(solver, f.name) <= high
            assert scale in ("log", "linear")
