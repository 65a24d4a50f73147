"""Differential evolution for small problems, by SciPy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from invbench.problem import Problem
from invbench.solver import Count, Randomness, Solver
from invbench.unknowns import Array, Unknowns, too_many


@dataclass(frozen=True)
class DifferentialEvolution(Solver):
    """A population in the box: members move by differences of others, and stay where that was better.

        v = x_best + m (x_a - x_b),    u = some coordinates from v, the others from x_i
        x_i <- u  if  f(u) <= f(x_i)

    It needs values alone. The start is one of the first members, the others are spread over the box (a latin
    hypercube). SciPy's `differential_evolution` takes some generations of each instance between two iterates,
    without its final descent; between them it evaluates the population anew.

    Attributes:
        population: members for every unknown.
        generations: between two iterates.

    References:
        Storn & Price, J. Global Optimization 1997.
    """

    population: Annotated[int, Ge(1)] = field(default=15, metadata={"search": (5, 40, "log")})
    generations: Count = 10

    def refuses(self, problem: Problem) -> str | None:
        """It needs a bounded box and few unknowns."""
        few = too_many(problem)
        if few:
            return f"differential_evolution {few}"
        if not problem.domain.is_bounded_box:
            return f"differential_evolution needs a bounded box, and the domain here is {problem.domain.name}"
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """Some generations of every instance an iterate."""
        x = problem.domain.project(x).clone()
        seeds = (rng.uniform((1,)).flatten().double() * 2**32).long().tolist()
        each = torch.arange(problem.size, device=x.device)[:, None]
        evolutions = [
            self._evolution(problem.select(i), x[i].clone(), np.random.default_rng(seed))
            for i, seed in zip(each, seeds, strict=True)
        ]
        while True:
            for i, evolution in zip(each, evolutions, strict=True):
                x[i] = next(evolution)
            yield x

    def _evolution(self, problem: Problem, x: Tensor, rng: np.random.Generator) -> Iterator[Tensor]:
        """The best member after every few generations, for a problem of one instance."""
        from scipy.optimize import differential_evolution  # seldom needed

        unknowns = Unknowns.of(problem, x)
        bounds = list(zip(unknowns.low, unknowns.high, strict=True))

        def objective(columns: Array) -> Array:
            members = unknowns.at(columns.T)
            repeated = torch.zeros(len(members), dtype=torch.int64, device=x.device)
            found: Array = problem.select(repeated).objective(members).double().cpu().numpy()
            return found

        options = {"popsize": self.population, "tol": 0, "polish": False, "vectorized": True, "seed": rng}
        more = {"init": "latinhypercube", "x0": unknowns.vector}
        while True:
            if not bounds:
                yield x
                continue
            found = differential_evolution(
                objective, bounds, maxiter=self.generations, updating="deferred", **options, **more
            )
            more = {"init": found.population}
            yield unknowns.at(found.x)
