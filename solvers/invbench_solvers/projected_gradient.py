"""Projected gradient descent."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from invbench.minimisers import column
from invbench.problem import Problem
from invbench.solver import Count, Positive, ProperFraction, Randomness, Solver


@dataclass(frozen=True)
class ProjectedGradient(Solver):
    """Gradient steps with momentum, projected onto the domain.

        u <- mu u + d(g),   x <- P(x - lr_t u)             (Polyak's heavy ball)
        u <- mu u + d(g),   x <- P(x - lr_t (d(g) + mu u))   (Nesterov's look-ahead)

    The step d(g) is the gradient, its sign (fast gradient sign steps), or the gradient divided by its
    root mean square over the instance, so that lr is a length in units of x whatever the scale of the loss.

    Attributes:
        lr: learning rate.
        direction: `gradient`, `normalised` or `sign`.
        momentum: mu.
        nesterov: the look-ahead form.
        decay: lr_T / lr, reached geometrically over the horizon.
        horizon: iterations that the decay spans; after it lr_T holds.

    References:
        Goldstein, Convex programming in Hilbert space, 1964; Polyak 1964; Nesterov 1983, in the form of
        Sutskever et al., ICML 2013, eq. 3-4, rewritten for the look-ahead point.
        Madry et al., ICLR 2018, eq. 2 (sign steps).
    """

    lr: Positive = field(default=0.01, metadata={"search": (1e-4, 1.0, "log")})
    direction: Literal["gradient", "normalised", "sign"] = "normalised"
    momentum: ProperFraction = field(default=0.0, metadata={"search": (0.0, 0.95, "linear")})
    nesterov: bool = False
    decay: Positive = field(default=1.0, metadata={"search": (1e-3, 1.0, "log")})
    horizon: Count | None = None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One network pass an iterate."""
        x, u = problem.domain.project(x).clone(), torch.zeros_like(x)
        t = 0
        while True:
            _, g = problem.value_and_gradient(x)
            d = self._step(g)
            u.mul_(self.momentum).add_(d)
            rate = self.lr * self.decay ** (min(t / self.horizon, 1.0) if self.horizon else 0.0)
            x.sub_(d.add_(u, alpha=self.momentum) if self.nesterov else u, alpha=rate)
            x = problem.domain.project_(x)
            t += 1
            yield x

    def _step(self, g: Tensor) -> Tensor:
        if self.direction == "sign":
            return g.sign()
        if self.direction == "normalised":
            scale = g.flatten(1).square().mean(1).sqrt_().clamp_min_(torch.finfo(g.dtype).tiny)
            return g / column(scale, g)
        return g
