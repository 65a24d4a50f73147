"""Affine maps of images whose windows slide: convolution, transposed convolution, average pooling."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from invbench.operators.maps import Map, Shape

Pair = tuple[int, int]

FEW_CHANNELS = 4  # at most so many: the adjoint of a convolution works on blocks of 2 x 2 pixels


def _with_bias(convolve: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    """One bias a channel is added by the convolution itself, a full one after it."""
    return convolve(x, bias) if bias is None or bias.ndim == 1 else convolve(x, None) + bias


@dataclass(frozen=True, eq=False)
class Convolution(Map):
    """A 2-d cross-correlation with zero padding, (B, C, H, W) -> (B, K, H', W').

    Args:
        weight: (K, C / groups, kernel height, kernel width).
        bias: None, (K,), or (K, H', W'), which absorbs a normalisation of the input at padded borders.
        in_shape: (C, H, W).
        stride: steps (vertical, horizontal).
        padding: zeros on both sides (vertical, horizontal).
        dilation: distance of kernel entries (vertical, horizontal).
        groups: number of blocks of channels which do not see each other.
    """

    weight: Tensor
    bias: Tensor | None
    in_shape: Shape
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def _span(self, axis: int) -> int:
        """Distance from the first window to the last possible one, in pixels."""
        kernel = self.dilation[axis] * (self.weight.shape[2 + axis] - 1) + 1
        return self.in_shape[1 + axis] + 2 * self.padding[axis] - kernel

    @property
    def out_shape(self) -> Shape:
        """(K, H', W')."""
        height, width = (self._span(axis) // self.stride[axis] + 1 for axis in (0, 1))
        return (self.weight.shape[0], height, width)

    @property
    def multiply_adds(self) -> int:
        """H' W' times the number of weights."""
        return math.prod(self.out_shape[1:]) * self.weight.numel()

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def __call__(self, x: Tensor) -> Tensor:
        """W x + b: (B, C, H, W) -> (B, K, H', W')."""
        return _with_bias(self._convolve, x, self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, C, H, W) -> (B, K, H', W')."""
        return self._convolve(x, None)

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z: (B, K, H', W') -> (B, C, H, W), zero at rows and columns which the stride leaves unread."""
        if self._spreads_to_few():
            return self._adjoint_in_pairs(z)
        unread = [self._span(axis) % self.stride[axis] for axis in (0, 1)]
        return functional.conv_transpose2d(
            z, self.weight, None, self.stride, self.padding, unread, self.groups, self.dilation
        )

    def _spreads_to_few(self) -> bool:
        """Whether W^T has so few channels to write that it is quicker for 2 x 2 pixels at once."""
        plain = self.stride == self.dilation == (1, 1) and self.groups == 1
        kernel, sides = self.weight.shape[2:], self.in_shape[1:]
        covered = all(pad < side for pad, side in zip(self.padding, kernel, strict=True))
        return plain and covered and self.in_shape[0] <= FEW_CHANNELS and not any(n % 2 for n in sides)

    def _adjoint_in_pairs(self, z: Tensor) -> Tensor:
        """W^T z as a convolution with stride 2, whose channels are the 2 x 2 pixels of a block.

        Vector units work on 8 or 16 channels at once and idle where there are 3: with 12 it takes half the
        time, although the kernels grow by a row and a column of zeros.
        """
        flipped = self.weight.flip(2, 3).transpose(0, 1)
        shifts = [(j, 1 - j, i, 1 - i) for i in (0, 1) for j in (0, 1)]
        kernel = torch.stack([functional.pad(flipped, shift) for shift in shifts], dim=1).flatten(0, 1)
        rest = [side - 1 - pad for side, pad in zip(self.weight.shape[2:], self.padding, strict=True)]
        return functional.pixel_shuffle(functional.conv2d(z, kernel, None, 2, rest), 2)


@dataclass(frozen=True, eq=False)
class TransposedConvolution(Map):
    """The adjoint of a convolution used forwards ("deconvolution"), (B, C, H, W) -> (B, K, H', W').

    Args:
        weight: (C, K / groups, kernel height, kernel width).
        bias: None, (K,), or (K, H', W').
        in_shape: (C, H, W).
        stride: distance of the kernel's copies (vertical, horizontal).
        padding: rows and columns cut from both sides (vertical, horizontal).
        output_padding: rows and columns added at the bottom and at the right.
        dilation: distance of kernel entries (vertical, horizontal).
        groups: number of blocks of channels which do not see each other.
    """

    weight: Tensor
    bias: Tensor | None
    in_shape: Shape
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def _side(self, axis: int) -> int:
        kernel = self.dilation[axis] * (self.weight.shape[2 + axis] - 1) + 1
        covered = self.stride[axis] * (self.in_shape[1 + axis] - 1) + kernel
        return covered - 2 * self.padding[axis] + self.output_padding[axis]

    @property
    def out_shape(self) -> Shape:
        """(K, H', W')."""
        return (self.weight.shape[1] * self.groups, self._side(0), self._side(1))

    @property
    def multiply_adds(self) -> int:
        """H W times the number of weights."""
        return math.prod(self.in_shape[1:]) * self.weight.numel()

    @property
    def _is_1d(self) -> bool:
        """Whether all maps are single columns: as 1-d signals they take about two thirds of the time."""
        return (
            self.in_shape[2] == self.weight.shape[3] == 1 and self.padding[1] == self.output_padding[1] == 0
        )

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self._is_1d:
            (stride, _), (padding, _), (more, _), (dilation, _) = (
                self.stride, self.padding, self.output_padding, self.dilation
            )  # fmt: skip
            return functional.conv_transpose1d(
                x[..., 0], self.weight[..., 0], bias, stride, padding, more, self.groups, dilation
            ).unsqueeze(3)
        return functional.conv_transpose2d(
            x, self.weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def __call__(self, x: Tensor) -> Tensor:
        """W x + b: (B, C, H, W) -> (B, K, H', W')."""
        return _with_bias(self._convolve, x, self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, C, H, W) -> (B, K, H', W')."""
        return self._convolve(x, None)

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z: (B, K, H', W') -> (B, C, H, W)."""
        _, height, width = self.in_shape
        if self._is_1d:
            stride, padding, dilation = self.stride[0], self.padding[0], self.dilation[0]
            z, weight = z[..., 0], self.weight[..., 0]
            x = functional.conv1d(z, weight, None, stride, padding, dilation, self.groups)
            return x[:, :, :height].unsqueeze(3)
        x = functional.conv2d(z, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return x[:, :, :height, :width]  # an output padding beyond the stride makes room for further windows


@dataclass(frozen=True, eq=False)
class AveragePooling(Map):
    """The mean over windows of every channel, (B, C, H, W) -> (B, C, H', W').

    Args:
        in_shape: (C, H, W).
        kernel: size of a window (height, width).
        stride: steps (vertical, horizontal).
        padding: zeros on both sides (vertical, horizontal).
        count_include_pad: whether padding counts in the number of pixels that the sum is divided by.
    """

    in_shape: Shape
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    count_include_pad: bool = True

    @property
    def out_shape(self) -> Shape:
        """(C, H', W')."""
        sides = zip(self.in_shape[1:], self.kernel, self.stride, self.padding, strict=True)
        return (self.in_shape[0], *((n + 2 * p - k) // s + 1 for n, k, s, p in sides))

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, C, H, W) -> (B, C, H', W')."""
        return functional.avg_pool2d(
            x, self.kernel, self.stride, self.padding, count_include_pad=self.count_include_pad
        )

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z: (B, C, H', W') -> (B, C, H, W), every output spread evenly over its window."""
        like = z.new_empty(len(z), *self.in_shape)
        window = (self.kernel, self.stride, self.padding, False, self.count_include_pad, None)
        spread: Tensor = torch.ops.aten.avg_pool2d_backward(z, like, *window)
        return spread
