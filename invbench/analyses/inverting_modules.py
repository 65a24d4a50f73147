"""Where along a chain an inverting network loses what it reconstructs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from invbench.activations import MaxPool
from invbench.analyses.contract import Analysis, Plot, Refused, Row
from invbench.decoders import missed
from invbench.inverse_modules import maps, operations
from invbench.network import Stage
from invbench.operators import Affine, Diagonal
from invbench.problem import Problem
from invbench.solver import Solver
from invbench.trials import offline
from invbench.trials.contract import Scene
from invbench.trials.preimage import Preimage


@runtime_checkable
class Modular(Protocol):
    """A solver that is a decoder with two layers for each operation of a chain."""

    def decoder(self, problem: Problem) -> Sequence[Stage]:
        """Its layers, with what it has learned; those of the last operation first."""


@dataclass(frozen=True, kw_only=True)
class InvertingModules(Analysis):
    """The error of every module of an inverting network, alone and behind the modules before it.

        alone      |M_i(z_i) - z_{i-1}|^2 / |z_{i-1}|^2       given the true features: the regime solo
        chained    |M_i(z^_i) - z_{i-1}|^2 / |z_{i-1}|^2      given what the module before makes of them

    over all test images. What a stacked network loses shows where `chained` leaves `alone`: a module is given
    what it has never seen. The first row is the module that gives the image.

    Attributes:
        solver: an inverting network, such as `inverting_network: {regime: joint}`.
        layer: stage whose output is inverted.

    References:
        Harder, Deep Restoration, 2017, sections 3.2 and 4.2; the two errors side by side are ours.
    """

    plot: ClassVar = Plot(x="depth", y="chained", lines="solver", log_y=True)

    solver: Solver
    layer: str

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        scene.network.cut(self.layer)

    @torch.no_grad()
    def measure(self, scene: Scene) -> list[Row]:
        """Rows (depth, operation, alone, chained), one a module.

        Raises:
            Refused: the solver is no inverting network, or takes no features of this stage.
        """
        trial = Preimage(layer=self.layer, priors={})
        problem = trial.pose(scene).problem
        reason = self.solver.refuses(problem)
        if reason is not None:
            raise Refused(reason)
        solver = self.solver
        if solver.learns():
            with torch.enable_grad():
                solver = offline.prepare(solver, trial, scene).solver
        if not isinstance(solver, Modular):
            raise Refused(f"{type(solver).__name__} has no modules to look into")
        assert problem.network.chain is not None
        steps = operations(problem.network.chain)
        true, decoder = maps(steps, scene.images.pixels), solver.decoder(problem)
        rows: list[Row] = []
        given = true[-1]
        for depth in range(len(steps), 0, -1):
            seen, wanted = true[depth], true[depth - 1]
            first, second = decoder[2 * (len(steps) - depth) :][:2]
            alone, given = second(first(seen)), second(first(given))
            errors = {"alone": _error(alone, wanted), "chained": _error(given, wanted)}
            rows.append({"depth": depth, "operation": _name(steps[depth - 1]), **errors})
        return rows[::-1]


def _error(found: Tensor, wanted: Tensor) -> float:
    return float(missed(found.double(), wanted.double()))


def _name(step: Stage) -> str:
    """The stage with what it does."""
    affine: Affine = step.affine
    if isinstance(affine, Diagonal) or isinstance(step.activation, MaxPool):
        return f"{step.name}: {type(step.activation).__name__}"
    return f"{step.name}: {type(affine).__name__}"
