"""The gram matrix of a convolution with circular boundaries, inverted frequency by frequency."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from invbench.operators.convolutions import Convolution, Pair
from invbench.operators.factorisation import BlockInverse, invert
from invbench.operators.maps import Shape


@dataclass(frozen=True, eq=False)
class Canvas:
    """The image of a convolution in its padding: what all windows together read, and nothing else.

    With stride s, effective kernel k (dilation included), k' = s ceil(k / s) and H' outputs, a side has
    L = s (H' - 1) + k' pixels: a multiple of s, on which the strided convolution is one with stride 1 of the
    s^2 polyphase channels, over a grid of N = L / s. Pixels which the stride leaves unread, at the bottom and
    on the right of the image, are not on the canvas.

    Args:
        image_shape: (C, H, W).
        offset: first pixel of the image on the canvas (vertical, horizontal), the padding.
        stride: polyphase steps (vertical, horizontal).
        grid: N (vertical, horizontal).
    """

    image_shape: Shape
    offset: Pair
    stride: Pair
    grid: Pair

    @classmethod
    def of(cls, affine: Convolution) -> "Canvas":
        """The canvas of a convolution."""
        sizes = zip(affine.out_shape[1:], _kernel_size(affine), affine.stride, strict=True)
        rows, columns = (outputs - 1 + -(-kernel // step) for outputs, kernel, step in sizes)
        return cls(affine.in_shape, affine.padding, affine.stride, (rows, columns))

    @property
    def shape(self) -> Shape:
        """(C, L, L')."""
        return (self.image_shape[0], self.grid[0] * self.stride[0], self.grid[1] * self.stride[1])

    def embed(self, x: Tensor) -> Tensor:
        """The image with zeros around it, without its unread pixels: (B, C, H, W) -> (B, C, L, L')."""
        (top, left), (_, rows, columns), (_, height, width) = self.offset, self.shape, self.image_shape
        return functional.pad(x, (left, columns - width - left, top, rows - height - top))

    def crop(self, z: Tensor, unread: Tensor | None = None) -> Tensor:
        """The image on a canvas: (B, C, L, L') -> (B, C, H, W), the adjoint of `embed`.

        Args:
            z: the canvas.
            unread: (B, C, H, W), whose values fill the pixels that are not on the canvas; None for 0.
        """
        (top, left), (_, rows, columns), (_, height, width) = self.offset, self.shape, self.image_shape
        if unread is None or (rows >= height + top and columns >= width + left):
            return functional.pad(z, (-left, width + left - columns, -top, height + top - rows))
        x = unread.clone()
        x[..., : rows - top, : columns - left] = z[..., top : top + height, left : left + width]
        return x

    def split(self, z: Tensor) -> Tensor:
        """Polyphase channels: (B, C, L, L') -> (B, C, s, s', N, N')."""
        (rows, columns), (down, across) = self.grid, self.stride
        return z.reshape(len(z), -1, rows, down, columns, across).permute(0, 1, 3, 5, 2, 4)

    def join(self, phases: Tensor) -> Tensor:
        """The inverse of `split`: (B, C, s, s', N, N') -> (B, C, L, L')."""
        return phases.permute(0, 1, 4, 2, 5, 3).reshape(len(phases), *self.shape)

    def unpadded(self, affine: Convolution) -> Convolution:
        """The same convolution from the canvas, with the same outputs and no padding."""
        return replace(affine, in_shape=self.shape, padding=(0, 0))


@dataclass(frozen=True, eq=False)
class CircularInverse:
    """(alpha I + beta W^T W)^-1 on the canvas, W the convolution with circular boundaries.

    W is block-diagonal over frequencies and groups, its (K / groups) x D blocks, D = C s^2 / groups, are the
    conjugate spectrum of the kernel's polyphase channels.

    References:
        Wong & Kolter 2017, "Neural network inversion beyond gradient descent", who solve the gram systems
        with the FFT. Ours takes strides (by polyphase channels), groups and dilation, too.
    """

    canvas: Canvas
    blocks: BlockInverse
    groups: int

    @classmethod
    def of(cls, affine: Convolution, alpha: float, beta: float) -> "CircularInverse":
        """Factorise the gram matrix of a convolution in double precision, to be applied in its own."""
        canvas = Canvas.of(affine)
        blocks = invert(_spectrum(affine, canvas), alpha, beta, affine.weight.dtype.to_complex())
        return cls(canvas, blocks, affine.groups)

    @property
    def multiply_adds(self) -> int:
        """The blocks, and 5/4 n log2 n for each real FFT of a polyphase channel of n pixels."""
        pixels = self.canvas.grid[0] * self.canvas.grid[1]
        channels = self.canvas.image_shape[0] * self.canvas.stride[0] * self.canvas.stride[1]
        return self.blocks.multiply_adds + channels * (5 * pixels * (pixels - 1).bit_length()) // 2

    def __call__(self, r: Tensor) -> Tensor:
        """Apply the inverse: (B, C, L, L') -> (B, C, L, L')."""
        phases = self.canvas.split(r)
        spectrum = torch.fft.rfft2(phases)
        # every frequency and group multiplies a contiguous batch of rows: (N N'/2, groups, B, D)
        rows = spectrum.reshape(len(r), self.groups, -1, spectrum.shape[-2] * spectrum.shape[-1])
        solved = self.blocks(rows.permute(3, 1, 0, 2).contiguous())
        columns = solved.permute(2, 1, 3, 0).contiguous().reshape(spectrum.shape)
        return self.canvas.join(torch.fft.irfft2(columns, s=self.canvas.grid))


def _kernel_size(affine: Convolution) -> Pair:
    """Sides of the window that a kernel spans, dilation included."""
    height, width = affine.weight.shape[2:]
    return (affine.dilation[0] * (height - 1) + 1, affine.dilation[1] * (width - 1) + 1)


@torch.no_grad()
def _spectrum(affine: Convolution, canvas: Canvas) -> Tensor:
    """The circular convolution at every frequency of the half grid, (N N'/2, groups, K / groups, D)."""
    weight = affine.weight.double()
    kernel = weight.new_zeros(*weight.shape[:2], *_kernel_size(affine))
    kernel[..., :: affine.dilation[0], :: affine.dilation[1]] = weight
    down, across = (-side % step for side, step in zip(kernel.shape[2:], affine.stride, strict=True))
    kernel = functional.pad(kernel, (0, across, 0, down))
    rows, columns = (side // step for side, step in zip(kernel.shape[2:], affine.stride, strict=True))
    phases = replace(canvas, grid=(rows, columns)).split(kernel)
    spectrum: Tensor = torch.fft.rfft2(phases, s=canvas.grid).conj()  # a correlation
    outputs = weight.shape[0] // affine.groups
    size = weight.shape[1] * affine.stride[0] * affine.stride[1]
    return spectrum.reshape(affine.groups, outputs, size, -1).permute(3, 0, 1, 2)
