"""One instance as libraries for small problems want it: a vector of what its bounds leave open."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from invbench.problem import Problem

#: Unknowns of an instance that such libraries are given.
MOST = 64

Array = npt.NDArray[np.float64]


def too_many(problem: Problem) -> str | None:
    """Why a problem is not small, or None."""
    count = int(np.prod(problem.shape[1:]))
    return f"takes at most {MOST} unknowns, and there are {count} here" if count > MOST else None


@dataclass(frozen=True, eq=False)
class Unknowns:
    """The coordinates of one instance whose bounds differ, and the bounds.

    Attributes:
        point: x of the instance, (1, ...), which holds the other coordinates.
        places: of the unknowns in the flattened x, (n,).
        low: (n,).
        high: (n,).
    """

    point: Tensor
    places: Tensor
    low: Array
    high: Array

    @classmethod
    def of(cls, problem: Problem, x: Tensor) -> "Unknowns":
        """Those of a problem of one instance over a box.

        Args:
            problem: of one instance.
            x: inside its domain, (1, ...).
        """
        assert problem.domain.bounds is not None
        low, high = (
            torch.as_tensor(bound, dtype=x.dtype, device=x.device).expand(x.shape).flatten()
            for bound in problem.domain.bounds
        )
        places = (low < high).nonzero()[:, 0]
        return cls(x, places, _array(low[places]), _array(high[places]))

    @property
    def vector(self) -> Array:
        """The unknowns at the point itself, (n,)."""
        return _array(self.point.flatten()[self.places])

    def at(self, vectors: Array) -> Tensor:
        """X for every vector, (m, n) -> (m, ...); for a single one, (n,) -> (1, ...)."""
        rows = torch.as_tensor(np.atleast_2d(vectors), dtype=self.point.dtype, device=self.point.device)
        x = self.point.flatten().repeat(len(rows), 1)
        x[:, self.places] = rows
        return x.view(-1, *self.point.shape[1:])

    @property
    def directions(self) -> Tensor:
        """The change of every unknown by 1, (n, ...)."""
        found = self.point.new_zeros(len(self.places), self.point.numel())
        found[range(len(found)), self.places] = 1
        return found.view(-1, *self.point.shape[1:])


def _array(values: Tensor) -> Array:
    found: Array = values.double().cpu().numpy()
    return found
