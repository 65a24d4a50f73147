"""How many filters of a network's first layer are Gabor filters."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional

from invbench.analyses.contract import Analysis, Findings, Picture, Refused, Row
from invbench.analyses.prior_filters import SHOWN, sheet
from invbench.filters import random_like
from invbench.gabor import PARAMETERS, PSI, THETA, gabor_kernel
from invbench.gabor.fitting import GaborFit, explained, fit_gabor
from invbench.gabor.layer import coloured, drawn
from invbench.network import convolutions
from invbench.solver import Positive
from invbench.trials.contract import Scene

#: A smaller filter has too few pixels to tell a Gabor filter from another.
LEAST = 5
#: Pixels between the filters and their fits.
GAP = 4


@dataclass(frozen=True, kw_only=True)
class FirstLayerGabor(Analysis):
    """A Gabor filter fitted to every filter of the first convolution of a network, beside three references.

    A filter w_c(x, y) on C channels is a matrix, (C, K K). Its leading singular vectors are its dominant
    colour and its shape in that colour, s(x, y), to which one Gabor kernel of any amplitude and centre is
    fitted by least squares (see `fit_gabor`). The filter is Gabor-like if that explains enough of the shape,

        1 - |s - fit|^2 / |s - mean|^2 >= min_explained,

    and the wave can be told from a blob or a slope: at least `min_cycles` cycles lie within two sigma of the
    centre and within the filter. How much of the filter is in the one colour is told, but is no criterion:
    noise of training in the other colours lowers it.

    The same is done to `references`, as many filters of the same shape each: `scrambled` are the learned ones
    with random phases, which keeps spectra and colours; `random` are Gaussian noise; `gabor` are Gabor
    filters in random colours, as `GaborConv2d` begins with. On few pixels a wave with random phases may still
    be a Gabor filter: what the learned filters have beyond the scrambled ones is theirs.

    Attributes:
        min_explained: least share of the variance of the shape.
        min_cycles: least number of cycles.
        centred: keep the centre of the kernel in that of the filter.

    References:
        Olah et al., An overview of early vision in InceptionV1, Distill 2020, call 44 % of the 64 filters of
        the first layer Gabor filters, by eye; Jones & Palmer, J. Neurophysiol. 1987, for the fit; Theiler et
        al., Physica D 1992, for random phases. The criterion is ours.
    """

    min_explained: Annotated[float, Interval(gt=0, le=1)] = 0.8
    min_cycles: Positive = 1.0
    centred: bool = False

    def measure(self, scene: Scene) -> Findings:
        """Rows, one a filter, and a picture of the learned filters and their fits, best explained first.

        The columns are layer, filters, filter, gabor_like, explained, cycles, lambda, theta, psi, sigma,
        gamma, x, y, one_colour, grey and explained_whole. `filters` is `learned` or a reference, and
        `gabor_like` 1 or 0, so that its mean is the share. Angles are in degrees, as in `gabor_kernel`, whose
        y runs downwards; (x, y) is the centre. `one_colour` is the share of the filter's energy in its
        dominant colour, and `grey` how far that is the same in all channels: 1 for grey, 0 for opposite
        colours. `explained_whole` is that of the filter in all colours.
        """
        name, weight = _first(scene)
        generator = torch.Generator().manual_seed(scene.seed)
        rows, pictures = list[Row](), list[Picture]()
        for which, filters in {"learned": weight, **references(weight, generator)}.items():
            found = _Fitted.of(filters, self.centred)
            rows += [{"layer": name, "filters": which, **row} for row in self._rows(found)]
            if which == "learned":
                pictures.append(_picture(name, found))
        return Findings(rows, pictures)

    def _rows(self, found: "_Fitted") -> Iterator[dict[str, float]]:
        fit, shares = found.fit, found.explained
        degrees = fit.parameters.clone()
        degrees[:, [THETA, PSI]] = degrees[:, [THETA, PSI]].rad2deg()
        columns = {
            "gabor_like": (shares >= self.min_explained) & (fit.cycles >= self.min_cycles),
            "explained": shares,
            "cycles": fit.cycles,
            **dict(zip(PARAMETERS, degrees.unbind(1), strict=True)),
            **dict(zip("xy", fit.centre.unbind(1), strict=True)),
            "one_colour": found.one_colour,
            "grey": found.colours.sum(1).square() / found.colours.shape[1],
            "explained_whole": explained(found.filters, found.fitted),
        }
        for k, values in enumerate(zip(*(column.tolist() for column in columns.values()), strict=True)):
            yield {"filter": k, **dict(zip(columns, values, strict=True)), "gabor_like": int(values[0])}


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Filters (F, C, K, K), their dominant colours (F, C), shapes in them (F, 1, K, K), and the fits."""

    filters: Tensor
    colours: Tensor
    shapes: Tensor
    fit: GaborFit

    @classmethod
    def of(cls, filters: Tensor, centred: bool) -> "_Fitted":
        colours, shapes = dominant(filters)
        return cls(filters, colours, shapes[:, None], fit_gabor(shapes, centred))

    @property
    def explained(self) -> Tensor:
        """Share of the variance of the shape, (F,)."""
        return explained(self.shapes, self.fit.fitted[:, None])

    @property
    def one_colour(self) -> Tensor:
        """Share of the energy in the dominant colour, (F,)."""
        return self.shapes.square().sum((1, 2, 3)) / self.filters.square().sum((1, 2, 3))

    @property
    def fitted(self) -> Tensor:
        """The fits in the colours of their filters, (F, C, K, K)."""
        return self.colours[..., None, None] * self.fit.fitted[:, None]


