"""Pictures that analyses found, as the page shows them."""

from collections.abc import Sequence
from dataclasses import dataclass

from invbench.store import Record

#: Pictures of an analysis and of a page at most, and bytes of those of a page in base64.
EACH, PAGE, BYTES = 24, 60, 4_000_000
#: Pixels of a side up to which pictures are enlarged, by whole factors: of one or two, and of more.
LARGE, SMALL = 448, 256


@dataclass(frozen=True)
class Shown:
    """A picture in the page.

    Attributes:
        title: what is seen.
        uri: its PNG.
        width: on the page, in pixels.
        height: on the page, in pixels.
    """

    title: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Gallery:
    """The pictures of one analysis, and what is left out of them, or ""."""

    pictures: tuple[Shown, ...] = ()
    note: str = ""


def galleries(records: Sequence[Record]) -> list[Gallery]:
    """The pictures of every analysis, the first ones within the limits of a page."""
    found, room, left = [], PAGE, BYTES
    for record in records:
        there = record.get("pictures") or []
        kept = _fitting([len(picture["png"]) for picture in there[: min(EACH, room)]], left)
        room, left = room - kept, left - sum(len(picture["png"]) for picture in there[:kept])
        found.append(Gallery(_shown(there[:kept]), _note(kept, len(there))))
    return found


def _fitting(sizes: Sequence[int], left: int) -> int:
    """How many of the first are no more than `left` bytes together."""
    return sum(sum(sizes[: n + 1]) <= left for n in range(len(sizes)))


def _shown(pictures: Sequence[Record]) -> tuple[Shown, ...]:
    side = LARGE if len(pictures) <= 2 else SMALL
    return tuple(_enlarged(picture, side) for picture in pictures)


def _enlarged(picture: Record, side: int) -> Shown:
    width, height = picture["width"], picture["height"]
    factor = max(1, side // max(width, height))
    uri = f"data:image/png;base64,{picture['png']}"
    return Shown(picture["title"], uri, factor * width, factor * height)


def _note(kept: int, there: int) -> str:
    if kept == there:
        return ""
    limits = f"a page shows at most {EACH} pictures of an analysis, {PAGE} in all and {BYTES / 1e6:g} MB"
    first = (
        f"The first {kept} of {there} pictures are shown" if kept else f"None of {there} pictures is shown"
    )
    return f"{first}: {limits}. All are in the results folder."
