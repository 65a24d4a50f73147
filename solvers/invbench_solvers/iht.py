"""Model-based iterative hard thresholding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from invbench.domains import Blocks
from invbench.minimisers import norm
from invbench.problem import Problem
from invbench.recovery import LinearModel, layout, refusal
from invbench.solver import ProperFraction, Randomness, Solver

REFRESH = 100  # passes after which the residual, else updated step by step, is computed anew


@dataclass(frozen=True)
class IHT(Solver):
    """A gradient step, then the nearest code of the model.

        z <- M(z + mu g, k),   g = A^T (y - A z),   A = W^T

    The unit step is mu = 1. The normalised one is exact along the entries that are active now,

        mu = |g_S|^2 / |A g_S|^2,   S the support of z (of M(g, k), where z = 0).

    It is taken if it leaves the support as it is. Else the new point z+ must earn it by

        mu <= (1 - c) |z+ - z|^2 / |A (z+ - z)|^2,

    and mu <- mu / kappa until it does; then |y - A z| never grows, whatever the filters. With unit
    steps it does unless the filters have norm 1 and overlap little.

    Every pass is one application and one adjoint, and an iterate. A g_S serves the step and the residual
    behind it; where the support changes, A (z+ - z) serves the condition and the residual, one pass later.
    Instances do not wait for each other: some look for a step while others take theirs.

    Attributes:
        step: `normalised`, or `unit` as in the paper.
        margin: c.
        shrinkage: kappa.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, Algorithm 1 (unit step); Baraniuk, Cevher, Duarte &
        Hegde, IEEE Trans. Inf. Theory 2010, Algorithm 2 (models); Blumensath & Davies, "Normalized iterative
        hard thresholding: guaranteed stability and performance", 2010, Algorithm 1, here with M, and with
        kappa for their kappa (1 - c).
    """

    step: Literal["normalised", "unit"] = "normalised"
    margin: ProperFraction = 0.01
    shrinkage: Annotated[float, Gt(1)] = 2.0

    def refuses(self, problem: Problem) -> str | None:
        """See `recovery.refusal`."""
        return refusal(problem, "iht", sparse=True)

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One application and one adjoint an iterate."""
        model, blocks = LinearModel.of(problem), layout(problem)
        z = problem.domain.project(x).contiguous()
        if self.step == "normalised":
            search = _Normalised(model, blocks, z, self.margin, self.shrinkage)
            while True:
                yield search.code
                search.go_on()
        code = z.flatten(1)  # fresh memory would cost more than what is done to it
        places = blocks.support(code)
        while True:
            target = model.adjoint(model.apply(z).neg_().add_(model.y)).flatten(1)
            target.scatter_add_(1, places, code.gather(1, places))
            code.scatter_(1, places, 0.0)
            places = blocks.support(target)
            code.scatter_(1, places, target.gather(1, places))
            del target
            yield z


class _Normalised:
    """The state of a batch of normalised searches.

    An instance either probes its support along d = g_S, or checks a candidate, d = z+ - z. Codes are held as
    k places and the values there, (B, k) each.
    """

    def __init__(
        self, model: LinearModel, blocks: Blocks, z: Tensor, margin: float, shrinkage: float
    ) -> None:
        self._model, self._blocks = model, blocks
        self._kept, self._shrinkage = 1 - margin, shrinkage
        self.code, self._direction = z, torch.zeros_like(z).flatten(1)
        self._passes = 0
        self._residual, self._gradient = self._afresh()
        flat = z.flatten(1)
        blank = (flat == 0).all(1, keepdim=True)
        self._places = torch.where(blank, blocks.support(self._gradient), blocks.support(flat))
        self._values = flat.gather(1, self._places)
        self._candidate = self._places, self._values
        self._mu = z.new_ones(len(z), 1)
        self._checking = torch.zeros_like(self._mu, dtype=torch.bool)

    def go_on(self) -> None:
        """One pass."""
        self._passes += 1
        if self._passes % REFRESH == 0:
            self._residual, self._gradient = self._afresh()
            return
        image, limit = self._probe()
        earned = self._checking & (self._mu <= self._kept * limit)
        self._mu = torch.where(self._checking | limit.isinf(), self._mu, limit)
        self._mu = torch.where(self._checking & ~earned, self._mu / self._shrinkage, self._mu)
        target = self._gradient.scatter_add_(1, self._places, self._values / self._mu)  # (z + mu g) / mu
        places = self._blocks.support(target)
        values = self._mu * target.gather(1, places)
        stays = ~self._checking & (places == self._places).all(1, keepdim=True)
        self._checking = ~(stays | earned)
        self.code.flatten(1).scatter_(1, self._places, 0.0)
        self._take(stays, places, values)
        self._take(earned, *self._candidate)
        self.code.flatten(1).scatter_(1, self._places, self._values)
        self._candidate = places, values
        self._residual.flatten(1).addcmul_(image, torch.where(stays, self._mu, earned), value=-1)
        del image, target, self._gradient  # fresh memory is dear: the adjoint gets theirs
        self._gradient = self._model.adjoint(self._residual).flatten(1)

    def _probe(self) -> tuple[Tensor, Tensor]:
        """A d, (B, M H W), and |d|^2 / |A d|^2, (B, 1), infinite where A d = 0."""
        inside = self._gradient.gather(1, self._places)
        places, values = self._candidate
        d = self._direction  # fresh memory would cost more than what is done here
        d.scatter_add_(1, places, values.masked_fill(~self._checking, 0.0))
        d.scatter_add_(1, self._places, torch.where(self._checking, -self._values, inside))
        image = self._model.apply(d.view(self.code.shape)).flatten(1)
        length, path = torch.zeros_like(self._mu), norm(image)[:, None]
        for some in (places, self._places):  # a place in both counts once
            length = torch.hypot(length, norm(d.gather(1, some))[:, None])
            d.scatter_(1, some, 0.0)
        return image, torch.where(path > 0, (length / path).square(), torch.inf)

    def _take(self, which: Tensor, places: Tensor, values: Tensor) -> None:
        """Move some instances, (B, 1) bool, to other codes."""
        self._places = torch.where(which, places, self._places)
        self._values = torch.where(which, values, self._values)

    def _afresh(self) -> tuple[Tensor, Tensor]:
        """The residual and the gradient from nothing but z: an update at a time, rounding would add up."""
        residual = self._model.y - self._model.apply(self.code)
        return residual, self._model.adjoint(residual).flatten(1)
