"""The padded image of a convolution, on which its boundaries are made circular."""

from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from invbench.operators.convolutions import Convolution, Pair
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
        sizes = zip(affine.out_shape[1:], kernel_size(affine), affine.stride, strict=True)
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
        x = functional.pad(z, (-left, width + left - columns, -top, height + top - rows))
        return x if unread is None else self.fill(x, unread)

    def fill(self, x: Tensor, unread: Tensor, factor: float = 1.0) -> Tensor:
        """The image with `factor * unread` where it is not on the canvas: (B, C, H, W) both."""
        (top, left), (_, rows, columns), (_, height, width) = self.offset, self.shape, self.image_shape
        if rows >= height + top and columns >= width + left:
            return x
        filled = factor * unread
        filled[..., : rows - top, : columns - left] = x[..., : rows - top, : columns - left]
        return filled

    def bare(self) -> "Canvas":
        """The canvas as an image of its own, without padding."""
        return replace(self, image_shape=self.shape, offset=(0, 0))

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


def kernel_size(affine: Convolution) -> Pair:
    """Sides of the window that a kernel spans, dilation included."""
    height, width = affine.weight.shape[2:]
    return (affine.dilation[0] * (height - 1) + 1, affine.dilation[1] * (width - 1) + 1)
