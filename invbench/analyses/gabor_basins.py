"""From which starts a solver finds the parameters of a Gabor filter: basins of attraction."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from invbench import gabor, metrics
from invbench.analyses.contract import Analysis, Findings, Picture, Refused, Row
from invbench.analyses.gabor_landscape import first_of, repeated
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Solver, with_horizon
from invbench.trials.contract import Scene, Trial

Parameter = Literal["lambda", "theta", "psi", "sigma", "gamma"]
#: Side of a cell in the picture, in pixels.
CELL = 8
#: Errors from which on a cell is black, in degrees.
FAR = 90.0


@dataclass(frozen=True, kw_only=True)
class GaborBasins(Analysis):
    """The angular error at the end, over a grid of starts in two parameters; the others start at the truth.

    The first instance of the trial is looked at. In the picture `across` runs from left to right and `down`
    from top to bottom, each over its range; white is found (an error of at most `found`), and the darker the
    larger the error, black from 90 degrees on.

    Attributes:
        trial: a trial of Gabor filters, one filter an instance, which seeks all parameters.
        solver: that starts everywhere.
        across: a parameter.
        down: another one.
        points: of the grid, each way.
        iterations: of the solver.
        found: angular error in degrees that counts as found.
    """

    trial: Trial
    solver: Solver
    across: Parameter = "theta"
    down: Parameter = "lambda"
    points: Annotated[int, Ge(2), Le(64)] = 24
    iterations: Count = 300
    found: Positive = 1.0

    def measure(self, scene: Scene) -> Findings:
        """Rows (first, second, error, success), one a start, with its two parameters; and a picture.

        Raises:
            Refused: the trial is not about single Gabor filters, or the solver does not take it.
        """
        posed = self.trial.pose(scene)
        single = first_of(posed, "gabor_basins")
        if self.across == self.down:
            raise Refused("gabor_basins needs two different parameters, across and down")
        reason = self.solver.refuses(single)
        if reason is not None:
            raise Refused(reason)
        assert posed.truth is not None
        problem = repeated(single, self.points**2)
        starts = self._starts(single, posed.truth[:1])
        ends = self._ends(problem, starts, scene.seed)
        errors = metrics.find()["angular_error"](ends, posed.truth[:1].expand_as(ends), problem)
        return Findings(list(self._rows(starts, errors)), [self._picture(errors)])

    def _starts(self, problem: Problem, truth: Tensor) -> Tensor:
        """Row by row, (points^2, 1, 5): the middles of equal parts of both ranges."""
        steps = (torch.arange(self.points, dtype=truth.dtype, device=truth.device) + 0.5) / self.points
        starts = truth.repeat(self.points**2, 1, 1)
        for name, shares in (
            (self.across, steps.repeat(self.points)),
            (self.down, steps.repeat_interleave(self.points)),
        ):
            low, high = self._range(problem, name)
            starts[:, 0, gabor.PARAMETERS.index(name)] = low + (high - low) * shares
        return starts

    def _range(self, problem: Problem, name: Parameter) -> tuple[float, float]:
        """That of the domain; one turn of an angle."""
        if name in ("theta", "psi"):
            return -torch.pi, torch.pi
        low, high = (bound.flatten()[gabor.PARAMETERS.index(name)] for bound in gabor.bounds(problem))
        if not low < high:
            raise Refused(f"gabor_basins cannot vary {name}, which the trial does not seek")
        return float(low), float(high)

    def _ends(self, problem: Problem, starts: Tensor, seed: int) -> Tensor:
        solver = with_horizon(self.solver, self.iterations)
        x, rng = starts, Randomness(seed, range(len(starts)), starts)
        with closing(solver.iterates(problem, starts.clone(), rng)) as source:  # type: ignore[type-var]
            for iterate in islice(source, self.iterations):
                x = iterate
        return problem.domain.project(x)

    def _rows(self, starts: Tensor, errors: Tensor) -> Iterator[Row]:
        first, second = (gabor.PARAMETERS.index(name) for name in (self.across, self.down))
        for start, error in zip(starts[:, 0], errors.tolist(), strict=True):
            yield {
                "first": float(start[first]), "second": float(start[second]),
                "error": error, "success": float(error <= self.found),
            }  # fmt: skip

    def _picture(self, errors: Tensor) -> Picture:
        share = (errors / FAR).clamp(0, 1).view(self.points, self.points)
        grey = torch.where(share <= self.found / FAR, 1.0, 0.85 * (1 - share))
        cells = grey.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
        rate = float((errors <= self.found).double().mean())
        name = type(self.solver).__name__
        title = f"{name}: {self.across} across, {self.down} down; {rate:.0%} of the starts find it (white)"
        return Picture(title, cells[None].float().cpu())
