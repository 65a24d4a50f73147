"""Proximal points of smooth energies, by accelerated descent."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from invbench.errors import UserError
from invbench.priors.prior import Prior

#: Relative gap at which a prox counts as solved where the energy is convex, and the most steps it may take.
TOLERANCE, MOST_STEPS = 1e-6, 200
#: Steps of one approach to the proximal point.
APPROACH = 2


class SmoothPrior(Prior):
    """A prior whose curvature is bounded, which gives it a proximal point by descent.

    With L the bound, the objective of the prox R(v) + rho/2 |v - point|^2 bends by at most L + rho, and,
    where R is convex, by at least rho. The number of steps follows from this condition alone.
    """

    has_prox: ClassVar[bool] = True

    @abstractmethod
    def curvature(self, shape: tuple[int, ...]) -> float:
        """An upper bound L on the curvature d^2 R(x + t d) / dt^2, |d| = 1, at any x in any direction.

        Args:
            shape: of one x, (C, H, W).
        """

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.prox`; by `descend` from the point itself.

        Where R is convex the objective is within `TOLERANCE` of the least one, relative to where it starts,
        unless that takes more than `MOST_STEPS`. Where it is not, the result is lower than the start, and
        near a stationary point.
        """
        column = one_each(self.name, rho, point)
        bound = self.curvature(tuple(point.shape[1:]))
        return descend(self, point, column, bound, point, steps(bound, column, TOLERANCE))

    def approach(self, v: Tensor, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.approach`; `APPROACH` steps of `descend`."""
        column = one_each(self.name, rho, point)
        bound = self.curvature(tuple(point.shape[1:]))
        return descend(self, point, column, bound, v, torch.full_like(column, APPROACH))


def descend(
    energy: Callable[[Tensor], Tensor],
    point: Tensor,
    rho: Tensor,
    curvature: float,
    start: Tensor,
    count: Tensor,
) -> Tensor:
    """A point near argmin_v F(v), F(v) = R(v) + rho/2 |v - point|^2, by accelerated gradient steps.

        v+ = y - grad F(y) / (L + rho),    y+ = v+ + m (v+ - v),    m = (sqrt k - 1) / (sqrt k + 1)

    with k = (L + rho) / rho. A step lowers F(y) by at least |grad F(y)|^2 / (2 (L + rho)), whether R is
    convex or not, so that F(y) tells how low F is at least at v+. Where the next y is higher than that, it is
    dropped, and the iteration begins again from v+ without momentum. Hence

    - F at the result is at most F at the start, less than that unless the start is stationary;
    - where R is convex and no y is dropped, F is within 2 (1 - 1 / sqrt k)^n of its least value after n
      steps, relative to the start.

    Args:
        energy: R, (B, ...) -> (B,).
        point: where to stay near, (B, ...).
        rho: how near, > 0, (B,).
        curvature: L, an upper bound on that of R.
        start: the first v, (B, ...).
        count: gradients to take, (B,).

    References:
        Nesterov, Introductory lectures on convex optimization, 2004, section 2.2.1, constant step scheme III.
        O'Donoghue & Candes, Adaptive restart for accelerated gradient schemes, 2015; they compare the values
        at v, which would cost a further evaluation.
    """
    rows = (-1, *(1,) * (point.dim() - 1))
    bend = curvature + rho
    root = (bend / rho).sqrt()
    momentum, rate = ((root - 1) / (root + 1)).reshape(rows), (1 / bend).reshape(rows)
    v, y, reached = start, start, torch.full_like(rho, math.inf)
    for n in range(int(count.max())):
        value, slope = _value_and_slope(energy, y, point, rho)
        running, good = (n < count), value <= reached
        moved = torch.where((running & good).reshape(rows), y - rate * slope, v)
        y = torch.where(good.reshape(rows), moved + momentum * (moved - v), v)
        promised = value - slope.flatten(1).square().sum(1) / (2 * bend)
        v, reached = moved, torch.where(good, promised, reached)
    return v


def steps(curvature: float, rho: Tensor, tolerance: float, most: int = MOST_STEPS) -> Tensor:
    """The n, from 1 to `most`, for which 2 (1 - 1 / sqrt k)^n is the tolerance; k = (L + rho) / rho, (B,)."""
    root = ((curvature + rho) / rho).sqrt()
    needed = math.log(tolerance / 2) / torch.log1p(-1 / root.clamp_min(1 + 1e-6))
    return needed.ceil().clamp(1, most)


def one_each(name: str, rho: float | Tensor, point: Tensor) -> Tensor:
    """A rho > 0 for every instance, (B,).

    Raises:
        UserError: it is neither one positive number nor one an instance.
    """
    given = torch.as_tensor(rho, dtype=point.dtype, device=point.device)
    if given.shape not in ((), point.shape[:1]) or not bool((given > 0).all()):
        raise UserError(f"{name}: the prox needs rho > 0, a number or one an instance, but it is {rho}.")
    return given.expand(len(point))


def _value_and_slope(
    energy: Callable[[Tensor], Tensor], y: Tensor, point: Tensor, rho: Tensor
) -> tuple[Tensor, Tensor]:
    """F and its gradient."""
    with torch.enable_grad():
        leaf = y.detach().requires_grad_()
        value = energy(leaf) + rho / 2 * (leaf - point).flatten(1).square().sum(1)
        (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    return value.detach(), slope
