"""Matrices between the positions of a map whose entries depend on the displacement alone, or nearly so."""

import torch
from torch import Tensor

Pair = tuple[int, int]


def closest_toeplitz(
    matrix: Tensor, sides: Pair, circular: bool = False, rows: Tensor | None = None
) -> Tensor:
    """The matrix T whose entries depend on the displacement p - q alone and which is closest to A.

    T is block-Toeplitz with Toeplitz blocks, or block-circulant where displacements are those of the torus.
    In the Frobenius norm the closest holds the mean of A over all pairs of one displacement; over the torus
    that is the mean of A over all circular shifts, which keeps a positive semi-definite A so.

    Args:
        matrix: A between the positions of a map, row by row, `(..., P, P)` with P = height * width.
        sides: height and width of the map.
        circular: displacements are taken modulo the sides.
        rows: `(P,)` booleans: the rows that are averaged over; by default all. Displacements that are in none
            of them are 0 in T.

    Returns:
        T, `(..., P, P)`.
    """
    group, count = _displacements(sides, circular)
    group = group.to(matrix.device)
    used = group if rows is None else group[rows]
    values = matrix if rows is None else matrix[..., rows, :]
    flat = used.flatten()
    sums = matrix.new_zeros(*matrix.shape[:-2], count).index_add_(-1, flat, values.flatten(-2))
    counts = matrix.new_zeros(count).index_add_(-1, flat, torch.ones_like(flat, dtype=matrix.dtype))
    return (sums / counts.clamp(min=1))[..., group.flatten()].view_as(matrix)


def toeplitz_distance(matrix: Tensor, height: int, width: int, circular: bool = False) -> float:
    """|A - T|_F / |A|_F for the closest T whose entries depend on the displacement alone; NaN for A = 0.

    Args:
        matrix: A between the positions of a map, row by row, `(..., P, P)` with P = height * width.
        height: of the map.
        width: of the map.
        circular: displacements are taken modulo the sides.
    """
    return float((matrix - closest_toeplitz(matrix, (height, width), circular)).norm() / matrix.norm())


def _displacements(sides: Pair, circular: bool) -> tuple[Tensor, int]:
    """A number for the displacement p - q of every pair of positions, `(P, P)`, and how many there are."""
    places = torch.meshgrid(*map(torch.arange, sides), indexing="ij")
    group, count = torch.zeros((), dtype=torch.int64), 1
    for place, side in zip(places, sides, strict=True):
        steps = place.flatten()[:, None] - place.flatten()
        size = side if circular else 2 * side - 1
        group, count = group * size + (steps % side if circular else steps + side - 1), count * size
    return group, count
