"""Scenes of a few images, for tests of trials and analyses."""

import torch
from torch import Tensor

from invbench.images import ImageBatch
from invbench.network import Network
from invbench.trials.contract import Scene


def scene_of(network: Network, pixels: Tensor, seed: int = 0) -> Scene:
    """A scene without classes, whose images are natural enough, too; pixels: `(N, C, H, W)`."""
    names = tuple(str(n) for n in range(len(pixels)))
    batch = ImageBatch(pixels, torch.zeros(len(pixels), dtype=torch.int64), names)
    return Scene(network=network, images=batch, classes=(), natural=pixels, seed=seed)
