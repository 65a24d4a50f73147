"""ADMM with priors on x and on the outputs of stages, several at once, against cvxpy and dense solves."""

from dataclasses import replace
from itertools import islice

import cvxpy as cp
import pytest
import torch
from invbench_solvers.admm import ADMM
from invbench_solvers.layerwise import Layerwise
from torch import Tensor, nn

from invbench.domains import Box, Reals
from invbench.losses import CrossEntropy, SquaredError
from invbench.meter import Meter
from invbench.minimisers import geometric
from invbench.network import Network, parse
from invbench.priors import L1, AlphaNorm, Prior, SquaredL2, TotalVariation
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness
from invbench.splitting import ChainProblem, State
from tests.modules import seeded, sequential
from tests.toys import tiny_network, tiny_problems

SHAPE = (1, 3, 4)
INPUT, HIDDEN, OUTPUT = "", "fc1", "fc2"


def two_layers() -> Network:
    """A leaky rectifier of slope 1 is no bend: the network is affine, its chain has two stages."""
    first = nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.LeakyReLU(1.0))
    return parse(seeded(sequential(fc1=first, fc2=nn.Linear(10, 9))).double(), SHAPE)


def posed(domain: Box | Reals, *priors: tuple[str, float, Prior]) -> Problem:
    """Least squares through two layers, two instances."""
    target = torch.randn(2, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    terms = tuple(WeightedPrior(f"p{i}", w, prior, layer) for i, (layer, w, prior) in enumerate(priors))
    return Problem(two_layers(), target, SquaredError("none"), domain, terms, Meter(2))


def states(solver: ADMM, problem: Problem, x: Tensor | None = None, count: int = 1) -> list[State]:
    assert solver.refuses(problem) is None
    x = torch.full(problem.shape, 0.5, dtype=torch.float64) if x is None else x
    return list(islice(solver.states(problem, x, Randomness(0, range(len(x)), x)), count))


def last(solver: ADMM, problem: Problem, x: Tensor | None = None, count: int = 250) -> Tensor:
    return states(solver, problem, x, count)[-1].x


def expression(prior: Prior, v: cp.Variable) -> cp.Expression:
    """A prior in the words of cvxpy, on a flat variable."""
    match prior:
        case L1():
            return cp.norm1(v)
        case SquaredL2(centre=centre):
            return cp.sum_squares(v - centre) / 2
        case AlphaNorm(alpha=alpha, mean=mean):
            return cp.sum(cp.power(cp.abs(v - mean), alpha))
        case TotalVariation():
            image = cp.reshape(v, SHAPE[1:], order="C")
            return cp.sum_squares(image[:, 1:] - image[:, :-1]) + cp.sum_squares(image[1:] - image[:-1])
        case _:
            raise AssertionError(prior)


def best(problem: Problem, i: int) -> float:
    """The least objective of an instance."""
    W1, b1, W2, b2 = (value.detach().numpy() for value in problem.network.module.parameters())
    x = cp.Variable(12)
    at = {INPUT: x, HIDDEN: W1 @ x + b1}
    at[OUTPUT] = W2 @ at[HIDDEN] + b2
    cost = cp.sum_squares(at[OUTPUT] - problem.target[i].numpy())
    cost += sum(term.weight * expression(term.prior, at[term.layer]) for term in problem.priors)
    bounds = [x >= 0, x <= 1] if isinstance(problem.domain, Box) else []
    return float(cp.Problem(cp.Minimize(cost), bounds).solve(solver="CLARABEL"))


PRIORS = {
    "tv on x": [(INPUT, 0.3, TotalVariation())],
    "l1 on the hidden map": [(HIDDEN, 0.2, L1())],
    "l2 on the output": [(OUTPUT, 0.5, SquaredL2(0.2))],
    "two on x": [(INPUT, 0.1, L1()), (INPUT, 0.3, TotalVariation())],
    "two elementwise on x": [(INPUT, 0.1, L1()), (INPUT, 0.4, AlphaNorm(3.0))],
    "on all, two on one": [
        (INPUT, 0.2, TotalVariation()),
        (HIDDEN, 0.1, L1()),
        (HIDDEN, 0.3, SquaredL2(0.1)),
        (OUTPUT, 0.1, L1()),
    ],
}


@pytest.mark.parametrize("domain", [Box(0.0, 1.0), Reals()], ids=["box", "reals"])
@pytest.mark.parametrize("priors", PRIORS.values(), ids=PRIORS)
def test_convex_problems(domain: Box | Reals, priors: list[tuple[str, float, Prior]]) -> None:
    problem = posed(domain, *priors)
    x = last(ADMM(rho=0.5), problem)
    assert domain.contains(x).all()
    for i in range(2):
        assert float(problem.objective(x)[i]) == pytest.approx(best(problem, i), rel=1e-4)


@pytest.mark.parametrize("name", ["tv on x", "l1 on the hidden map", "on all, two on one"])
def test_the_default_penalty_solves_them_too(name: str) -> None:
    problem = posed(Box(0.0, 1.0), *PRIORS[name])
    x = last(ADMM(), problem, count=300)
    for i in range(2):
        assert float(problem.objective(x)[i]) == pytest.approx(best(problem, i), rel=1e-2)


@pytest.mark.parametrize("order", ["forward", "jacobi"])
def test_other_orders(order: str) -> None:
    problem = posed(Reals(), *PRIORS["on all, two on one"])
    x = last(ADMM(rho=0.5, order=order), problem)  # type: ignore[arg-type]
    assert float(problem.objective(x)[0]) == pytest.approx(best(problem, 0), rel=1e-4)


def test_scores_with_a_prior_that_needs_a_copy() -> None:
    problem = replace(
        posed(Box(0.2, 0.8), (INPUT, 0.3, TotalVariation())), target=torch.tensor([1, 7]), loss=CrossEntropy()
    )
    W1, b1, W2, b2 = (value.detach().numpy() for value in problem.network.module.parameters())
    for solver in (ADMM(rho=0.3), ADMM()):
        x = last(solver, problem, count=250)
        for i in range(2):
            v = cp.Variable(12)
            f = W2 @ (W1 @ v + b1) + b2
            cost = cp.log_sum_exp(f) - f[int(problem.target[i])] + 0.3 * expression(TotalVariation(), v)
            least = cp.Problem(cp.Minimize(cost), [v >= 0.2, v <= 0.8]).solve(solver="CLARABEL")
            assert float(problem.objective(x)[i]) == pytest.approx(least, rel=1e-3)


# -- what is kept -----------------------------------------------------------------------------------------


def pooled(*priors: WeightedPrior) -> tuple[Problem, Tensor]:
    """Scores of images as features, behind pooling: no convex problem."""
    network = tiny_network()
    _, start = tiny_problems()["features in a box"]
    images = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(5)).double()
    return Problem(network, network(images), SquaredError(), Box(0.0, 1.0), priors, Meter(3)), start


