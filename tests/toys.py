"""Tiny problems, solvers and clocks that tests share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from invbench.domains import Box, L2BallInBox, LinfBallInBox, ModelSparse, Reals
from invbench.filters import code_shape, random_filters, synthesis
from invbench.gabor import GaborFiltering
from invbench.harness.bench import Bench
from invbench.losses import CrossEntropy, SquaredError, SwitchedError, TargetedMargin
from invbench.meter import Meter
from invbench.method import Method
from invbench.network import Network, parse, without_activations
from invbench.priors import L1, SquaredL2, TotalVariation
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness, Setting, Solver
from invbench.study import Budget, Cell
from invbench.trials.contract import Posed, Scene, Trial
from invbench.unpooling import switched
from tests.modules import sequential

SHAPE = (3, 8, 8)
CLASSES = 5


def tiny_network(dtype: torch.dtype = torch.float64) -> Network:
    """Two stages and a classifier, random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = sequential(
            conv1=nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
            pool1=nn.MaxPool2d(2),
            fc1=nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, CLASSES)),
        )
    return parse(module.to(dtype), SHAPE, "tiny")


def black_box(dtype: torch.dtype = torch.float64) -> Network:
    """A network that is no chain."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.conv(x))

    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = sequential(block1=Residual())
    return parse(module.to(dtype), SHAPE, "black box")


def tiny_synthesis(dtype: torch.dtype = torch.float64) -> Network:
    """Signals from codes: x = W^T z, random filters."""
    weight = random_filters(4, 3, (3, 3), torch.Generator().manual_seed(3), dtype)
    return parse(synthesis(weight, SHAPE[1:]), code_shape(weight, SHAPE[1:]), "synthesis")


def tiny_gabor(batch: int, dtype: torch.dtype) -> dict[str, tuple[Problem, Tensor]]:
    """All parameters of Gabor filters, and theta alone, from a noisy image and what they make of it."""
    generator = torch.Generator().manual_seed(5)
    draws = torch.rand(2 * batch + 24, 24, generator=generator, dtype=torch.float64).to(dtype)
    module = GaborFiltering(draws[2 * batch :].clone(), 15)
    network = parse(module, module.input_shape, "gabor")
    low = torch.tensor([3, -6.5, -6.5, 1.5, 0.5], dtype=dtype).expand(1, 1, 5)
    high = torch.tensor([5, 6.5, 6.5, 2.5, 1], dtype=dtype).expand(1, 1, 5)
    middle, half = torch.tensor([4, 0, 0, 2, 0.75]), torch.tensor([0.9, 3, 3, 0.5, 0.25])
    truth, start = ((middle + half * (2 * draws[n::2][:batch, None, :5] - 1)).to(dtype) for n in (0, 1))
    known = truth.clone()
    known[..., 1] = start[..., 1]
    lowest, highest = truth.clone(), truth.clone()
    lowest[..., 1], highest[..., 1] = -6.5, 6.5

    def problem(box: Box) -> Problem:
        return Problem(network, network(truth), SquaredError(), box, (), Meter(batch))

    return {
        "gabor": (problem(Box(low, high)), start),
        "gabor angle": (problem(Box(lowest, highest)), known),
    }


def tiny_problems(batch: int = 3, dtype: torch.dtype = torch.float64) -> dict[str, tuple[Problem, Tensor]]:
    """Problems with starts, one of every kind that solvers meet."""
    network, rough = tiny_network(dtype), black_box(dtype)
    generator = torch.Generator().manual_seed(2)
    truth = torch.rand(batch, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    start = (0.5 + 0.1 * torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64)).to(dtype)
    labels = torch.arange(batch) % CLASSES
    box = Box(0.0, 1.0)

    def problem(net: Network, target: Tensor, loss: Any, domain: Any, *priors: WeightedPrior) -> Problem:
        return Problem(net, target, loss, domain, priors, Meter(batch))

    tv = WeightedPrior("tv", 1e-3, TotalVariation())
    l2 = WeightedPrior("l2", 1e-2, SquaredL2(truth))
    early, pooled = network.cut("conv1"), network.cut("pool1")
    affine = without_activations(early)
    linear, sparse, l1 = tiny_synthesis(dtype), ModelSparse(3, (2, 2)), WeightedPrior("l1", 0.05, L1())
    numbers = torch.randn(batch, *linear.input_shape, generator=generator, dtype=torch.float64).to(dtype)
    signals = linear(sparse.project(numbers))
    return {
        "features in a box": (problem(pooled, pooled(truth), SquaredError(), box, tv), start),
        "features without constraint": (problem(early, early(truth), SquaredError(), Reals()), start),
        "features of a black box": (problem(rough, rough(truth), SquaredError("size"), box, tv), start),
        "class in a box": (problem(network, labels, CrossEntropy(), box, l2), start),
        "adversarial linf": (
            problem(network, labels, TargetedMargin(1.0), LinfBallInBox(truth, 0.3, 0.0, 1.0)),
            truth,
        ),
        "adversarial l2": (
            problem(network, labels, CrossEntropy(), L2BallInBox(truth, 2.0, 0.0, 1.0)),
            truth,
        ),
        "pooled values and switches": (
            problem(affine, switched(affine(truth), (2, 2)), SwitchedError(), box),
            start,
        ),
        "linear features in a box": (problem(affine, affine(truth), SquaredError(), box), start),
        "sparse code": (problem(linear, signals, SquaredError(), sparse), torch.zeros_like(numbers)),
        "l1 code": (problem(linear, signals, SquaredError("none"), Reals(), l1), torch.zeros_like(numbers)),
        **tiny_gabor(batch, dtype),
    }


def tiny_setting(problem: Problem) -> Setting:
    """What offline work may see: the kind of a tiny problem, posed on random inputs of its network."""
    network = problem.network

    def pose(x: Tensor) -> Posed:
        output = network(x)
        target = switched(output, (2, 2)) if isinstance(problem.loss, SwitchedError) else output
        posed = replace(problem, target=target, meter=Meter(len(x)))
        return Posed(posed, torch.zeros_like(x), x, tuple(str(n) for n in range(len(x))))

    generator = torch.Generator().manual_seed(4)
    x = torch.rand(48, *network.input_shape, generator=generator, dtype=torch.float64).to(network.dtype)
    return Setting(pose, x[:32], x[32:], 0, lambda *_: None)


def check_training_repeats(solver: Solver, problem: Problem) -> None:
    """A training repeats itself for its seed, touches no global state, and leaves the recipe as it was."""
    state = torch.random.get_rng_state()
    first, again = (solver.prepare(tiny_setting(problem)) for _ in range(2))
    other = solver.prepare(replace(tiny_setting(problem), seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.learned is not None and again.learned is not None and other.learned is not None
    for name, tensor in first.learned.items():
        assert not tensor.requires_grad
        assert torch.equal(tensor, again.learned[name])
        assert not torch.equal(tensor, other.learned[name])
    assert first == solver, "what is learned is no hyper-parameter"


@dataclass(frozen=True)
class Scripted(Solver):
    """A solver that does what a test tells it to.

    Attributes:
        script: (problem, x) -> iterates.
    """

    script: Callable[[Problem, Tensor], Iterator[Tensor]] = field(default=lambda problem, x: iter(()))

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """Follow the script."""
        return (y for y in self.script(problem, x))


class FakeTime:
    """A host clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class TinyTrial(Trial):
    """The first tiny problem."""

    metrics = ("mse", "feature_error")
    ranked_by = "mse"
    priors: dict[str, float] = field(default_factory=dict)

    def pose(self, scene: Scene) -> Posed:
        """The tiny problem, with the truth to score against."""
        raise AssertionError("ToyBench poses it")


