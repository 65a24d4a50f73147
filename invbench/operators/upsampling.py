"""Maps made larger by repeating their entries."""

from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.operators.convolutions import Pair
from invbench.operators.maps import Map, Shape


@dataclass(frozen=True, eq=False)
class Upsampling(Map):
    """Every position takes the value of the nearest one above and left of it, (B, C, H, W) -> (B, C, H', W').

    (W x)_ij = x_{floor(i H / H'), floor(j W / W')}: windows of s x s equal entries where H' = s H, W' = s W.

    Args:
        in_shape: (C, H, W).
        sides: (H', W').
    """

    in_shape: Shape
    sides: Pair

    @property
    def out_shape(self) -> Shape:
        """(C, H', W')."""
        return (self.in_shape[0], *self.sides)

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, C, H, W) -> (B, C, H', W')."""
        rows, columns = self._read(x.device)
        return x[:, :, rows][..., columns]

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z, the sum of the copies of every entry: (B, C, H', W') -> (B, C, H, W)."""
        rows, columns = self._read(z.device)
        channels, height, _ = self.in_shape
        down = z.new_zeros(len(z), channels, height, self.sides[1]).index_add(2, rows, z)
        return z.new_zeros(len(z), *self.in_shape).index_add(3, columns, down)

    def _read(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The row and the column that each row and column of the output is a copy of."""
        rows, columns = (
            torch.arange(larger, device=device) * side // larger
            for larger, side in zip(self.sides, self.in_shape[1:], strict=True)
        )
        return rows, columns
