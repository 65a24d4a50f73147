"""Starting points, drawn per instance so that a batch starts where its members would."""

from typing import Literal

import torch
from torch import Tensor

from invbench.solver import Randomness

Start = Literal["noise", "grey", "black"]

#: Root mean square of (natural image - mean): 27098.12 / 255 over 227 x 227 x 3 (Mahendran & Vedaldi 2015).
NATURAL_RMS = 0.27
#: An exactly constant start ties every max-pool and stalls line searches.
TIE_BREAK = 0.01


def draw_start(start: Start, shape: tuple[int, ...], seed: int, like: Tensor) -> Tensor:
    """A start `(B, C, H, W)`: mid-grey or black with a trace of noise, or noise as strong as an image.

    Args:
        start: which.
        shape: `(B, ...)`.
        seed: instance i draws from (seed, i).
        like: a tensor with device and dtype.
    """
    level = 0.0 if start == "black" else 0.5
    strength = NATURAL_RMS if start == "noise" else TIE_BREAK
    draws = Randomness(seed, range(shape[0]), like).each(shape[1:])
    return torch.add(torch.full_like(draws, level), draws, alpha=strength).clamp_(0, 1)
