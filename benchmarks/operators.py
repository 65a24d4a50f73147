"""Affine maps: application, linear part, adjoint."""

from functools import cache

import torch
from torch import Tensor

from benchmarks import problems
from invbench.operators import Affine, AveragePooling, Convolution, Dense, TransposedConvolution

BATCH = 32
SHAPE = (16, 16, 16)


@cache
def affine(kind: str) -> Affine:
    """A map of a kind, with the sizes of a small network."""
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    match kind:
        case "dense":
            return Dense(weight(120, 16 * 16 * 16), weight(120), SHAPE)
        case "convolution":
            return Convolution(weight(32, 16, 5, 5), weight(32), SHAPE, padding=(2, 2))
        case "strided":
            return Convolution(weight(32, 16, 5, 5), weight(32), SHAPE, stride=(2, 2), padding=(2, 2))
        case "transposed":
            return TransposedConvolution(
                weight(16, 32, 4, 4), weight(32), SHAPE, stride=(2, 2), padding=(1, 1)
            )
        case "pooling":
            return AveragePooling(SHAPE, (2, 2), (2, 2))
    raise AssertionError(kind)


class Maps:
    """One pass of a batch of 32 through a map."""

    params = (["dense", "convolution", "strided", "transposed", "pooling"], ["cpu", "cuda"])
    param_names = ("kind", "device")
    repeat = (10, 200, 1.0)

    def setup(self, kind: str, device: str) -> None:
        """The map, an input and an output."""
        problems.demand(device)
        self.map = affine(kind).to(device)
        self.x = torch.rand(BATCH, *self.map.in_shape, device=device)
        self.z = torch.rand(BATCH, *self.map.out_shape, device=device)
        problems.finish(device)

    def time_apply(self, _kind: str, device: str) -> None:
        """W x + b."""
        self.map(self.x)
        problems.finish(device)

    def time_linear(self, _kind: str, device: str) -> None:
        """W x."""
        self.map.linear(self.x)
        problems.finish(device)

    def time_adjoint(self, _kind: str, device: str) -> None:
        """W^T z."""
        self.map.adjoint(self.z)
        problems.finish(device)
