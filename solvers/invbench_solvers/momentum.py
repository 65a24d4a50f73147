"""Gradient descent with momentum, as Mahendran & Vedaldi 2015 used it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from invbench.problem import Problem
from invbench.solver import Count, Positive, ProperFraction, Randomness, Solver


@dataclass(frozen=True)
class Momentum(Solver):
    """Heavy-ball descent on the image in units of its typical norm, with a stepped rate.

    The paper works on u = (image - mean) / sigma with sigma the mean norm of natural images, so that u has
    a norm of about 1, and descends by

        p <- mu p - lr_t grad_u E,   u <- u + p.

    With x = mean + s u, where s = rms sqrt(n) for n elements in [0, 1], grad_u = s grad_x, and the same
    iteration reads p <- mu p - lr_t s^2 grad_x E, x <- P(x + p). P, the projection onto the domain, is ours:
    the paper has no constraint and clips only what it shows.

    Attributes:
        lr: first learning rate, on u.
        momentum: mu.
        rms: typical root mean square of (image - mean), in [0, 1]; sigma = 27098.12 for 227 x 227 x 3 in
            0..255 gives .27.
        horizon: iterations that the schedule spans: lr for the first quarter, lr/10 for the next half,
            lr/100 afterwards (100, 200, 100 iterations in the paper).

    References:
        Mahendran & Vedaldi, Understanding deep image representations by inverting them, CVPR 2015,
        section 3.2 and the authors' settings.
    """

    lr: Positive = field(default=0.004, metadata={"search": (1e-4, 1.0, "log")})
    momentum: ProperFraction = 0.9
    rms: Positive = 27098.12 / 255 / (3 * 227 * 227) ** 0.5
    horizon: Count | None = None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One network pass an iterate."""
        x, p = problem.domain.project(x).clone(), torch.zeros_like(x)
        scale = self.rms**2 * x[0].numel()
        t = 0
        while True:
            _, g = problem.value_and_gradient(x)
            p.mul_(self.momentum).sub_(g, alpha=self._rate(t) * scale)
            x = problem.domain.project_(x.add_(p))
            t += 1
            yield x

    def _rate(self, t: int) -> float:
        share = t / self.horizon if self.horizon else 0.0
        return self.lr * (1.0 if share < 0.25 else 0.1 if share < 0.75 else 0.01)
