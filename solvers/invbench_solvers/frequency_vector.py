"""Gabor parameters by gradient descent in a smooth parametrisation."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from invbench import gabor
from invbench.gabor import GaborFiltering
from invbench.minimisers import Moments
from invbench.problem import Problem
from invbench.solver import Positive, Randomness, Solver

#: Steps of the frequency, in cycles a pixel, beside those of all else, which are of the order of 1.
FREQUENCY = 0.3


@dataclass(frozen=True)
class FrequencyVector(Solver):
    """Adam on the frequency vector and the phase vector of a Gabor kernel in place of its angles.

        (u, v) = (cos theta, sin theta) / lambda,   (a, b) = (cos psi, sin psi),   log sigma,   log gamma

    Nothing wraps around here, and a path from theta to its opposite need not go round the circle. Where
    parameters are known, that is where bounds agree, they are let go on the way, within a factor of
    `slack`, and angles altogether: a descent in more dimensions finds ways around barriers. The iterate is
    what the bounds make of the point, seen from the side of the kernel whose psi is nearer to the known one.

    Attributes:
        lr: length of the steps; those of (u, v) are 0.3 times as long.
        slack: factor within which known wavelengths, widths and aspects are let go; 1 holds them.

    References:
        Kingma & Ba, ICLR 2015 (the steps). The parametrisation answers source 4 of this suite.
    """

    lr: Positive = field(default=0.1, metadata={"search": (1e-2, 0.5, "log")})
    slack: Annotated[float, Ge(1)] = 1.5

    def refuses(self, problem: Problem) -> str | None:
        """It needs Gabor parameters."""
        if not isinstance(problem.network.module, GaborFiltering):
            return "frequency_vector descends over Gabor parameters, and x is something else here"
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One network pass an iterate."""
        low, high = gabor.slackened(*gabor.bounds(problem), self.slack)
        x = problem.domain.project(x)
        point = gabor.to_frequency(x)
        moments = Moments(point)
        rates = self.lr * point.new_tensor([FREQUENCY, FREQUENCY, 1, 1, 1, 1])
        while True:
            _, g = problem.value_and_gradient(x)
            m, spread, bias = moments.add(_pulled_back(point, g))
            x = gabor.from_frequency(point - rates / bias * m / spread).clamp(low, high)
            point = gabor.to_frequency(x)
            yield gabor.within(problem, x)


def _pulled_back(point: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the smooth parameters, from that in the usual ones: (B, F, 5) -> (B, F, 6)."""
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        (found,) = torch.autograd.grad(gabor.from_frequency(leaf), leaf, gradient)
    return found
