"""What follows an affine map in a stage of a network: forward evaluation of activations and poolings."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]
Pair = tuple[int, int]


class Activation(Protocol):
    """A non-linear map without weights, (B, *shape) -> (B, *out_shape(shape))."""

    def __call__(self, p: Tensor) -> Tensor:
        """The activation of p: (B, *shape) -> (B, *out_shape(shape))."""

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of one output for one input of the given shape."""


class _Pointwise:
    """An activation that keeps the shape."""

    def out_shape(self, shape: Shape) -> Shape:
        """That of the input."""
        return shape


@dataclass(frozen=True)
class Identity(_Pointwise):
    """No activation: act(p) = p."""

    def __call__(self, p: Tensor) -> Tensor:
        """P itself."""
        return p


@dataclass(frozen=True)
class ReLU(_Pointwise):
    """act(p) = max(p, 0) + slope min(p, 0).

    Args:
        slope: 0 for the rectifier, above 0 for a leaky one.
    """

    slope: float = 0.0

    def __call__(self, p: Tensor) -> Tensor:
        """The activation of every entry: (B, *shape) -> (B, *shape)."""
        return functional.leaky_relu(p, self.slope) if self.slope else functional.relu(p)


@dataclass(frozen=True)
class MaxPool:
    """The largest value of every window, (B, C, H, W) -> (B, C, H', W'). Padding never wins.

    Args:
        kernel: size of a window (height, width).
        stride: steps (vertical, horizontal); windows overlap where it is below the kernel.
        padding: empty places on both sides (vertical, horizontal), at most half the kernel.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def __call__(self, p: Tensor) -> Tensor:
        """The largest values: (B, C, H, W) -> (B, C, H', W')."""
        return functional.max_pool2d(p, self.kernel, self.stride, self.padding)

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H', W') for (C, H, W)."""
        sides = zip(shape[-2:], self.kernel, self.stride, self.padding, strict=True)
        return (*shape[:-2], *((n + 2 * p - k) // s + 1 for n, k, s, p in sides))


@dataclass(frozen=True)
class ReLUMaxPool(MaxPool):
    """max(largest value of a window, 0): rectifier and max-pooling, which commute, in one."""

    def __call__(self, p: Tensor) -> Tensor:
        """The largest values, at least 0: (B, C, H, W) -> (B, C, H', W')."""
        return functional.relu(super().__call__(p))


@dataclass(frozen=True)
class LocalResponseNorm(_Pointwise):
    """Normalisation across channels: p_c / (k + alpha / n sum of p_j^2 over the n channels around c)^beta.

    Args:
        size: number of channels n in the sum.
        alpha: weight of the sum.
        beta: exponent.
        k: what is added to the sum.

    References:
        Krizhevsky, Sutskever, Hinton 2012, "ImageNet classification with deep convolutional neural
        networks", 3.3; as in torch, alpha is divided by n here and not there.
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __call__(self, p: Tensor) -> Tensor:
        """The normalised p: (B, C, H, W) -> (B, C, H, W)."""
        return functional.local_response_norm(p, self.size, self.alpha, self.beta, self.k)
