"""A network of up-convolutions that leads from features to the image, trained for it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from invbench.activations import Identity, ReLU
from invbench.decoders import (
    Apprentice,
    Layer,
    apply,
    convolution,
    decoded,
    dense,
    missed,
    resized,
    transposed,
)
from invbench.losses import SquaredError
from invbench.problem import Problem
from invbench.solver import Count, NonNegative, Positive, Randomness, Setting, Solver

Shape = tuple[int, ...]

#: Images that the scales of the first and the last layer are found from.
SEEN = 64
#: Of the leaky ReLU behind every layer but the last, and the fewest channels of one.
SLOPE, NARROWEST = 0.2, 16
#: Least side of the map that a vector is unfolded to.
LEAST = 4


@dataclass(frozen=True)
class UpConvolutional(Solver):
    """A decoder D that looks at the features alone, not at the network that they are from, in one shot.

        x = P(D(y)),   D minimises the mean over images of  |D(f(x)) - x|^2 + c |f(D(f(x))) - f(x)|^2

    each term over the square of what it compares with. A map goes through two 3 x 3 convolutions, a vector
    through two dense layers; then up-convolutions, 5 x 5 with stride 2, double the sides and halve the
    channels until the image has its size, and a convolution gives its colours. Leaky ReLUs in between. Where
    doubling does not lead to the size of the image, entries are repeated or left out in the end. Takes any
    network, also one that is no chain. Priors of the problem are not looked at: what is learned is the prior.

    Attributes:
        feature_weight: c: 0 for the image alone.
        width: channels of the smallest maps.
        steps: of the training.
        batch: images a step.
        lr: first learning rate.

    References:
        Dosovitskiy & Brox, Inverting visual representations with convolutional networks, CVPR 2016, section
        3 (c = 0): there three convolutions or dense layers of more channels; the last convolution is ours.
        The loss in feature space is from their Generating images with perceptual similarity metrics based on
        deep networks, NIPS 2016, without its adversarial term.
    """

    feature_weight: NonNegative = 0.0
    width: Count = 64
    steps: Count = 800
    batch: Count = 32
    lr: Positive = 2e-3

    @classmethod
    def tiny(cls) -> Self:
        """A narrow decoder after a few steps."""
        return cls(width=16, steps=60, batch=8, lr=1e-2)

    def refuses(self, problem: Problem) -> str | None:
        """Features of images only."""
        network = problem.network
        if not isinstance(problem.loss, SquaredError):
            return "up_convolutional takes features as its target, and the loss of this problem wants none"
        if network.input_shape[0] not in (1, 3) or len(network.input_shape) != 3:
            return f"up_convolutional gives images, and x is of shape {network.input_shape}"
        if len(network.output_shape) not in (1, 3):
            return f"up_convolutional takes maps and vectors, and the features are {network.output_shape}"
        return None

    def prepare(self, setting: Setting) -> Self:
        """Train the decoder on the training images."""
        generator = torch.Generator().manual_seed(setting.seed)
        first, truth = setting.solved(setting.train[:SEEN])
        layers = self._layers(first)
        apprentice = Apprentice.new(layers, {0: first.target}, {len(layers) - 1: truth}, generator)

        def loss(images: Tensor) -> Tensor:
            problem, truth = setting.solved(images)
            x = apply(apprentice.stages(), problem.target)
            error = missed(x, truth)
            if self.feature_weight:
                error = error + self.feature_weight * missed(problem.network(x), problem.target)
            return error

        parameters = apprentice.trained.values()
        setting.fit(parameters, loss, generator, steps=self.steps, batch=self.batch, lr=self.lr)
        return replace(self, learned=apprentice.learned())

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """Once."""
        yield decoded(self._layers(problem), self.learned, problem)

    def _layers(self, problem: Problem) -> tuple[Layer, ...]:
        """From the features up to the image."""
        leaky, image = ReLU(SLOPE), problem.network.input_shape
        layers, shape = self._widened(problem.network.output_shape, image)
        for _ in range(max(0, round(math.log2(image[1] / shape[1])))):
            larger = (max(shape[0] // 2, NARROWEST), 2 * shape[1], 2 * shape[2])
            layers.append(transposed(shape, larger, leaky, (5, 5), (2, 2), (2, 2)))
            shape = larger
        return *layers, resized(shape, image, Identity())

    def _widened(self, features: Shape, image: Shape) -> tuple[list[Layer], Shape]:
        """The first two layers, and the shape of the map behind them."""
        leaky = ReLU(SLOPE)
        if len(features) == 3:
            shape = (self.width, *features[1:])
            return [convolution(features, self.width, leaky), convolution(shape, self.width, leaky)], shape
        halvings = max(0, int(math.log2(min(image[1:]) / LEAST)))
        shape = (self.width, *(side // 2**halvings for side in image[1:]))
        between = (4 * self.width,)
        return [dense(features, between, leaky), dense(between, shape, leaky)], shape
