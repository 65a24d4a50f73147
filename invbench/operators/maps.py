"""What an affine map is, and those which are neither convolutions nor made by folding."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from invbench.errors import UserError

Shape = tuple[int, ...]


@runtime_checkable
class Affine(Protocol):
    """An affine map x -> W x + b of every instance of a batch, (B, *in_shape) -> (B, *out_shape).

    The adjoint obeys <W x, z> = <x, W^T z>. Everything is differentiable by autograd.
    """

    @property
    def in_shape(self) -> Shape:
        """Shape of one input."""

    @property
    def out_shape(self) -> Shape:
        """Shape of one output."""

    @property
    def multiply_adds(self) -> int:
        """Price of one application (or adjoint) for one instance.

        As in torch's own counter, matrix products and convolutions are counted, while biases, scalings and
        averages are free: the prices of the maps of a network add up to the price of the network.
        """

    def __call__(self, x: Tensor) -> Tensor:
        """W x + b: (B, *in_shape) -> (B, *out_shape)."""

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, *in_shape) -> (B, *out_shape)."""

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z: (B, *out_shape) -> (B, *in_shape)."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same map on another device or in another precision; itself where nothing changes."""


@dataclass(frozen=True, eq=False)
class Map:
    """A map without a bias and without a price, whose tensors are fields."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same map on another device or in another precision; itself where nothing changes."""
        tensors = {f.name: t for f in fields(self) if isinstance(t := getattr(self, f.name), Tensor)}
        moved: dict[str, Any] = {
            name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()
        }
        return self if all(moved[name] is tensors[name] for name in tensors) else replace(self, **moved)

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, *in_shape) -> (B, *out_shape)."""
        raise NotImplementedError

    def __call__(self, x: Tensor) -> Tensor:
        """W x + b with b = 0: (B, *in_shape) -> (B, *out_shape)."""
        return self.linear(x)

    @property
    def multiply_adds(self) -> int:
        """Zero: only matrix products and convolutions have a price."""
        return 0


@dataclass(frozen=True, eq=False)
class Dense(Map):
    """A matrix on the flattened input, (B, *in_shape) -> (B, K).

    Args:
        weight: (K, N), N the number of entries of an input.
        bias: (K,) or None.
        in_shape: shape of one input, N entries.
    """

    weight: Tensor
    bias: Tensor | None
    in_shape: Shape

    @property
    def out_shape(self) -> Shape:
        """(K,)."""
        return (self.weight.shape[0],)

    @property
    def multiply_adds(self) -> int:
        """K N."""
        return self.weight.numel()

    def __call__(self, x: Tensor) -> Tensor:
        """W x + b: (B, *in_shape) -> (B, K)."""
        return functional.linear(x.flatten(1), self.weight, self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, *in_shape) -> (B, K)."""
        return functional.linear(x.flatten(1), self.weight)

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z: (B, K) -> (B, *in_shape)."""
        return (z @ self.weight).reshape(len(z), *self.in_shape)


@dataclass(frozen=True, eq=False)
class Reshape(Map):
    """The same numbers in another shape, (B, *in_shape) -> (B, *out_shape), as in flattening."""

    in_shape: Shape
    out_shape: Shape

    def linear(self, x: Tensor) -> Tensor:
        """X in its new shape: (B, *in_shape) -> (B, *out_shape)."""
        return x.reshape(len(x), *self.out_shape)

    def adjoint(self, z: Tensor) -> Tensor:
        """Z in the old shape: (B, *out_shape) -> (B, *in_shape)."""
        return z.reshape(len(z), *self.in_shape)


@dataclass(frozen=True, eq=False)
class Diagonal(Map):
    """A scale and a shift of every entry, (B, *in_shape) -> (B, *in_shape): normalisation, identity.

    Args:
        in_shape: shape of one input.
        scale: broadcasts to in_shape: (C, 1, 1) for one scale a channel; None for 1.
        shift: broadcasts to in_shape; None for 0.
    """

    in_shape: Shape
    scale: Tensor | None = None
    shift: Tensor | None = None

    @property
    def out_shape(self) -> Shape:
        """That of the input."""
        return self.in_shape

    def __call__(self, x: Tensor) -> Tensor:
        """Scale x + shift: (B, *in_shape) -> (B, *in_shape)."""
        scaled = self.linear(x)
        return scaled if self.shift is None else scaled + self.shift

    def linear(self, x: Tensor) -> Tensor:
        """Scale x: (B, *in_shape) -> (B, *in_shape)."""
        return x if self.scale is None else x * self.scale

    def adjoint(self, z: Tensor) -> Tensor:
        """Scale z: (B, *in_shape) -> (B, *in_shape)."""
        return self.linear(z)


@dataclass(frozen=True, eq=False)
class Composition(Map):
    """Several maps one after the other, the first of `maps` first. Prefer `compose`, which folds."""

    maps: tuple[Affine, ...]

    @property
    def in_shape(self) -> Shape:
        """That of the first map."""
        return self.maps[0].in_shape

    @property
    def out_shape(self) -> Shape:
        """That of the last map."""
        return self.maps[-1].out_shape

    @property
    def multiply_adds(self) -> int:
        """The sum over the maps."""
        return sum(one.multiply_adds for one in self.maps)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same map on another device or in another precision."""
        return replace(self, maps=tuple(one.to(device, dtype) for one in self.maps))

    def __call__(self, x: Tensor) -> Tensor:
        """All maps in turn: (B, *in_shape) -> (B, *out_shape)."""
        for one in self.maps:
            x = one(x)
        return x

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, *in_shape) -> (B, *out_shape)."""
        for one in self.maps:
            x = one.linear(x)
        return x

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z: (B, *out_shape) -> (B, *in_shape), through the maps in reverse order."""
        for one in reversed(self.maps):
            z = one.adjoint(z)
        return z


class Normalise(nn.Module):
    """Normalisation of images by a mean and a standard deviation per channel: x -> (x - mean) / std.

    Args:
        mean: one number a channel, in the units of x.
        std: one positive number a channel.

    Raises:
        UserError: where the two differ in length or a deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        super().__init__()
        centre, spread = (torch.as_tensor(v, dtype=torch.get_default_dtype()).flatten() for v in (mean, std))
        if len(centre) != len(spread) or not bool((spread > 0).all()):
            raise UserError(f"Normalise needs one mean and one positive std a channel, not {mean} and {std}.")
        self.register_buffer("mean", centre[:, None, None])
        self.register_buffer("std", spread[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / std: (B, C, H, W) -> (B, C, H, W)."""
        return (x - self.mean) / self.std


class Rescale(nn.Module):
    """Every element of an instance times a factor of its own: x -> factor * x.

    Args:
        factor: (C, H, W), or a shape that broadcasts to it.
    """

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        """Factor * x: (B, C, H, W) -> (B, C, H, W)."""
        return self.factor * x
