"""Several draws of what is random in a scene."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from invbench.trials.contract import Scene


def reseeded(scene: Scene, draws: int) -> Iterator[Scene]:
    """The scene with so many seeds: the first its own, the others drawn from it."""
    generator = torch.Generator().manual_seed(scene.seed)
    others: list[int] = torch.randint(2**62, (draws - 1,), generator=generator).tolist()
    for seed in (scene.seed, *others):
        yield replace(scene, seed=seed)
