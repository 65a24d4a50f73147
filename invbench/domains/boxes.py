"""Boxes, whatever describes them."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from invbench.domains.domain import (
    Domain,
    Value,
    clip,
    column,
    demand,
    demand_dimensions,
    demand_inside,
    demand_radius,
    larger,
    within,
)


class _Interval(Domain):
    """A box, whatever its parameters: all that follows from `bounds`."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[Value, Value]:
        """The lowest and the highest values."""

    def project(self, x: Tensor) -> Tensor:
        """Clip every element: min(max(x, low), high)."""
        return clip(x, *self.bounds)

    def project_(self, x: Tensor) -> Tensor:
        """Clip every element in place."""
        low, high = self.bounds
        demand_dimensions(x, low, high)
        return x.clamp_(min=low).clamp_(max=high)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """See `Domain.contains`."""
        return within(x, *self.bounds, tolerance)


@dataclass(frozen=True)
class Reals(Domain):
    """The whole space."""

    name: ClassVar[str] = "reals"

    @property
    def bounds(self) -> tuple[Value, Value]:
        """The whole line for every element."""
        return -torch.inf, torch.inf

    def project(self, x: Tensor) -> Tensor:
        """Return x itself, not a copy."""
        return x

    def project_(self, x: Tensor) -> Tensor:
        """Return x, untouched."""
        return x

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:  # noqa: ARG002  # nothing is outside
        """Whether each instance is finite, (B,)."""
        return x.isfinite().flatten(1).all(1)


@dataclass(frozen=True)
class Box(_Interval):
    """The box low <= x <= high, element by element; a bound may be infinite.

    Args:
        low: lowest values, a float or (1 or B, ...), broadcast to x.
        high: highest values, likewise.

    Raises:
        UserError: somewhere low > high.
    """

    name: ClassVar[str] = "box"
    low: Value = 0.0
    high: Value = 1.0

    def __post_init__(self) -> None:
        demand(self.low <= self.high, f"{self.name}: some lower bound exceeds the upper one.")

    @property
    def bounds(self) -> tuple[Value, Value]:
        """(low, high)."""
        return self.low, self.high


@dataclass(frozen=True)
class LinfBall(_Interval):
    """The ball |x - centre|_inf <= radius, which is a box.

    Args:
        centre: a float or (1 or B, ...).
        radius: >= 0, a float or (B,); one an instance needs a centre with the dimensions of x.

    Raises:
        UserError: a negative radius.
    """

    name: ClassVar[str] = "linf_ball"
    centre: Value
    radius: Value

    def __post_init__(self) -> None:
        demand_radius(self.name, self.radius)

    @cached_property
    def bounds(self) -> tuple[Value, Value]:
        """(centre - radius, centre + radius)."""
        radius = column(self.radius, self.centre)
        return self.centre - radius, self.centre + radius


@dataclass(frozen=True)
class LinfBallInBox(_Interval):
    """The ball |x - centre|_inf <= radius cut with the box low <= x <= high: again a box.

    Args:
        centre: a float or (1 or B, ...), inside the box.
        radius: >= 0, a float or (B,); one an instance needs a centre with the dimensions of x.
        low: lowest values, a float or (1 or B, ...).
        high: highest values, likewise.

    Raises:
        UserError: a negative radius, or a centre outside the box.
    """

    name: ClassVar[str] = "linf_ball_in_box"
    centre: Value
    radius: Value
    low: Value = 0.0
    high: Value = 1.0

    def __post_init__(self) -> None:
        demand_radius(self.name, self.radius)
        demand_inside(self.name, self.centre, self.low, self.high)

    @cached_property
    def bounds(self) -> tuple[Value, Value]:
        """(max(centre - radius, low), min(centre + radius, high))."""
        low, high = LinfBall(self.centre, self.radius).bounds
        return larger(low, self.low), -larger(-high, -self.high)
