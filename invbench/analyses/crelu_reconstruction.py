"""What CReLU loses of an image: nothing, where the filters are a tight frame."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from invbench.analyses.contract import Analysis, Plot, Row
from invbench.errors import UserError
from invbench.solver import Count
from invbench.trials.contract import Scene

#: Shares of the coefficients that are kept, the largest ones.
KEPT = (1.0, 0.5, 0.25, 0.1, 0.05)
#: Images that are reconstructed at a time.
CHUNK = 4


@dataclass(frozen=True, kw_only=True)
class CReLUReconstruction(Analysis):
    """Error of x_hat = W^T (relu(Wx) - relu(-Wx)), and of what loses more, on images.

    CReLU keeps the positive and the negative part of h = Wx apart, (relu(h), relu(-h)), and their difference
    is h. So the decoder [W^T, -W^T] gives x_hat = W^T W x. Proposition 1 says that for an orthonormal basis W
    the reconstruction is exact, whatever x is. The proof needs no more than W^T W = I, so it holds for tight
    frames, too, where W has more rows than columns. Measured in float64 is |x_hat - x| / |x|

    - for `orthonormal` filters, for which W^T W = I, and for `gaussian` ones of the same expected norm, for
      which that is true on average alone;
    - on `patches`, tiles of the image that do not overlap, so that W is a dense matrix applied to each, and
      for the `convolution` with stride 1 and a circular boundary;
    - after CReLU and after a plain ReLU, which loses the negative part: x_hat = W^T relu(Wx);
    - with all coefficients, and with only a share of them, the largest of each image.

    Of every image its mean is taken off first, which would stand for most of the norm, and its sides are cut
    to multiples of the kernel.

    Attributes:
        kernel: side of the filters.
        redundancy: rows of W over columns, for patches; 1 is an orthonormal basis. The convolution has the
            same number of filters, and so kernel^2 times the redundancy.

    References:
        Gilbert et al., Towards understanding the invertibility of convolutional neural networks, 2017,
        Proposition 1. CReLU: Shang et al., Understanding and improving convolutional neural networks via
        concatenated rectified linear units, ICML 2016.
    """

    plot: ClassVar = Plot(x="kept", y="error", lines="filters", panels="activation", log_x=True)

    kernel: Count = 4
    redundancy: Annotated[float, Ge(1)] = 2.0

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        side = min(scene.images.pixels.shape[2:])
        if self.kernel > side:
            raise UserError(f"kernel is {self.kernel}, but the images have {side} px: set a smaller kernel")

    @torch.no_grad()
    def measure(self, scene: Scene) -> list[Row]:
        """Rows (filters, activation, kept, error, worst, rescaled).

        `filters` are "orthonormal patches", "orthonormal convolution" and the same with "gaussian". `kept` is
        the share of the rows of W whose coefficients are kept. `error` is the mean over the images, `worst`
        the largest of them, and `rescaled` the mean where x_hat is given the norm of x, as in table 4 of the
        paper. Images without contrast do not count.
        """
        self.check(scene)
        generator = torch.Generator().manual_seed(scene.seed)
        channels, device = scene.images.pixels.shape[1], scene.images.pixels.device
        rows: list[Row] = []
        for kind in ("orthonormal", "gaussian"):
            size = channels * self.kernel**2
            matrix = _MATRICES[kind](math.ceil(self.redundancy * size), size, generator).to(device)
            filters = matrix.reshape(-1, channels, self.kernel, self.kernel)
            for place, stride in (("patches", self.kernel), ("convolution", 1)):
                frame = Frame.of(filters, stride)
                rows += _rows(f"{kind} {place}", frame, scene.images.pixels)
        return rows


@dataclass(frozen=True)
class Frame:
    """W, a correlation with circular boundary: rows are the filters at every place of a grid.

    Attributes:
        weight: `(K, M, k, k)`.
        stride: step of the grid, a divisor of k; k itself tiles the image.
    """

    weight: Tensor
    stride: int

    @classmethod
    def of(cls, filters: Tensor, stride: int) -> "Frame":
        """The frame whose W^T W is I if Q^T Q is, where Q are the filters as a matrix, (K, M k k).

        With P_p the window at p and filters a Q, W^T W = a^2 sum_p P_p^T Q^T Q P_p = a^2 sum_p P_p^T P_p.
        The windows at all places of the grid cover every pixel (k / stride)^2 times; so a = stride / k.
        """
        return cls(filters * (stride / filters.shape[-1]), stride)

    def analyse(self, x: Tensor) -> Tensor:
        """W x, `(B, M, H, W)` -> `(B, K, H / stride, W / stride)`; stride divides both sides."""
        border = self.weight.shape[-1] - self.stride
        padded = functional.pad(x, (0, border, 0, border), mode="circular")
        h: Tensor = functional.conv2d(padded, self.weight, stride=self.stride)
        return h

    def synthesise(self, h: Tensor) -> Tensor:
        """W^T h, `(B, K, h, w)` -> `(B, M, stride h, stride w)`."""
        padded: Tensor = functional.conv_transpose2d(h, self.weight, stride=self.stride)
        for axis, side in ((2, h.shape[2] * self.stride), (3, h.shape[3] * self.stride)):
            border = padded.shape[axis] - side
            padded.narrow(axis, 0, border).add_(padded.narrow(axis, side, border))
            padded = padded.narrow(axis, 0, side)
        return padded


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random tall matrix with Q^T Q = I, `(rows, columns)` float64, of uniform distribution."""
    basis, triangle = torch.linalg.qr(gaussian(rows, columns, generator))
    signed: Tensor = basis * triangle.diagonal().sign()
    return signed


