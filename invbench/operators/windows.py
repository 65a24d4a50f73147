"""All windows of an image side by side: with them, overlapping pooling is pooling over disjoint windows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.operators.convolutions import Pair
from invbench.operators.maps import Map, Shape


@dataclass(frozen=True, eq=False)
class Windows(Map):
    """The windows of every channel as disjoint tiles, (B, C, H, W) -> (B, C, kh H', kw W').

    A pixel that several windows read has a copy in each of their tiles, so that W^T W multiplies it by the
    number of its copies.

    Args:
        in_shape: (C, H, W).
        kernel: size of a window (kh, kw).
        stride: steps (vertical, horizontal).
    """

    in_shape: Shape
    kernel: Pair
    stride: Pair

    @property
    def grid(self) -> Pair:
        """Number of windows (vertical, horizontal)."""
        sides = zip(self.in_shape[1:], self.kernel, self.stride, strict=True)
        rows, columns = ((n - k) // s + 1 for n, k, s in sides)
        return rows, columns

    @property
    def out_shape(self) -> Shape:
        """(C, kh H', kw W')."""
        return (self.in_shape[0], *(k * n for k, n in zip(self.kernel, self.grid, strict=True)))

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, C, H, W) -> (B, C, kh H', kw W')."""
        windows = x.unfold(2, self.kernel[0], self.stride[0]).unfold(3, self.kernel[1], self.stride[1])
        return windows.transpose(3, 4).reshape(len(x), *self.out_shape)

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z, the sum of the copies of every pixel: (B, C, kh H', kw W') -> (B, C, H, W)."""
        (kh, kw), (down, across), (rows, columns) = self.kernel, self.stride, self.grid
        x = z.new_zeros(len(z), *self.in_shape)
        tiles = z.reshape(len(z), -1, rows, kh, columns, kw)
        for i in range(kh):
            for j in range(kw):
                part = x[
                    :, :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * across + 1 : across
                ]
                part += tiles[:, :, :, i, :, j]
        return x

    def copies(self) -> Tensor:
        """How many windows read each pixel, (1, H, W) float64: the diagonal of W^T W."""
        one = Windows((1, *self.in_shape[1:]), self.kernel, self.stride)
        return one.adjoint(torch.ones(1, *one.out_shape, dtype=torch.float64))[0]
