"""How a method looks: one colour, line and mark in all figures and tables of a page."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from invbench.report.comparisons import Method

#: Hues of Okabe & Ito (Color Universal Design, 2008) with grey for yellow; page.css sets each for light
#: and for dark.
HUES = 7
_DASHES = ("", "6 2.5", "1.5 2", "7 2 1.5 2")
_MARKS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Style:
    """Look of a method.

    Attributes:
        index: of the method among those of a study.
        hue: number of the colour, 0 ... HUES - 1.
        line: number of the dash pattern.
    """

    index: int
    hue: int
    line: int

    @property
    def dashes(self) -> str:
        """Dash pattern in the notation of SVG, "" for a solid line."""
        return _DASHES[self.line]

    @property
    def mark(self) -> str:
        """Marker at the end of a curve, in the notation of matplotlib."""
        return _MARKS[self.index % len(_MARKS)]


def styles(methods: Iterable[Method]) -> dict[Method, Style]:
    """A style for each method, in the order of first appearance; 28 before one comes back.

    Where a study has tuned variants, a method keeps its colour, and its tuned variant is dashed: 14 such
    pairs before one comes back.
    """
    listed = list(dict.fromkeys(methods))
    if not any(method.tuned for method in listed):
        return {
            method: Style(index, index % HUES, index % len(_DASHES)) for index, method in enumerate(listed)
        }
    pairs = list(dict.fromkeys(replace(method, variant="") for method in listed))
    places = [pairs.index(replace(method, variant="")) for method in listed]
    return {
        method: Style(index, pair % HUES, 2 * (pair // HUES % 2) + method.tuned)
        for index, (method, pair) in enumerate(zip(listed, places, strict=True))
    }
