"""What several minimisers share: the L-BFGS recursion and step lengths, both per instance."""

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
    if free is not None:
        mask = free.to(gradient.dtype)
        gradient, steps, differences = gradient * mask, steps * mask, differences * mask
    product = gradient.clone()
    if not len(steps):
        return product
    sy, ss, yy = dot(steps, differences), dot(steps, steps), dot(differences, differences)
    usable = sy > curvature * ss.sqrt() * yy.sqrt()
    rho = torch.where(usable, 1 / sy, 0.0)

    weights = []
    for s, y, r in zip(reversed(steps), reversed(differences), reversed(rho), strict=True):
        weights.append(r * dot(s, product))
        product.addcmul_(weights[-1][:, None], y, value=-1)
    product *= _newest(torch.where(usable, sy / yy, 1.0), usable)[:, None]
    for s, y, r, weight in zip(steps, differences, rho, reversed(weights), strict=True):
        product.addcmul_((weight - r * dot(y, product))[:, None], s)
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


def _newest(values: Tensor, usable: Tensor) -> Tensor:
    """The value of the newest usable pair, 1 where there is none: (m, B) -> (B,)."""
    order = torch.arange(1, len(values) + 1, device=values.device)[:, None] * usable
    return torch.where(usable.any(0), values.gather(0, order.argmax(0, keepdim=True))[0], 1.0)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products over the last dimension: (..., n), (..., n) -> (...)."""
    product: Tensor = torch.linalg.vecdot(a, b)
    return product
