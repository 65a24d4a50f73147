"""The linear systems of splitting methods, (alpha I + beta W^T W) x = r, factorised once and solved often."""

import math
from functools import singledispatch
from typing import Literal, get_args

from invbench.errors import UserError
from invbench.operators.canvas import Canvas
from invbench.operators.convolutions import AveragePooling, Convolution
from invbench.operators.factorisation import invert
from invbench.operators.fourier import CircularInverse
from invbench.operators.inverses import (
    DenseSolver,
    GramSolver,
    HardConvolution,
    Iteration,
    IterativeSolver,
    Scaled,
    SoftConvolution,
    TiledSolver,
)
from invbench.operators.maps import Affine, Dense, Diagonal, Reshape
from invbench.operators.windows import Windows

Boundary = Literal["hard", "soft"]


def gram_solver(
    affine: Affine, alpha: float, beta: float, *, boundary: Boundary = "hard", steps: int = 1
) -> GramSolver:
    """Factorise alpha I + beta W^T W in double precision, to be inverted in the precision of the map.

    Exact in closed form for dense, diagonal and reshaping maps, for windows, and for average pooling where
    they do not overlap; by FFT for convolutions (see `SoftConvolution`, `HardConvolution`); for anything else
    by conjugate gradients to a relative residual of 1e-6, at most 200 steps. A new kind of map registers its
    solver with `factorised.register`.

    Args:
        affine: the map x -> W x + b, (B, *in_shape) -> (B, *out_shape).
        alpha: weight of the identity, positive.
        beta: weight of the gram matrix, at least 0.
        boundary: of convolutions: "hard" keeps x on the image and is exact only in the limit of many steps,
            "soft" keeps x on the padded canvas.
        steps: conjugate-gradient steps of a hard convolution, at least 1.

    Raises:
        UserError: where a weight, the boundary or the number of steps is out of its range.
    """
    if not (0 < alpha < math.inf and 0 <= beta < math.inf):
        raise UserError(
            f"A gram solver needs finite weights alpha > 0 and beta >= 0, not {alpha} and {beta}."
        )
    if boundary not in get_args(Boundary):
        raise UserError(f'The boundary of a gram solver is "hard" or "soft", not {boundary!r}.')
    if steps < 1:
        raise UserError(f"A gram solver needs at least 1 conjugate-gradient step, not {steps}.")
    return factorised(affine, float(alpha), float(beta), boundary, steps)


@singledispatch
def factorised(affine: Affine, alpha: float, beta: float, boundary: Boundary, steps: int) -> GramSolver:  # noqa: ARG001
    """The gram solver of a kind of map; the arguments of `gram_solver`, checked."""
    return IterativeSolver(affine, alpha, beta, tolerance=1e-6, limit=200, latest=Iteration(200))


@factorised.register
def _(affine: Reshape, alpha: float, beta: float, *_: object) -> GramSolver:
    return Scaled(affine, alpha, beta, 1 / (alpha + beta))


@factorised.register
def _(affine: Diagonal, alpha: float, beta: float, *_: object) -> GramSolver:
    if affine.scale is None:
        return Scaled(affine, alpha, beta, 1 / (alpha + beta))
    return Scaled(affine, alpha, beta, 1 / (alpha + beta * affine.scale.detach().double().square()))


@factorised.register
def _(affine: Windows, alpha: float, beta: float, *_: object) -> GramSolver:
    return Scaled(affine, alpha, beta, 1 / (alpha + beta * affine.copies()))


@factorised.register
def _(affine: Dense, alpha: float, beta: float, *_: object) -> GramSolver:
    inverse = invert(affine.weight, alpha, beta, affine.weight.dtype)
    return DenseSolver(affine, alpha, beta, inverse)


@factorised.register
def _(affine: AveragePooling, alpha: float, beta: float, boundary: Boundary, steps: int) -> GramSolver:
    tiled = all(step >= side for step, side in zip(affine.stride, affine.kernel, strict=True))
    if not tiled or affine.padding != (0, 0):
        return factorised.dispatch(object)(affine, alpha, beta, boundary, steps)
    return TiledSolver(affine, alpha, beta, kappa=1 / math.prod(affine.kernel))


@factorised.register
def _(affine: Convolution, alpha: float, beta: float, boundary: Boundary, steps: int) -> GramSolver:
    canvas = Canvas.of(affine)
    if boundary == "soft":
        inverse = CircularInverse.of(affine, canvas.bare(), alpha, beta)
        return SoftConvolution(canvas.unpadded(affine), alpha, beta, inverse, canvas)
    return HardConvolution(affine, alpha, beta, CircularInverse.of(affine, canvas, alpha, beta), steps)
