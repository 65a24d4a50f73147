"""Recovery of a code from a linear image of it: what its solvers share."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.activations import Identity
from invbench.domains import Blocks, ModelSparse
from invbench.losses import SquaredError
from invbench.metered import MeteredStage
from invbench.minimisers import norm
from invbench.problem import Problem

#: Units of rounding by which A^T r may be wrong, next to |A| |r|.
ROUNDING = 4.0


def refusal(problem: Problem, solver: str, sparse: bool) -> str | None:
    """Why a problem is no recovery of a code from y = A z, or None.

    Args:
        problem: to be one affine stage with a squared error.
        solver: as messages name it.
        sparse: whether the domain must be `model_sparse`.
    """
    chain = problem.network.chain
    if chain is None:
        return f"{solver} needs a linear network: {problem.network.reason}"
    if len(chain) > 1 or not isinstance(chain[0].activation, Identity):
        return f"{solver} needs a linear network, but this one has activations"
    if not isinstance(problem.loss, SquaredError):
        return f"{solver} needs the loss squared_error, not {problem.loss.name}"
    if sparse and not isinstance(problem.domain, ModelSparse):
        return f"{solver} needs the domain model_sparse, not {problem.domain.name}"
    if sparse and problem.priors:
        return f"{solver} takes no priors: its codes are sparse by their domain"
    return None


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A z = y for a batch of codes z: the linear part of a problem, metered.

    In the notation of the field x = W^T z, so that A = W^T, its adjoint W the convolution by the filters.

    Attributes:
        stage: the network, which `refusal` has let pass.
        y: the target without the bias of the network, `(B, M, H, W)`.
    """

    stage: MeteredStage
    y: Tensor

    @classmethod
    def of(cls, problem: Problem) -> "LinearModel":
        """The linear model of a problem that `refusal` lets pass."""
        assert problem.chain is not None
        (stage,) = problem.chain
        offset = stage.affine(problem.target.new_zeros(1, *problem.network.input_shape))
        return cls(stage, problem.target - offset)

    def apply(self, z: Tensor) -> Tensor:
        """A z, `(B, M, H, W)`; counts one application."""
        return self.stage.linear(z)

    def adjoint(self, r: Tensor) -> Tensor:
        """A^T r, `(B, K, h, w)`; counts one adjoint."""
        return self.stage.adjoint(r)


def layout(problem: Problem) -> Blocks:
    """The blocks of the codes of a problem with the domain `model_sparse`."""
    assert isinstance(problem.domain, ModelSparse)
    return problem.domain.layout(problem.network.input_shape, problem.target.device)


def least_squares_on_support(model: LinearModel, support: Tensor, start: Tensor) -> Iterator[Tensor]:
    """Minimise |y - A z|^2 over the codes z that vanish off a support, to rounding.

    Yields the start first, restricted to the support, then z after every iteration of conjugate gradients,
    each of which is one application and one adjoint. A tensor is valid until the next one is asked for.
    Instances rest where they have arrived; when all do, the iterator ends.

    Args:
        model: A and y.
        support: where z may be non-zero, `(B, K, h, w)` bool; it may be empty.
        start: z to begin with, `(B, K, h, w)`.
    """
    search = LeastSquares(model, support, start)
    yield search.z
    while not search.resting.all():
        search.step()
        yield search.z


