"""Linear inverses of an affine map: the optimal one, and the best that is a convolution.

For y = W x + n with centred x of covariance Sigma and white noise n of deviation sigma = 1 / sqrt(lambda),
both minimise E|G y - x|^2: the first over all matrices G, the second over convolutions of a given support.
All is computed in double precision.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from invbench.activations import Identity
from invbench.losses import SquaredError
from invbench.operators import Convolution
from invbench.operators.toeplitz import closest_toeplitz
from invbench.problem import Problem

Pair = tuple[int, int]

#: Members of a basis that a map is applied to at a time.
CHUNK = 64


def refusal(problem: Problem, solver: str) -> str | None:
    """Why a problem is not the inversion of one affine map, or None."""
    chain = problem.network.chain
    if chain is None:
        return f"{solver} inverts one affine layer, and this network is no chain: {problem.network.reason}"
    if len(chain) > 1 or not isinstance(chain[0].activation, Identity):
        return f"{solver} inverts one affine layer: give the first one without its ReLU, such as conv1.0"
    if not isinstance(problem.loss, SquaredError):
        return (
            f"{solver} minimises a squared error: give a trial with the loss squared_error, as preimage has"
        )
    return None


# -- the optimal inverse -------------------------------------------------------------------------------------


def matrix_of(
    linear: Callable[[Tensor], Tensor], in_shape: tuple[int, ...], device: torch.device | None = None
) -> Tensor:
    """The matrix of a linear map, `(K, N)`, column by column.

    Args:
        linear: (B, *in_shape) -> (B, ...) in double precision, K entries an instance.
        in_shape: of one input, N entries.
        device: of the map.
    """
    size = math.prod(in_shape)
    basis = torch.eye(size, dtype=torch.float64, device=device).view(size, *in_shape)
    return torch.cat([linear(chunk).flatten(1) for chunk in torch.split(basis, CHUNK)]).T


def optimal_inverse(matrix: Tensor, covariance: Tensor, noise: float) -> Tensor:
    """G = Sigma W^T (W Sigma W^T + sigma^2 I)^-1 = (sigma^2 Sigma^-1 + W^T W)^-1 W^T, `(N, K)`.

    The first form is computed where K < N, else the second. Both are one matrix (Woodbury): the Wiener
    filter, and the most probable x for a Gaussian prior.

    Args:
        matrix: W, `(K, N)`.
        covariance: Sigma, `(N, N)`, positive definite.
        noise: sigma > 0.

    References:
        Harder, Deep Restoration, 2017, equation 2.
    """
    if len(matrix) >= matrix.shape[1]:
        return regularised_inverse(matrix.T @ matrix, covariance, noise) @ matrix.T
    cross = matrix @ covariance
    seen = cross @ matrix.T
    seen.diagonal().add_(noise**2)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(seen)).T


def regularised_inverse(gram: Tensor, covariance: Tensor, noise: float) -> Tensor:
    """(sigma^2 Sigma^-1 + W^T W)^-1, `(N, N)`, by two Cholesky factors.

    Args:
        gram: W^T W, `(N, N)`.
        covariance: Sigma, `(N, N)`, positive definite.
        noise: sigma > 0.
    """
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    return torch.cholesky_inverse(torch.linalg.cholesky(gram + noise**2 * precision))


def expected_error(inverse: Tensor, matrix: Tensor, covariance: Tensor, noise: float) -> float:
    """E|G (W x + n) - x|^2 = tr((I - G W) Sigma (I - G W)^T) + sigma^2 |G|^2, for any G.

    Args:
        inverse: G, `(N, K)`.
        matrix: W, `(K, N)`.
        covariance: Sigma, `(N, N)`.
        noise: sigma.
    """
    lost = -(inverse @ matrix)
    lost.diagonal().add_(1)
    return float(((lost @ covariance) * lost).sum() + noise**2 * inverse.square().sum())


def shrunk(covariance: Tensor, share: float) -> Tensor:
    """(1 - share) Sigma + share tr(Sigma) / N I, which has the trace of Sigma and full rank."""
    found = (1 - share) * covariance
    found.diagonal().add_(share * covariance.diagonal().mean())
    return found


def stationary(covariance: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mean of a covariance of images over all circular shifts of them, positive semi-definite with it.

    It depends on the two channels and on the displacement on the torus alone.

    Args:
        covariance: Sigma, `(N, N)`.
        shape: (C, H, W), N entries; another one is taken for C entries without places.
    """
    channels, height, width = shape if len(shape) == 3 else (math.prod(shape), 1, 1)
    blocks = covariance.view(channels, height * width, channels, height * width).transpose(1, 2)
    found = closest_toeplitz(blocks, (height, width), circular=True)
    return found.transpose(1, 2).reshape(covariance.shape)


