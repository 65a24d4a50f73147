"""Every solver that is found: one iterate, its memory, and what it costs beside the network."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from benchmarks import problems
from benchmarks.found import one_class_each
from benchmarks.problems import Task
from benchmarks.stopwatch import ratio
from invbench.registry import catalogue

ITERATES = 20


@cache
def running(name: str, trial: str, device: str) -> Callable[[], Tensor]:
    """A function that takes the next iterate of a solver which is under way."""
    layer = "pool2" if trial == "preimage" else None
    step = problems.stepper(name, Task(trial, layer, plain=True, device=device))
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
    """One solver on 32 images of 3 x 32 x 32 pixels; n/a where it does not take the problem."""

    name = ""
    timeout = 120.0
    repeat = (3, 50, 5.0)
    params = (["preimage", "adversarial"], ["cpu", "cuda"])
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


globals().update(one_class_each(_Solver, catalogue().solvers))
globals().update(one_class_each(_Ratio, catalogue().solvers, suffix="_ratio"))
globals().update(one_class_each(_VGG11, catalogue().solvers, suffix="_vgg11"))
