"""What a learned prior is: one whose tensors come from offline work on other images."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from invbench.cache import digest
from invbench.errors import UserError
from invbench.priors.prior import Prior


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a prior learns from: images, or what a stage of a network makes of them.

    Attributes:
        train: `(N, C, H, W)`.
        validation: maps of other images, `(M, C, H, W)`.
        seed: of the training.
        progress: called with (done, total, text).
    """

    train: Tensor
    validation: Tensor
    seed: int = 0
    progress: Callable[[int, int, str], None] = lambda *_: None


@dataclass(frozen=True)
class LearnedPrior(Prior):
    """A prior that must be fitted first; its repr, the recipe, identifies what it has learned.

    Attributes:
        learned: tensors from offline work, kept out of the repr; None before.
    """

    learned: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False, kw_only=True)

    @abstractmethod
    def fit(self, lesson: Lesson) -> Self:
        """A copy with `learned` filled, on the device and in the precision of the lesson.

        Raises:
            UserError: the lesson does not fit the recipe (too small maps, no variance).
        """

    @classmethod
    def tiny(cls) -> Self:
        """The prior with its offline work shrunk to fit a test; what it costs to apply stays."""
        return cls()

    def to(self, like: Tensor) -> Self:
        """The prior with its tensors on another device or in another precision."""
        return replace(self, learned={name: value.to(like) for name, value in self._tensors.items()})

    @property
    def digest(self) -> str:
        """Hash of what the prior has learned."""
        return digest(self._tensors)

    @property
    def _tensors(self) -> Mapping[str, Tensor]:
        """What was learned."""
        if self.learned is None:
            raise UserError(f"{self.name}: the prior has not been trained yet; fit it first.")
        return self.learned

    def _demand_maps(self, maps: Tensor) -> None:
        """Refuses what is no batch of maps to learn from."""
        if maps.dim() != 4 or not len(maps):
            raise UserError(
                f"{self.name}: learns from maps (N, C, H, W), but got the shape {tuple(maps.shape)}."
            )
        if not maps.isfinite().all():
            raise UserError(f"{self.name}: maps to learn from hold NaN or infinity; leave those out.")

    @staticmethod
    def _generator(lesson: Lesson) -> torch.Generator:
        """The randomness of a training, the same on every device."""
        return torch.Generator().manual_seed(lesson.seed)
