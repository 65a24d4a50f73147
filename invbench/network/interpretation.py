"""What a single layer of torch is: an affine map, an activation, or nothing at all in evaluation mode."""

import math
from functools import singledispatch

import torch
from torch import Tensor, nn

from invbench.activations import Activation, LocalResponseNorm, MaxPool, ReLU
from invbench.operators import (
    Affine,
    AveragePooling,
    Convolution,
    Dense,
    Diagonal,
    Normalise,
    Rescale,
    Reshape,
    TransposedConvolution,
)

Shape = tuple[int, ...]
Pair = tuple[int, int]


class NoChainError(Exception):
    """A network is no chain of affine maps and activations; the message completes "which ..."."""


def with_article(thing: object) -> str:
    """The type of a thing, as in "a Conv2d"."""
    kind = type(thing).__name__
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def is_sequential(module: nn.Module) -> bool:
    """Whether a module applies its children in turn and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children with their names; unlike `named_children`, one that occurs twice is listed twice."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


@singledispatch
def interpret(module: nn.Module, shape: Shape) -> Affine | Activation | None:  # noqa: ARG001
    """The affine map or activation that a layer in evaluation mode computes; None where it does nothing.

    A further type of layer is made known by `interpret.register`.

    Args:
        module: the layer.
        shape: shape of one input of it.

    Raises:
        NoChainError: where it is neither.
    """
    raise NoChainError("is neither an affine map nor an activation known here")


@interpret.register(nn.Identity)
@interpret.register(nn.Dropout)
@interpret.register(nn.Dropout1d)
@interpret.register(nn.Dropout2d)
@interpret.register(nn.Dropout3d)
@interpret.register(nn.AlphaDropout)
@interpret.register(nn.FeatureAlphaDropout)
def _(_module: nn.Module, _shape: Shape) -> None:
    return None


@interpret.register
def _(module: nn.Conv2d, shape: Shape) -> Affine:
    _expect(len(shape) == 3, f"takes images, but is given {shape}")
    _expect(module.padding_mode == "zeros", f"pads by {module.padding_mode!r} instead of zeros")
    weight, dilation = module.weight, _pair(module.dilation)
    if module.padding == "same":
        weight, padding, dilation = _centred(weight, dilation)
    else:
        padding = _sides(module.padding)
    stride, groups = _pair(module.stride), module.groups
    return Convolution(weight, module.bias, shape, stride, padding, dilation, groups)


@interpret.register
def _(module: nn.ConvTranspose2d, shape: Shape) -> Affine:
    _expect(len(shape) == 3, f"takes images, but is given {shape}")
    stride, padding, dilation = _pair(module.stride), _sides(module.padding), _pair(module.dilation)
    more, groups = _pair(module.output_padding), module.groups
    return TransposedConvolution(module.weight, module.bias, shape, stride, padding, more, dilation, groups)


@interpret.register
def _(module: nn.Linear, shape: Shape) -> Affine:
    _expect(len(shape) == 1, f"takes vectors, but is given {shape}")
    return Dense(module.weight, module.bias, shape)


@interpret.register(nn.BatchNorm1d)
@interpret.register(nn.BatchNorm2d)
def _(module: nn.BatchNorm2d, shape: Shape) -> Affine:
    if module.running_mean is None or module.running_var is None:
        raise NoChainError("normalises by the statistics of its batch")
    scale = (module.running_var + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -module.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    channels = (-1,) + (1,) * (len(shape) - 1)
    return Diagonal(shape, scale.reshape(channels), shift.reshape(channels))


@interpret.register
def _(module: Normalise, shape: Shape) -> Affine:
    return Diagonal(shape, 1 / module.std, -module.mean / module.std)


@interpret.register
def _(module: Rescale, shape: Shape) -> Affine:
    return Diagonal(shape, module.factor)


@interpret.register
def _(module: nn.AvgPool2d, shape: Shape) -> Affine:
    _expect(len(shape) == 3, f"takes images, but is given {shape}")
    _expect(module.divisor_override is None, "divides by a number of its own")
    windows = (_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))
    pooling = AveragePooling(shape, *windows, module.count_include_pad)
    _expect(pooling.out_shape == _out_shape(module, shape), "rounds its size up (ceil_mode)")
    return pooling


@interpret.register
def _(module: nn.AdaptiveAvgPool2d, shape: Shape) -> Affine | None:
    _expect(len(shape) == 3, f"takes images, but is given {shape}")
    sizes = _out_shape(module, shape)[1:]
    if sizes == shape[1:]:
        return None
    _expect(shape[1] % sizes[0] == 0 == shape[2] % sizes[1], "averages over windows of unequal sizes")
    windows = (shape[1] // sizes[0], shape[2] // sizes[1])
    return AveragePooling(shape, windows, windows)


@interpret.register(nn.Flatten)
@interpret.register(nn.Unflatten)
def _(module: nn.Module, shape: Shape) -> Affine:
    reshaped = _out_shape(module, shape)
    _expect(math.prod(reshaped) == math.prod(shape), "mixes the instances of a batch")
    return Reshape(shape, reshaped)


@interpret.register
def _(_module: nn.ReLU, _shape: Shape) -> Activation:
    return ReLU()


@interpret.register
def _(module: nn.LeakyReLU, _shape: Shape) -> Activation:
    return ReLU(module.negative_slope)


@interpret.register
def _(module: nn.MaxPool2d, shape: Shape) -> Activation:
    _expect(len(shape) == 3, f"takes images, but is given {shape}")
    _expect(_pair(module.dilation) == (1, 1), "dilates its windows")
    _expect(not module.return_indices, "returns indices")
    pooling = MaxPool(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))
    _expect(pooling.out_shape(shape) == _out_shape(module, shape), "rounds its size up (ceil_mode)")
    return pooling


@interpret.register
def _(module: nn.LocalResponseNorm, _shape: Shape) -> Activation:
    return LocalResponseNorm(module.size, module.alpha, module.beta, module.k)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NoChainError(otherwise)


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _sides(padding: str | int | tuple[int, ...]) -> Pair:
    """Padding per axis; in words only "valid" is left, which is none."""
    return (0, 0) if isinstance(padding, str) else _pair(padding)


def _out_shape(module: nn.Module, shape: Shape) -> Shape:
    """Shape of one output of a layer without weights."""
    return tuple(module(torch.zeros(2, *shape)).shape[1:])


def _centred(weight: Tensor, dilation: Pair) -> tuple[Tensor, Pair, Pair]:
    """Weight, padding and dilation with which even padding equals torch's "same".

    Where an odd number of zeros is needed, torch adds the spare one at the end. A kernel with its gaps
    filled and a zero in front does the same with as many zeros on both sides.
    """
    padding, steps = [0, 0], list(dilation)
    for axis in (0, 1):
        reach = dilation[axis] * (weight.shape[2 + axis] - 1)
        if reach % 2:
            sides = list(weight.shape)
            sides[2 + axis] = reach + 2
            spread = weight.new_zeros(sides)
            spread.movedim(2 + axis, 0)[1 :: dilation[axis]] = weight.movedim(2 + axis, 0)
            weight, steps[axis] = spread, 1
        padding[axis] = (reach + 1) // 2
    return weight, _pair(tuple(padding)), _pair(tuple(steps))
