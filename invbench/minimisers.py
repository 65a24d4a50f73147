"""What several minimisers share: the L-BFGS recursion and step lengths, both per instance, and schedules."""

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
