"""What every image source offers: batches from splits that share no pixel."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from invbench.errors import UserError

Split = Literal["train", "validation", "tuning", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Pixels = npt.NDArray[np.uint8]
_SOURCES: dict[str, type["Images"]] = {}


@dataclass(frozen=True)
class ImageBatch:
    """Images with their labels and names.

    Attributes:
        pixels: (N, C, H, W), float32 in [0, 1].
        labels: (N,), int64, the class of each image.
        names: N names, unique within the source: a file name, or a photograph and the place of a crop.
    """

    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


class Unusable(Exception):
    """Why one image is left out, in a few words."""


@dataclass(frozen=True)
class Member:
    """One image that a source knows of, not yet read.

    Attributes:
        name: unique within the source.
        label: index of its class.
        key: what the source needs to read it.
    """

    name: str
    label: int
    key: Any = None


class Images(ABC):
    """A source of square RGB images, divided into four splits.

    `train` is what networks and priors learn from, `validation` what picks the best of their states,
    `tuning` what hyper-parameters of solvers are chosen on, `test` what is reported. A subclass says
    `class Photographs(Images, source="name")` and is then found under that name; its constructor takes
    the side and its own parameters as keywords.

    Attributes:
        name: the name of the source.
        classes: names of the classes; labels index into it.
        size: side of an image in pixels.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, source: str, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.name = source
        _SOURCES[source] = cls

    def __init__(self, size: int, classes: Sequence[str]) -> None:
        self.size = size
        self.classes = tuple(classes)
        self._skipped: dict[str, str] = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (3, self.size, self.size)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of images left out so far: one is judged when it is first asked for."""
        return tuple(self._skipped.items())

    @property
    def where(self) -> str:
        """The source as messages name it."""
        return f"'{self.name}'"

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash of the content and the size, the same wherever the images lie."""

    @abstractmethod
    def members(self, split: Split) -> list[Sequence[Member]]:
        """The images of a split, one sequence a class, in an order that never changes."""

    @abstractmethod
    def read(self, member: Member) -> Pixels:
        """One image, (size, size, 3); raises `Unusable` where there is none to be had."""

    def shuffle(self, members: Sequence[Member], rng: np.random.RandomState) -> Iterable[Member]:
        """The members of one class in the order in which `draw` takes them."""
        return (members[i] for i in rng.permutation(len(members)))

    def draw(self, split: Split, count: int, seed: int = 0) -> ImageBatch:
        """A choice of distinct images, as many of each class as possible.

        The choice depends on the content of the source, the split and the seed only: the stream of
        `RandomState` is frozen (NEP 19), so that a draw means the same images in every release.

        Args:
            split: which split to draw from.
            count: how many images.
            seed: which choice.

        Returns:
            `count` images.

        Raises:
            UserError: if the split holds fewer usable images than asked for.
        """
        batch = self.sample(split, count, seed)
        if len(batch) < count:
            raise UserError(f"{count} {split} images asked for, but {self._scarcity(len(batch))}")
        return batch

    def sample(self, split: Split, count: int, seed: int = 0) -> ImageBatch:
        """The choice of `draw`, or all usable images of the split where there are fewer."""
        rng = np.random.RandomState([seed, SPLITS.index(known(split))])
        classes = self.members(split)
        queues = [iter(self.shuffle(classes[i], rng)) for i in rng.permutation(len(classes))]
        return self._collect(_in_turn(queues), min(count, sum(map(len, classes))))

    def all(self, split: Split) -> ImageBatch:
        """Every image of a split: what a training uses.

        Raises:
            UserError: if there is none.
        """
        members = [member for group in self.members(known(split)) for member in group]
        batch = self._collect(iter(members), len(members))
        if not len(batch):
            raise UserError(f"no {split} images: {self._scarcity(0)}")
        return batch

    def _collect(self, members: Iterator[Member], count: int) -> ImageBatch:
        """The first `count` usable ones, read one at a time."""
        pixels = np.empty((count, self.size, self.size, 3), dtype=np.uint8)
        taken = list(islice(self._usable(members, pixels), count))
        images = torch.empty(len(taken), *self.shape)
        images.copy_(torch.from_numpy(pixels[: len(taken)]).permute(0, 3, 1, 2)).div_(255)
        labels = torch.tensor([member.label for member in taken], dtype=torch.int64)
        return ImageBatch(images, labels, tuple(member.name for member in taken))

    def _usable(self, members: Iterator[Member], pixels: Pixels) -> Iterator[Member]:
        position = 0
        for member in members:
            try:
                pixels[position] = self.read(member)
            except Unusable as reason:
                self._skipped[member.name] = str(reason)
                continue
            position += 1
            yield member

    def _scarcity(self, found: int) -> str:
        sentence = f"the images {self.where} hold {found} usable ones of {self.size} px for that"
        if not self._skipped:
            return sentence
        name, reason = next(iter(self._skipped.items()))
        return f"{sentence} ({len(self._skipped)} skipped, such as {name}: {reason})"


def divide(members: Sequence[Member], shares: dict[Split, float]) -> dict[Split, list[Member]]:
    """Divide ranked members into splits; the splits that are named first get theirs first.

    The bounds are rounded up, so that even a handful of images leaves the first split one of them.

    Args:
        members: the members of one class, ranked by something that has nothing to do with their content's
            meaning, such as a checksum.
        shares: share of each split, in [0, 1]; what is left over is for training.

    Example:
        >>> parts = divide([Member(str(i), 0) for i in range(8)], {"test": 0.2, "tuning": 0.1})
        >>> {split: len(part) for split, part in parts.items()}
        {'test': 2, 'tuning': 1, 'train': 5}
    """
    parts: dict[Split, list[Member]] = {}
    start, total = 0, 0.0
    for split, share in shares.items():
        total += share
        # the small subtraction keeps .2 + .1 from being more than three tenths
        stop = int(np.ceil(total * len(members) - 1e-9))
        parts[split] = list(members[start:stop])
        start = stop
    parts["train"] = list(members[start:])
    return parts


def registered() -> dict[str, type[Images]]:
    """The sources of the modules imported so far, by name."""
    return dict(sorted(_SOURCES.items()))


def _in_turn(queues: list[Iterator[Member]]) -> Iterator[Member]:
    """One of each queue in turn until all are empty."""
    while queues:
        left = []
        for queue in queues:
            for member in islice(queue, 1):
                yield member
                left.append(queue)
        queues = left


def known(split: Split) -> Split:
    """The split, if there is one of that name.

    Raises:
        UserError: if not.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split '{split}': there are {', '.join(SPLITS)}")
    return split
