"""Training of learned priors: once for each recipe and what it is learned from, and kept."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invbench import cache
from invbench.errors import UserError
from invbench.images import Images, Split, open_images
from invbench.network import Network
from invbench.priors import LearnedPrior, Lesson
from invbench.training import Progress

#: Images that a prior learns from, and is validated on, at most.
IMAGES: dict[Split, int] = {"train": 1000, "validation": 200}
#: Images that a network takes at a time.
CHUNK = 64


@dataclass(frozen=True, eq=False)
class Subject:
    """What a prior is about: images, or the output of a stage of a network.

    Attributes:
        images: of which the splits for training and validation are used.
        network: cut behind the stage; None for the images themselves.
        layer: name of the stage, "" for the images themselves.
    """

    images: Images
    network: Network | None = None
    layer: str = ""

    @property
    def digest(self) -> str:
        """Hash of what is learned from."""
        parts = (self.images.digest, self.layer, self.network.digest if self.network else "", IMAGES)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def maps(self, split: Split, like: Tensor) -> Tensor:
        """The images of a split, or their features, `(N, C, H, W)`.

        Raises:
            UserError: there are none, features are no maps, or one is not finite; names the image.
        """
        batch = self.images.sample(split, IMAGES[split])
        if not len(batch):
            raise UserError(f"no {split} images {self.images.where} to fit a prior to; give more images")
        maps = torch.cat(list(self._chunks(batch.pixels.to(like))))
        finite = maps.flatten(1).isfinite().all(1)
        if not finite.all():
            worst = batch.names[int(finite.int().argmin())]
            raise UserError(f"{self} of image {worst} hold NaN or infinity: no prior can learn from that")
        return maps

    def _chunks(self, pixels: Tensor) -> Iterator[Tensor]:
        with torch.no_grad():
            for some in torch.split(pixels, CHUNK):
                yield some if self.network is None else self.network(some)

    def __str__(self) -> str:
        return f"the features at {self.layer}" if self.network else "the pixels"


@dataclass(frozen=True, eq=False)
class Trained:
    """A fitted prior with what is known about it.

    Attributes:
        prior: ready to be applied.
        subject: what it is about.
        origin: where its tensors come from, in words.
        seconds: that the training took, or None.
    """

    prior: LearnedPrior
    subject: Subject
    origin: str
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {
            "name": self.prior.name,
            "recipe": repr(self.prior),
            "network": self.subject.network.name if self.subject.network else "",
            "layer": self.subject.layer,
            "images": self.subject.images.where,
            "origin": self.origin,
            "training_seconds": self.seconds,
        }


@dataclass(frozen=True, eq=False)
class Teacher:
    """Fits priors, and remembers those that it has fitted.

    Attributes:
        progress: called with (done, total, text) during a training.
    """

    progress: Progress = lambda *_: None
    _kept: dict[str, Trained] = field(default_factory=dict, repr=False)
    _opened: dict[str, Images] = field(default_factory=dict, repr=False)

    @property
    def trained(self) -> tuple[Trained, ...]:
        """All priors so far."""
        return tuple(self._kept.values())

    def images(self, spec: Mapping[str, Any]) -> Images:
        """A source of images as a study names it, opened once: that takes seconds for a large file."""
        key = repr(sorted(spec.items()))
        if key not in self._opened:
            self._opened[key] = open_images(**spec)
        return self._opened[key]

    def teach(self, prior: LearnedPrior, subject: Subject, like: Tensor, refresh: bool = False) -> Trained:
        """A fitted prior: from memory, the user's cache or the package, or from a training now.

        Args:
            prior: the recipe.
            subject: what it is about.
            like: a tensor with the device and dtype of maps.
            refresh: train although it is known, and put the result into the cache.

        Raises:
            UserError: the subject does not fit the recipe.
        """
        key = _key(prior, subject)
        if refresh or key not in self._kept:
            found = None if refresh else cache.learned("priors", key)
            if found is None:
                trained = _fitted(prior, subject, like, key, self.progress)
            else:
                tensors, about, origin = found
                seconds = float(about["seconds"])
                trained = Trained(replace(prior, learned=tensors), subject, origin, seconds)
            self._kept[key] = trained
        known = self._kept[key]
        return replace(known, prior=known.prior.to(like))


def save(trained: Trained, path: Path) -> None:
    """Write what a prior has learned, with its recipe; raises UserError when that fails."""
    try:
        cache.write(path, trained.prior.learned or {}, _about(trained.prior, trained.seconds or 0.0))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def load(prior: LearnedPrior, path: Path) -> LearnedPrior:
    """A prior with what `save` has written.

    Raises:
        UserError: the file cannot be read, or holds what another recipe has learned.
    """
    if not path.is_file():
        raise UserError(f"prior '{prior.name}': there is no file {path}")
    found = cache.read(path)
    if found is None:
        raise UserError(f"prior '{prior.name}': {path} is damaged, or was not written by `invbench fit`")
    tensors, about = found
    if about.get("recipe") != repr(prior):
        recipe = about.get("recipe", "something else")
        raise UserError(f"prior '{prior.name}': {path} holds {recipe}, but the study asks for {prior!r}")
    return replace(prior, learned=tensors)


def _fitted(prior: LearnedPrior, subject: Subject, like: Tensor, key: str, progress: Progress) -> Trained:
    """A prior that learns now; what it learns goes into the cache."""
    started = time.perf_counter()
    lesson = Lesson(subject.maps("train", like), subject.maps("validation", like), progress=progress)
    prior = prior.fit(lesson)
    seconds = time.perf_counter() - started
    origin = cache.keep_learned("priors", key, prior.learned or {}, _about(prior, seconds))
    return Trained(prior, subject, origin, seconds)


def _about(prior: LearnedPrior, seconds: float) -> cache.About:
    return {"recipe": repr(prior), "seconds": f"{seconds:.1f}"}


def _key(prior: LearnedPrior, subject: Subject) -> str:
    identity = hashlib.sha256(repr((repr(prior), subject.digest)).encode()).hexdigest()[:16]
    return f"{prior.name}-{identity}"
