"""How a method looks: one colour, line and mark in all figures and tables of a page."""

from collections.abc import Iterable
from dataclasses import dataclass

from invbench.report.comparisons import Method

#: Hues of Okabe & Ito (Color Universal Design, 2008) with grey for yellow; page.css sets each for light
#: and for dark.
HUES = 7
_DASHES = ("", "6 2.5", "1.5 2", "7 2 1.5 2")
_MARKS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Style:
    """Look of the n-th method of a study; 28 combinations of hue and dashes before one comes back."""

    index: int

    @property
    def hue(self) -> int:
        """Number of the colour, 0 ... HUES - 1."""
        return self.index % HUES

    @property
    def dashes(self) -> str:
        """Dash pattern in the notation of SVG, "" for a solid line."""
        return _DASHES[self.index % len(_DASHES)]

    @property
    def mark(self) -> str:
        """Marker at the end of a curve, in the notation of matplotlib."""
        return _MARKS[self.index % len(_MARKS)]


def styles(methods: Iterable[Method]) -> dict[Method, Style]:
    """A style for each method, in the order of first appearance."""
    return {method: Style(index) for index, method in enumerate(dict.fromkeys(methods))}
