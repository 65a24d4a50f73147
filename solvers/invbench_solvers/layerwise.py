"""Inversion of one stage after the other, from the last to the first."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from invbench.domains import Box
from invbench.losses import SquaredError
from invbench.penalties import output_curvature
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Solver
from invbench.splitting import ChainProblem, Splitting, refusal, sweeps


@dataclass(frozen=True)
class Layerwise(Solver):
    """One stage after the other, top down: an input that it maps to what the stage above wants of it.

        z_i = argmin |act_i(W_i z + b_i) - z_{i+1}|^2 / |z_{i+1}|^2   over the range of act_{i-1}

    The last stage has the loss of the problem instead, the first one its domain, and each the priors on its
    input. Each of these problems is started at the forward pass of x and takes a few sweeps of ADMM
    (`invbench.splitting`). A single pass down the chain is no good solution, for errors add up; it is a good
    start for methods which would not get from noise to where the solution is.

    Attributes:
        sweeps: of ADMM, a stage.
        strength: penalty over the curvature of the loss at the output of the stage.

    References:
        Wong & Kolter, Neural network inversion beyond gradient descent, 2017, for the single stage; the
        pass down the chain, which drops all duals, is ours.
    """

    sweeps: Count = 8
    strength: Positive = field(default=0.02, metadata={"search": (1e-3, 1.0, "log")})

    def refuses(self, problem: Problem) -> str | None:
        """See `splitting.refusal`."""
        return refusal(problem, "layerwise")

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One sweep of one stage an iterate: x itself, until the first stage is solved."""
        x = problem.domain.project(x)
        whole = ChainProblem.of(problem)
        inputs, _, output = whole.forward(x)
        outputs = [*inputs[1:], output]
        found = x
        for i in reversed(range(len(inputs))):
            piece = self._piece(whole, i, found)
            curvature = output_curvature(piece.loss, outputs[i], piece.target)
            splitting = Splitting.of(piece, [1.0], [1.0], self.strength * piece.loss_weight * curvature)
            state = splitting.start(inputs[i])
            for n, updates in enumerate(islice(sweeps("backward", 1), self.sweeps), start=1):
                splitting.sweep(state, updates)
                yield state.x if i == 0 and n == self.sweeps else x
            found = state.x

    def _piece(self, whole: ChainProblem, i: int, wanted: Tensor) -> ChainProblem:
        """The problem of stage i alone; `wanted` is its output, but for the last stage."""
        stages, last = whole.stages[i : i + 1], i == len(whole.stages) - 1
        loss, target = (whole.loss, whole.target) if last else (SquaredError(), wanted)
        weight = whole.loss_weight if last else 1.0
        priors = tuple(replace(term, stage=0) for term in whole.priors if term.stage == i)
        if i == 0:
            return ChainProblem(stages, loss, target, whole.domain, priors, weight)
        reachable = Box(whole.stages[i - 1].activation.lowest, math.inf)
        return ChainProblem(stages, loss, target, reachable, priors, weight)
