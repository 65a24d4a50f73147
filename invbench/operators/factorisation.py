"""Inverses of many small gram matrices, factorised once in double precision."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class BlockInverse:
    """The inverses G^-1 of Hermitian blocks G = alpha I + beta M^H M, in the form cheapest to apply.

    Either an explicit N x N inverse, or, where M has so few rows that 2 K < N, the factor
    Q = sqrt(beta) L^-1 M of Woodbury's identity: G^-1 = (I - Q^H Q) / alpha, L L^H = alpha I + beta M M^H.
    Vectors are rows: blocks multiply from the right. Build it with `invert`.

    Args:
        alpha: weight of the identity.
        right: (..., N, N), the transposed inverse, or (..., N, K), the transposed Q.
        back: None, or (..., K, N), the conjugate of Q.
    """

    alpha: float
    right: Tensor
    back: Tensor | None = None

    @property
    def multiply_adds(self) -> int:
        """Price of one vector for every block: a complex product counts as four real ones."""
        factors = 1 if self.back is None else 2
        return (4 if self.right.is_complex() else 1) * factors * self.right.numel()

    def __call__(self, r: Tensor) -> Tensor:
        """G^-1 of every row: (..., B, N) -> (..., B, N)."""
        if self.back is None:
            return r @ self.right
        return (r - (r @ self.right) @ self.back) / self.alpha


@torch.no_grad()
def invert(matrix: Tensor, alpha: float, beta: float, dtype: torch.dtype) -> BlockInverse:
    """The inverse of alpha I + beta M^H M by a Cholesky factorisation of its smaller side.

    Args:
        matrix: M, (..., K, N), real or complex; factorised in double precision.
        alpha: positive weight of the identity.
        beta: weight of the gram matrix, not negative.
        dtype: in which the inverse is applied.

    Returns:
        The explicit inverse where N <= 2 K, the price of the two factors being 2 K N; else the factors.
    """
    M = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64) * math.sqrt(beta)
    rows, columns = M.shape[-2:]
    if rows >= columns:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(_shifted(M.mH @ M, alpha)))
        return BlockInverse(alpha, inverse.mT.contiguous().to(dtype))
    Q = torch.linalg.solve_triangular(torch.linalg.cholesky(_shifted(M @ M.mH, alpha)), M, upper=False)
    if columns <= 2 * rows:
        inverse = _shifted(-(Q.mH @ Q), 1.0) / alpha
        return BlockInverse(alpha, inverse.mT.contiguous().to(dtype))
    Q = Q.to(dtype)
    return BlockInverse(alpha, Q.mT, Q.conj().resolve_conj())


def _shifted(square: Tensor, alpha: float) -> Tensor:
    """Square + alpha I, in place."""
    square.diagonal(dim1=-2, dim2=-1).add_(alpha)
    return square
