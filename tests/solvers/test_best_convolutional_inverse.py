"""The best convolutional inverse: where it is exact, what it applies, takes and refuses."""

from dataclasses import replace

import pytest
import torch
from invbench_solvers import best_convolutional_inverse
from invbench_solvers.best_convolutional_inverse import BestConvolutionalInverse
from invbench_solvers.linear_inverse import LinearInverse
from torch import Tensor, nn
from torch.nn import functional

from invbench.domains import Box, Reals
from invbench.errors import UserError
from invbench.images import open_images
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.operators import Convolution
from invbench.problem import Problem
from invbench.solver import Randomness, Setting, Solver
from invbench.trials.contract import Posed
from tests.modules import normalise, seeded, sequential
from tests.toys import tiny_problems


def problem_of(module: nn.Module, x: Tensor, domain: Box | Reals | None = None) -> Problem:
    network = parse(seeded(module).to(x.dtype), tuple(x.shape[1:]))
    return Problem(network, network(x), SquaredError(), domain or Reals(), (), Meter(len(x)))


def setting_of(problem: Problem, train: Tensor) -> Setting:
    def pose(x: Tensor) -> Posed:
        posed = replace(problem, target=problem.network(x), meter=Meter(len(x)))
        return Posed(posed, torch.zeros_like(x), x, ("",) * len(x))

    return Setting(pose, train, train[:2], 0, lambda *_: None)


def solved(solver: Solver, problem: Problem) -> Tensor:
    start = torch.zeros(problem.shape, dtype=problem.network.dtype)
    (x,) = solver.iterates(problem, start, Randomness(0, range(problem.size), start))
    return x


def images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "stride", "maps", "kernel"),
    [(1, 1, 3, 1), (1, 1, 5, 3), (2, 2, 12, 1), (2, 2, 13, 3), (3, 3, 30, 1)],
)
def test_is_exact_where_blocks_do_not_overlap(size: int, stride: int, maps: int, kernel: int) -> None:
    module = sequential(norm=normalise(), conv=nn.Conv2d(3, maps, size, stride=stride))
    x = images(2, 6, 12, seed=9)
    problem = problem_of(module, x)
    train = images(80, 6, 12)
    solver = BestConvolutionalInverse(kernel=kernel, noise=1e-5).prepare(setting_of(problem, train))
    assert solver.learned is not None
    assert solver.learned["kernel"].shape == (3 * stride**2, maps, kernel, kernel)
    torch.testing.assert_close(solved(solver, problem), x, atol=1e-5, rtol=0)


def test_is_one_convolution_of_what_is_left_of_the_features() -> None:
    """With stride 1: a plain convolution of y less its mean; the numbers by conv2d, the work by its size."""
    problem = problem_of(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), images(2, 6, 7, seed=9))
    train = images(30, 6, 7)
    solver = BestConvolutionalInverse(kernel=3, noise=0.1).prepare(setting_of(problem, train))
    assert solver.learned is not None
    mean = train.mean((0, 2, 3))[:, None, None]
    rest = problem.target - problem.network(mean.expand(1, 3, 6, 7))
    expected = mean + functional.conv2d(rest, solver.learned["kernel"], padding=1)
    torch.testing.assert_close(solved(solver, problem), expected)
    boxed = solved(solver, replace(problem, domain=Box(0.4, 0.6)))
    torch.testing.assert_close(boxed, expected.clamp(0.4, 0.6))
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("applications").tolist() == [2, 2]
    assert problem.meter.multiply_adds.tolist() == [2 * 42 * 3 * 4 * 9] * 2


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "sides"),
    [
        (3, 2, 1, 1, 1, (8, 8)),
        (3, 2, 1, 1, 1, (7, 9)),
        (5, 2, 0, 1, 1, (9, 8)),
        (3, 1, 0, 1, 1, (6, 6)),
        (3, 1, 2, 2, 1, (6, 6)),
        (3, 1, 1, 1, 3, (6, 6)),
        (3, (2, 1), 1, 1, 1, (6, 7)),
        (3, 4, 0, 1, 1, (9, 9)),
    ],
)
def test_every_geometry_is_taken_and_tells_something(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, sides: tuple[int, int]
) -> None:
    conv = nn.Conv2d(3, 9, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    x = images(20, *sides, seed=9)
    problem, train = problem_of(nn.Sequential(conv), x), images(300, *sides)
    assert isinstance(problem.network.chain[0].affine, Convolution)  # type: ignore[index]
    solver = BestConvolutionalInverse(kernel=3, noise=0.05)
    assert solver.refuses(problem) is None
    found = solved(solver.prepare(setting_of(problem, train)), problem)
    assert found.shape == x.shape
    assert float((found - x).square().mean()) < 0.97 * float(x.var())


def test_on_photographs_the_optimal_linear_inverse_is_better() -> None:
    source = open_images("bundled", 16)
    train, test = source.draw("train", 1500).pixels, source.draw("test", 16).pixels
    module = sequential(norm=normalise(), conv=nn.Conv2d(3, 8, 5, padding=2))
    problem = problem_of(module, test, Box(0.0, 1.0))
    setting, errors = setting_of(problem, train), {}
    solvers: dict[str, Solver] = {
        "3": BestConvolutionalInverse(kernel=3),
        "7": BestConvolutionalInverse(kernel=7),
        "optimal": LinearInverse(),
    }
    for name, solver in solvers.items():
        errors[name] = float((solved(solver.prepare(setting), problem) - test).square().mean())
    assert errors["optimal"] < 0.1 * errors["7"]
    assert errors["7"] < 0.8 * errors["3"]
    assert errors["3"] < 0.1 * float(test.var())


def test_more_images_than_samples_are_taken_at_equal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), images(2, 5, 5))
    train = images(40, 5, 5)
    some = BestConvolutionalInverse().prepare(setting_of(problem, train[::4]))
    monkeypatch.setattr(best_convolutional_inverse, "SAMPLES", 13)
    found = BestConvolutionalInverse().prepare(setting_of(problem, train))
    torch.testing.assert_close(solved(found, problem), solved(some, problem))


def test_refusals_and_mistakes_are_told() -> None:
    solver, problems = BestConvolutionalInverse(), tiny_problems()
    linear, start = problems["linear features in a box"]
    assert solver.refuses(linear) is None
    with pytest.raises(UserError, match="prepare it first"):
        list(solver.iterates(linear, start, Randomness(0, range(3), start)))
    assert "without its ReLU" in str(solver.refuses(problems["features in a box"][0]))
    assert "mirrors a convolution" in str(solver.refuses(problems["sparse code"][0]))
    even = BestConvolutionalInverse(kernel=4).refuses(linear)
    assert "needs an odd kernel, not 4: give 5" in str(even)
