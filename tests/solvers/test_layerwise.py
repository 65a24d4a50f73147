"""Inversion of one stage after the other: what each stage is asked, and what the pass as a whole gives."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from invbench_solvers.admm import ADMM
from invbench_solvers.layerwise import Layerwise
from torch import Tensor, nn

from invbench.domains import Box
from invbench.losses import CrossEntropy, SquaredError, TargetedMargin
from invbench.meter import Meter
from invbench.network import parse
from invbench.priors import TotalVariation
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness
from invbench.splitting import Splitting, State
from tests.modules import lenet, seeded, sequential
from tests.toys import tiny_network, tiny_problems


def passes(solver: Layerwise | ADMM, problem: Problem, x: Tensor) -> list[Tensor]:
    """All iterates; those of ADMM, which has no end, up to the eighth."""
    assert solver.refuses(problem) is None
    return [y.clone() for y in islice(solver.iterates(problem, x, Randomness(0, range(len(x)), x)), 8 * 16)]


def features(stage: str) -> tuple[Problem, Tensor]:
    """Of images, sought in a box from noise around grey."""
    network = tiny_network().cut(stage)
    _, start = tiny_problems()["features in a box"]
    images = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(5)).double()
    return Problem(network, network(images), SquaredError(), Box(0.0, 1.0), (), Meter(3)), start


def deep() -> tuple[Problem, Tensor]:
    """Five stages, the scores as target."""
    network = parse(lenet().double().eval(), (3, 16, 16), "lenet")
    generator = torch.Generator().manual_seed(6)
    images = torch.rand(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    start = 0.5 + 0.1 * torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    return Problem(network, network(images), SquaredError(), Box(0.0, 1.0), (), Meter(2)), start


@pytest.mark.parametrize("behind_activation", [True, False])
def test_a_single_stage_is_left_to_admm(behind_activation: bool, generator: torch.Generator) -> None:
    """With weights 1 and the curvature 2 of the plain squared error, |r|^2."""
    layers = [nn.Flatten(), nn.Linear(12, 9), *[nn.ReLU()] * behind_activation]
    network = parse(seeded(sequential(fc=nn.Sequential(*layers))).double(), (3, 2, 2))
    images, start = torch.rand(2, 2, 3, 2, 2, generator=generator, dtype=torch.float64)
    problem = Problem(network, network(images), SquaredError("none"), Box(0.1, 0.9), (), Meter(2), 3.0)
    *_, found = passes(Layerwise(sweeps=7, strength=0.1), problem, start)
    expected = passes(ADMM(rho=0.1 * 2 * 3.0, growth=1.0), problem, start)[6]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sweeps", [1, 4])
def test_it_yields_the_start_until_its_last_iterate(sweeps: int) -> None:
    problem, start = deep()
    iterates = passes(Layerwise(sweeps=sweeps), problem, start)
    assert problem.chain is not None
    assert len(iterates) == sweeps * len(problem.chain)
    expected = problem.domain.project(start)
    assert all(torch.equal(x, expected) for x in iterates[:-1])
    assert not torch.equal(iterates[-1], expected)
    assert torch.equal(iterates[-1], problem.domain.project(iterates[-1]))


def test_the_input_of_each_stage_is_one_that_the_stage_before_can_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the activations here all but the last have outputs >= 0, and the last stage is solved first."""
    problem, start = deep()
    seen: list[State] = []
    sweep = Splitting.sweep

    def watched(splitting: Splitting, state: State, updates: object) -> None:
        sweep(splitting, state, updates)  # type: ignore[arg-type]
        seen.append(state)

    monkeypatch.setattr(Splitting, "sweep", watched)
    passes(Layerwise(sweeps=1), problem, start)
    assert problem.chain is not None
    before = [stage.activation.lowest for stage in problem.chain[:-1]]
    assert before == [0.0] * 4
    found = [state.x for state in reversed(seen)]
    assert all((x >= lowest).all() for x, lowest in zip(found[1:], before, strict=True))
    assert any((state.z[0] < 0).any() for state in seen), "the bound matters"
    assert [tuple(x.shape[1:]) for x in found] == [s.stage.affine.in_shape for s in problem.chain]


@pytest.mark.parametrize("stage", ["conv1", "pool1", "fc1"])
def test_from_noise_it_comes_nearer_to_the_features(stage: str) -> None:
    problem, start = features(stage)
    *_, found = passes(Layerwise(), problem, start)
    assert (problem.objective(found) < 0.5 * problem.objective(start)).all()


@pytest.mark.parametrize("loss", [CrossEntropy(), TargetedMargin(1.0)], ids=lambda loss: loss.name)
def test_from_noise_it_raises_the_score_of_a_class(loss: CrossEntropy | TargetedMargin) -> None:
    problem, start = tiny_problems()["class in a box"]
    problem = replace(problem, loss=loss, priors=())
    *_, found = passes(Layerwise(), problem, start)
    assert (problem.objective(found) < problem.objective(start)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_the_start_has_are_kept(dtype: torch.dtype) -> None:
    network = tiny_network(dtype)
    start = torch.full((2, *network.input_shape), 0.5, dtype=dtype)
    problem = Problem(network, network(start), SquaredError(), Box(0.0, 1.0), (), Meter(2))
    *_, found = passes(Layerwise(), problem, start)
    torch.testing.assert_close(found, start)


def test_stages_that_never_fire_stop_nothing() -> None:
    network = tiny_network()
    network.module.get_parameter("conv1.0.bias")[:] = -100
    start = torch.full((2, *network.input_shape), 0.5, dtype=torch.float64)
    problem = Problem(network, torch.tensor([0, 1]), CrossEntropy(), Box(0.0, 1.0), (), Meter(2))
    assert all(x.isfinite().all() for x in passes(Layerwise(), problem, start))


def test_refusals_say_why() -> None:
    problems = tiny_problems()
    in_box, _ = problems["features in a box"]
    black, _ = problems["features of a black box"]
    behind = replace(in_box, priors=(), loss=TargetedMargin(), target=torch.zeros(3, dtype=torch.int64))
    rough = replace(in_box, priors=(WeightedPrior("tv", 1.0, TotalVariation(1.0)),))
    assert "layerwise takes priors with a proximal map, and tv has none" in str(Layerwise().refuses(rough))
    assert "layerwise needs a chain" in str(Layerwise().refuses(black))
    assert "layerwise takes targeted_margin only behind an affine map" in str(Layerwise().refuses(behind))
