"""What cells share: images, networks and posed trials, each loaded once."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from invbench import networks
from invbench.errors import UserError
from invbench.images import ImageBatch, Images, Split, open_images
from invbench.networks import Trained
from invbench.store import key_of
from invbench.study import Cell, show_network
from invbench.trials.contract import Posed, Scene, Trial

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

    def images(self, cell: Cell) -> Images:
        """The image source of a cell."""
        spec = {key: value for key, value in cell.images.items() if key != "count"}
        return self.once("images", spec, lambda: open_images(**spec))

    def trained(self, cell: Cell) -> Trained:
        """The network of a cell with what is known about it, on the cell's device."""
        parameters = {key: value for key, value in cell.network.items() if key != "name"}
        name, images = str(cell.network["name"]), self.images(cell)

        def load() -> Trained:
            trained = networks.load(name, parameters, images, progress=self.progress)
            network = trained.network.to(device=torch.device(cell.device), dtype=getattr(torch, cell.dtype))
            networks.check_finite(network, self.batch(cell, "test").pixels)
            return replace(trained, network=network)

        return self.once("network", [cell.network, cell.images, cell.device, cell.dtype], load)

    def batch(self, cell: Cell, split: Split, count: int | None = None) -> ImageBatch:
        """Images of a split, on the cell's device."""

        def draw() -> ImageBatch:
            batch = self.images(cell).draw(split, count or cell.images["count"])
            return replace(batch, pixels=batch.pixels.to(cell.device, getattr(torch, cell.dtype)))

        return self.once("batch", [cell.images, cell.device, cell.dtype, split, count], draw)

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

    def scene(self, cell: Cell, images: ImageBatch) -> Scene:
        """What the trial of a cell is posed with, for these images."""
        return Scene(
            network=self.trained(cell).network,
            images=images,
            classes=self._classes(cell),
            natural=self._natural(cell),
            seed=cell.seed,
        )

    def _natural(self, cell: Cell) -> Tensor:
        """Images that standardise the weights of priors: of `train`, or the test images of a tiny source."""
        try:
            return self.batch(cell, "train", NATURAL).pixels
        except UserError:
            return self.batch(cell, "test").pixels

    def check(self, cells: Iterable[Cell]) -> None:
        """Pose every trial once before anything runs, so that mistakes surface while nothing is at stake.

        Raises:
            UserError: a network, an image source or a trial cannot be had.
        """
        seen: set[str] = set()
        for cell in cells:
            key = key_of([repr(cell.trial), cell.network, cell.images, cell.tuning is None])
            if key not in seen:
                seen.add(key)
                self.pose(cell, cell.trial)
                if cell.tuning is not None:
                    self.batch(cell, "tuning", cell.tuning.images)

    def key(self, cell: Cell) -> str:
        """Identity of a cell: its plain data and the content of its weights and images."""
        content = self.once(
            "content",
            [cell.network, cell.images],
            lambda: [self.trained(cell).network.digest, self.images(cell).digest],
        )
        return key_of([cell.plain(), content])

    def networks_used(self, cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
        """What is known about every network of a study, for the report."""
        return {show_network(cell.network): self.trained(cell).plain() for cell in cells}

    def images_skipped(self, cells: Iterable[Cell]) -> list[list[str]]:
        """(name, reason) of the images that could not be used, for the report."""
        return [
            list(item) for item in dict.fromkeys(item for cell in cells for item in self.images(cell).skipped)
        ]

    def _classes(self, cell: Cell) -> tuple[str, ...]:
        outputs = self.trained(cell).network.output_shape
        classes = self.images(cell).classes
        if len(outputs) != 1:
            raise UserError(
                f"network {show_network(cell.network)} has outputs of shape {outputs}, no classes"
            )
        return (
            tuple(classes) if len(classes) == outputs[0] else tuple(f"class {n}" for n in range(outputs[0]))
        )

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


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else repr(value)
