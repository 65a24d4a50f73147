"""What an analysis is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict
from torch import Tensor

from invbench.trials.contract import Scene

#: One line of what was measured, by column. A number that is not finite stands for "no value".
Row = Mapping[str, str | float | int]


class Refused(Exception):
    """An analysis does not apply; says why in one sentence. A refusal is a result."""


@dataclass(frozen=True)
class Plot:
    """How the report draws the rows.

    Attributes:
        x: column of the abscissa.
        y: column of the ordinate.
        lines: column whose values make the lines; "" for a single line.
        panels: column whose values make figures side by side; "" for one figure.
        log_x: a logarithmic abscissa.
        log_y: a logarithmic ordinate.
    """

    x: str
    y: str
    lines: str = ""
    panels: str = ""
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that an analysis found.

    Records keep it with 8 bits a channel: to the pixel where it is small, averaged down where it is large
    (see `harness.picturing`).

    Attributes:
        title: what is seen, in a few words; also what readers who do not see the picture are told.
        pixels: `(C, H, W)` in [0, 1], with C 1 (grey) or 3.
    """

    title: str
    pixels: Tensor


@dataclass(frozen=True, eq=False)
class Findings:
    """Rows with pictures beside them."""

    rows: list[Row]
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Analysis(ABC):
    """A measurement of a network on images; its fields are what a study may set.

    A field whose type is `Trial` or `Solver` is itself an entry in a study:
    `residuals: {trial: {preimage: {layer: pool2}}, solver: admm}`. The parameters are columns beside those
    of the rows, so no column of a row may bear the name of a field, or be `network`, `images` or `seed`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    #: How the report draws the rows; None for a table alone.
    plot: ClassVar[Plot | None] = None

    def check(self, scene: Scene) -> None:  # noqa: B027 - most analyses fit any network
        """Tell mistakes that only network and images show, before anything of the study has run.

        Raises:
            UserError: network and parameters do not fit.
        """

    @abstractmethod
    def measure(self, scene: Scene) -> list[Row] | Findings:
        """Measure, with `scene.seed` as the only source of randomness.

        Raises:
            Refused: the analysis does not apply here.
        """
