"""Orthogonal matching pursuit."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.minimisers import norm
from invbench.problem import Problem
from invbench.recovery import ROUNDING, LinearModel, layout, refusal
from invbench.solver import Randomness, Solver


@dataclass(frozen=True)
class OrthogonalMatchingPursuit(Solver):
    """One entry of the code after the other, the values always by least squares.

        i = argmax |g_i| over the blocks without an entry,   S <- S + {i},   g = A^T (y - A z)
        z <- argmin |y - A z|^2 over codes on S

    The columns of A that were chosen, A applied to a single 1 each, are kept as A_S = Q R with orthonormal Q
    (Gram-Schmidt, twice), which grows by a column a step; then z_S = R^-1 Q^T y, and y - A z loses its part
    along the new column of Q. That needs B k numbers of the size of y, but one application and one adjoint a
    step. Columns are compared as they are: the filters should have similar norms.

    After k steps the solver returns. It begins with no entry, wherever the start is: an entry is never
    taken back. A column that depends on the others within rounding gets the value 0.

    References:
        Pati, Rezaiifar & Krishnaprasad, Asilomar 1993; Tropp & Gilbert, IEEE Trans. Inf. Theory 2007,
        Algorithm 3. That a block with an entry gets no other is ours, and what the model asks for.
    """

    def refuses(self, problem: Problem) -> str | None:
        """See `recovery.refusal`."""
        return refusal(problem, "orthogonal_matching_pursuit", sparse=True)

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One more entry an iterate: one application and one adjoint."""
        model, blocks = LinearModel.of(problem), layout(problem)
        factors = _Factors(model.y.flatten(1), blocks.k)
        places = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        taken = torch.zeros(len(x), len(blocks.members), dtype=torch.bool, device=x.device)
        for _ in range(blocks.k):
            gradient = model.adjoint(factors.residual.view(model.y.shape)).flatten(1)
            block = blocks.heights(gradient).masked_fill_(taken, -1.0).argmax(1, keepdim=True)
            taken.scatter_(1, block, True)
            place = blocks.largest(gradient, block)
            places = torch.cat([places, place], 1)
            atom = torch.zeros_like(gradient).scatter_(1, place, 1.0)
            factors.append(model.apply(atom.view(x.shape)).flatten(1))
            yield torch.zeros_like(gradient).scatter_(1, places, factors.solution()).view(x.shape)


class _Factors:
    """A_S = Q R of every instance, and what it explains of y.

    Args:
        y: (B, m).
        count: of columns that will come.

    Attributes:
        residual: y - Q Q^T y, (B, m).
    """

    def __init__(self, y: Tensor, count: int) -> None:
        self.residual = y.clone()
        self._q = y.new_zeros(len(y), count, y.shape[1])  # row by row, as bmm reads it best
        self._r = y.new_zeros(len(y), count, count)
        self._along = y.new_zeros(len(y), count)
        self._count = 0

    def append(self, column: Tensor) -> None:
        """Add a column of A_S, (B, m)."""
        j, rest = self._count, column
        for _ in range(2 if j else 0):
            q = self._q[:, :j]
            along = torch.bmm(q, rest[:, :, None])
            rest = torch.baddbmm(rest[:, None], along.transpose(1, 2), q, alpha=-1)[:, 0]
            self._r[:, :j, j] += along[:, :, 0]
        length = norm(rest)
        depends = length <= ROUNDING * torch.finfo(length.dtype).eps * norm(column)
        self._r[:, j, j] = torch.where(depends, 1.0, length)
        direction = torch.where(depends[:, None], 0.0, rest / length[:, None])
        self._q[:, j] = direction
        self._along[:, j] = torch.linalg.vecdot(direction, self.residual)
        self.residual.addcmul_(self._along[:, j, None], direction, value=-1)
        self._count += 1

    def solution(self) -> Tensor:
        """R^-1 Q^T y: the value of every column so far, (B, j)."""
        j = self._count
        right = self._along[:, :j, None]
        values: Tensor = torch.linalg.solve_triangular(self._r[:, :j, :j], right, upper=True)
        return values[:, :, 0]
