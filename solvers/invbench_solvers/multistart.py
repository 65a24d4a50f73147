"""Another solver from many starts."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from invbench.minimisers import Moments
from invbench.problem import Problem
from invbench.solver import Count, Randomness, Solver

#: Step of the Adam that descends where no inner solver is named.
RATE = 0.1


@dataclass(frozen=True)
class Multistart(Solver):
    """Runs a solver from k starts and keeps, for every instance, the point of least objective so far.

    The first start is that of the trial, the others are drawn uniformly from the box. The runs take turns,
    iterate by iterate, and every iterate costs one more pass, which judges it.

    Attributes:
        inner: the solver; by default plain Adam with a step of 0.1.
        starts: k.

    References:
        Rinnooy Kan & Timmer, Stochastic global optimization methods, Mathematical Programming 1987.
    """

    inner: Solver | None = None
    starts: Count = field(default=16, metadata={"search": (4, 64, "log")})

    def refuses(self, problem: Problem) -> str | None:
        """It needs a bounded box to draw from, and what the inner solver needs."""
        if not problem.domain.is_bounded_box:
            return f"multistart draws starts from a bounded box, and the domain here is {problem.domain.name}"
        if self.inner is None:
            return None
        if self.inner.learns():
            return "multistart takes no inner solver with offline work, as it passes on none"
        return self.inner.refuses(problem)

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """The best point so far, after every iterate of one of the runs."""
        best = problem.domain.project(x)
        lowest = torch.full((problem.size,), torch.inf, dtype=x.dtype, device=x.device)
        runs = [self._run(problem, start, rng) for start in self._starts(problem, best, rng)]
        while runs:
            for run in tuple(runs):
                y = next(run, None)
                if y is None:
                    runs.remove(run)
                    continue
                y = problem.domain.project(y)
                value = problem.objective(y)
                better = value < lowest
                best = torch.where(better.view(-1, *[1] * (x.ndim - 1)), y, best)
                lowest = torch.where(better, value, lowest)
                yield best.clone()

    def _starts(self, problem: Problem, x: Tensor, rng: Randomness) -> list[Tensor]:
        """The point itself, and others from all over the box."""
        assert problem.domain.bounds is not None
        low, high = problem.domain.bounds
        draws = (rng.uniform(x.shape[1:]) for _ in range(self.starts - 1))
        return [x, *(low + (high - low) * draw for draw in draws)]

    def _run(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        return _adam(problem, x) if self.inner is None else self.inner.iterates(problem, x, rng)


def _adam(problem: Problem, x: Tensor) -> Iterator[Tensor]:
    x, moments = x.clone(), Moments(x)
    while True:
        _, g = problem.value_and_gradient(x)
        m, spread, bias = moments.add(g)
        x = problem.domain.project_(x.addcdiv_(m, spread, value=-RATE / bias))
        yield x
