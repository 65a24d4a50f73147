"""CIFAR-10 as torchvision reads it from disk."""

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np

from invbench.errors import UserError
from invbench.images.source import Images, Member, Pixels, Split, divide

SIDE = 32
HELD_OUT: dict[Split, float] = {"tuning": 0.05, "validation": 0.05}


class Cifar10(Images, source="cifar10"):
    """CIFAR-10 by torchvision's own class, never downloaded.

    Reported images are of the official test set; a twentieth each of the training images of a class, ranked
    by checksum, is held out for tuning and for validation.

    Args:
        size: 32, the side of these images.
        root: the folder that holds `cifar-10-batches-py`.

    Raises:
        UserError: if another size is asked for, or the files are missing or damaged.
    """

    def __init__(self, size: int, root: str) -> None:
        if size != SIDE:
            raise UserError(f"images 'cifar10' are of size {SIDE}, not {size}: set size: {SIDE}")
        self._root = Path(root).expanduser()
        self._test, labels, classes = _load(self._root, train=False)
        super().__init__(size, classes)
        self._test_members = self._members("test", labels)

    @cached_property
    def digest(self) -> str:
        """Hash of all pixels."""
        found = sha256(repr((self.name, self.size)).encode())
        found.update(self._test.tobytes())
        found.update(self._train[0].tobytes())
        return found.hexdigest()

    def members(self, split: Split) -> list[Sequence[Member]]:
        """The images of each class."""
        if split == "test":
            return list(self._test_members)
        return [parts[split] for parts in self._splits]

    def read(self, member: Member) -> Pixels:
        """Look an image up."""
        part, index = member.key
        image: Pixels = (self._test if part == "test" else self._train[0])[index]
        return image

    @cached_property
    def _train(self) -> tuple[Pixels, list[int]]:
        pixels, labels, _ = _load(self._root, train=True)
        return pixels, labels

    @cached_property
    def _splits(self) -> list[dict[Split, list[Member]]]:
        pixels, labels = self._train
        groups = self._members("train", labels)
        return [
            divide(sorted(group, key=lambda m: crc32(pixels[m.key[1]].tobytes())), HELD_OUT)
            for group in groups
        ]

    def _members(self, part: str, labels: Sequence[int]) -> list[list[Member]]:
        groups: list[list[Member]] = [[] for _ in self.classes]
        for index, label in enumerate(labels):
            groups[label].append(Member(f"{part} {index}", label, (part, index)))
        return groups


def _load(root: Path, train: bool) -> tuple[Pixels, list[int], Sequence[str]]:
    """Pixels (N, 32, 32, 3), labels and names of the classes."""
    from torchvision.datasets import CIFAR10  # a second to import

    try:
        data = CIFAR10(str(root), train=train, download=False)
    except (RuntimeError, OSError) as error:
        advice = f"unpack {CIFAR10.url} there, or set root to where it is"
        raise UserError(f"CIFAR-10 is not in {root}, or damaged: {advice}") from error
    return np.asarray(data.data, dtype=np.uint8), list(data.targets), tuple(data.classes)