class ToyBench(Bench):
    """A bench that poses the tiny problem without images."""

    def pose(self, cell: Cell, trial: Trial, view: str = "test") -> Posed:
        """The tiny problem, kept."""

        def make() -> Posed:
            problem, start = tiny_problems(dtype=torch.float32)["features in a box"]
            return Posed(
                replace(problem, loss_weight=trial.loss_weight),
                start,
                torch.full_like(start, 0.5),
                ("a", "b", "c"),
            )

        made: Posed = self.once("toy", [view, repr(trial)], make)
        return made


def cell_of(*solvers: Solver, budget: Budget | None = None, shares: Any = None, **changes: Any) -> Cell:
    """A cell that runs these solvers on the tiny problem."""
    method = Method(
        name="scripted",
        stages=tuple((f"stage{n}", solver) for n, solver in enumerate(solvers)),
        shares=tuple(shares or [1 / len(solvers)] * len(solvers)),
    )
    cell = Cell(
        study="toy",
        order=0,
        trial_name="tiny",
        trial=TinyTrial(),
        trial_parameters={},
        images={"source": "none", "count": 3, "size": 8},
        network={"name": "tiny"},
        method=method,
        seed=0,
        budget=budget or Budget(iterations=10),
        device="cpu",
        dtype="float32",
        timeout=60.0,
    )
    return replace(cell, **changes)
