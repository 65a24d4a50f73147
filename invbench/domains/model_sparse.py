"""Codes with few active blocks, and one non-zero in each."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invbench.domains.blocks import Blocks
from invbench.domains.domain import Domain, larger, length
from invbench.errors import UserError


@dataclass(frozen=True)
class ModelSparse(Domain):
    """The model-k-sparse codes: at most k blocks are active, each with one non-zero. Not convex.

    A code z is `(B, K, h, w)`. Its blocks are the tiles of a region in every channel, as max-pooling has
    them; without a region every channel is one block, which holds all shifts of a filter.

    Args:
        k: active blocks at most, >= 1.
        region: (height, width) of a tile, or None for whole channels.

    Raises:
        UserError: k < 1, or an empty region; where it is used, more non-zeros than blocks, regions that do
            not tile the map, codes of whole or complex numbers.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, section 2.3 (blocks of shifts) and 4.4 (2 x 2 regions).
    """

    name: ClassVar[str] = "model_sparse"
    k: int
    region: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"{self.name}: k is {self.k}, but at least one non-zero is needed.")
        if self.region is not None and min(self.region) < 1:
            raise UserError(f"{self.name}: a region of {_by(self.region)} is empty.")

    def tile(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(height, width) of a block of a code of shape (..., h, w)."""
        return self.region or (shape[-2], shape[-1])

    def blocks(self, shape: tuple[int, ...]) -> int:
        """The number of blocks of a code of shape (..., K, h, w).

        Raises:
            UserError: the regions do not tile the map, or there are fewer blocks than k.
        """
        channels, *sides = shape[-3:]
        tile = self.tile(shape)
        if any(side % part for side, part in zip(sides, tile, strict=True)):
            raise UserError(f"{self.name}: regions of {_by(tile)} do not tile a map of {_by(sides)}.")
        count = channels * math.prod(sides) // math.prod(tile)
        if self.k > count:
            raise UserError(f"{self.name}: k is {self.k}, but the code has only {count} blocks.")
        return count

    def layout(self, shape: tuple[int, ...], device: torch.device) -> Blocks:
        """Where the entries of the blocks are, for codes of shape (..., K, h, w); raises as `blocks`."""
        self.blocks(shape)
        return Blocks.of(self.k, self.tile(shape), (shape[-3], shape[-2], shape[-1]), device)

    def project(self, x: Tensor) -> Tensor:
        """M(x, k): in every block the entry of largest magnitude, then the k largest blocks.

        Exactly one entry of a block and k blocks survive ties. Everything else becomes 0.
        """
        return x * self.support(x)

    def support(self, x: Tensor) -> Tensor:
        """Where M(x, k) may be non-zero, `(B, K, h, w)` bool: one entry in each of exactly k blocks."""
        if not x.is_floating_point():
            raise UserError(f"{self.name}: a code of {x.dtype} has no sparse projection; give real numbers.")
        if x.dim() != 4:
            raise UserError(f"{self.name}: a code is (B, K, h, w), but this one is {tuple(x.shape)}.")
        codes = x.flatten(1)
        places = self.layout(tuple(x.shape), x.device).support(codes)
        return torch.zeros_like(codes, dtype=torch.bool).scatter_(1, places, True).view(x.shape)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Whether x is finite, and what M(x, k) drops at most `tolerance` max(|x|, 1), (B,)."""
        kept = length(x - self.project(x)) <= tolerance * larger(length(x), 1.0)
        return x.flatten(1).isfinite().all(1) & kept


def _by(sides: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, sides))
