"""The updates of a splitting against plain formulas, and against the function that they minimise."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from invbench.activations import Identity
from invbench.domains import Box, Reals
from invbench.losses import CrossEntropy, SquaredError
from invbench.meter import Meter
from invbench.network import Network, parse
from invbench.operators import Convolution
from invbench.penalties import growing
from invbench.priors import SquaredL2
from invbench.problem import Problem, WeightedPrior
from invbench.splitting import ChainProblem, Order, Splitting, State, Update, sweeps
from tests.modules import seeded, sequential
from tests.toys import tiny_network, tiny_problems

ORDERS = get_args(Order)
BATCH = 3
RHO = torch.tensor([0.03, 0.2, 1.0], dtype=torch.float64)


def features(network: Network, domain: Box | Reals) -> Problem:
    """Of random images, through a squared error."""
    truth = torch.rand(BATCH, *network.input_shape, generator=torch.Generator().manual_seed(3)).double()
    return Problem(network, network(truth), SquaredError(), domain, (), Meter(BATCH))


def dense_chain() -> Network:
    """Two layers behind a rectifier that no affine map precedes: the first y is z itself."""
    module = sequential(
        act1=nn.ReLU(),
        fc1=nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.LeakyReLU(0.1)),
        fc2=nn.Linear(9, 5),
    )
    return parse(seeded(module).double(), (3, 2, 2))


def dense_class() -> Problem:
    prior = WeightedPrior("l2", 0.1, SquaredL2(0.5))
    return Problem(
        dense_chain(), torch.arange(BATCH), CrossEntropy(), Box(0.0, 1.0), (prior,), Meter(BATCH), 2.0
    )


PROBLEMS = {
    "class in a box": tiny_problems()["class in a box"][0],
    "attack in a ball": tiny_problems()["adversarial linf"][0],
    "features behind pooling": features(tiny_network().cut("pool1"), Box(0.0, 1.0)),
    "scores without constraint": features(dense_chain(), Reals()),
    "class behind dense stages": dense_class(),
}


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]


def start_of(problem: Problem) -> Tensor:
    return 0.5 + 0.1 * torch.randn(problem.shape, generator=torch.Generator().manual_seed(4)).double()


def split(problem: Problem, rho: Tensor = RHO, dual_step: float = 0.7) -> Splitting:
    chain = ChainProblem.of(problem)
    return Splitting.of(chain, *growing(len(chain.stages), 1.7), rho, dual_step)


def after(splitting: Splitting, x: Tensor, order: Order, count: int) -> State:
    state = splitting.start(x)
    for updates in islice(sweeps(order, len(splitting.problem.stages)), count):
        splitting.sweep(state, updates)
    return state


# -- orders ----------------------------------------------------------------------------------------------


def test_a_sweep_contains_each_update_once() -> None:
    every = {("copies", -1), *((what, i) for what in ("copies", "input") for i in range(4))}
    for order in ORDERS:
        for updates in islice(sweeps(order, 4), 3):
            assert len(updates) == len(every)
            assert set(updates) == every


def test_the_orders_are_what_they_are_called() -> None:
    (forward, again), (backward,) = (
        list(islice(sweeps("forward", 2), 2)),
        list(islice(sweeps("backward", 2), 1)),
    )
    assert forward == again == (("copies", -1), ("input", 0), ("copies", 0), ("input", 1), ("copies", 1))
    assert backward == forward[::-1]
    assert list(islice(sweeps("alternating", 2), 4)) == [backward, forward, backward, forward]
    (jacobi,) = islice(sweeps("jacobi", 2), 1)
    assert [what for what, _ in jacobi] == ["copies"] * 3 + ["input"] * 2


# -- against plain formulas ------------------------------------------------------------------------------


def plain_sweeps(
    problem: Problem, c: list[float], d: list[float], x: Tensor, order: Order
) -> Iterator[State]:
    """The algorithm as it is written down: no update in place, each y from its z, the duals last."""
    stages, gamma = problem.chain, 0.7
    assert stages is not None
    last = len(stages) - 1
    s = split(problem).start(x)
    while True:
        for updates in islice(sweeps(order, len(stages)), 2 if order == "alternating" else 1):
            for what, i in updates:
                if what == "input":
                    pull = c[i] * (s.v[i] + s.u[i] - s.z[i])
                    pull = pull + d[i] * stages[i].adjoint(s.w[i] + s.t[i] - s.y[i])
                    s.z[i] = s.z[i] + stages[i].gram_solver(c[i], d[i]).with_output(pull)[0]
                    s.y[i] = stages[i].affine(s.z[i])
                elif i == -1:
                    point = s.z[0] - s.u[0]
                    for term in problem.priors:
                        point = term.prior.prox(point, RHO * c[0] / term.weight)
                    s.v[0] = problem.domain.project(point)
                elif i < last:
                    p, q = s.y[i] - s.t[i], s.z[i + 1] - s.u[i + 1]
                    s.w[i], s.v[i + 1] = stages[i].activation.project(p, q, RHO * d[i], RHO * c[i + 1])
                elif isinstance(stages[i].activation, Identity):
                    weight = RHO * d[i] / problem.loss_weight
                    s.w[i] = problem.loss.prox(s.y[i] - s.t[i], problem.target, weight)
                else:
                    assert isinstance(problem.loss, SquaredError)
                    loss = problem.loss_weight * problem.loss.weights(problem.target)
                    p = s.y[i] - s.t[i]
                    s.w[i], _ = stages[i].activation.project(p, problem.target, RHO * d[i] / 2, loss)
            for i in range(len(stages)):
                s.t[i] = s.t[i] + gamma * (s.w[i] - s.y[i])
                s.u[i] = s.u[i] + gamma * (s.v[i] - s.z[i])
            yield s


@pytest.mark.parametrize("order", ORDERS)
def test_ten_sweeps_are_those_of_the_formulas(problem: Problem, order: Order) -> None:
    splitting, x = split(problem), start_of(problem)
    state = splitting.start(x)
    plain = plain_sweeps(problem, list(splitting.c), list(splitting.d), x, order)
    for updates, expected in zip(
        islice(sweeps(order, len(splitting.problem.stages)), 10), plain, strict=False
    ):
        splitting.sweep(state, updates)
        for name in "zyvwut":
            for found, wanted in zip(getattr(state, name), getattr(expected, name), strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_instances_with_their_own_penalties_are_those_run_alone(problem: Problem) -> None:
    x = start_of(problem)
    together = after(split(problem), x, "backward", 5)
    for i in range(BATCH):
        only = torch.tensor([i])
        alone = after(split(problem.select(only), RHO[only]), x[only], "backward", 5)
        torch.testing.assert_close(together.x[only], alone.x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("order", ORDERS)
def test_what_was_read_stays_as_it_was(problem: Problem, order: Order) -> None:
    splitting, x = split(problem), start_of(problem)
    given, state = x.clone(), splitting.start(x)
    for updates in islice(sweeps(order, len(splitting.problem.stages)), 3):
        before = state.x
        kept = before.clone()
        splitting.sweep(state, updates)
        assert torch.equal(before, kept)
    assert torch.equal(x, given)


# -- against the augmented Lagrangian --------------------------------------------------------------------


def lagrangian(splitting: Splitting, state: State) -> Tensor:
    """L of the docstring of Splitting, instance by instance, (B,)."""
    problem = splitting.problem
    value = problem.loss_weight * problem.loss(problem.stages[-1].activation(state.w[-1]), problem.target)
    for term in problem.priors:
        value = value + term.weight * term.prior(state.v[0])
    for i in range(len(problem.stages)):
        outer = (state.w[i] - state.y[i] + state.t[i]).square().flatten(1).sum(1)
        inner = (state.v[i] - state.z[i] + state.u[i]).square().flatten(1).sum(1)
        value = value + splitting.rho / 2 * (splitting.d[i] * outer + splitting.c[i] * inner)
    return value


def perturbed(splitting: Splitting, state: State, update: Update, size: float, seed: int) -> State:
    """The variables of an update, moved at random within their constraints."""
    generator = torch.Generator().manual_seed(seed)
    copy = State(*(list(getattr(state, name)) for name in "zyvwut"))
    what, i = update

    def moved(value: Tensor) -> Tensor:
        return value + size * torch.randn(value.shape, generator=generator, dtype=value.dtype)

    if what == "input":
        copy.z[i] = moved(copy.z[i])
        copy.y[i] = splitting.problem.stages[i].affine(copy.z[i])
    elif i == -1:
        copy.v[0] = splitting.problem.domain.project(moved(copy.v[0]))
    else:
        copy.w[i] = moved(copy.w[i])
        if i + 1 < len(copy.v):
            copy.v[i + 1] = splitting.problem.stages[i].activation(copy.w[i])
    return copy


def exact(splitting: Splitting, update: Update) -> bool:
    """Whether an update is a minimiser; that of the input of a convolution only descends."""
    what, i = update
    return what == "copies" or not isinstance(splitting.problem.stages[i].stage.affine, Convolution)


@pytest.mark.parametrize("order", ["backward", "forward"])
def test_every_update_minimises_the_lagrangian_in_its_variables(problem: Problem, order: Order) -> None:
    splitting = split(problem)
    state = after(splitting, start_of(problem), order, 4)
    frozen = replace(splitting, dual_step=0.0)  # one update at a time, and no dual
    for update in next(sweeps(order, len(splitting.problem.stages))):
        before = lagrangian(splitting, state)
        frozen.sweep(state, [update])
        found = lagrangian(splitting, state)
        slack = 1e-9 * before.abs() + 1e-12
        assert (found <= before + slack).all(), update
        if exact(splitting, update):
            for seed, size in enumerate((1e-1, 1e-2, 1e-3, 1e-4) * 5):
                elsewhere = lagrangian(splitting, perturbed(splitting, state, update, size, seed))
                assert (elsewhere >= found - slack).all(), (update, size)


def test_inputs_of_dense_stages_are_stationary() -> None:
    problem = dense_class()
    splitting = split(problem)
    state = after(splitting, start_of(problem), "backward", 4)
    frozen = replace(splitting, dual_step=0.0)
    for i, stage in enumerate(splitting.problem.stages):
        frozen.sweep(state, [("copies", i)])
        frozen.sweep(state, [("input", i)])
        z = state.z[i].clone().requires_grad_()
        at = State(*(list(getattr(state, name)) for name in "zyvwut"))
        at.z[i], at.y[i] = z, stage.affine(z)
        (slope,) = torch.autograd.grad(lagrangian(splitting, at).sum(), z)
        assert slope.abs().max() < 1e-12