class LeastSquares:
    """Conjugate gradients for min |y - A z|^2 over the codes on a support, one support an instance.

        p = g_S + beta p,   alpha = |g_S|^2 / |A p|^2,   z <- z + alpha p,   r <- r - alpha A p,   g = A^T r

    An instance rests where it cannot be told from a solution: its step is below the rounding of z, or its
    gradient on the support is below that of A^T r, or has found no new low for as many steps as exact
    arithmetic would need in all. None waits for another: `move` sends some to other supports meanwhile.

    Args:
        model: A and y.
        support: S, `(B, K, h, w)` bool.
        start: z to begin with, `(B, K, h, w)`; entries off the support are dropped.

    Attributes:
        z: the codes, `(B, K, h, w)`; changed in place.
        resting: which instances are done, (B,).
        error: |y - A z|, (B,).
        first_step: |g_S|^2 / |A g_S|^2 where the last search of an instance began, (B,); 0 before.

    References:
        Hestenes & Stiefel 1952, section 10 (the form that never multiplies A^T A: CGLS in Bjorck, Numerical
        Methods for Least Squares Problems, 1996, algorithm 7.4.1). When to rest is ours.
    """

    def __init__(self, model: LinearModel, support: Tensor, start: Tensor) -> None:
        self._model = model
        self.z = start * support
        self._support = support.flatten(1)
        self._residual = model.y - model.apply(self.z)
        self._gradient = model.adjoint(self._residual)
        self.error = norm(self._residual.flatten(1))
        self._p = self._gradient.flatten(1) * self._support
        self._slope = norm(self._p)
        self.first_step = torch.zeros_like(self._slope)
        self._turning = torch.ones_like(self._slope, dtype=torch.bool)  # p is the gradient itself
        self._jumping = torch.zeros_like(self._turning)  # p leads to another support, in one step of length 1
        self._scale = torch.zeros_like(self._slope)  # the largest |A p| / |p| seen: at most |A|
        self._lowest, self._waited = self._slope.clone(), torch.zeros_like(self._slope)
        self.resting = self._slope == 0

    @property
    def support(self) -> Tensor:
        """Where z may be non-zero, `(B, K, h, w)` bool."""
        return self._support.view(self.z.shape)

    @property
    def gradient(self) -> Tensor:
        """A^T (y - A z), `(B, K, h, w)`: half the negative gradient, also off the support."""
        return self._gradient

    def move(self, which: Tensor, support: Tensor, start: Tensor) -> None:
        """Send some instances to another support: their next step leads to `start`, and they search on.

        Args:
            which: (B,) bool.
            support: their new supports, `(B, K, h, w)` bool; others are not read.
            start: codes on them, likewise.
        """
        column = which[:, None]
        self._support = torch.where(column, support.flatten(1), self._support)
        self._p = torch.where(column, (start * support - self.z).flatten(1), self._p)
        self._jumping |= which
        self.resting &= ~which

    def step(self) -> None:
        """One step of all instances that do not rest: one application and one adjoint."""
        q = self._model.apply(self._p.view(self.z.shape))
        length, path = norm(self._p), norm(q.flatten(1))
        best = torch.where(path > 0, (self._slope / path).square(), 0.0)
        alpha = torch.where(self._jumping, 1.0, best).masked_fill(self.resting, 0.0)
        self.z.flatten(1).addcmul_(alpha[:, None], self._p)
        self._residual.flatten(1).addcmul_(alpha[:, None], q.flatten(1), value=-1)
        self._gradient = self._model.adjoint(self._residual)
        self.error = norm(self._residual.flatten(1))
        self._scale = torch.where(length > 0, (path / length).maximum(self._scale), self._scale)
        self.first_step = torch.where(self._turning & ~self._jumping, alpha, self.first_step)
        self._turn(alpha * length)

    def _turn(self, moved: Tensor) -> None:
        """The next direction of those that go on; moved: lengths of the steps just taken, (B,)."""
        inside = self._gradient.flatten(1) * self._support
        slope = norm(inside)
        beta = torch.where(self._jumping | (self._slope == 0), 0.0, (slope / self._slope).square())
        self._p = inside.addcmul_(beta[:, None], self._p)
        lower = self._jumping | (slope < self._lowest)
        self._lowest = torch.where(lower, slope, self._lowest)
        self._waited = torch.where(lower, 0.0, self._waited + 1)
        eps = torch.finfo(slope.dtype).eps
        arrived = moved <= eps * norm(self.z.flatten(1))
        arrived |= slope <= ROUNDING * eps * self._scale * self.error
        arrived |= self._waited > self._support.sum(1)
        self.resting |= arrived & ~self._jumping | (slope == 0)
        self._turning, self._jumping = self._jumping, torch.zeros_like(self._jumping)
        self._slope = slope