def test_copies_of_priors_agree_in_the_end() -> None:
    state = states(ADMM(rho=0.5), posed(Reals(), *PRIORS["on all, two on one"]), count=250)[-1]
    assert len(state.s) == len(state.r) == 4
    for s, stage in zip(state.s, (0, 1, 1, 2), strict=True):
        torch.testing.assert_close(s, state.z[stage], rtol=0, atol=1e-4)


def test_only_a_prior_on_each_element_of_x_in_a_box_needs_no_copy() -> None:
    l1, tv = WeightedPrior("l1", 0.1, L1()), WeightedPrior("tv", 0.1, TotalVariation())
    problem, _ = pooled(tv, l1, replace(l1, layer="pool1"))
    at_once, apart = ChainProblem.of(problem).at_once, ChainProblem.of(problem).apart
    assert at_once is not None
    assert at_once.prior is l1.prior
    assert [(term.stage, term.prior) for term in apart] == [(0, tv.prior), (1, l1.prior)]
    ball, _ = tiny_problems()["adversarial l2"]
    assert ChainProblem.of(replace(ball, priors=(l1,))).at_once is None


def test_priors_without_weight_change_nothing() -> None:
    idle = tuple(WeightedPrior("tv", 0.0, TotalVariation(), layer) for layer in ("", "pool1", "fc1"))
    with_them, start = pooled(*idle)
    without, _ = pooled()
    assert torch.equal(last(ADMM(), with_them, start, 5), last(ADMM(), without, start, 5))


def test_a_batch_is_its_members_and_copies_cost_no_passes() -> None:
    priors = tuple(WeightedPrior(layer, 0.02, TotalVariation(), layer) for layer in ("", "pool1"))
    problem, start = pooled(*priors)
    together = last(ADMM(), problem, start, 6)
    for i in range(len(start)):
        only = torch.tensor([i])
        alone = last(ADMM(), problem.select(only), start[only], 6)
        torch.testing.assert_close(alone, together[only], rtol=1e-9, atol=1e-11)
    spent = []
    for terms in ((), priors):
        fresh, _ = pooled(*terms)
        last(ADMM(rho=0.1), fresh, start, 6)
        assert isinstance(fresh.meter, Meter)
        spent.append(fresh.meter.multiply_adds.tolist())
    assert spent[0] == spent[1]


