"""Least squares on the support of the start."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.domains import ModelSparse, Reals
from invbench.errors import UserError
from invbench.minimisers import column
from invbench.problem import Problem
from invbench.recovery import LinearModel, least_squares_on_support, refusal
from invbench.solver import Count, Randomness, Solver


@dataclass(frozen=True)
class Refit(Solver):
    """The least squares fit that is zero wherever the start is: it takes back the bias of a shrunken code.

        min |y - A z|^2   over the z with z = 0 off S,   S the support of the start z0

    By conjugate gradients, one application and one adjoint an iterate, until nothing is left to gain.

    With regions, S is the largest entry of z0 in each of them, in every channel: pooling, and unpooling with
    known switches. In the domain `model_sparse` S is the support of M(z0, k). A start of zeros has no
    support, and A^T y, towards which every method would set out, stands in for it; without regions this is
    plain least squares.

    Attributes:
        region: side of the square regions that keep one entry each; None keeps all entries.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, Algorithm 2, lines 2 and 3. There the second
        minimisation keeps the term lambda |z|_1. Without pooling that would change nothing, as z0 minimises
        it already; with pooling it would bias the entries that are left, although nothing is left to select.
        Ours drops it, as it does all priors, so that the objective of a trial that has them may grow.
    """

    region: Count | None = None

    def refuses(self, problem: Problem) -> str | None:
        """See `recovery.refusal`; also domains with bounds, and regions that do not tile the code."""
        lack = refusal(problem, "refit", sparse=False)
        if lack is not None:
            return lack
        if not isinstance(problem.domain, Reals | ModelSparse):
            return f"refit takes the domain reals or model_sparse, not {problem.domain.name}"
        if self.region is None:
            return None
        if isinstance(problem.domain, ModelSparse):
            return "refit takes its regions from the domain model_sparse: leave out `region`"
        if len(problem.shape) != 4:
            return f"refit pools codes (B, K, h, w), and this one is {problem.shape}"
        try:
            ModelSparse(1, (self.region, self.region)).blocks(problem.shape)
        except UserError as error:
            return f"refit finds no regions here: {error}"
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One application and one adjoint an iterate."""
        model = LinearModel.of(problem)
        support = self._support(problem, model, x)
        yield from least_squares_on_support(model, support, x)

    def _support(self, problem: Problem, model: LinearModel, start: Tensor) -> Tensor:
        blank = (start == 0).flatten(1).all(1)
        code = start
        if blank.any():
            code = torch.where(column(blank, start), model.adjoint(model.y), start)
        pool: ModelSparse | None = None
        if isinstance(problem.domain, ModelSparse):
            pool = problem.domain
        elif self.region is not None:
            tile = (self.region, self.region)
            pool = ModelSparse(ModelSparse(1, tile).blocks(problem.shape), tile)
        return code != 0 if pool is None else pool.support(code) & (code != 0)
