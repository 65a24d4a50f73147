"""Potentials of experts: rho(s), an even function that grows with the response s of a filter to a patch."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Potential(ABC):
    """A potential rho with rho(0) = 0, rho''(0) = 1 and rho'' <= 1 everywhere, which bounds its curvature.

    An expert with the weight a has the log density -a rho(s), up to a constant. All methods take responses
    of any shape, and are exact in float32 up to |s| = 1e4 and beyond, to about 1e-7 of max(1, rho).
    """

    @abstractmethod
    def derivatives(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """rho'(s) and rho''(s), both differentiable in s."""

    @abstractmethod
    def consume(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """rho(s) and rho'(s) in few sweeps; s is overwritten."""


class Logistic(Potential):
    """rho(s) = log cosh s, rho' = tanh s, rho'' = sech^2 s: experts of independent component analysis."""

    def derivatives(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `Potential.derivatives`; sech^2 as 1 - tanh^2, which cannot overflow."""
        slope = s.tanh()
        return slope, 1 - slope.square()

    def consume(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `Potential.consume`.

        With q = 1 / (1 + exp(-2 |s|)), rho = |s| - log q - log 2 and |rho'| = 2 q - 1: one exponential and
        one logarithm. tanh and softplus would take twice as long.
        """
        size = s.abs()
        q = torch.mul(size, 2).sigmoid_()
        value = size.sub_(q.log()).sub_(math.log(2))
        return value, q.mul_(2).sub_(1).copysign_(s)


class Student(Potential):
    """rho(s) = log(1 + s^2 / 2), rho' = s / (1 + s^2 / 2): experts of Student's t; not convex."""

    def derivatives(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `Potential.derivatives`; rho'' = q (2 q - 1) with q = 1 / (1 + s^2 / 2)."""
        q = (1 + s.square() / 2).reciprocal()
        return s * q, q * (2 * q - 1)

    def consume(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `Potential.consume`."""
        half = s.square().mul_(0.5)
        slope = s.div_(half + 1)
        return half.log1p_(), slope


class Quadratic(Potential):
    """rho(s) = s^2 / 2: Gaussian experts."""

    def derivatives(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `Potential.derivatives`."""
        return s, torch.ones_like(s)

    def consume(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """See `Potential.consume`."""
        return s.square().mul_(0.5), s