def dominant(filters: Tensor) -> tuple[Tensor, Tensor]:
    """The one colour of norm 1 and the shape whose product is next to each filter.

    Args:
        filters: (F, C, K, K).

    Returns:
        Colours (F, C), whose sum is not negative, and shapes (F, K, K).
    """
    left, _, _ = torch.linalg.svd(filters.flatten(2), full_matrices=False)
    colours = left[:, :, 0] * torch.where(left[:, :, 0].sum(1) < 0, -1.0, 1.0)[:, None]
    return colours, (colours[:, None] @ filters.flatten(2)).view(-1, *filters.shape[2:])


def _first(scene: Scene) -> tuple[str, Tensor]:
    """The first convolution by name, and its filters (F, C, K, K) in float64 on the CPU."""
    network = scene.network
    name, layer = next(iter(convolutions(network).items()), ("", None))
    if layer is None:
        raise Refused(f"network '{network.name}' has no convolution whose filters could be Gabor filters")
    height, width = layer.kernel_size
    if height != width or height < LEAST:
        raise Refused(
            f"the filters of '{name}' have {height} x {width} pixels; "
            f"Gabor filters are told from others on squares of {LEAST} x {LEAST} or more"
        )
    return name, layer.weight.detach().double().cpu()


def references(filters: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The banks of the same shape that filters are compared with, by name; see `FirstLayerGabor`."""
    count, channels, size, _ = filters.shape
    colours = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return {
        "scrambled": scrambled(filters, generator),
        "random": random_like(filters, generator),
        "gabor": coloured(gabor_kernel(drawn(count, size, generator), size), colours),
    }


def scrambled(filters: Tensor, generator: torch.Generator) -> Tensor:
    """Filters with random phases: (F, C, K, K) with the same |DFT|, and the same products of channels.

    All channels of a filter have their phases changed by those of one noise, so that colours stay.
    """
    count, _, height, width = filters.shape
    noise = torch.randn(count, 1, height, width, generator=generator, dtype=torch.float64)
    turn = torch.sgn(torch.fft.rfft2(noise))
    turn[..., 0, 0] = 1  # the mean of a filter stays as it is
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(filters.double()) * turn, s=(height, width))
    return found


def _picture(name: str, found: _Fitted) -> Picture:
    """The filters on the left, their fits in the same places on the right, best explained first."""
    order = found.explained.nan_to_num(-math.inf).argsort(descending=True, stable=True)[:SHOWN]
    left, right = sheet(found.filters[order]), sheet(found.fitted[order])
    title = (
        f"{len(order)} of {len(found.filters)} filters of {name} and, right of them, their Gabor fits, "
        "best explained first, each on its own scale around mid-grey"
    )
    return Picture(title, torch.cat([functional.pad(left, (0, GAP)), right], 2))
