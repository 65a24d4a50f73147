"""A small decoder, trained to undo a macro layer from pooled values and switches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from invbench.activations import Identity, ReLU
from invbench.errors import UserError
from invbench.losses import SquaredError, SwitchedError
from invbench.metered import MeteredStage
from invbench.network import Stage
from invbench.operators import Affine, Convolution, TransposedConvolution
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Setting, Solver
from invbench.unpooling import Pooled, refusal

#: Side of the filters of the second layer.
SECOND = 3


@dataclass(frozen=True)
class WhatWhereDecoder(Solver):
    """A transposed convolution, a ReLU and a convolution behind the unpooled values u, in one shot.

        x = P(V relu(T u + s) + t)

    u holds every pooled value ("what") at its switch ("where"), and beside it, in as many channels more, at
    all places of its window; or in the top-left corner where the switches are not known. T has the geometry
    of the transposed W; with V (3 x 3) it minimises, on training images, the mean of |x - x0|^2 / |x0|^2, x0
    the map that the layer was given. The work of both layers is counted.

    Attributes:
        width: channels between the two layers.
        steps: of the training.
        batch: images a step.
        lr: first learning rate; from about 3e-3 on, many of the channels between the layers may die.

    References:
        Zhao, Mathieu, Goroshin & LeCun, Stacked what-where auto-encoders, ICLR 2016 workshop; Zhang, Lee &
        Lee, Augmenting supervised neural networks with unsupervised objectives, ICML 2016: there a decoder
        of all macro layers, trained with the classifier and to the image, here one layer of a network that
        is given; the values at all places are ours. Dosovitskiy & Brox, CVPR 2016, section 3 (the corner).
    """

    width: Count = 48
    steps: Count = 600
    batch: Count = 16
    lr: Positive = field(default=1e-3, metadata={"search": (3e-4, 1e-2, "log")})

    @classmethod
    def tiny(cls) -> Self:
        """A narrow decoder after a few steps."""
        return cls(width=8, steps=40, batch=8, lr=1e-2)

    def refuses(self, problem: Problem) -> str | None:
        """See `unpooling.refusal`; the affine map must be one convolution."""
        reason = refusal(problem, "what_where_decoder")
        if reason is None and not isinstance(_affine(problem), Convolution):
            return "what_where_decoder mirrors a convolution, and the affine map of this stage is none"
        return reason

    def prepare(self, setting: Setting) -> Self:
        """Fit both layers on the training images."""
        error, generator = SquaredError(), torch.Generator().manual_seed(setting.seed)
        first, truth = setting.solved(setting.train[: self.batch])
        learned = _initial(_affine(first), self.width, _seen(first), truth, generator)

        def loss(images: Tensor) -> Tensor:
            problem, truth = setting.solved(images)
            return error(_decoded(problem, learned), truth).mean()

        def projected(images: Tensor) -> Tensor:
            problem, truth = setting.solved(images)
            return error(problem.domain.project(_decoded(problem, learned)), truth).mean()

        setting.fit(
            learned.values(), loss, generator,
            steps=self.steps, batch=self.batch, lr=self.lr, validate=projected,
        )  # fmt: skip
        return replace(self, learned={name: tensor.detach() for name, tensor in learned.items()})

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """Once."""
        if self.learned is None:
            raise UserError("what_where_decoder has learnt nothing yet: prepare it first.")
        learned = {name: tensor.to(x) for name, tensor in self.learned.items()}
        yield problem.domain.project(_decoded(problem, learned))


def _affine(problem: Problem) -> Affine:
    assert problem.network.chain is not None
    return problem.network.chain[0].affine


def _initial(
    affine: Affine, width: int, values: Tensor, truth: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Gaussian filters that take inputs of the strength of `values` to outputs like `truth`."""
    assert isinstance(affine, Convolution)
    kernel, channels, maps = affine.weight.shape[2:], affine.in_shape[0], values.shape[1]
    gains = 1 / _strength(values), _strength(truth)
    shapes = (maps, width, *kernel), (channels, width, SECOND, SECOND)
    fans = maps * kernel.numel(), width * SECOND**2
    made = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * gain * (2 / fan) ** 0.5
        for name, shape, gain, fan in zip(("first", "second"), shapes, gains, fans, strict=True)
    }
    made |= {"first_bias": torch.zeros(width), "second_bias": truth.mean((0, 2, 3))}
    return {name: tensor.to(values).requires_grad_() for name, tensor in made.items()}


def _strength(x: Tensor) -> float:
    """The root mean square, or 1 where all is 0."""
    return float(x.square().mean().sqrt()) or 1.0


def _decoded(problem: Problem, learned: Mapping[str, Tensor]) -> Tensor:
    """V relu(T u + s) + t, `(B, ...)`; counts one application of each layer."""
    x = _seen(problem)
    for stage in _layers(_affine(problem), learned):
        metered = MeteredStage(stage, problem.meter)
        x = metered.activation(metered.affine(x))
    return x


def _seen(problem: Problem) -> Tensor:
    """What the first layer sees: the unpooled values, and with known switches those of all places, too."""
    values = Pooled.of(problem).values
    return torch.cat([values, problem.target[:, 0]], 1) if isinstance(problem.loss, SwitchedError) else values


def _layers(affine: Affine, learned: Mapping[str, Tensor]) -> tuple[Stage, Stage]:
    """The two layers; the first has the geometry of the adjoint of the convolution, whatever its stride."""
    assert isinstance(affine, Convolution)
    height, width = affine.in_shape[1:]
    seen = (len(learned["first"]), *affine.out_shape[1:])
    plain = TransposedConvolution(
        learned["first"], learned["first_bias"], seen, affine.stride, affine.padding,
        dilation=affine.dilation,
    )  # fmt: skip
    unread = (height - plain.out_shape[1], width - plain.out_shape[2])
    first = replace(plain, output_padding=unread)
    padding = (SECOND // 2, SECOND // 2)
    second = Convolution(learned["second"], learned["second_bias"], first.out_shape, padding=padding)
    return Stage("first", first, ReLU()), Stage("second", second, Identity())
