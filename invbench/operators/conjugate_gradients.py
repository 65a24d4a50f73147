"""Conjugate gradients for (alpha I + beta W^T W) x = r, every instance of a batch on its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from invbench.operators.maps import Affine


def conjugate_gradients(
    affine: Affine,
    alpha: float,
    beta: float,
    r: Tensor,
    precondition: Callable[[Tensor], Tensor],
    limit: int,
    tolerance: float = 0.0,
) -> tuple[Tensor, Tensor, int]:
    """Preconditioned conjugate gradients, started from 0.

    The curvature along a direction p is alpha |p|^2 + beta |W p|^2, so that the last step needs no W^T, and
    W x comes for free.

    Args:
        affine: W, (B, *in_shape) -> (B, *out_shape).
        alpha: weight of the identity.
        beta: weight of the gram matrix.
        r: right-hand sides, (B, *in_shape).
        precondition: a symmetric positive definite map, (B, *in_shape) -> (B, *in_shape).
        limit: most steps.
        tolerance: of |residual| / |r|; an instance that is there stays as it is, at the latest at
            machine precision. With 0 the loop never asks, which spares a GPU the wait, and takes all steps.

    Returns:
        x, (B, *in_shape); W x, (B, *out_shape); the number of steps of the slowest instance.

    References:
        Hestenes & Stiefel 1952, "Methods of conjugate gradients for solving linear systems".
    """
    goal = max(tolerance, torch.finfo(r.dtype).eps) * _norm(r)
    direction = precondition(r)
    descent = _dot(r, direction)
    x = output = r
    for step in range(1, limit + 1):
        image = affine.linear(direction)
        curvature = alpha * _norm(direction).square() + beta * _norm(image).square()
        # at rest once nothing is left to do, or all underflows; a NaN compares false and stays visible
        rests = (_norm(r) <= goal) | (descent <= 0) | (curvature <= 0)
        length = torch.where(rests, 0, descent / curvature)
        move, change = _each(length, direction) * direction, _each(length, image) * image
        x, output = (move, change) if step == 1 else (x + move, output + change)
        if step == limit:
            break
        r = r - _each(length, r) * (alpha * direction + beta * affine.adjoint(image))
        if tolerance and bool((_norm(r) <= goal).all()):
            break
        preconditioned = precondition(r)
        before, descent = descent, _dot(r, preconditioned)
        direction = preconditioned + _each(torch.where(rests, 0, descent / before), r) * direction
    return x, output, step


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each instance, (B,)."""
    return (a * b).flatten(1).sum(1)


def _norm(a: Tensor) -> Tensor:
    """Length of each instance, (B,)."""
    norm: Tensor = torch.linalg.vector_norm(a.flatten(1), dim=1)
    return norm


def _each(values: Tensor, like: Tensor) -> Tensor:
    """One number an instance, in a shape that broadcasts against `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
