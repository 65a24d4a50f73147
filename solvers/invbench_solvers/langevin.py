"""Langevin sampling: several pre-images of one representation, drawn instead of descended to."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from invbench.minimisers import elapsed, geometric
from invbench.problem import Problem
from invbench.solver import Count, NonNegative, Positive, ProperFraction, Randomness, Solver


@dataclass(frozen=True)
class Langevin(Solver):
    """Preconditioned Langevin dynamics with momentum, cooled over the horizon.

    With E the objective, data term and weighted priors, it draws from the Gibbs density exp(-E(x) / T) on the
    domain. With g its gradient and xi standard normal,

        u <- d u + (1 - d) g^2,   G = 1 / (sqrt(u / (1 - d^t)) + epsilon)
        p <- b p + (1 - b) (lr_t G g - sqrt(2 lr_t G T_t) xi)
        x <- P(x - p)

    The temperature is given for a whole image, T_t = temperature_t / n for n elements of x: where E is a
    quadratic of all of them, E is above its minimum by temperature / 2 in the mean. At temperature 0 it is
    RMSprop with momentum, at momentum 0 and G = 1 plain Langevin.

    Temperature falls geometrically, so that runs explore first and end at a low objective. In equilibrium
    g^2 is proportional to T, hence G to 1 / sqrt(T): that the step lr_t G does not grow, lr_t falls as
    sqrt(T_t). For a quadratic with curvature c and a constant G = 1 the variance of x is

        T / (c (1 - (1 - b) lr c / (2 (1 + b)))),

    so the bias of finite steps vanishes with lr, and is smaller with momentum.

    Attributes:
        lr: first step; in units of x with the preconditioner, as that of adam.
        temperature: at the first iteration, for a whole image; 0 makes it deterministic.
        final: temperature at the horizon / `temperature`; 1 samples at one temperature.
        momentum: b.
        preconditioner: G as above, or 1 (none).
        decay: d, forgets squared gradients.
        epsilon: guards the division.
        prior_scale: factor on the weights of all priors at the first and at the last iteration of the
            horizon, geometric in between; [0, 0] leaves the priors out. [1, final] cools the loss alone: what
            is drawn from is exp(-loss / T_t - priors / T_0), a posterior whose noise on the features falls
            while the prior stays (preset `posterior_sampling`). [1, 1] cools both, and ends in a mode.
        patch_stride: priors over patches are evaluated at every so many rows and columns, from an offset
            that is drawn anew each pass.
        horizon: iterations that cooling and prior_scale span; after it their last values hold. Without one
            the first values hold.

    References:
        Welling & Teh, Bayesian learning via stochastic gradient Langevin dynamics, ICML 2011, eq. 4.
        Li, Chen, Carlson & Carin, Preconditioned stochastic gradient Langevin dynamics for deep neural
        networks, AAAI 2016, Algorithm 1: its step is 2 lr and it has no momentum and no temperature; without
        the drift Gamma, as the paper advises; u has the bias correction of Adam.
        Chen, Fox & Guestrin, Stochastic gradient Hamiltonian Monte Carlo, ICML 2014, eq. 15, with the step
        (1 - b) lr, the friction 1 - b, and no estimate of gradient noise: gradients are exact here.
        Bubeck, Eldan & Lehec, Sampling from a log-concave distribution with projected Langevin Monte Carlo,
        Discrete & Computational Geometry 2018: the projection.
        Kirkpatrick, Gelatt & Vecchi, Optimization by simulated annealing, Science 1983: cooling.
    """

    lr: Positive = field(default=0.2, metadata={"search": (1e-2, 1.0, "log")})
    temperature: NonNegative = field(default=0.2, metadata={"search": (1e-3, 10.0, "log")})
    final: Positive = 1e-3
    momentum: ProperFraction = 0.9
    preconditioner: Literal["rmsprop", "none"] = "rmsprop"
    decay: ProperFraction = 0.99
    epsilon: Positive = 1e-8
    prior_scale: tuple[NonNegative, NonNegative] = (1.0, 1.0)
    patch_stride: Count = 1
    horizon: Count | None = None

    def refuses(self, problem: Problem) -> str | None:  # noqa: ARG002
        """Priors fall geometrically or are left out."""
        first, last = self.prior_scale
        if (first == 0) != (last == 0):
            return (
                f"prior_scale [{first:g}, {last:g}] is no geometric decay: give two numbers > 0, or 0 twice"
            )
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """One network pass an iterate."""
        x = problem.domain.project(x).clone()
        p, u = torch.zeros_like(x), torch.zeros_like(x)
        t = 0
        while True:
            share = elapsed(t, self.horizon)
            scale = geometric(*self.prior_scale, share)
            _, g = problem.value_and_gradient(x, prior_scale=scale, grid=rng.grid(self.patch_stride))
            t += 1
            u.mul_(self.decay).addcmul_(g, g, value=1 - self.decay)
            step = self._conditioner(u, t).mul_(self.lr * math.sqrt(self.final**share))
            move = step * g
            if self.temperature:
                temperature = self.temperature * self.final**share / x[0].numel()
                move.sub_(step.mul_(2 * temperature).sqrt_().mul_(rng.each(x.shape[1:])))
            p.lerp_(move, 1 - self.momentum)
            x = problem.domain.project_(x.sub_(p))
            yield x

    def _conditioner(self, u: Tensor, t: int) -> Tensor:
        """G after t squared gradients."""
        if self.preconditioner == "none":
            return torch.ones_like(u)
        return (u / (1 - self.decay**t)).sqrt_().add_(self.epsilon).reciprocal_()
