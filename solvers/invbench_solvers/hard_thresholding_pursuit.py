"""Hard thresholding pursuit."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.domains import ModelSparse
from invbench.minimisers import column, norm
from invbench.problem import Problem
from invbench.recovery import LeastSquares, LinearModel, refusal
from invbench.solver import Count, Randomness, Solver


@dataclass(frozen=True)
class HardThresholdingPursuit(Solver):
    """The support from a thresholded gradient step, the values from least squares on it.

        S <- support of M(z + mu g, k),   z <- argmin |y - A z|^2 over codes on S,   g = A^T (y - A z)

    The least squares are solved to rounding by conjugate gradients from M(z + mu g, k), whose first step has
    the length mu = |g_S|^2 / |A g_S|^2 of normalised thresholding at no further cost: it is the mu of the
    next support. To build the k columns of A at hand would take as many applications; conjugate gradients
    take about ten where filters overlap little.

    A support that lowers |y - A z| is kept. From one that does not, an instance goes back and halves mu; when
    that leads to the support where it is, or `patience` times to nothing better, it rests there. Instances
    do not wait for each other. When all rest, the solver returns.

    Attributes:
        patience: halvings of mu in a row, after which an instance rests.

    References:
        Foucart, "Hard thresholding pursuit: an algorithm for compressive sensing", SIAM J. Numer. Anal. 2011,
        (HTP1)-(HTP2), here with the model-based M of Baraniuk, Cevher, Duarte & Hegde 2010. There supports
        are never taken back, and so may come in cycles; that, and the choice of mu, differ here.
    """

    patience: Count = 8

    def refuses(self, problem: Problem) -> str | None:
        """See `recovery.refusal`."""
        return refusal(problem, "hard_thresholding_pursuit", sparse=True)

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One application and one adjoint an iterate: a new support, or a step of conjugate gradients."""
        assert isinstance(problem.domain, ModelSparse)
        model, domain = LinearModel.of(problem), problem.domain
        z = domain.project(x)
        search = LeastSquares(model, z != 0, z)
        best = _Best(search, norm(model.y.flatten(1)))
        finished = torch.zeros_like(search.resting)
        while True:
            yield search.z
            arrived = search.resting & ~finished
            if arrived.any():
                best.judge(search, arrived)
                support, start = best.proposal(domain)
                done = arrived & (best.holds(support) | (best.failures > self.patience))
                search.move(arrived & ~done, support, start)
                search.move(done & (best.failures > 0), best.support, best.z)
                finished |= done
            if (finished & search.resting).all():
                return
            search.step()


class _Best:
    """The best solution on any support so far, one an instance.

    Attributes:
        z: the codes, `(B, K, h, w)`.
        support: where least squares were solved, likewise, bool.
        failures: supports in a row that brought nothing, (B,).
    """

    def __init__(self, search: LeastSquares, scale: Tensor) -> None:
        self._rounding = torch.finfo(scale.dtype).eps * scale
        self.z, self.support, self._gradient = search.z.clone(), search.support, search.gradient
        self._error = torch.full_like(scale, torch.inf)
        self._mu = torch.ones_like(scale)
        self.failures = torch.zeros_like(scale)

    def judge(self, search: LeastSquares, arrived: Tensor) -> None:
        """Keep what some instances, (B,) bool, have found, where it is better."""
        better = arrived & (search.error < self._error - self._rounding)
        self.failures = torch.where(better, 0.0, self.failures + arrived)
        halved = torch.where(arrived, self._mu / 2, self._mu)
        known = torch.where(search.first_step > 0, search.first_step, self._mu)
        self._mu = torch.where(better, known, halved)
        self._error = torch.where(better, search.error, self._error)
        kept = column(better, self.z)
        self.z = torch.where(kept, search.z, self.z)
        self._gradient = torch.where(kept, search.gradient, self._gradient)
        self.support = torch.where(kept, search.support, self.support)

    def proposal(self, domain: ModelSparse) -> tuple[Tensor, Tensor]:
        """The support of M(z + mu g, k), and z + mu g itself."""
        target = torch.addcmul(self.z, self._gradient, column(self._mu, self.z))
        return domain.support(target), target

    def holds(self, support: Tensor) -> Tensor:
        """Whether a support is the one of the best solution, (B,)."""
        return (support == self.support).flatten(1).all(1)
