"""The filters that a prior of patches has learned, as a picture and in numbers."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BeforeValidator
from torch import Tensor
from torch.nn import functional

from invbench import priors
from invbench.analyses.contract import Analysis, Findings, Picture, Refused, Row
from invbench.filters import random_like
from invbench.priors import LearnedPrior
from invbench.trials.contract import Priors, Scene
from invbench.trials.terms import ready

#: Filters in the picture at most.
SHOWN = 144
#: Frequencies of a spectrum along each axis, at least; four for each pixel of a filter where that is more.
GRID = 64
#: What is near a peak: up to so many octaves and degrees away.
OCTAVES, DEGREES = 1.0, 30.0
#: Random filters that `chance` is the mean over.
DRAWS = 100


def _by_name(given: Any) -> Any:
    """A name alone is a prior with its defaults."""
    return {given: {}} if isinstance(given, str) else given


def _one_that_learns(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(spec) != 1:
        raise ValueError(f"must name exactly one prior (got {len(spec)})")
    (name,) = spec
    if not issubclass(priors.find()[name.partition("@")[0]], LearnedPrior):
        raise ValueError(f"prior '{name}' learns nothing, so it has no filters")
    return spec


@dataclass(frozen=True, kw_only=True)
class PriorFilters(Analysis):
    """How far the filters of a learned patch prior are localised in frequency and orientation.

    Of a filter w with C channels the power spectrum is

        P(u) = sum_c |sum_r w_c(r) exp(-2 pi i u.r)|^2,

    on a grid much finer than the filter. Its peak is the largest value. A Gabor filter has all of its power
    around the peak (and around -u, which is the same wave), a blob or noise has not; so `near_peak`, the
    share of the power within an octave and 30 degrees of the peak, says how much a filter is like a Gabor
    filter. A small filter cannot reach 1, since its spectrum is blurred by about the inverse of its side;
    `chance`, the mean share of random Gaussian filters of the same shape, is what to compare with.

    Attributes:
        prior: exactly one learned prior of patches, `NAME` or `NAME: {parameters}`, as in the priors of a
            trial; `NAME@STAGE` is one of features. Weights do not matter.
    """

    prior: Annotated[Priors, BeforeValidator(_by_name), AfterValidator(_one_that_learns)]

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`; the prior is fitted here."""
        self._fitted(scene)

    def measure(self, scene: Scene) -> Findings:
        """Rows (part, filter, weight, norm, frequency, orientation, near_peak, chance); a sheet of each part.

        Parts are those of the prior: `full` for patches of all channels, `each` for patches of single ones.
        Rows and sheets begin with the largest weight a_k. `frequency` is that of the peak in cycles a pixel,
        `orientation` the direction of its wave in degrees, counter-clockwise from the right, in [0, 180): 0
        for vertical stripes. What peaks at frequency 0 has no orientation and no `near_peak`.
        """
        (name,) = self.prior
        prior, rows, pictures = self._fitted(scene), list[Row](), list[Picture]()
        for part, filters, weights in _banks(prior):
            chance = _chance(filters, torch.Generator().manual_seed(scene.seed))
            order = weights.argsort(descending=True, stable=True)
            rows += [
                {"part": part, **_row(k, filters[k], float(weights[k])), "chance": chance}
                for k in order.tolist()
            ]
            shown = filters[order[:SHOWN]]
            pictures.append(Picture(_title(f"{name} ({part})", shown.shape, len(filters)), sheet(shown)))
        if not rows:
            raise Refused(f"prior '{name}' has no filters of patches that could be shown")
        return Findings(rows, pictures)

    def _fitted(self, scene: Scene) -> LearnedPrior:
        ((name, options),) = self.prior.items()
        prior = ready(name, options, scene)
        assert isinstance(prior, LearnedPrior), "_one_that_learns() tells"
        return prior


