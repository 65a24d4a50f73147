"""What runs share: images, networks and posed trials, each loaded once."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from invbench import networks
from invbench.images import ImageBatch, Images, Split, open_images
from invbench.method import Method
from invbench.networks import Trained
from invbench.prior_training import Teacher
from invbench.store import key_of
from invbench.study import Cell, Conditions, show_network
from invbench.trials.contract import Posed, Scene, Trial
from invbench.trials.terms import learns

T = TypeVar("T")
View = Literal["test", "mirrored", "tuning"]
Progress = Callable[[int, int, str], None]
#: Natural images that standardise the weights of priors.
NATURAL = 32


@dataclass(frozen=True, eq=False)
class Bench:
    """Loads what cells need and keeps it; cells that follow each other share their posed trial.

    Args:
        progress: called with (done, total, text) while a network trains.
    """

    progress: Progress = lambda *_: None
    _kept: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def teacher(self) -> Teacher:
        """Fits the priors of all trials."""
        return Teacher(self.progress)

    def images(self, run: Conditions) -> Images:
        """The image source of a run."""
        spec = {key: value for key, value in run.images.items() if key != "count"}
        return self.once("images", spec, lambda: open_images(**spec))

    def trained(self, run: Conditions) -> Trained:
        """The network of a run with what is known about it, on the device of the run."""
        parameters = {key: value for key, value in run.network.items() if key != "name"}
        name, images = str(run.network["name"]), self.images(run)

        def load() -> Trained:
            trained = networks.load(name, parameters, images, progress=self.progress)
            network = trained.network.to(device=torch.device(run.device), dtype=getattr(torch, run.dtype))
            networks.check_finite(network, self.batch(run, "test").pixels)
            return replace(trained, network=network)

        return self.once("network", [run.network, run.images, run.device, run.dtype], load)

    def batch(self, run: Conditions, split: Split, count: int | None = None) -> ImageBatch:
        """Images of a split, on the device of the run."""

        def draw() -> ImageBatch:
            batch = self.images(run).draw(split, count or run.images["count"])
            return replace(batch, pixels=batch.pixels.to(run.device, getattr(torch, run.dtype)))

        return self.once("batch", [run.images, run.device, run.dtype, split, count], draw)

    def pose(self, cell: Cell, trial: Trial, view: View = "test") -> Posed:
        """A trial posed on the images of a view; the last few are kept.

        Args:
            cell: whose images and network.
            trial: the cell's own, or one with other priors.
            view: `test`, what is reported; `mirrored`, their mirror images, to warm up with; `tuning`, the
                images that settings are tried on.
        """
        count = cell.tuning.images if cell.tuning and view == "tuning" else None
        spec = [repr(trial), cell.network, cell.images, cell.device, cell.dtype, cell.seed, view, count]

        def pose() -> Posed:
            images = self.batch(cell, "tuning" if view == "tuning" else "test", count)
            if view == "mirrored":
                images = replace(images, pixels=images.pixels.flip(3))
            return trial.pose(self.scene(cell, images))

        return self.once("posed", spec, pose, keep=4)

    def scene(self, run: Conditions, images: ImageBatch) -> Scene:
        """What a trial is posed with and an analysis measures, for these images."""
        trained = self.trained(run)
        return Scene(
            network=trained.network,
            images=images,
            classes=trained.classes,
            natural=self._natural(run),
            seed=run.seed,
            accuracy=trained.accuracy,
            held_out=trained.held_out,
            source=self.images(run),
            teacher=self.teacher,
        )

    def _natural(self, run: Conditions) -> Tensor:
        """Images that standardise the weights of priors: of `train`, or the test images of a tiny source."""

        def draw() -> Tensor:
            pixels = self.images(run).sample("train", NATURAL).pixels
            return pixels.to(run.device, getattr(torch, run.dtype))

        natural = self.once("natural", [run.images, run.device, run.dtype], draw)
        return natural if len(natural) else self.batch(run, "test").pixels

    def check(self, cells: Iterable[Cell]) -> None:
        """Pose every trial once before anything runs, so that mistakes surface while nothing is at stake.

        Raises:
            UserError: a network, an image source or a trial cannot be had.
        """
        seen: set[str] = set()
        for cell in cells:
            trials = repr(cell.trial), repr(overridden(cell.trial, cell.method))
            key = key_of([trials, cell.network, cell.images, cell.tuning is None])
            if key not in seen:
                seen.add(key)
                for trial in (cell.trial, overridden(cell.trial, cell.method)):
                    posed = self.pose(cell, trial)
                    with torch.no_grad():  # whether priors fit the maps that they are on
                        posed.problem.terms(posed.start)
                if cell.tuning is not None:
                    self.batch(cell, "tuning", cell.tuning.images)

    def key(self, run: Conditions) -> str:
        """Identity of a run: its plain data and the content of its weights and images."""
        content = self.once(
            "content",
            [run.network, run.images],
            lambda: [self.trained(run).network.digest, self.images(run).digest],
        )
        learned = self._learned(run) if isinstance(run, Cell) else []
        return key_of([run.plain(), content, *learned])

    def _learned(self, cell: Cell) -> list[str]:
        """Hashes of what the priors of a cell have learned."""
        found: list[str] = []
        for trial in (cell.trial, overridden(cell.trial, cell.method)):
            if not learns(trial.priors):
                continue
            spec = [repr(trial), cell.network, cell.images, cell.device, cell.dtype]
            found += self.once("learned", spec, partial(self._digests, cell, trial))
        return found

    def _digests(self, cell: Cell, trial: Trial) -> list[str]:
        return [term.prior.digest for term in self.pose(cell, trial).problem.priors if term.prior.digest]

    def networks_used(self, runs: Iterable[Conditions]) -> dict[str, dict[str, Any]]:
        """What is known about every network of a study, for the report."""
        return {show_network(run.network): self.trained(run).plain() for run in runs}

    def priors_used(self) -> list[dict[str, Any]]:
        """What is known about every learned prior, for the report."""
        return [trained.plain() for trained in self.teacher.trained]

    def images_skipped(self, runs: Iterable[Conditions]) -> list[list[str]]:
        """(name, reason) of the images that could not be used, for the report."""
        return [
            list(item) for item in dict.fromkeys(item for run in runs for item in self.images(run).skipped)
        ]

    def once(self, kind: str, spec: Any, make: Callable[[], T], keep: int = 1000) -> T:
        """What `make` makes, remembered under a kind and plain data."""
        kept: dict[str, T] = self._kept.setdefault(kind, {})
        key = json.dumps(spec, sort_keys=True, default=_plain)
        if key not in kept:
            made = make()
            while len(kept) >= keep:
                kept.pop(next(iter(kept)))
            kept[key] = made
        return kept[key]


def overridden(trial: Trial, method: Method) -> Trial:
    """The trial with the method's own priors and loss weight, where it has any."""
    changes: dict[str, Any] = {}
    if method.priors is not None:
        changes["priors"] = method.priors
    if method.loss_weight is not None:
        changes["loss_weight"] = method.loss_weight
    return replace(trial, **changes)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else repr(value)
