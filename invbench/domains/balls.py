"""Euclidean balls, alone, in a box, and around every pixel."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invbench.domains.domain import (
    Domain,
    Value,
    as_double,
    clip,
    column,
    demand_dimensions,
    demand_inside,
    demand_radius,
    length,
    near,
    within,
)
from invbench.errors import UserError


@dataclass(frozen=True)
class L2Ball(Domain):
    """The ball |x - centre| <= radius.

    Args:
        centre: a float or (1 or B, ...).
        radius: >= 0, a float or (B,).

    Raises:
        UserError: a negative radius.
    """

    name: ClassVar[str] = "l2_ball"
    centre: Value
    radius: Value

    def __post_init__(self) -> None:
        demand_radius(self.name, self.radius)

    def project(self, x: Tensor) -> Tensor:
        """Shorten the shift, c + (x - c) min(1, radius / |x - c|); a point inside stays bit by bit."""
        demand_dimensions(x, self.centre)
        shift = x - self.centre
        radius, norm = column(self.radius, x), column(length(shift), x)
        return torch.where(norm > radius, self.centre + shift * (radius / norm), x)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """See `Domain.contains`."""
        return near(x, self.centre, self.radius, tolerance)


@dataclass(frozen=True)
class L2BallInBox(Domain):
    """The ball |x - centre| <= radius cut with the box low <= x <= high, the centre inside the box.

    Args:
        centre: a float or (1 or B, ...), inside the box.
        radius: >= 0, a float or (B,).
        low: lowest values, a float or (1 or B, ...); may be infinite.
        high: highest values, likewise.

    Raises:
        UserError: a negative radius, or a centre outside the box.
    """

    name: ClassVar[str] = "l2_ball_in_box"
    centre: Value
    radius: Value
    low: Value = 0.0
    high: Value = 1.0

    def __post_init__(self) -> None:
        demand_radius(self.name, self.radius)
        demand_inside(self.name, self.centre, self.low, self.high)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, exactly: clip(c + t (x - c)) with the largest t <= 1 that fits the ball.

        (Optimality with the multiplier m of the ball: z - c = clip((x - c) / (1 + m)), t = 1 / (1 + m).)
        """
        clipped = clip(x, self.low, self.high)
        centre, low, high = (as_double(value, x) for value in (self.centre, self.low, self.high))
        shift = x.double() - centre
        room = torch.where(shift > 0, high - centre, centre - low)
        t = largest_scale(shift.flatten(1), room.flatten(1), as_double(self.radius, x))
        shrunk = (centre + column(t, x) * shift).to(x.dtype)
        return torch.where(column(t < 1, x), clip(shrunk, self.low, self.high), clipped)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """See `Domain.contains`."""
        in_box = within(x, self.low, self.high, tolerance)
        return in_box & near(x, self.centre, self.radius, tolerance)


@dataclass(frozen=True)
class PixelBall(Domain):
    """Every pixel near the mean colour: |x_ij - mean| <= radius, the norm over the channels.

    Args:
        mean: the mean colour, a float or one a channel.
        radius: >= 0, in the units of x.

    Raises:
        UserError: a negative radius, or (when used) a mean with another number of channels than x.

    References:
        Mahendran & Vedaldi 2016, section 3.2 (there x has its mean subtracted and 0..255 units: 2B / 255 is
        the radius here).
    """

    name: ClassVar[str] = "pixel_ball"
    mean: float | tuple[float, ...] = 0.5
    radius: float = 160 / 255

    def __post_init__(self) -> None:
        demand_radius(self.name, self.radius)

    def project(self, x: Tensor) -> Tensor:
        """Pixel by pixel p <- mean + (p - mean) min(1, radius / |p - mean|), (B, C, H, W)."""
        mean = self._mean(x)
        norm = (x - mean).square().sum(1, keepdim=True).sqrt()
        return torch.where(norm > self.radius, mean + (x - mean) * (self.radius / norm), x)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """See `Domain.contains`."""
        norm = (x - self._mean(x)).square().sum(1).sqrt()
        return (norm <= self.radius + tolerance * max(1.0, self.radius)).flatten(1).all(1)

    def _mean(self, x: Tensor) -> Tensor:
        mean = torch.as_tensor(self.mean, dtype=x.dtype, device=x.device).reshape(1, -1, 1, 1)
        if mean.shape[1] not in (1, x.shape[1]):
            raise UserError(f"{self.name}: the mean has {mean.shape[1]} channels, the image {x.shape[1]}.")
        return mean


def largest_scale(shift: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The largest t <= 1 with sum_i min(t |shift_i|, room_i)^2 <= radius^2, exactly.

    In s = t^2 the left side is piecewise linear, increasing and concave, so that Newton's method from s = 0
    never oversteps, leaves a breakpoint behind in every step but the last, and ends at the solution itself.
    A handful of steps does it in practice, several times faster than a sort of the breakpoints.

    Args:
        shift: (B, n), float64.
        room: how far each element may move before its bound, >= 0, (B, n), float64.
        radius: () or (B,), float64.

    Returns:
        t, (B,).
    """
    squares, rooms = shift.square(), room.square()
    free = torch.ones_like(squares, dtype=torch.bool)
    s = squares.new_zeros(len(squares))
    while True:
        slope = torch.where(free, squares, 0.0).sum(1)
        fixed = torch.where(free, 0.0, rooms).sum(1)
        newton = torch.where(slope > 0, (radius.square() - fixed) / slope, torch.inf)
        s = torch.maximum(s, newton).clamp(max=1.0)
        still_free = squares * s[:, None] < rooms  # never more than before, as s only grows
        if torch.equal(still_free, free):
            return s.sqrt()
        free = still_free
