"""Pooled values put back and sent through the transposed filters."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from invbench.minimisers import column
from invbench.problem import Problem
from invbench.solver import Randomness, Solver
from invbench.unpooling import Pooled, refusal


@dataclass(frozen=True)
class TiedDecoder(Solver):
    """The decoder whose weights are those of the encoder: pooled values, unpooled, through W^T, in one shot.

        v = u - b at the places S with u > 0, else 0;   x = P(c W^T v)

    u holds every pooled value at its switch, or in the top-left corner of its window where the switches are
    not known. W is not scaled, hence the number c, one an instance, for which W x fits v best on S:

        c = |W^T v|^2 / |(W W^T v)_S|^2.

    So x is the first step of the steepest descent on |(W x)_S - v|^2 from 0, with exact line search.

    Attributes:
        scale: c: `fitted` as above, or `none`, c = 1, for filters of norm 1 with little overlap.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, section 4.5: x = W^T M(W x, k). They give x the norm of
        the original, which a solver cannot know, and scale W to unit rows; there k follows from statistics of
        the layer, here all positive pooled values are kept. Bias and projection P are ours.
    """

    scale: Literal["fitted", "none"] = "fitted"

    def refuses(self, problem: Problem) -> str | None:
        """See `unpooling.refusal`."""
        return refusal(problem, "tied_decoder")

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """Once."""
        pooled = Pooled.of(problem)
        stage, active = pooled.stage, pooled.values > 0
        bias = stage.affine(torch.zeros_like(x[:1]))
        x = stage.adjoint(torch.where(active, pooled.values - bias, 0))
        if self.scale == "fitted":
            seen = torch.where(active, stage.linear(x), 0)
            factor = _squares(x) / _squares(seen).clamp_min(torch.finfo(x.dtype).tiny)
            x = x * column(factor, x)
        yield problem.domain.project(x)


def _squares(x: Tensor) -> Tensor:
    """|x|^2 of every instance, (B, ...) -> (B,)."""
    return x.flatten(1).square().sum(1)
