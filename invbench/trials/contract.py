"""What a trial is."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import AfterValidator, ConfigDict
from torch import Tensor

from invbench import prior_training
from invbench.errors import UserError
from invbench.images import ImageBatch, Images
from invbench.network import Network
from invbench.prior_training import Subject, Teacher
from invbench.priors import LearnedPrior
from invbench.problem import Problem
from invbench.trials.terms import check_priors

Priors = Annotated[Mapping[str, Any], AfterValidator(check_priors)]


@dataclass(frozen=True, eq=False)
class Posed:
    """A problem with what only the harness may know.

    Attributes:
        problem: what solvers see.
        start: `(B, ...)`, the same for all solvers, inside the domain.
        truth: `(B, ...)` what images are scored against, or None.
        names: of the instances.
    """

    problem: Problem
    start: Tensor
    truth: Tensor | None
    names: tuple[str, ...]

    @cached_property
    def truth_digest(self) -> str:
        """Hash of the truth, by which results that share it find it; "" without one."""
        if self.truth is None:
            return ""
        data = self.truth.detach().cpu().contiguous()
        return hashlib.sha256(data.numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Scene:
    """What a trial is posed with.

    Attributes:
        network: f in full; the trial cuts it.
        images: the batch that is inverted or attacked, `(B, C, H, W)` on the device of the network.
        classes: names of the network's classes, in the order of its outputs.
        natural: other natural images, which standardise the weights of priors.
        seed: of start and randomness.
        accuracy: share of all held-out images of the source whose class the network names, or None where that
            was not measured: an untrained network, or weights from elsewhere.
        held_out: number of the images that this is the share of, or None where it was not recorded.
        source: where the images are from, for what learns from its other splits; None where there is none.
        teacher: fits priors.
    """

    network: Network
    images: ImageBatch
    classes: tuple[str, ...]
    natural: Tensor
    seed: int
    accuracy: float | None = None
    held_out: int | None = None
    source: Images | None = None
    teacher: Teacher = field(default_factory=Teacher)

    def maps(self, layer: str) -> Tensor:
        """The natural images, or their features at a stage, `(N, ...)`."""
        if not layer:
            return self.natural
        with torch.no_grad():
            return self.network.cut(layer)(self.natural)

    def fitted(
        self,
        prior: LearnedPrior,
        layer: str = "",
        images: Mapping[str, Any] | None = None,
        weights: str | None = None,
    ) -> LearnedPrior:
        """A prior that has learned from images, or from their features at a stage of the network.

        Args:
            prior: the recipe.
            layer: the stage; "" for the images themselves.
            images: where from, as a study names it; None for the splits of the scene's own source that
                belong to training. Where no size is given, images of the scene's size are taken.
            weights: a file that `invbench fit` has written, in place of a training.

        Raises:
            UserError: there are no such images or weights, or they do not fit the recipe.
        """
        if weights is not None:
            return prior_training.load(prior, Path(weights).expanduser()).to(self.natural)
        size = self.natural.shape[-1]
        source = self.source if images is None else self.teacher.images({"size": size, **images})
        if source is None:
            raise UserError(f"prior '{prior.name}' has no images to learn from: say which, by `images`")
        network = self.network.cut(layer) if layer else None
        return self.teacher.teach(prior, Subject(source, network, layer), self.natural).prior


@dataclass(frozen=True, kw_only=True)
class Trial(ABC):
    """A kind of problem; its fields are what a study may set.

    Attributes:
        priors: name -> weight, or name -> {weight or raw, parameters} (see `terms.weigh`).
        loss_weight: factor on the loss.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    metrics: ClassVar[tuple[str, ...]]
    ranked_by: ClassVar[str]

    priors: Priors
    loss_weight: float = 1.0

    @property
    def oracle(self) -> str:
        """What solvers are told that a real inversion would not know; shown wherever the figures appear."""
        return ""

    @abstractmethod
    def pose(self, scene: Scene) -> Posed:
        """Make the problem.

        Raises:
            UserError: network and trial do not fit.
        """

    def lesson(self) -> Self:
        """The trial as methods learn from it offline: without priors, which are not what they learn."""
        return replace(self, priors={}, loss_weight=1.0)

    def labels(self) -> dict[str, str]:
        """Columns of the table beside the parameters: `layer` and `start` where they apply."""
        return {}
