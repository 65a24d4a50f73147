"""Files in a folder or in a zip file, seen alike: names, sizes, checksums, contents."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from invbench.errors import UserError

#: A folder that holds more bytes is not read through: its files are told apart by name and size.
MODERATE = 4 * 2**30


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        name: path below the folder, with slashes.
        size: in bytes.
        checksum: CRC-32 of the content.
    """

    name: str
    size: int
    checksum: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders and the file name."""
        return PurePosixPath(self.name.lstrip("/")).parts


class Container(ABC):
    """Where files lie."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """All files, in no particular order."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of a file."""


class Folder(Container):
    """A folder with all that lies below it.

    The checksum of a file is computed by reading it, in folders of more than `MODERATE` bytes from its name
    alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> Iterator[Entry]:
        """All files."""
        files = [(path, path.stat().st_size) for path in self._path.rglob("*") if path.is_file()]
        moderate = sum(size for _, size in files) <= MODERATE
        for path, size in files:
            name = path.relative_to(self._path).as_posix()
            yield Entry(name, size, _checksum(path, name) if moderate else zlib.crc32(name.encode()))

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return (self._path / name).read_bytes()


class Archive(Container):
    """A zip file, which lists the checksums of what it holds."""

    def __init__(self, path: Path) -> None:
        self._zip = ZipFile(path)

    def entries(self) -> Iterator[Entry]:
        """All files."""
        return (
            Entry(info.filename, info.file_size, info.CRC)
            for info in self._zip.infolist()
            if not info.is_dir()
        )

    def read(self, name: str) -> bytes:
        """Content of a file; a checksum that does not match is an error."""
        return self._zip.read(name)


def open_container(path: Path) -> Container:
    """A folder or zip file.

    Raises:
        UserError: if it is neither.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise UserError(f"there is no folder or zip file {path}: give images a path that exists")
    try:
        return Archive(path)
    except (OSError, BadZipFile) as error:
        raise UserError(f"{path} is neither a folder nor a whole zip file: {error}") from error


def _checksum(path: Path, name: str) -> int:
    try:
        return zlib.crc32(path.read_bytes())
    except OSError:  # an unreadable file is named when somebody wants its pixels
        return zlib.crc32(name.encode())
