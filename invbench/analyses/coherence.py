"""How alike the filters of a convolution are."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from invbench.analyses.contract import Analysis, Plot, Refused, Row
from invbench.errors import UserError
from invbench.filters import unit_norm
from invbench.network import convolutions
from invbench.solver import Count
from invbench.trials.contract import Scene

#: Filters whose products with all others are in memory at once.
BLOCK = 128
#: Ends of the range of the random draws.
LOW, HIGH = 0.01, 0.99


@dataclass(frozen=True, kw_only=True)
class Coherence(Analysis):
    """Coherence of every convolution of a network, beside random Gaussian filters of the same shape.

    Both are measured by `coherence`. A batch norm behind a convolution scales every filter, which changes
    nothing here. Filters of different groups see different channels, so their product is 0. Shifts are those
    of the kernel, tap by tap, whatever stride and dilation the convolution has.

    Attributes:
        shifts: also compare a filter with the shifts of all filters.
        draws: of the random filters.

    References:
        Gilbert et al., Towards understanding the invertibility of convolutional neural networks, 2017,
        footnote 8 and table 3, which has one draw a layer.
    """

    plot: ClassVar = Plot(x="depth", y="max", lines="filters")

    shifts: bool = False
    draws: Count = 100

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (layer, depth, shape, filters, max, low, high), two a convolution in the network's order.

        `learned` are the filters of the network, trained or not. For `random` ones `max` is the mean over
        the draws, and `low` and `high` are their 1 and 99 % quantiles.
        """
        layers = convolutions(scene.network)
        if not layers:
            raise Refused(
                f"network '{scene.network.name}' has no convolution whose filters could be compared"
            )
        generator = torch.Generator().manual_seed(scene.seed)
        rows: list[Row] = []
        for depth, (name, layer) in enumerate(layers.items(), start=1):
            weight, groups = layer.weight, layer.groups
            about: Row = {"layer": name, "depth": depth, "shape": " x ".join(map(str, weight.shape))}
            try:
                learned = _grouped(weight.double(), groups, self.shifts)
            except UserError as error:
                raise Refused(f"convolution '{name}': {error}") from None
            draws = _draws(weight, self.draws, generator)
            found = [_grouped(draw, groups, self.shifts) for draw in draws]
            random = torch.tensor(found, dtype=torch.float64)
            low, high = (float(random.quantile(end)) for end in (LOW, HIGH))
            rows += [
                {**about, "filters": "learned", "max": learned, "low": math.nan, "high": math.nan},
                {**about, "filters": "random", "max": float(random.mean()), "low": low, "high": high},
            ]
        return rows


@torch.no_grad()
def coherence(weight: Tensor, shifts: bool = False) -> Tensor:
    """The largest |w_i . w_j| / (|w_i| |w_j|) over distinct pairs of filters, a scalar in [0, 1].

    With shifts the pairs are (i, j, s) other than (i, i, 0), and the product is that of w_i with w_j moved
    by s, taken where the two overlap; the norms are those of the whole filters. So it is the coherence of
    the rows of a convolution with stride 1 on a signal without borders.

    Args:
        weight: K filters on M channels, `(K, M, *kernel)` with a kernel of any number of axes.
        shifts: also over all relative shifts of the kernels.

    Raises:
        UserError: the filters are not real numbers, there is no pair, or a filter has norm 0.

    References:
        Gilbert et al. 2017, footnote 8; the shifts are ours.
    """
    if not weight.is_floating_point():
        raise UserError(
            f"coherence needs filters of real numbers, not of {weight.dtype}: convert them first."
        )
    if weight.dim() < 2:
        raise UserError(f"coherence needs filters (K, M, ...), not a tensor of shape {tuple(weight.shape)}.")
    if not _has_pairs(weight, shifts):
        raise UserError(
            f"coherence compares pairs, and {tuple(weight.shape)} holds none: give 2 filters or more."
        )
    return _coherence(unit_norm(_precise(weight))[None], shifts)


def _has_pairs(weight: Tensor, shifts: bool) -> bool:
    """Whether there are two filters, or one with a shift that leaves an overlap."""
    return len(weight) > 1 or (len(weight) == 1 and shifts and max(weight.shape[2:], default=1) > 1)


def _grouped(weight: Tensor, groups: int, shifts: bool) -> float:
    """The same for the filters of a convolution in groups; NaN where there is no pair."""
    if not _has_pairs(weight, shifts):
        return math.nan
    unit = unit_norm(weight)
    return float(_coherence(unit.reshape(groups, -1, *unit.shape[1:]), shifts))


def _draws(like: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Gaussian filters, drawn on the CPU in float32: all devices and precisions see the same."""
    for _ in range(count):
        yield torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like.device)


def _precise(weight: Tensor) -> Tensor:
    """In float32 at least, for sums of half precision are too coarse to compare."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _coherence(unit: Tensor, shifts: bool) -> Tensor:
    """The largest product of any two in a group: filters of norm 1, `(G, K, M, *kernel)`, to a scalar."""
    kernel = unit.shape[3:]
    found = [_largest(unit.flatten(2), unit.flatten(2), distinct=True)]
    for shift in _half_of_the_shifts(kernel) if shifts else ():
        moved, still = _overlap(unit, shift), _overlap(unit, [-step for step in shift])
        found.append(_largest(moved, still, distinct=False))
    return torch.stack(found).max().clamp(max=1)


def _half_of_the_shifts(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All shifts that leave an overlap, less 0 and one of s and -s, which compare the same pairs."""
    for shift in product(*(range(1 - side, side) for side in kernel)):
        if shift > (0,) * len(kernel):
            yield shift


def _overlap(unit: Tensor, shift: Sequence[int]) -> Tensor:
    """The taps t of every filter with t - shift a tap, too: `(G, K, M, *kernel)` -> `(G, K, taps)`."""
    for axis, step in enumerate(shift, start=3):
        unit = unit.narrow(axis, max(step, 0), unit.shape[axis] - abs(step))
    return unit.flatten(2)


def _largest(first: Tensor, second: Tensor, distinct: bool) -> Tensor:
    """The largest |a_i . b_j| in a group, of `(G, K, taps)` each; only over i < j where `distinct`."""
    found = [first.new_zeros(())]
    for start in range(0, first.shape[1], BLOCK):
        others = second[:, start:] if distinct else second
        products = (first[:, start : start + BLOCK] @ others.mT).abs_()
        if distinct:
            products.diagonal(dim1=1, dim2=2).zero_()
        found.append(products.max())
    return torch.stack(found).max()