def gaussian(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random matrix with E Q^T Q = I, `(rows, columns)` float64: entries of variance 1 / rows."""
    scale: float = rows**-0.5
    return scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


_MATRICES = {"orthonormal": orthonormal, "gaussian": gaussian}


def _rows(filters: str, frame: Frame, pixels: Tensor) -> Iterator[Row]:
    found: dict[tuple[str, float], list[tuple[Tensor, Tensor]]] = {}
    for part in torch.split(pixels, CHUNK):
        x = _centred(part, frame.weight.shape[-1])
        h = frame.analyse(x)
        for activation, signed in (("crelu", h.relu() - (-h).relu()), ("relu", h.relu())):
            ranked = signed.abs().flatten(1).sort(dim=1, descending=True).values
            for share in KEPT:
                kept = _largest(signed, ranked, share)
                errors = relative_errors(frame.synthesise(kept), x)
                found.setdefault((activation, share), []).append(errors)
    for (activation, share), parts in found.items():
        error, rescaled = (torch.cat(values) for values in zip(*parts, strict=True))
        yield {
            "filters": filters,
            "activation": activation,
            "kept": share,
            "error": float(error.mean()),
            "worst": float(error.max()) if len(error) else math.nan,
            "rescaled": float(rescaled.mean()),
        }


def _centred(pixels: Tensor, kernel: int) -> Tensor:
    """Images less their means in float64, cut to multiples of the kernel: (B, C, H, W) -> (B, C, H', W')."""
    height, width = (side - side % kernel for side in pixels.shape[2:])
    x = pixels[:, :, :height, :width].double()
    return x - x.mean(dim=(1, 2, 3), keepdim=True)


def _largest(h: Tensor, ranked: Tensor, share: float) -> Tensor:
    """The share of the coefficients of each instance that are largest, the others 0; equal ones all stay."""
    count = max(1, round(share * ranked.shape[1]))
    least = ranked[:, count - 1].reshape(-1, *[1] * (h.dim() - 1))
    return torch.where(h.abs() >= least, h, 0)


def relative_errors(found: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """|x_hat - x| / |x| of each instance that is not 0, as found, and with x_hat scaled to the norm of x.

    Args:
        found: x_hat, `(B, ...)`.
        x: `(B, ...)`.

    Returns:
        Two tensors with an entry for each instance with |x| > 0. An x_hat of 0 stays 0.
    """
    counts = x.flatten(1).norm(dim=1) > 0
    found, x = found.flatten(1)[counts], x.flatten(1)[counts]
    norm, length = x.norm(dim=1, keepdim=True), found.norm(dim=1, keepdim=True)
    scaled = torch.where(length > 0, found * (norm / length), 0)
    error, rescaled = ((guess - x).norm(dim=1) / norm[:, 0] for guess in (found, scaled))
    return error, rescaled
