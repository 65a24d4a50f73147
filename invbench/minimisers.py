"""What several minimisers share: recursions, damped steps and step lengths, per instance, and schedules."""

import math

import torch
from torch import Tensor


def two_loop(
    gradient: Tensor,
    steps: Tensor,
    differences: Tensor,
    free: Tensor | None = None,
    curvature: float = 1e-6,
) -> Tensor:
    """The L-BFGS inverse Hessian times the gradient, H g, by the two-loop recursion.

    H grows from gamma I, gamma = s.y / y.y of the newest pair, by the BFGS updates of the pairs (s, y),

        H <- (I - rho s y^T) H (I - rho y s^T) + rho s s^T,    rho = 1 / s.y,

    but is never formed. Every instance has its own H. A pair with s.y <= curvature |s| |y| would spoil its
    positive definiteness and is skipped, for that instance alone (an instance forgets a pair that is set
    to 0). Without any pair H = I. The direction of descent is -H g.

    Args:
        gradient: g, (B, n).
        steps: s, differences of iterates, oldest first, (m, B, n); m may be 0.
        differences: y, differences of gradients, likewise.
        free: where given, (B, n) bool, H is built from and applied to these coordinates only; the result is
            0 elsewhere (projected L-BFGS: variables held at their bounds are not free).
        curvature: the least cosine of a pair that is used. The default stands above the rounding of float32
            inner products, and below the cosine of any quadratic with a condition number under 1e12.

    Returns:
        H g, (B, n).

    References:
        Nocedal 1980; Nocedal & Wright 2006, algorithm 7.4. The restriction to free variables: Bertsekas
        1982, "Projected Newton methods for optimization problems with simple constraints".
    """
    mask = None if free is None else free.to(gradient.dtype)
    product = gradient.clone() if mask is None else gradient * mask
    # One place for all masked pairs: fresh memory costs more than the arithmetic on it.
    places = torch.empty_like(gradient), torch.empty_like(gradient)
    gamma = torch.zeros_like(gradient[:, 0])  # 0: no pair was usable yet
    newer: list[tuple[Tensor, Tensor]] = []
    for i in reversed(range(len(steps))):
        s, y = (_masked(v, mask, place) for v, place in zip((steps[i], differences[i]), places, strict=True))
        sy, norm_y = dot(s, y), norm(y)
        usable = sy > curvature * norm(s) * norm_y
        rho = torch.where(usable, 1 / sy, 0.0)
        weight = rho * dot(s, product)
        product.addcmul_(weight[:, None], y, value=-1)
        gamma = torch.where(usable & (gamma == 0), sy / norm_y**2, gamma)
        newer.append((rho, weight))
    product *= torch.where(gamma == 0, 1.0, gamma)[:, None]
    for s, y, (rho, weight) in zip(steps, differences, reversed(newer), strict=True):
        product.addcmul_((weight - rho * dot(y, product))[:, None], s)
        _masked(product, mask, product)
    return product


def shrinkage(predicted: Tensor, change: Tensor) -> Tensor:
    """The factor from a rejected step to the lowest point of the parabola, in [0.1, 0.5].

    Args:
        predicted: <g, x(a) - x> of the rejected step, < 0, (B,).
        change: f(x(a)) - f(x), (B,); where it is not a number the factor is 0.5.

    Returns:
        The factors, (B,).
    """
    lowest = predicted / (2 * (predicted - change))
    return torch.where(change.isnan(), 0.5, lowest.clamp(0.1, 0.5))


class Moments:
    """Running means of the gradient and of its square, by which Adam scales its steps.

        m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2

    Args:
        like: a tensor of the shape of the gradients.
        betas: b1 and b2.
        epsilon: guards the division.

    References:
        Kingma & Ba, Adam: a method for stochastic optimization, ICLR 2015, Algorithm 1.
    """

    def __init__(
        self, like: Tensor, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        self._m, self._v = torch.zeros_like(like), torch.zeros_like(like)
        self._betas, self._epsilon, self._t = betas, epsilon, 0

    def add(self, g: Tensor) -> tuple[Tensor, Tensor, float]:
        """Take a gradient into the means.

        Returns:
            m, sqrt(v / (1 - b2^t)) + epsilon and 1 - b1^t: Adam's step is the first over the others.
        """
        b1, b2 = self._betas
        self._t += 1
        self._m.lerp_(g, 1 - b1)
        self._v.mul_(b2).addcmul_(g, g, value=1 - b2)
        spread = torch.sqrt(self._v).mul_(1 / math.sqrt(1 - b2**self._t)).add_(self._epsilon)
        return self._m, spread, 1 - b1**self._t


def damped_step(jacobian: Tensor, residual: Tensor, damping: Tensor, free: Tensor) -> Tensor:
    """The step of Levenberg and Marquardt, s = -(J^T J + mu diag(J^T J))^-1 J^T r.

    Scaling by the diagonal makes it independent of the units of the unknowns.

    Args:
        jacobian: J, (..., m, n).
        residual: r, (..., m).
        damping: mu > 0, (...).
        free: unknowns that may move, (..., n) bool; the others get 0.

    Returns:
        s, (..., n); 0 for an unknown on which nothing depends.

    References:
        Marquardt, SIAM J. Appl. Math. 1963; Nocedal & Wright 2006, section 10.3.
    """
    columns = jacobian * free[..., None, :]
    gram = columns.mT @ columns
    slope = (columns.mT @ residual[..., None])[..., 0]
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    fixed = (diagonal == 0).to(gram.dtype)
    system = gram + torch.diag_embed(damping[..., None] * diagonal + fixed)
    step: Tensor = torch.linalg.solve(system, -slope)
    return step


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last dimension: (..., n), (..., n) -> (...)."""
    product: Tensor = torch.linalg.vecdot(a, b)
    return product


def norm(a: Tensor) -> Tensor:
    """Euclidean norms over the last dimension: (..., n) -> (...)."""
    length: Tensor = torch.linalg.vector_norm(a, dim=-1)
    return length


def column(values: Tensor, like: Tensor) -> Tensor:
    """One number an instance, (B,), in a shape that broadcasts against `like`, (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def elapsed(t: int, horizon: int | None) -> float:
    """How much of a horizon is behind after t iterations, in [0, 1]; 0 without one."""
    return min(t / horizon, 1.0) if horizon else 0.0


def geometric(first: float, last: float, share: float) -> float:
    """First (last / first)^share: what falls or grows by the same factor each step.

    Args:
        first: value at share 0.
        last: value at share 1; both are > 0, or both 0.
        share: of the way, in [0, 1].

    Example:
        >>> [geometric(8, 0.5, share) for share in (0, 0.5, 1)]
        [8.0, 2.0, 0.5]
    """
    return float(first * (last / first) ** share) if first else 0.0


def _masked(v: Tensor, mask: Tensor | None, place: Tensor) -> Tensor:
    """V times the mask, written to a place; v itself without a mask."""
    return v if mask is None else torch.mul(v, mask, out=place)
