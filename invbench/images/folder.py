"""A folder or a zip file of one's own images, in class folders or flat."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from posixpath import commonpath

import numpy as np
from PIL import Image, ImageOps

from invbench.errors import UserError
from invbench.images.container import Entry, open_container
from invbench.images.source import Images, Member, Pixels, Split, Unusable, divide

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
#: Shares of each class that are held out where a folder `test` exists.
BESIDE_TEST: dict[Split, float] = {"tuning": 0.05, "validation": 0.05}
#: Share of each class that is for test where there is none, if nothing else is asked for.
TEST = 0.2


@dataclass(frozen=True)
class _File:
    """An image file and what the folders around it say.

    Attributes:
        entry: the file.
        path: the same without folders that hold everything.
        part: `train` or `test`; empty where the folder is not divided so.
        label: name of the class; empty where there is none.
    """

    entry: Entry
    path: tuple[str, ...]
    part: str
    label: str


class Folder(Images, source="folder"):
    """A folder or zip file of images, each resized to its shorter side and cropped to the centre.

    Folders that hold everything else are looked through. If folders `train` and `test` remain at the top,
    reported images are those of `test`, and a twentieth each of `train` is held out for tuning and for
    validation. Otherwise the files of each class are ranked by checksum: the first fifth, or the share
    `test`, is for test, a tenth each (a quarter of what is left, if that is less) for tuning and for
    validation, the rest for training.
    The first folder further down is the class; where there is none, all images are of one class. Files of
    equal content count once.

    Nothing is cached on disk, and only what is asked for is decoded. Checksums are CRC-32, which a zip file
    lists without being unpacked; a folder has the same splits and the same digest as a zip file of it.

    Args:
        size: side of the images.
        path: the folder or zip file.
        test: share of the images that are for test, in (0, 1), where no folders say so; by default a fifth.

    Raises:
        UserError: if there is none, it holds no images, or both a share and folders say what is for test.
    """

    def __init__(self, size: int, path: str, test: float | None = None) -> None:
        self._path = path
        self._test = _share(test)
        folder = Path(path).expanduser()
        self._container = open_container(folder)
        self._files = list(_interpreted([entry for entry in self._container.entries() if _is_image(entry)]))
        if not self._files:
            raise UserError(f"images 'folder': {path} holds no images (no {', '.join(SUFFIXES)})")
        if test is not None and any(file.part for file in self._files):
            raise UserError(f"images 'folder': {path} says what is for test by its folders: leave out 'test'")
        groups: dict[str, list[_File]] = {label: [] for label in sorted({file.label for file in self._files})}
        super().__init__(size, [label or folder.stem for label in groups])
        for file in self._distinct():
            groups[file.label].append(file)
        self._splits = [_divided(group, index, self._test) for index, group in enumerate(groups.values())]

    @property
    def where(self) -> str:
        """The folder as it was given."""
        return f"in {self._path}"

    @property
    def digest(self) -> str:
        """Hash over names, sizes and checksums of the files, which stand for their content.

        A share for test is part of it where it is not the default.
        """
        listing = sorted((file.path, file.entry.size, file.entry.checksum) for file in self._files)
        share = () if self._test == TEST else (self._test,)
        return sha256(repr((self.name, self.size, listing, *share)).encode()).hexdigest()

    def members(self, split: Split) -> list[Sequence[Member]]:
        """The files of each class."""
        return [parts[split] for parts in self._splits]

    def read(self, member: Member) -> Pixels:
        """Decode one file."""
        try:
            return _square(self._container.read(member.name), self.size)
        except Unusable:
            raise
        except Exception as error:  # what a damaged file raises depends on its format
            raise Unusable(f"cannot be read ({str(error) or type(error).__name__})") from error

    def _distinct(self) -> Iterator[_File]:
        """The files to be used, ranked by checksum, those of `test` first: they win over copies elsewhere."""
        seen: dict[tuple[int, int], str] = {}
        for file in sorted(self._files, key=lambda f: (f.part != "test", f.entry.checksum, f.entry.name)):
            entry = file.entry
            first = seen.setdefault((entry.checksum, entry.size), entry.name)
            if first != entry.name:
                self._skipped[entry.name] = f"has the content of {first}"
            elif file.part not in ("", "train", "test"):
                self._skipped[entry.name] = "lies outside the folders train and test"
            else:
                yield file


def _share(test: float | None) -> float:
    """The share for test; raises UserError for what is none."""
    if test is None:
        return TEST
    if isinstance(test, bool) or not isinstance(test, int | float) or not 0 < test < 1:
        raise UserError(f"images 'folder': test is {test!r}, but a share between 0 and 1 is needed")
    return test


def _is_image(entry: Entry) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in entry.parts)
    return not hidden and entry.name.lower().endswith(SUFFIXES)


def _interpreted(entries: Sequence[Entry]) -> Iterator[_File]:
    """Read the folders around each file."""
    depth = _shared_depth(entries) if entries else 0
    paths = [entry.parts[depth:] for entry in entries]
    official = {"train", "test"} <= {path[0] for path in paths if len(path) > 1}
    for entry, path in zip(entries, paths, strict=True):
        inner = path[1:] if official else path
        yield _File(entry, path, path[0] if official else "", inner[0] if len(inner) > 1 else "")


def _shared_depth(entries: Sequence[Entry]) -> int:
    """How many folders hold all files."""
    return len(PurePosixPath(commonpath(["/".join(entry.parts[:-1]) for entry in entries])).parts)


def _divided(files: Sequence[_File], label: int, test: float) -> dict[Split, list[Member]]:
    """The splits of one class, from files in the order of their checksums."""
    tested = [Member(file.entry.name, label) for file in files if file.part == "test"]
    others = [Member(file.entry.name, label) for file in files if file.part != "test"]
    if any(file.part for file in files):
        return {**divide(others, BESIDE_TEST), "test": tested}
    rest = min(0.1, (1 - test) / 4)
    return divide(others, {"test": test, "tuning": rest, "validation": rest})


def _square(content: bytes, size: int) -> Pixels:
    """Decode, turn upright, cut out the central square and resize it, (size, size, 3)."""
    with warnings.catch_warnings(), Image.open(BytesIO(content)) as image:
        warnings.simplefilter("ignore")  # of odd metadata: what matters raises
        width, height = image.size
        if min(width, height) < size:
            raise Unusable(f"{width} x {height} px is smaller than {size}")
        if image.mode.startswith(("I", "F")):
            raise Unusable("has more than 8 bits a channel")
        ImageOps.exif_transpose(image, in_place=True)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.convert("RGB").crop((left, top, left + side, top + side))
    if side != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square)
