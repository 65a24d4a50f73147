"""Decoders: networks that lead from features back to an image, layer by layer, with weights to be learned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from invbench.activations import Activation
from invbench.errors import UserError
from invbench.metered import MeteredStage
from invbench.network import Stage
from invbench.operators import (
    Affine,
    Composition,
    Convolution,
    Dense,
    Reshape,
    TransposedConvolution,
    Upsampling,
)
from invbench.problem import Problem

Shape = tuple[int, ...]
Pair = tuple[int, int]

#: Side of the kernel of a convolution that has none to mirror.
KERNEL = 3
#: Spread of the first weights where the output is known, over that which keeps maps as strong as they are.
TIMID = 0.1
#: Least strength of a channel, squared, over that of all.
SILENT = 1e-2


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a decoder without its weights: an affine map and an activation.

    Attributes:
        weight: shape of the weight.
        biases: length of the bias.
        channels: axis of the weight that runs over the channels of the input.
        fan_in: products that an output is the sum of.
        affine: (weight, bias) -> the map.
        activation: what follows.
    """

    weight: Shape
    biases: int
    channels: int
    fan_in: float
    affine: Callable[[Tensor, Tensor], Affine]
    activation: Activation


def convolution(in_shape: Shape, channels: int, activation: Activation, kernel: int = KERNEL) -> Layer:
    """A convolution that keeps the sides of its map; the kernel has an odd side."""
    weight = (channels, in_shape[0], kernel, kernel)
    padding = (kernel // 2, kernel // 2)

    def affine(weight: Tensor, bias: Tensor) -> Affine:
        return Convolution(weight, bias, in_shape, padding=padding)

    return Layer(weight, channels, 1, in_shape[0] * kernel**2, affine, activation)


def transposed(
    in_shape: Shape,
    out_shape: Shape,
    activation: Activation,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Layer:
    """A transposed convolution: the adjoint of a convolution of this geometry from `out_shape` to `in_shape`.

    Rows and columns that the stride of that convolution leaves unread get the bias alone.
    """
    geometry = zip(in_shape[1:], out_shape[1:], kernel, stride, padding, dilation, strict=True)
    unread = tuple(
        larger + 2 * pad - (step * (side - 1) + apart * (size - 1) + 1)
        for side, larger, size, step, pad, apart in geometry
    )
    weight = (in_shape[0], out_shape[0], *kernel)
    fan_in = in_shape[0] * kernel[0] * kernel[1] / (stride[0] * stride[1])

    def affine(weight: Tensor, bias: Tensor) -> Affine:
        more = (unread[0], unread[1])
        return TransposedConvolution(weight, bias, in_shape, stride, padding, more, dilation)

    return Layer(weight, out_shape[0], 0, fan_in, affine, activation)


def resized(in_shape: Shape, out_shape: Shape, activation: Activation, kernel: int = KERNEL) -> Layer:
    """Entries repeated up to the sides of `out_shape`, then a convolution, whose kernel has an odd side.

    References:
        Odena, Dumoulin & Olah, Deconvolution and checkerboard artifacts, Distill 2016.
    """
    larger = Upsampling(in_shape, (out_shape[1], out_shape[2]))
    plain = convolution(larger.out_shape, out_shape[0], activation, kernel)
    if larger.out_shape == in_shape:
        return plain
    return replace(plain, affine=lambda weight, bias: Composition((larger, plain.affine(weight, bias))))


def dense(in_shape: Shape, out_shape: Shape, activation: Activation) -> Layer:
    """A matrix, between maps or vectors."""
    size, count = math.prod(in_shape), math.prod(out_shape)

    def affine(weight: Tensor, bias: Tensor) -> Affine:
        return Composition((Dense(weight, bias, in_shape), Reshape((count,), out_shape)))

    return Layer((count, size), count, 1, size, affine, activation)


@dataclass(frozen=True, eq=False)
class Apprentice:
    """A decoder that is being trained.

    Weights are trained in units of their data: that of layer N is level gain V and its bias level c, with
    a gain for each input channel and a level, so that V and c see and give numbers about 1.

    Attributes:
        layers: of the decoder.
        trained: V and c of all layers, by `N.weight` and `N.bias`.
        gains: one for each layer, a number or one a channel.
        levels: one for each layer.
    """

    layers: Sequence[Layer]
    trained: dict[str, Tensor]
    gains: Sequence[Tensor]
    levels: Sequence[Tensor]

    @classmethod
    def new(
        cls,
        layers: Sequence[Layer],
        inputs: Mapping[int, Tensor],
        outputs: Mapping[int, Tensor],
        generator: torch.Generator,
    ) -> Self:
        """A decoder with Gaussian weights of variance 2 / fan-in, smaller where the output is known.

        Args:
            layers: of the decoder.
            inputs: what some of the layers see, `(B, ...)`, by number: sets their gains, 1 elsewhere.
            outputs: what some of the layers should give: sets their levels and biases, 1 and 0 elsewhere.
            generator: of the weights, on the CPU.
        """
        like = next(iter(inputs.values()))
        trained: dict[str, Tensor] = {}
        gains, levels = [], []
        for n, layer in enumerate(layers):
            spread = (2 / layer.fan_in) ** 0.5 * (TIMID if n in outputs else 1.0)
            weight = spread * torch.randn(layer.weight, generator=generator, dtype=torch.float64)
            gain, level, bias = like.new_ones(1), like.new_ones(()), like.new_zeros(layer.biases)
            if n in inputs:
                gain = 1 / _strengths(inputs[n])
            if n in outputs:
                level = outputs[n].square().mean().sqrt().clamp(min=torch.finfo(like.dtype).tiny)
                bias = outputs[n].reshape(len(outputs[n]), layer.biases, -1).mean((0, 2)) / level
            trained |= {f"{n}.weight": weight.to(like).requires_grad_(), f"{n}.bias": bias.requires_grad_()}
            gains.append(gain)
            levels.append(level)
        return cls(layers, trained, gains, levels)

    def weights(self) -> dict[str, Tensor]:
        """Weights and biases as the layers take them; autograd leads back to what is trained."""
        made: dict[str, Tensor] = {}
        for n, (layer, gain, level) in enumerate(zip(self.layers, self.gains, self.levels, strict=True)):
            weight, axis = self.trained[f"{n}.weight"], layer.channels
            spread = gain.repeat_interleave(weight.shape[axis] // len(gain))
            sides = [-1 if dim == axis else 1 for dim in range(weight.ndim)]
            made[f"{n}.weight"] = level * spread.reshape(sides) * weight
            made[f"{n}.bias"] = level * self.trained[f"{n}.bias"]
        return made

    def stages(self) -> tuple[Stage, ...]:
        """The decoder as it is now, differentiable in what is trained."""
        return stages(self.layers, self.weights())

    def learned(self) -> dict[str, Tensor]:
        """What it has learned so far."""
        return {name: tensor.detach() for name, tensor in self.weights().items()}


def stages(layers: Sequence[Layer], learned: Mapping[str, Tensor]) -> tuple[Stage, ...]:
    """Layers with their weights and biases, `N.weight` and `N.bias` for the N-th."""
    return tuple(
        Stage(str(n), layer.affine(learned[f"{n}.weight"], learned[f"{n}.bias"]), layer.activation)
        for n, layer in enumerate(layers)
    )


def apply(decoder: Iterable[Stage], x: Tensor) -> Tensor:
    """All stages in turn."""
    for stage in decoder:
        x = stage(x)
    return x


def decoded(layers: Sequence[Layer], learned: Mapping[str, Tensor] | None, problem: Problem) -> Tensor:
    """What a decoder makes of the target of a problem, in the domain; its work is charged to the problem.

    Raises:
        UserError: it has learned nothing yet.
    """
    if learned is None:
        raise UserError("a method that learns has learnt nothing yet: prepare it first.")
    x = problem.target
    for stage in stages(layers, {name: tensor.to(x) for name, tensor in learned.items()}):
        metered = MeteredStage(stage, problem.meter)
        x = metered.activation(metered.affine(x))
    return problem.domain.project(x)


def missed(found: Tensor, wanted: Tensor) -> Tensor:
    """|found - wanted|^2 / |wanted|^2 of a whole batch: an instance near 0 does not outweigh the others."""
    tiny = torch.finfo(wanted.dtype).tiny
    return (found - wanted).square().sum() / wanted.square().sum().clamp(min=tiny)


def _strengths(x: Tensor) -> Tensor:
    """Root mean square of every channel, (B, C, ...) -> (C,), of silent ones a share of the mean."""
    squares = x.reshape(len(x), x.shape[1], -1).square().mean((0, 2))
    floor = SILENT * squares.mean()
    return torch.where(floor > 0, squares.clamp(min=floor), 1).sqrt()
