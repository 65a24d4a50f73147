"""Every solver that is found: one iterate, its memory, and what it costs beside the network."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from benchmarks import problems
from benchmarks.found import one_class_each
from benchmarks.problems import Task
from benchmarks.stopwatch import ratio
from invbench.registry import catalogue
from invbench.solver import Randomness

ITERATES = 20
#: Of Gabor filters whose kernels fit the images.
GABOR = (("draws", 16), ("wavelength", (2.5, 3.0)))


@cache
def running(name: str, trial: str, device: str) -> Callable[[], Tensor]:
    """A function that takes the next iterate of a solver which is under way."""
    layer = "pool2" if trial == "preimage" else None
    options = GABOR if trial == "gabor" else ()
    step = problems.stepper(name, Task(trial, layer, plain=True, device=device, options=options))
    for _ in range(3):
        step()
    return step


def bare(task: Task) -> Callable[[], object]:
    """A function that sends a batch through a network's module, forward and back, and does nothing else."""
    posed = problems.posed(task)
    module, start = posed.problem.network.module, posed.start
    with torch.no_grad():
        direction = torch.ones_like(module(start))

    def both_ways() -> object:
        x = start.detach().requires_grad_()
        return torch.autograd.grad(module(x), x, direction)

    return both_ways


class _Solver:
    """One solver on 32 images of 32 px, or on 16 Gabor filters; n/a where it does not take the problem."""

    name = ""
    timeout = 120.0
    repeat = (3, 50, 5.0)
    params = (["preimage", "adversarial", "gabor"], ["cpu", "cuda"])
    param_names = ("trial", "device")

    def setup(self, trial: str, device: str) -> None:
        """The solver, under way."""
        self.step = running(self.name, trial, device)

    def time_iterate(self, _trial: str, device: str) -> None:
        """One iterate."""
        self.step()
        problems.finish(device)

    def peakmem_iterates(self, _trial: str, _device: str) -> None:
        """The memory of a process, torch and its libraries included, that takes some iterates."""
        for _ in range(ITERATES):
            self.step()


class _Ratio:
    """What a solver does beside the passes that it asks for; n/a where it does not take the problem."""

    name = ""
    timeout = 120.0
    unit = "passes"
    params = (["pool1", "pool2", "fc3"],)
    param_names = ("layer",)

    def setup(self, layer: str) -> None:
        """The solver and the bare passes, in one process, on one thread."""
        task = Task(layer=layer, plain=True)
        self.step, self.bare = problems.stepper(self.name, task), bare(task)

    def track_iterate_over_bare_pass(self, _layer: str) -> float:
        """Time of an iterate over that of one forward and backward pass up to the layer (fc3: all of it)."""
        return ratio(self.step, self.bare)


class _VGG11:
    """The same on a deep network; for a splitting method an iterate is a sweep over all of its stages."""

    name = ""
    timeout = 120.0
    unit = "passes"
    params = (["features", "cross_entropy"],)
    param_names = ("loss",)

    def setup(self, loss: str) -> None:
        """The solver and the bare passes: up to block 6 of the features, or through the whole network."""
        task = {
            "features": Task(layer="pool4", plain=True, network="vgg11"),
            "cross_entropy": Task("class_inversion", network="vgg11"),
        }[loss]
        self.step, self.bare = problems.stepper(self.name, task), bare(task)

    def track_iterate_over_bare_pass(self, _loss: str) -> float:
        """Time of an iterate over that of one forward and backward pass."""
        return ratio(self.step, self.bare)

    def peakmem_iterates(self, _loss: str) -> None:
        """The memory of a process, torch and its libraries included, that takes some iterates."""
        for _ in range(ITERATES):
            self.step()


class iht_sparse_code:  # noqa: N801  # named as the others
    """Hard thresholding on sparse codes: beside a transposed convolution and a convolution, forth and back.

    1d: 1000 codes of the paper's size, float64. 2d: 2 codes of 512 maps, filters 512 x 512 x 3 x 3.
    """

    timeout = 300.0
    unit = "passes"
    params = (["1d", "2d"],)
    param_names = ("size",)

    def setup(self, size: str) -> None:
        """The solver, some passes under way, and the bare passes, in one process, on one thread."""
        wide = {
            "dimensions": 2,
            "count": 512,
            "channels": 512,
            "kernel": 3,
            "size": 14,
            "region": 2,
            "k": 100,
        }
        options = {"draws": 1000} if size == "1d" else {**wide, "draws": 2}
        task = Task("sparse_code", plain=True, options=tuple(options.items()))
        self.step = problems.stepper("iht", task)
        posed = problems.posed(task)
        chain = posed.problem.network.chain
        assert chain is not None
        affine = chain[0].affine
        self.bare = lambda: (affine.linear(posed.start), affine.adjoint(posed.problem.target))

    def track_iterate_over_convolutions(self, _size: str) -> float:
        """Time of an iterate over that of both convolutions."""
        return ratio(self.step, self.bare)


class _Decoder:
    """What a decoder takes for a multiply-add, over what the network takes for one."""

    name = ""
    timeout = 120.0
    unit = "times"
    params = (["pool1", "pool2", "fc1"],)
    param_names = ("layer",)

    def setup(self, layer: str) -> None:
        """The decoder with its default width, whose training is cut short, and a pass up to the layer."""
        task = Task(layer=layer, plain=True)
        problem, start = problems.posed(task).problem, problems.posed(task).start
        made = replace(catalogue().solvers[self.name](), steps=2).prepare(problems.setting(task))
        self.step = lambda: next(made.iterates(problem, start, Randomness(0, range(problem.size), start)))
        self.pass_ = lambda: problem.network(start)
        before = problem.meter.multiply_adds[0]
        self.step()
        self.prices = problem.meter.multiply_adds[0] - before, problem.network.multiply_adds

    def track_multiply_add_over_that_of_the_network(self, _layer: str) -> float:
        """Time for each multiply-add of a decoding over that of a forward pass."""
        with torch.no_grad():
            return ratio(self.step, self.pass_) * self.prices[1] / self.prices[0]


class _Linear:
    """One inversion of the first convolution without its ReLU, beside that convolution."""

    name = ""
    timeout = 120.0
    unit = "passes"

    def setup(self) -> None:
        """The solver and the convolution, in one process, on one thread."""
        task = Task(layer="conv1.0", plain=True)
        posed = problems.posed(task)
        self.step = problems.stepper(self.name, task)
        self.bare = lambda: posed.problem.network(posed.start)

    def track_inversion_over_convolution(self) -> float:
        """Time of an inversion over that of the layer."""
        with torch.no_grad():
            return ratio(self.step, self.bare)


globals().update(one_class_each(_Decoder, ("inverting_network", "up_convolutional"), suffix="_decoding"))
globals().update(one_class_each(_Linear, ("linear_inverse", "best_convolutional_inverse"), suffix="_linear"))
globals().update(one_class_each(_Solver, catalogue().solvers))
globals().update(one_class_each(_Ratio, catalogue().solvers, suffix="_ratio"))
globals().update(one_class_each(_VGG11, catalogue().solvers, suffix="_vgg11"))
