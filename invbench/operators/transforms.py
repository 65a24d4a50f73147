"""The Fourier transform between images and the spectra of their polyphase channels, in two ways."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invbench.operators.canvas import Canvas

# Images of at most so many pixels are transformed by matrix products. There an FFT, whose lines are too short
# to fill the vector units, moves more bytes than it computes, and embedding and cropping are passes as long.
DIRECT_PIXELS = 100


@dataclass(frozen=True, eq=False)
class FastTransform:
    """Real FFTs of the canvas.

    Args:
        canvas: the image in its padding.
    """

    canvas: Canvas

    @property
    def multiply_adds(self) -> int:
        """Price of both ways for one instance: 5/4 n log2 n for each real FFT of a channel of n pixels."""
        pixels = math.prod(self.canvas.grid)
        channels = self.canvas.image_shape[0] * math.prod(self.canvas.stride)
        return channels * (5 * pixels * (pixels - 1).bit_length()) // 2

    def forward(self, r: Tensor) -> Tensor:
        """Spectra on half the grid, flattened: (B, C, H, W) -> (B, C s s', N (N' // 2 + 1)), complex."""
        phases = self.canvas.split(self.canvas.embed(r))
        spectra: Tensor = torch.fft.rfft2(phases)
        return spectra.flatten(-2).flatten(1, 3)

    def backward(self, spectra: Tensor) -> Tensor:
        """The image of spectra, 0 at unread pixels: (B, C s s', N (N' // 2 + 1)) -> (B, C, H, W)."""
        rows, columns = self.canvas.grid
        half = spectra.reshape(len(spectra), -1, *self.canvas.stride, rows, columns // 2 + 1)
        return self.canvas.crop(self.canvas.join(torch.fft.irfft2(half, s=(rows, columns))))


@dataclass(frozen=True, eq=False)
class MatrixTransform:
    """The same maps as matrices, which act on every channel; embedding and cropping are part of them.

    Args:
        canvas: the image in its padding.
        analysis: from pixels to the real and imaginary parts, in turn, (H W, 2 s s' N (N' // 2 + 1)).
        synthesis: back, the transposed shape.
    """

    canvas: Canvas
    analysis: Tensor
    synthesis: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, canvas: Canvas, like: Tensor) -> "MatrixTransform":
        """What the FFTs make of unit images and unit spectra; precision and device are those of `like`."""
        channel = replace(canvas, image_shape=(1, *canvas.image_shape[1:]))
        fast, pixels = FastTransform(channel), math.prod(channel.image_shape)
        images = torch.eye(pixels, dtype=torch.float64, device=like.device)
        spectra = fast.forward(images.view(pixels, *channel.image_shape))
        units = torch.eye(2 * spectra[0].numel(), dtype=torch.float64, device=like.device)
        pictures = fast.backward(torch.view_as_complex(units.view(len(units), *spectra.shape[1:], 2)))
        return cls(canvas, torch.view_as_real(spectra).flatten(1).to(like), pictures.flatten(1).to(like))

    @property
    def multiply_adds(self) -> int:
        """Price of both ways for one instance: both matrices for every channel."""
        return self.canvas.image_shape[0] * (self.analysis.numel() + self.synthesis.numel())

    def forward(self, r: Tensor) -> Tensor:
        """See `FastTransform`."""
        parts = r.flatten(2) @ self.analysis
        phases = math.prod(self.canvas.stride)
        return torch.view_as_complex(parts.view(len(r), r.shape[1] * phases, -1, 2))

    def backward(self, spectra: Tensor) -> Tensor:
        """See `FastTransform`."""
        parts = torch.view_as_real(spectra).reshape(len(spectra), self.canvas.image_shape[0], -1)
        return (parts @ self.synthesis).view(len(spectra), *self.canvas.image_shape)


Transform = FastTransform | MatrixTransform


def transform(canvas: Canvas, like: Tensor) -> Transform:
    """The quicker of the two for a canvas, in the precision and on the device of `like`."""
    small = math.prod(canvas.image_shape[1:]) <= DIRECT_PIXELS
    return MatrixTransform.of(canvas, like) if small else FastTransform(canvas)
