"""Adam on the pre-image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from invbench.minimisers import Moments, elapsed, geometric
from invbench.problem import Problem
from invbench.solver import Count, Fraction, NonNegative, Positive, ProperFraction, Randomness, Solver


@dataclass(frozen=True)
class Adam(Solver):
    """Adam with bias correction, projected onto the domain after each step.

        m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        x <- P(x - lr_t (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon))

    Attributes:
        lr: learning rate, in units of x.
        betas: b1 and b2.
        epsilon: guards the division.
        schedule: lr_t / lr over t / horizon: constant 1; cosine to 0; exponential to `final`; steps: x .3
            at 2/7 of the horizon and x .1 at 4/7 (Mahendran & Vedaldi 2016: 1e-2, 3e-3, 1e-3 at 1000 and
            2000 of 3500 iterations).
        final: lr_T / lr of the exponential schedule.
        jitter: the network sees x translated by up to so many pixels, a new draw each pass.
        jitter_share: share of the horizon after which jitter is off (2750 of 3500 in the 2016 recipe).
        prior_scale: factor on the weights of all priors at the first and at the last iteration of the
            horizon, geometric in between: from above 1 to below it, a prior first leads x to where images
            are, and then gives way to the data. [0, 0] leaves the priors out.
        patch_stride: priors over patches are evaluated at every so many rows and columns, from an offset
            that is drawn anew each pass: an estimate of them for a fraction of their cost.
        boundary: at the border of the domain either `project`, or `stop`: an instance whose step would
            leave the domain stays where it is for good (the Adam baseline of Wong & Kolter 2017).
        horizon: iterations that the schedule spans; after it lr_T holds.

    References:
        Kingma & Ba, Adam: a method for stochastic optimization, ICLR 2015, Algorithm 1.
        Mahendran & Vedaldi, Visualizing deep convolutional neural networks using natural pre-images,
        IJCV 2016, section 3.2; their jitter crops from a larger canvas, ours is a translation on the torus.
        Falling priors and random positions of patches are ours.
    """

    lr: Positive = field(default=0.1, metadata={"search": (1e-3, 1.0, "log")})
    betas: tuple[ProperFraction, ProperFraction] = (0.9, 0.999)
    epsilon: Positive = 1e-8
    schedule: Literal["constant", "cosine", "exponential", "steps"] = "constant"
    final: Positive = 1e-2
    jitter: Annotated[int, Ge(0)] = 0
    jitter_share: Fraction = 2750 / 3500
    prior_scale: tuple[NonNegative, NonNegative] = (1.0, 1.0)
    patch_stride: Count = 1
    boundary: Literal["project", "stop"] = "project"
    horizon: Count | None = None

    def refuses(self, problem: Problem) -> str | None:
        """Jitter needs images, and a schedule a horizon."""
        first, last = self.prior_scale
        if self.horizon is None and (self.schedule != "constant" or first != last):
            what = "prior_scale" if self.schedule == "constant" else f"the {self.schedule} schedule"
            return f"{what} needs a budget in iterations or work, or a horizon"
        if (first == 0) != (last == 0):
            return f"prior_scale [{first:g}, {last:g}] does not decay geometrically: give numbers > 0"
        if self.jitter and len(problem.shape) != 4:
            return "jitter translates images, and x is no image here"
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """One network pass an iterate."""
        domain = problem.domain
        x, moments = domain.project(x).clone(), Moments(x, self.betas, self.epsilon)
        running = torch.ones(len(x), *(1,) * (x.ndim - 1), dtype=torch.bool, device=x.device)
        t = 0
        while True:
            scale = geometric(*self.prior_scale, elapsed(t, self.horizon))
            _, g = problem.value_and_gradient(x, self._shift(t, rng), scale, rng.grid(self.patch_stride))
            m, spread, bias = moments.add(g)
            rate = self.lr * self._decay(t) / bias
            t += 1
            if self.boundary == "project":
                x = domain.project_(x.addcdiv_(m, spread, value=-rate))
            else:
                step = x.addcdiv(m, spread, value=-rate)
                running &= domain.contains(step).view_as(running)
                x = torch.where(running, step, x)
            yield x

    def _decay(self, t: int) -> float:
        """lr_t / lr."""
        share = elapsed(t, self.horizon)
        match self.schedule:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * share))
            case "exponential":
                return geometric(1.0, self.final, share)
            case "steps":
                return 1.0 if share < 2 / 7 else 0.3 if share < 4 / 7 else 0.1
            case _:
                return 1.0

    def _shift(self, t: int, rng: Randomness) -> tuple[int, int]:
        if not self.jitter or (self.horizon and t >= self.jitter_share * self.horizon):
            return 0, 0
        down, right = rng.integers(-self.jitter, self.jitter, 2)
        return down, right
