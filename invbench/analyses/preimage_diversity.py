"""How different the pre-images of one representation are that a solver finds, at equal feature error."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from invbench import metrics
from invbench.analyses.contract import Analysis, Plot, Refused, Row
from invbench.clock import next_look
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Solver, with_horizon
from invbench.trials.contract import Posed, Scene, Trial


@dataclass(frozen=True, kw_only=True)
class PreimageDiversity(Analysis):
    """Diversity of pre-images over their feature error, along the iterations of a solver.

    The trial poses every representation several times, from different starts, and the solver runs on all of
    them. After each iteration the mean feature error of the (projected) iterates is taken. When it first
    falls below a threshold they are compared: `diversity` is the root mean square distance of pixels between
    pre-images of one representation, in the mean over pairs, and all columns are means over instances. That
    ranks solvers by their diversity at equal feature error, under the same priors. Diversity alone is cheap:
    what a representation leaves open may be filled with noise. So how good the pre-images are is measured
    beside it: the `objective`, which holds their energy under the priors, and `mse` and `ssim` to the image.

    Attributes:
        trial: poses the problem, with more than one start.
        solver: finds the pre-images.
        errors: thresholds of the feature error; a study writes `[[0.1, 0.01]]`, as a list alone is an axis.
        iterations: that the solver takes.

    References:
        Mahendran & Vedaldi, CVPR 2015, section 5 and fig. 7: several pre-images of one representation, from
        different starts, shown and not measured. The measure is ours.
    """

    plot: ClassVar = Plot(x="feature_error", y="diversity", lines="solver", log_x=True)

    trial: Trial
    solver: Solver
    errors: tuple[Positive, ...] = (1e-1, 1e-2, 1e-3)
    iterations: Count = 500

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        self.trial.pose(scene)

    def measure(self, scene: Scene) -> list[Row]:
        """A row for every threshold, and, without one, on a geometric grid with the last iteration.

        Columns: threshold, iteration, feature_error, diversity, mse, ssim, objective. Where the error stays
        above a threshold its row has no values.
        """
        posed, solver = self.trial.pose(scene), with_horizon(self.solver, self.iterations)
        reason = _refusal(posed) or _refusal_of(solver, posed.problem)
        if reason is not None:
            raise Refused(reason)
        reached: dict[float, Row] = {}
        curve: list[Row] = []
        look, seen = 1, None
        for seen in _run(solver, posed, scene.seed, self.iterations):
            passed = (one for one in self.errors if seen.error < one and one not in reached)
            reached |= {one: _row(one, seen, posed) for one in passed}
            if seen.iteration == look:
                curve.append(_row(math.nan, seen, posed))
                look = next_look(look)
        if seen is not None and seen.iteration != curve[-1]["iteration"]:
            curve.append(_row(math.nan, seen, posed))
        return [reached.get(one, _unreached(one)) for one in self.errors] + curve


@dataclass(frozen=True, eq=False)
class _Seen:
    """An iterate on the domain, and its mean feature error."""

    iteration: int
    x: Tensor
    error: float


def _refusal(posed: Posed) -> str | None:
    """Why there is no diversity to measure, if so."""
    if posed.truth is None:
        return "diversity needs a trial that inverts images: this one has no ground truth"
    _, starts = posed.truth.unique(dim=0, return_counts=True)  # type: ignore[no-untyped-call]
    if starts.min() == 1:
        return "diversity needs several pre-images of each representation: pose the trial with starts > 1"
    return None


def _refusal_of(solver: Solver, problem: Problem) -> str | None:
    """Why the solver cannot run here, if so."""
    if solver.learns():
        return f"{type(solver).__name__} learns before it runs, which an analysis has no images for"
    return solver.refuses(problem)


@torch.no_grad()
def _looked_at(iteration: int, x: Tensor, problem: Problem) -> _Seen:
    x = problem.domain.project(x)
    return _Seen(iteration, x, float(metrics.feature_error(x, x, problem).mean()))


def _run(solver: Solver, posed: Posed, seed: int, last: int) -> Iterator[_Seen]:
    rng = Randomness(seed, range(posed.problem.size), posed.start)
    with closing(solver.iterates(posed.problem, posed.start, rng)) as source:  # type: ignore[type-var]
        for iteration, x in enumerate(islice(source, last), start=1):
            yield _looked_at(iteration, x, posed.problem)


@torch.no_grad()
def _row(threshold: float, seen: _Seen, posed: Posed) -> Row:
    """What is compared, in the mean over instances."""
    assert posed.truth is not None
    row: dict[str, float | int] = {"threshold": threshold, "iteration": seen.iteration}
    row["feature_error"] = seen.error
    for measure in (metrics.diversity, metrics.mse, metrics.ssim):
        row[measure.__name__] = float(measure(seen.x, posed.truth, posed.problem).mean())
    return row | {"objective": float(posed.problem.objective(seen.x).mean())}


def _unreached(threshold: float) -> Row:
    columns = ("iteration", "feature_error", "diversity", "mse", "ssim", "objective")
    return {"threshold": threshold, **dict.fromkeys(columns, math.nan)}
