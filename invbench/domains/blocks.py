"""Where the entries of the blocks of a code are."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of codes of one shape, where M(., k) is found; solvers may keep a code as its few entries.

    A place is the index of an entry in a flattened code, 0 to K h w - 1.

    Attributes:
        k: active blocks at most.
        members: the places of every block, (blocks, entries of a block), int64.
        tiles: how a code `(B, K, h, w)` is viewed, (K, h / rows, rows, w / columns, columns).
    """

    k: int
    members: Tensor
    tiles: tuple[int, int, int, int, int]

    @classmethod
    def of(cls, k: int, tile: tuple[int, int], shape: tuple[int, int, int], device: torch.device) -> "Blocks":
        """The blocks of codes of a shape (K, h, w), tiles of (rows, columns) that divide its maps."""
        (channels, height, width), (rows, columns) = shape, tile
        tiles = (channels, height // rows, rows, width // columns, columns)
        places = torch.arange(channels * height * width, device=device)
        return cls(k, places.view(tiles).transpose(2, 3).reshape(-1, rows * columns), tiles)

    def heights(self, codes: Tensor) -> Tensor:
        """The largest magnitude in every block; codes (B, K h w) -> (B, blocks)."""
        tiles = codes.view(-1, *self.tiles)
        # The magnitudes themselves would be written out only to be read once.
        return tiles.amax((3, 5)).maximum(-tiles.amin((3, 5))).flatten(1)

    def largest(self, codes: Tensor, blocks: Tensor) -> Tensor:
        """The places of the largest magnitudes in some blocks; codes (B, K h w), blocks (B, n) -> (B, n)."""
        members = self.members[blocks]
        entries = codes.gather(1, members.flatten(1)).view(members.shape)
        return members.gather(2, entries.abs().argmax(2, keepdim=True))[:, :, 0]

    def support(self, codes: Tensor) -> Tensor:
        """The places of M(codes, k), in ascending order; codes (B, K h w) -> (B, k)."""
        chosen = self.heights(codes).topk(self.k, dim=1, sorted=False).indices
        return self.largest(codes, chosen).sort(1).values
