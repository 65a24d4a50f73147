"""How far the copies of a splitting method are from what they copy."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invbench.analyses.contract import Analysis, Plot, Refused, Row
from invbench.clock import next_look
from invbench.problem import Problem
from invbench.solver import Count, Randomness, Solver, with_horizon
from invbench.trials.contract import Scene, Trial

#: The variables that are compared, as solvers call them: z_i and its copy v_i, y_i and its copy w_i.
VARIABLES = ("z", "v", "y", "w")


@dataclass(frozen=True, kw_only=True)
class Residuals(Analysis):
    """Relative primal residuals of a splitting method, stage by stage, over its iterations.

    A chain y_i = W_i z_i + b_i, z_{i+1} = act_i(y_i) is split by copies v_i = z_i of the inputs and w_i = y_i
    of the pre-activations. Of both the mean over instances of the relative distance is measured,

        |v_i - z_i| / |z_i|    and    |w_i - y_i| / |y_i|.

    Where a stage is dead (z_i = 0 or y_i = 0) the ratio has no value: such instances do not count, and the
    column `instances` says how many do.

    Attributes:
        trial: poses the problem.
        solver: offers `states`, whose items have z, v, y and w, each with an entry a stage.
        iterations: that the solver takes.

    References:
        Wong & Kolter, Neural network inversion beyond gradient descent, 2017, fig. 3.
    """

    plot: ClassVar = Plot(x="iteration", y="residual", lines="stage", panels="copy", log_x=True, log_y=True)

    trial: Trial
    solver: Solver
    iterations: Count = 100

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        self.trial.pose(scene)

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (iteration, stage, copy, residual, instances) on a geometric grid with the last iteration."""
        posed = self.trial.pose(scene)
        problem, solver = posed.problem, with_horizon(self.solver, self.iterations)
        name, states = type(solver).__name__, getattr(solver, "states", None)
        if states is None:
            raise Refused(
                f"{name} has no states: residuals need a solver that shows its variables, as admm does"
            )
        reason = solver.refuses(problem)
        if reason is not None:
            raise Refused(reason)
        stages = _stages(problem)
        rng = Randomness(scene.seed, range(problem.size), posed.start)
        rows: list[Row] = []
        with closing(states(problem, posed.start, rng)) as source:
            for iteration, state in _on_grid(source, self.iterations):
                variables = _Variables.of(state, name)
                rows += _rows(iteration, stages[: len(variables.z)], variables)
        return rows


def _stages(problem: Problem) -> list[str]:
    if problem.network.chain is None:
        raise Refused(f"residuals need a chain of stages: {problem.network.reason}")
    return [*(stage.name for stage in problem.network.chain), "output"]  # the last where it has a prior


def _on_grid(source: Iterator[Any], last: int) -> Iterator[tuple[int, Any]]:
    """(iteration, state) on the grid; the last one, too, also where the source ends before."""
    iteration, look, seen = 0, 1, 0
    state = None
    for iteration, state in zip(range(1, last + 1), source, strict=False):
        if iteration >= look:
            yield iteration, state
            seen, look = iteration, next_look(iteration)
    if seen < iteration:
        yield iteration, state


@dataclass(frozen=True)
class _Variables:
    """Each with an entry a stage, `(B, ...)`."""

    z: Sequence[Tensor]
    v: Sequence[Tensor]
    y: Sequence[Tensor]
    w: Sequence[Tensor]

    @classmethod
    def of(cls, state: Any, solver: str) -> "_Variables":
        missing = [name for name in VARIABLES if not hasattr(state, name)]
        if missing:
            needed = "residuals need z, v, y and w"
            raise Refused(f"the states of {solver} have no {', '.join(missing)}: {needed}")
        return cls(**{name: getattr(state, name) for name in VARIABLES})


def _rows(iteration: int, stages: Sequence[str], at: _Variables) -> Iterator[Row]:
    for stage, z, v, y, w in zip(stages, at.z, at.v, at.y, at.w, strict=True):
        for copy, found, original in (("input", v, z), ("pre-activation", w, y)):
            residual, instances = relative_distance(found, original)
            yield {
                "iteration": iteration,
                "stage": stage,
                "copy": copy,
                "residual": residual,
                "instances": instances,
            }


@torch.no_grad()
def relative_distance(copy: Tensor, original: Tensor) -> tuple[float, int]:
    """Mean of |copy - original| / |original| over the instances whose original is not 0.

    Args:
        copy: `(B, ...)`.
        original: `(B, ...)`.

    Returns:
        The mean, NaN where no instance counts, and how many do.
    """
    norm = original.flatten(1).double().norm(dim=1)
    distance = (copy - original).flatten(1).double().norm(dim=1)
    counts = norm != 0
    return float((distance[counts] / norm[counts]).mean()), int(counts.sum())
