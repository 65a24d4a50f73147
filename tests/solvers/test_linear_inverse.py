"""The optimal linear inverse, against numpy on the same samples."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from invbench_solvers import linear_inverse
from invbench_solvers.linear_inverse import SHRINKAGE, LinearInverse
from torch import Tensor, nn

from invbench.domains import Box, Reals
from invbench.errors import UserError
from invbench.images import open_images
from invbench.losses import CrossEntropy, SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.priors import TotalVariation
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness, Setting
from invbench.trials.contract import Posed
from tests.modules import normalise, seeded, sequential
from tests.toys import tiny_problems

Prior = Literal["images", "stationary", "white"]


def problem_of(module: nn.Module, x: Tensor, domain: Box | Reals | None = None) -> Problem:
    network = parse(seeded(module).to(x.dtype), tuple(x.shape[1:]))
    return Problem(network, network(x), SquaredError(), domain or Reals(), (), Meter(len(x)))


def setting_of(problem: Problem, train: Tensor) -> Setting:
    def pose(x: Tensor) -> Posed:
        posed = replace(problem, target=problem.network(x), meter=Meter(len(x)))
        return Posed(posed, torch.zeros_like(x), x, ("",) * len(x))

    return Setting(pose, train, train[:2], 0, lambda *_: None)


def solved(solver: LinearInverse, problem: Problem, dtype: torch.dtype = torch.float64) -> Tensor:
    start = torch.zeros(problem.shape, dtype=dtype)
    (x,) = solver.iterates(problem, start, Randomness(0, range(problem.size), start))
    return x


def images(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)
    return 0.5 + 0.1 * (drawn.cumsum(2) + drawn.roll(1, 1))


def expected(problem: Problem, train: Tensor, noise: float, prior: Prior) -> np.ndarray:
    """The formula of the docstring, with W from finite differences."""
    flat = train.flatten(1).numpy()
    size = flat.shape[1]
    apply = lambda v: problem.network(torch.from_numpy(v).view(-1, *train.shape[1:])).flatten(1).numpy()  # noqa: E731
    b = apply(np.zeros((1, size)))
    W = (apply(np.eye(size)) - b).T
    if prior == "images":
        m = flat.mean(0)
    else:
        m = np.broadcast_to(train.mean((0, 2, 3)).numpy()[:, None, None], train.shape[1:]).ravel()
    centred = flat - m
    covariance = centred.T @ centred / len(flat)
    variance = np.trace(covariance) / size
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * np.eye(size)
    if prior == "white":
        covariance = variance * np.eye(size)
    if prior == "stationary":
        shape = (*train.shape[1:], *train.shape[1:])
        shifts = [(r, c, r, c) for r in range(shape[1]) for c in range(shape[2])]
        rolled = [np.roll(covariance.reshape(shape), shift, (1, 2, 4, 5)) for shift in shifts]
        covariance = np.mean(rolled, 0).reshape(size, size)
    inverse = np.linalg.inv(noise**2 * np.linalg.inv(covariance) + W.T @ W) @ W.T
    y = problem.target.flatten(1).numpy()
    found: np.ndarray = (m + (y - W @ m - b) @ inverse.T).reshape(-1, *train.shape[1:])
    return found


@pytest.mark.parametrize("prior", ["images", "stationary", "white"])
@pytest.mark.parametrize(("maps", "stride"), [(5, 1), (4, 2)], ids=["many features", "few features"])
def test_is_the_formula(prior: Prior, maps: int, stride: int) -> None:
    module = sequential(norm=normalise(), conv=nn.Conv2d(3, maps, 3, stride=stride, padding=1))
    problem, train = problem_of(module, images(3, 4, seed=9)), images(40, 4)
    solver = LinearInverse(noise=0.1, prior=prior).prepare(setting_of(problem, train))
    found, wanted = solved(solver, problem), expected(problem, train, 0.1, prior)
    torch.testing.assert_close(found, torch.from_numpy(wanted))
    boxed = solved(solver, replace(problem, domain=Box(0.4, 0.6)))
    torch.testing.assert_close(boxed, torch.from_numpy(wanted).clamp(0.4, 0.6))


def test_any_affine_map_is_taken_and_priors_are_ignored() -> None:
    module = sequential(flat=nn.Flatten(), one=nn.Linear(48, 60), two=nn.Linear(60, 20))
    problem, train = problem_of(module, images(2, 4, seed=9)), images(40, 4)
    held = replace(problem, priors=(WeightedPrior("tv", 1.0, TotalVariation()),))
    solver = LinearInverse(noise=0.2)
    assert solver.refuses(held) is None
    found = solved(solver.prepare(setting_of(held, train)), held)
    torch.testing.assert_close(found, torch.from_numpy(expected(problem, train, 0.2, "images")))


@pytest.mark.parametrize(("maps", "entries"), [(4, 48 * 48), (2, 48 * 32)])
def test_the_smaller_matrix_is_applied_and_paid_for(maps: int, entries: int) -> None:
    problem, train = problem_of(nn.Sequential(nn.Conv2d(3, maps, 3, padding=1)), images(2, 4)), images(9, 4)
    solver = LinearInverse().prepare(setting_of(problem, train))
    assert solver.learned is not None
    assert solver.learned["matrix"].numel() == entries
    solved(solver, problem)
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("applications").tolist() == [1, 1]
    adjoints = int(maps == 4)
    assert problem.meter.total("adjoints").tolist() == [adjoints] * 2
    layer = 16 * 9 * 3 * maps
    assert problem.meter.multiply_adds.tolist() == [entries + adjoints * layer] * 2


def test_more_images_than_samples_are_taken_at_equal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, train = problem_of(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), images(2, 4)), images(40, 4)
    some = LinearInverse(noise=0.1).prepare(setting_of(problem, train[::4]))
    monkeypatch.setattr(linear_inverse, "SAMPLES", 13)
    found = LinearInverse(noise=0.1).prepare(setting_of(problem, train))
    torch.testing.assert_close(solved(found, problem), solved(some, problem))


def test_on_photographs_single_precision_suffices_and_the_prior_helps_where_features_are_few() -> None:
    source = open_images("bundled", 16)
    train, test = source.draw("train", 1500).pixels, source.draw("test", 16).pixels
    errors: dict[tuple[int, str], float] = {}
    for stride in (1, 2):
        module = sequential(norm=normalise(), conv=nn.Conv2d(3, 8, 5, stride=stride, padding=2))
        problem = problem_of(module, test, Box(0.0, 1.0))
        priors: tuple[Prior, ...] = ("images", "stationary", "white")
        for prior in priors:
            solver = LinearInverse(prior=prior).prepare(setting_of(problem, train))
            x = solved(solver, problem, torch.float32)
            assert x.dtype == torch.float32
            errors[stride, prior] = float((x - test).square().mean())
    assert max(errors[1, prior] for prior in ("images", "stationary", "white")) < 1e-5, "it has an inverse"
    assert errors[2, "images"] < 0.5 * errors[2, "white"]
    assert errors[2, "stationary"] < 0.5 * errors[2, "white"]


def test_refusals_and_mistakes_are_told() -> None:
    solver, problems = LinearInverse(), tiny_problems()
    linear, start = problems["linear features in a box"]
    assert solver.refuses(linear) is None
    with pytest.raises(UserError, match="prepare it first"):
        list(solver.iterates(linear, start, Randomness(0, range(3), start)))
    relu = "give the first one without its ReLU, such as conv1.0"
    assert relu in str(solver.refuses(problems["features without constraint"][0]))
    assert relu in str(solver.refuses(problems["class in a box"][0]))
    assert "no chain" in str(solver.refuses(problems["features of a black box"][0]))
    assert "squared error" in str(solver.refuses(replace(linear, loss=CrossEntropy())))
    large = problem_of(nn.Sequential(nn.Conv2d(3, 1, 3)), torch.zeros(1, 3, 40, 40))
    assert "up to 4096 unknowns, and here are 4800" in str(solver.refuses(large))