def _banks(prior: LearnedPrior) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(part, filters `(K, C, h, w)`, weights `(K,)`) of what was learned as PART.filters and PART.weights."""
    learned = prior.learned or {}
    for key, filters in learned.items():
        part, _, what = key.rpartition(".")
        if what == "filters":
            weights = learned[f"{part}.weights"].flatten()
            yield part, filters.double().cpu(), weights.double().cpu()


def _chance(filters: Tensor, generator: torch.Generator) -> float:
    """The mean share near the peak of random filters of the same shape."""
    draws = random_like(filters[:1].expand(DRAWS, -1, -1, -1), generator)
    return float(torch.tensor([peak(kernel).near for kernel in draws], dtype=torch.float64).nanmean())


def _row(k: int, kernel: Tensor, weight: float) -> dict[str, float]:
    top = peak(kernel)
    return {
        "filter": k,
        "weight": weight,
        "norm": float(kernel.norm()),
        "frequency": top.frequency,
        "orientation": top.orientation,
        "near_peak": top.near,
    }


def _title(name: str, shape: torch.Size, there: int) -> str:
    count, channels = shape[:2]
    which = f"{count} of {there}" if count < there else f"All {there}"
    one = "" if channels in (1, 3) else f"; of {channels} channels that with the most energy"
    return f"{which} filters of {name} by falling weight, each on its own scale around mid-grey{one}"


# -- spectra -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peak:
    """The peak of a power spectrum; NaN for what has no value.

    Attributes:
        frequency: cycles per pixel.
        orientation: degrees in [0, 180), counter-clockwise from the right.
        near: share of the power within `OCTAVES` and `DEGREES` of it.
    """

    frequency: float
    orientation: float
    near: float


def peak(kernel: Tensor) -> Peak:
    """Where the power of a filter `(C, h, w)` is, summed over its channels.

    Power at frequency 0, which is in no octave, counts in the whole but never as near.
    """
    side = max(GRID, 4 * max(kernel.shape[1:]))
    power = torch.fft.fft2(kernel.double(), s=(side, side)).abs().square().sum(0)
    steps = torch.fft.fftfreq(side, dtype=torch.float64)
    down, right = torch.meshgrid(steps, steps, indexing="ij")
    radius, angle = torch.hypot(down, right), torch.atan2(-down, right).rad2deg() % 180
    top = divmod(int(power.argmax()), side)
    if not power[top] > 0 or radius[top] == 0:
        return Peak(0.0 if power[top] > 0 else math.nan, math.nan, math.nan)
    turn = (angle - angle[top]).abs()
    near = ((radius / radius[top]).log2().abs() <= OCTAVES) & (torch.minimum(turn, 180 - turn) <= DEGREES)
    return Peak(float(radius[top]), abs(float(angle[top])), float(power[near].sum() / power.sum()))


# -- the picture ---------------------------------------------------------------------------------------------


def sheet(filters: Tensor) -> Tensor:
    """Filters `(K, C, h, w)` side by side, `(1 or 3, H, W)` in [0, 1]: 0.5 + 0.5 w / max |w| each.

    Three channels are colours. Of any other number that with the most energy is shown in grey.
    """
    if filters.shape[1] != 3:
        strongest = filters.square().sum((2, 3)).argmax(1)
        filters = filters[torch.arange(len(filters)), strongest][:, None]
    largest = filters.abs().amax((1, 2, 3), keepdim=True)
    framed = functional.pad(0.5 + 0.5 * filters / largest.masked_fill(largest == 0, 1), (0, 1, 0, 1))
    columns = math.ceil(math.sqrt(len(framed)))
    lines = math.ceil(len(framed) / columns)
    tiles = framed.new_zeros(lines * columns, *framed.shape[1:])
    tiles[: len(framed)] = framed
    placed = tiles.reshape(lines, columns, *tiles.shape[1:]).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return functional.pad(placed, (1, 0, 1, 0))
