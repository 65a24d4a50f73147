"""How near W^T is to an isometry on model-sparse codes, and what one step of thresholding loses."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from invbench.analyses.contract import Analysis, Row
from invbench.analyses.draws import reseeded
from invbench.analyses.isometry import PLOT, Found, Isometry, rows_of
from invbench.errors import UserError
from invbench.network import Network
from invbench.solver import Count, Randomness
from invbench.trials.contract import Scene
from invbench.trials.sparse_code import SparseCode, draw_codes


@dataclass(frozen=True, kw_only=True)
class ModelRIP(Analysis):
    """Norms of x = W^T z and W W^T z for random codes z, deltas, and the error of one step beside a bound.

    The model-RIP says (1 - d_k) |z|^2 <= |W^T z|^2 <= (1 + d_k) |z|^2 for all model-k-sparse z. What is
    measured of each code is listed in `isometry.Isometry`, with a proof of the bound. W and the codes are
    those of the trial `sparse_code` with the same parameters: for a network's layer rows of W have norm 1,
    without one the filters are Gaussian of variance 1/(lM), l the entries of a kernel.

    Predicted for random filters, from E <w_i, w_j>^2 = |taps that i and j share| / (a_i a_j M) for a_i taps
    of row i on the signal (l without padding). Its mean over random i and j we write C/M, where C is
    sum_p c_p^2 / n^2, c_p the sum of 1/a_i over those of the n windows i that cover place p. With v = 2/(lM),
    the variance of |w_i|^2 (0 for unit rows), and s = sum z^4 / |z|^4 the root mean squares are

        |W^T z|/|z|             1, with the standard deviation sqrt(v s + 2 (1 - s) C/M) / 2
        |W W^T z|/|z|           sqrt(1 + v + n K C/M - 1/(lM)), the last the mean of 1/(a_i M), and without
                                padding n K C/M = K cbar/(lM), cbar = sum m_p^2 / sum m_p, m_p windows on p
        on the support          sqrt(1 + v + (k - 1) C/M)
        error, known support    about |e|/|z|, whose is sqrt(v + (k - 1) C/M): in the paper's 1-d case
                                sqrt(2/(lM) + (k - 1) .842/(l^2 M)) = .148

    Attributes:
        k: active blocks of the codes.
        region: side of the blocks, square tiles of a map; by default every channel is one block. The maps of
            15 x 15 in the paper cannot be tiled by its 2 x 2 regions: take signals whose maps are 14 or 16.
        codes: the non-zeros are `uniform` on [-1, 1] or `normal`.
        samples: codes for each W.
        draws: of random filters.
        bounded: codes of each W, from the first on, for which deltas on supports and the bound are found:
            they cost some ten times as much as the rest.
        layer: a convolution of the network, which gives K, M, kernel, padding and size; none by default.
        filters: with a layer: its own `learned` filters or `random` Gaussian ones.
        count: K, without a layer; as all that follow.
        channels: M.
        kernel: side of a filter.
        size: of the signal.
        dimensions: 1 or 2.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, eq. 1, section 4.2 with fig. 2 (the defaults), 4.4 with
        fig. 3 (a), and Theorem 3.3, whose constant is larger than that of our bound. Fig. 2 (b) is not
        about 1 as they say, and fig. 2 (c) is not the strict error.
    """

    plot: ClassVar = PLOT

    k: Count = 10
    region: Count | None = None
    codes: Literal["uniform", "normal"] = "uniform"
    samples: Count = 1000
    draws: Count = 1
    bounded: Annotated[int, Ge(0)] = 200
    layer: str | None = None
    filters: Literal["random", "learned"] = "random"
    count: Count = 96
    channels: Count = 32
    kernel: Count = 5
    size: Count = 32
    dimensions: Literal[1, 2] = 1

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        if self.filters == "learned" and self.draws > 1:
            raise UserError("learned filters are there once: leave draws at 1")
        self._trial().pose(scene)

    def measure(self, scene: Scene) -> list[Row]:
        """Rows as `isometry.rows_of` has them."""
        self.check(scene)
        found: list[Found] = []
        peaks: list[Tensor] = []
        for part in reseeded(scene, self.draws):
            problem = self._trial().pose(part).problem
            one, left = Isometry.posed(problem), self.bounded
            for z in self._codes(one, part.seed, problem.network.device):
                found.append(one.measure(z, left))
                peaks.append((z**4).flatten(1).sum(1) / z.square().flatten(1).sum(1).square())
                left = max(0, left - len(z))
        predicted = self._predicted(problem.network, float(torch.cat(peaks).mean()))
        return rows_of(found, predicted)

    def _trial(self) -> SparseCode:
        return SparseCode(
            k=self.k,
            region=self.region,
            draws=1,
            layer=self.layer,
            filters=self.filters,
            count=self.count,
            channels=self.channels,
            kernel=self.kernel,
            size=self.size,
            dimensions=self.dimensions,
        )

    def _codes(self, one: Isometry, seed: int, device: torch.device) -> Iterator[Tensor]:
        """The codes of the trial in chunks: each has a stream of its own."""
        like, size = torch.empty(0, dtype=torch.float64, device=device), one.chunk()
        for start in range(0, self.samples, size):
            stream = Randomness(seed, range(start, min(start + size, self.samples)), like)
            yield draw_codes(one.domain, one.affine.in_shape, stream, uniform=self.codes == "uniform")

    def _predicted(self, network: Network, s: float) -> Mapping[str, tuple[float, float]]:
        """Root mean squares and the standard deviation of the first, by name; see above."""
        if self.filters == "learned":
            return {}
        synthesis = next(one for one in network.module.modules() if isinstance(one, nn.ConvTranspose2d))
        padding = [int(side) for side in synthesis.padding]
        count, channels, *kernel = synthesis.weight.shape
        taps, per_pair = overlaps(network.output_shape[1:], kernel, padding)
        v = 2 / (math.prod(kernel) * channels) if self.layer is None else 0.0
        one = per_pair / channels
        everywhere = count * math.prod(network.input_shape[1:]) * one - taps / channels
        on_support = v + (self.k - 1) * one
        return {
            "|W^T z|/|z|": (1.0, math.sqrt(v * s + 2 * (1 - s) * one) / 2),
            "|W W^T z|/|z|": (math.sqrt(1 + v + everywhere), math.nan),
            "|W W^T z|/|z| on the support": (math.sqrt(1 + on_support), math.nan),
            "error, known support": (math.sqrt(on_support), math.nan),
        }


def overlaps(shape: Sequence[int], kernel: Sequence[int], padding: Sequence[int]) -> tuple[float, float]:
    """The means of 1/a_i over windows i, and of |taps in common| / (a_i a_j) over pairs of windows.

    Args:
        shape: (H, W) of the signal.
        kernel: (kh, kw).
        padding: zeros around the signal, which are no taps of the windows that reach there.
    """
    window = torch.ones(1, 1, *kernel, dtype=torch.float64)
    pad = (padding[0], padding[1])
    inverse = functional.conv2d(window.new_ones(1, 1, *shape), window, padding=pad).reciprocal()
    cover = functional.conv_transpose2d(inverse, window, padding=pad)
    return float(inverse.mean()), float(cover.square().sum() / inverse.numel() ** 2)