# -- the best convolution ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How a convolution maps y, `(B, K, H', W')`, to x, `(B, C, H, W)`, block by block of s x s' pixels.

    It has C s s' output channels, one for every channel and place (phase) in a block, and stride 1.

    Attributes:
        image: sides (H, W) of x.
        maps: sides (H', W') of y.
        stride: sides (s, s') of a block.
        first: the position of y where the kernel of the first block starts.
        kernel: its side.
        circular: y is read on the torus; otherwise it is 0 outside.
    """

    image: Pair
    maps: Pair
    stride: Pair
    first: Pair
    kernel: int
    circular: bool = False

    @classmethod
    def behind(cls, layer: Convolution, kernel: int, circular: bool = False) -> "Layout":
        """The layout that undoes a convolution, each block in the middle of the kernel, as far as it can be.

        Args:
            layer: the convolution; `padding` zeros are in front of its input, or the torus is.
            kernel: side of the inverse.
            circular: whether the boundary is.
        """
        reach = [d * (side - 1) for d, side in zip(layer.dilation, layer.weight.shape[2:], strict=True)]
        middle = [
            math.floor(((s - 1) / 2 + p - r / 2) / s + 0.5)
            for s, p, r in zip(layer.stride, layer.padding, reach, strict=True)
        ]
        first = (middle[0] - kernel // 2, middle[1] - kernel // 2)
        (_, *image), (_, *maps) = layer.in_shape, layer.out_shape
        return cls((image[0], image[1]), (maps[0], maps[1]), layer.stride, first, kernel, circular)

    @property
    def grid(self) -> Pair:
        """Numbers of blocks; those at the end may stand over."""
        rows, columns = (-(-side // step) for side, step in zip(self.image, self.stride, strict=True))
        return rows, columns

    def read(self, y: Tensor) -> Tensor:
        """What the kernels read: (B, K, H', W') -> (B, K, rows + k - 1, columns + k - 1)."""
        extents = [
            (start, start + n + self.kernel - 1) for start, n in zip(self.first, self.grid, strict=True)
        ]
        if self.circular:
            rows, columns = (
                torch.arange(*extent, device=y.device) % side
                for extent, side in zip(extents, self.maps, strict=True)
            )
            return y[..., rows[:, None], columns]
        (top, bottom), (left, right) = extents
        return functional.pad(y, (-left, right - self.maps[1], -top, bottom - self.maps[0]))

    def windows(self, y: Tensor) -> Tensor:
        """What is read for every block: (B, K, H', W') -> (B, K k k, rows, columns)."""
        read: Tensor = functional.unfold(self.read(y), self.kernel)
        return read.view(*read.shape[:2], *self.grid)

    def join(self, blocks: Tensor) -> Tensor:
        """(B, C s s', rows, columns) -> (B, C, H, W)."""
        rows, columns = self.grid
        split = blocks.view(len(blocks), -1, *self.stride, rows, columns).permute(0, 1, 4, 2, 5, 3)
        whole = split.reshape(*split.shape[:2], rows * self.stride[0], columns * self.stride[1])
        return whole[..., : self.image[0], : self.image[1]]

    def apply(self, kernel: Tensor, y: Tensor) -> Tensor:
        """G y: (C s s', K, k, k), (B, K, H', W') -> (B, C, H, W)."""
        return self.join(functional.conv2d(self.read(y), kernel))

    def parts(self) -> Iterator[tuple[Pair, list[Pair]]]:
        """The phases, grouped by the number of blocks (rows, columns) in which they lie inside the image."""
        found: dict[Pair, list[Pair]] = {}
        (height, width), (down, right) = self.image, self.stride
        for row in range(min(down, height)):
            for column in range(min(right, width)):
                extent = (-(-(height - row) // down), -(-(width - column) // right))
                found.setdefault(extent, []).append((row, column))
        yield from found.items()


def best_convolution(
    samples: Iterable[tuple[Tensor, Tensor]], layout: Layout, noise: float, count: int | None = None
) -> Tensor:
    """The kernel that minimises the mean over samples of |G (y + n) - x|^2, n white noise.

    The normal equations are summed up over the samples. Noise, which is expected and not drawn, is sigma^2
    times the number of the blocks for which an entry of the kernel reads inside y, on their diagonal. The
    columns of a root R of a covariance, R R^T = Sigma, are samples with `count` 1: they give the least E.

    Args:
        samples: (x, y) in double precision, `(B, C, H, W)` and `(B, K, H', W')`, y = W x without noise.
        layout: of the convolution; on the torus its kernel is no larger than y.
        noise: sigma > 0.
        count: number of the samples; by default counted.

    Returns:
        `(C s s', K, k, k)`. Entries that read no y are 0.
    """
    sums = [_Normal(layout, extent, phases) for extent, phases in layout.parts()]
    number, shape = 0, (0, 0)
    for x, y in samples:
        number, shape, windows = number + len(x), (x.shape[1], y.shape[1]), layout.windows(y)
        for part in sums:
            part.add(x, windows)
    (channels, maps), (down, right), side = shape, layout.stride, layout.kernel
    kernel = torch.zeros(channels, down, right, maps, side, side, dtype=torch.float64, device=sums[0].device)
    for part in sums:
        rows, columns = zip(*part.phases, strict=True)
        solved = part.solve(noise**2 * (number if count is None else count))  # (D, phases C)
        kernel[:, rows, columns] = solved.T.view(len(part.phases), channels, maps, side, side).transpose(0, 1)
    return kernel.flatten(0, 2)


class _Normal:
    """The normal equations of the phases that lie inside the image in the same blocks."""

    def __init__(self, layout: Layout, extent: Pair, phases: list[Pair]) -> None:
        self.layout, self.extent, self.phases = layout, extent, phases
        self.device: torch.device | None = None

    def add(self, x: Tensor, windows: Tensor) -> None:
        """Sum up u u^T and u x^T over samples and blocks."""
        (rows, columns), (down, right) = self.extent, self.layout.stride
        seen = windows[..., :rows, :columns].flatten(2).transpose(0, 1).flatten(1)  # (D, B blocks)
        wanted = torch.stack([x[:, :, r::down, c::right] for r, c in self.phases])  # (phases, B, C, ...)
        wanted = wanted.transpose(1, 2).flatten(0, 1).flatten(1)
        if self.device is None:
            self.device = x.device
            self.gram, self.cross = x.new_zeros(len(seen), len(seen)), x.new_zeros(len(seen), len(wanted))
        self.gram.addmm_(seen, seen.T)
        self.cross.addmm_(seen, wanted.T)

    def solve(self, power: float) -> Tensor:
        """The kernel of every phase, `(D, phases C)`."""
        rows, columns = self.extent
        everywhere = self.gram.new_ones(1, 1, *self.layout.maps)
        taps = self.layout.windows(everywhere)[0, :, :rows, :columns].sum((1, 2))
        times = taps.repeat(len(self.gram) // len(taps))
        gram = self.gram + torch.diag(torch.where(times > 0, power * times, 1))
        return torch.cholesky_solve(self.cross, torch.linalg.cholesky(gram))
