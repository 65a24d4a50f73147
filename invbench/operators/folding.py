"""Composition of affine maps into as few as is exact."""

from dataclasses import replace

import torch
from torch import Tensor

from invbench.operators.convolutions import Convolution, TransposedConvolution
from invbench.operators.maps import Affine, Composition, Dense, Diagonal, Reshape

Windowed = Convolution | TransposedConvolution


def compose(first: Affine, second: Affine) -> Affine:
    """The map x -> second(first(x)), folded into as few maps as is exact.

    A scale and shift after a dense map or a convolution go into its weight and bias, and so do those before
    one; a shift before a convolution with zero padding makes the bias a full tensor, as padded borders see
    less of it. A reshape before a dense map vanishes. What does not fold becomes a `Composition`.

    Raises:
        ValueError: where the output of `first` is no input of `second`.
    """
    if first.out_shape != second.in_shape:
        raise ValueError(f"a map to {first.out_shape} cannot be followed by one from {second.in_shape}")
    maps = list(_parts(first))
    for one in _parts(second):
        maps.append(one)
        while len(maps) > 1 and (folded := _fold(*maps[-2:])) is not None:
            maps[-2:] = [folded]
    return maps[0] if len(maps) == 1 else Composition(tuple(maps))


def _parts(affine: Affine) -> tuple[Affine, ...]:
    return affine.maps if isinstance(affine, Composition) else (affine,)


@torch.no_grad()
def _fold(first: Affine, second: Affine) -> Affine | None:
    """One map equal to `second` after `first`, or None where there is none of a known kind."""
    if _changes_nothing(first):
        return second
    if _changes_nothing(second):
        return first
    match first, second:
        case Reshape(), Reshape():
            return Reshape(first.in_shape, second.out_shape)
        case Reshape(), Dense():
            return replace(second, in_shape=first.in_shape)
        case Diagonal(), Diagonal():
            return _product(first, second)
        case Diagonal(), Dense():
            weight = second.weight * _scales(first, second.weight)
            return replace(second, weight=weight, bias=_value_at_zero(first, second, weight))
        case Dense(), Diagonal():
            weight = first.weight * _scales(second, first.weight)[:, None]
            return replace(first, weight=weight, bias=_value_at_zero(first, second, weight))
        case Diagonal(), Convolution() | TransposedConvolution() if _per_channel(first.scale):
            return _scaled_before(first, second)
        case Convolution() | TransposedConvolution(), Diagonal() if _per_channel(second.scale):
            return _scaled_after(first, second)
    return None


def _changes_nothing(affine: Affine) -> bool:
    if isinstance(affine, Diagonal):
        return affine.scale is None and affine.shift is None
    return isinstance(affine, Reshape) and affine.in_shape == affine.out_shape


def _product(first: Diagonal, second: Diagonal) -> Diagonal:
    """s2 (s1 x + t1) + t2 = (s2 s1) x + (s2 t1 + t2)."""
    scale = second.scale if first.scale is None else second.linear(first.scale)
    shift = second.shift if first.shift is None else second(first.shift)
    return replace(first, scale=scale, shift=shift)


def _scaled_before(first: Diagonal, second: Windowed) -> Windowed:
    """A convolution that scales and shifts its input; a shift does not reach into the padding."""
    convolution = isinstance(second, Convolution)
    weight = _scaled_weight(second, first.scale, axis=1 if convolution else 0)
    everywhere = convolution and second.padding == (0, 0) and _per_channel(first.shift)
    bias = _value_at_zero(first, second, weight)
    uniform = _one_a_channel(second.bias) and (first.shift is None or everywhere)
    return replace(second, weight=weight, bias=bias[:, 0, 0].clone() if uniform else bias)


def _scaled_after(first: Windowed, second: Diagonal) -> Windowed:
    """A convolution that scales and shifts its output."""
    weight = _scaled_weight(first, second.scale, axis=0 if isinstance(first, Convolution) else 1)
    bias = _value_at_zero(first, second, weight)
    uniform = _one_a_channel(first.bias) and _per_channel(second.shift)
    return replace(first, weight=weight, bias=bias[:, 0, 0].clone() if uniform else bias)


def _scaled_weight(windowed: Windowed, scale: Tensor | None, axis: int) -> Tensor:
    """The weight with every channel of `axis` scaled: 0 counts channels over all groups, 1 within a group."""
    if scale is None:
        return windowed.weight
    groups, weight = windowed.groups, windowed.weight
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    channels = scale.expand(groups * grouped.shape[1 + axis], 1, 1)
    shape = (groups, -1, 1, 1, 1) if axis == 0 else (groups, 1, -1, 1, 1)
    return (grouped * channels.reshape(shape)).flatten(0, 1)


def _per_channel(values: Tensor | None) -> bool:
    """Whether values that broadcast to (C, H, W) are the same all over a channel."""
    return values is None or all(side == 1 for side in values.shape[-2:])


def _one_a_channel(bias: Tensor | None) -> bool:
    """Whether the bias of a convolution is (K,) rather than (K, H, W)."""
    return bias is None or bias.ndim == 1


def _scales(diagonal: Diagonal, like: Tensor) -> Tensor:
    """The scale of every entry, flattened: (N,)."""
    scale = like.new_ones(()) if diagonal.scale is None else diagonal.scale
    return scale.expand(diagonal.in_shape).flatten()


def _value_at_zero(first: Affine, second: Affine, like: Tensor) -> Tensor:
    """The bias of the composition, (*out_shape), is its value at zero."""
    return second(first(like.new_zeros(1, *first.in_shape)))[0]
