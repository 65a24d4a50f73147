"""The loss over the angle of a Gabor filter, and the way that a solver takes there."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from invbench.analyses.contract import Analysis, Plot, Refused, Row
from invbench.clock import next_look
from invbench.gabor import THETA, GaborFiltering
from invbench.meter import Meter
from invbench.problem import Problem
from invbench.solver import Count, Randomness, Solver, with_horizon
from invbench.trials.contract import Posed, Scene, Trial


@dataclass(frozen=True, kw_only=True)
class GaborLandscape(Analysis):
    """The objective over theta with all else as it truly is, and the iterates of a solver on it.

    The first instance of the trial is looked at. Where theta alone is sought the iterates lie on the curve;
    where all parameters are, they may pass below and above it.

    Attributes:
        trial: a trial of Gabor filters, one filter an instance.
        solver: whose way is shown.
        iterations: that it has.
        points: of the curve, over one turn.

    References:
        A question asked in public (source 4 of this suite): where does the descent break down?
    """

    plot: ClassVar = Plot(x="degrees", y="objective", lines="line")

    trial: Trial
    solver: Solver
    iterations: Count = 500
    points: Annotated[int, Ge(8)] = 360

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (line, iteration, degrees, objective): `loss` is the curve, the others are the solver's way.

        Raises:
            Refused: the trial is not about single Gabor filters, or the solver does not take it.
        """
        posed = self.trial.pose(scene)
        problem = first_of(posed, "gabor_landscape")
        reason = self.solver.refuses(problem)
        if reason is not None:
            raise Refused(reason)
        assert posed.truth is not None
        return [*self._curve(problem, posed.truth[:1]), *self._way(problem, posed.start[:1], scene.seed)]

    def _curve(self, problem: Problem, truth: Tensor) -> Iterator[Row]:
        angles = torch.linspace(-180, 180, self.points + 1, dtype=truth.dtype, device=truth.device)
        x = truth.repeat(len(angles), 1, 1)
        x[:, 0, THETA] = angles.deg2rad()
        values = repeated(problem, len(angles)).objective(x)
        for angle, value in zip(angles.tolist(), values.tolist(), strict=True):
            yield {"line": "loss", "iteration": -1, "degrees": angle, "objective": value}

    def _way(self, problem: Problem, start: Tensor, seed: int) -> Iterator[Row]:
        """The start, the first iterates, and ever fewer of the others."""
        solver = with_horizon(self.solver, self.iterations)
        points, look = [(0, start)], 1
        with closing(solver.iterates(problem, start, Randomness(seed, range(1), start))) as source:  # type: ignore[type-var]
            for n, x in enumerate(islice(source, self.iterations), start=1):
                last = n, problem.domain.project(x).clone()
                if n == look:
                    points.append(last)
                    look = next_look(look)
        if points[-1][0] != last[0]:
            points.append(last)
        for n, x in points:
            value = float(problem.objective(x))
            angle = (math.degrees(float(x[0, 0, THETA])) + 180) % 360 - 180
            yield {
                "line": "iterates", "iteration": n,
                "degrees": angle, "objective": value,
            }  # fmt: skip


def first_of(posed: Posed, name: str) -> Problem:
    """The first instance of a trial as a problem with a meter of its own.

    Raises:
        Refused: it is not about a single Gabor filter whose truth is known.
    """
    module = posed.problem.network.module
    if not isinstance(module, GaborFiltering) or posed.truth is None or module.count != 1:
        raise Refused(f"{name} is about one Gabor filter an instance: give the trial gabor, with filters 1")
    return repeated(posed.problem, 1)


def repeated(problem: Problem, count: int) -> Problem:
    """The first instance of a problem, so many times, with a meter of its own."""
    return replace(problem.select(torch.zeros(count, dtype=torch.int64)), meter=Meter(count))