def test_falling_priors_are_sweeps_with_those_weights() -> None:
    """At every sweep the prior counts as it would with its weight of then."""
    layers = ("", "pool1")
    weight = 0.02
    problem, start = pooled(*(WeightedPrior(layer, weight, TotalVariation(), layer) for layer in layers))
    solver = ADMM(rho=0.1, prior_scale=(4.0, 0.25), horizon=4)
    found = list(islice(solver.iterates(problem, start, Randomness(0, range(len(start)), start)), 6))
    constant = ADMM(rho=0.1, prior_scale=(4.0, 4.0))
    assert torch.equal(found[0], states(constant, problem, start, 1)[0].x)
    quadruple, _ = pooled(*(WeightedPrior(layer, 4 * weight, TotalVariation(), layer) for layer in layers))
    torch.testing.assert_close(found[0], states(ADMM(rho=0.1), quadruple, start, 1)[0].x)
    assert not torch.equal(found[-1], states(constant, problem, start, 6)[-1].x)
    assert [geometric(4.0, 0.25, n / 4) for n in (0, 2, 4)] == [4, 1, 0.25]


def test_a_prior_leads_to_smoother_images() -> None:
    terms = (WeightedPrior("tv", 1e-3, TotalVariation()),)
    problem, start = pooled(*terms)
    with_prior, without = (last(ADMM(), p, start, 60) for p in (problem, replace(problem, priors=())))
    assert (TotalVariation()(with_prior) < 0.5 * TotalVariation()(without)).all()
    assert (problem.objective(with_prior) < problem.objective(start)).all()


# -- layerwise --------------------------------------------------------------------------------------------


def test_layerwise_takes_the_priors_of_each_stage() -> None:
    terms = tuple(WeightedPrior(layer, 0.05, L1(), layer) for layer in ("", "pool1", "fc1"))
    problem, start = pooled(*terms)
    solver = Layerwise(sweeps=3)
    assert solver.refuses(problem) is None
    iterates = list(solver.iterates(problem, start, Randomness(0, range(len(start)), start)))
    plain = list(solver.iterates(pooled()[0], start, Randomness(0, range(len(start)), start)))
    assert problem.domain.contains(iterates[-1]).all()
    assert (iterates[-1].abs().flatten(1).sum(1) < plain[-1].abs().flatten(1).sum(1)).all()


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [ADMM(), Layerwise()], ids=["admm", "layerwise"])
def test_refusals_say_why(solver: ADMM | Layerwise) -> None:
    name = type(solver).__name__.lower()
    for term, sentence in (
        (WeightedPrior("tv", 1.0, TotalVariation(1.0)), "takes priors with a proximal map, and tv has none"),
        (WeightedPrior("l1", -1.0, L1()), "takes priors with weights >= 0, and that of l1 is -1"),
        (
            WeightedPrior("l1@conv1.0", 1.0, L1(), "conv1.0"),
            "takes priors on x and on outputs of its stages pool1, fc1, and l1@conv1.0 is on neither",
        ),
    ):
        assert solver.refuses(pooled(term)[0]) == f"{name} {sentence}"


def test_falling_priors_need_a_horizon() -> None:
    problem, _ = pooled()
    assert "a horizon" in str(ADMM(prior_scale=(4.0, 0.25)).refuses(problem))
    assert ADMM(prior_scale=(4.0, 4.0)).refuses(problem) is None


def test_it_regards_the_priors_that_are_named_and_no_others() -> None:
    problem, x = tiny_problems()["features in a box"]
    (tv,) = problem.priors
    other = WeightedPrior("l2", 0.5, SquaredL2())
    both, bare = replace(problem, priors=(tv, other)), replace(problem, priors=())
    for seen, regards in ((problem, ("tv",)), (bare, ())):
        ours = ADMM(regards=regards).iterates(both, x, Randomness(0, range(len(x)), x))
        same = ADMM().iterates(seen, x, Randomness(0, range(len(x)), x))
        for a, b in islice(zip(ours, same, strict=False), 3):
            assert torch.equal(a, b)


def test_what_it_does_not_regard_is_no_reason_to_refuse() -> None:
    problem, _ = tiny_problems()["features in a box"]
    rough = replace(problem, priors=(WeightedPrior("tv", 1.0, TotalVariation(beta=1.5)),))
    assert "has none" in str(ADMM().refuses(rough))
    assert ADMM(regards=()).refuses(rough) is None
