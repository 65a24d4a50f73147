"""Domains: the closed convex sets that x may move in, with the exact nearest-point projection.

Scalars may be floats. A tensor among the parameters has the dimensions of x, the batch first: a first size
of 1 is shared by all instances, any other is one entry an instance, which `select` slices. A radius is a
float or one number an instance, (B,). Tensors have the dtype and the device of x.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invbench.errors import UserError

Value = float | Tensor


class Domain(ABC):
    """A closed convex set of instances; `name` identifies it in records."""

    name: ClassVar[str]

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set, argmin_{z in C} |z - x|: (B, ...) -> (B, ...)."""

    def project_(self, x: Tensor) -> Tensor:
        """Project x in place, and return it."""
        return x.copy_(self.project(x))

    @abstractmethod
    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """Whether each instance lies in the set, up to a tolerance.

        Args:
            x: (B, ...).
            tolerance: how far outside is forgiven: per element for bounds, in the norm of a ball (there
                times its radius where that exceeds 1).

        Returns:
            (B,) bool.
        """

    @property
    def bounds(self) -> tuple[Value, Value] | None:
        """The lowest and the highest values, where the set is a box; None where it is not."""
        return None

    def select(self, indices: Tensor) -> Self:
        """The domain of a sub-batch; indices: (b,) int64, repeats allowed."""
        # The parts of a valid domain are valid: the checks of the constructor do not run again.
        part = object.__new__(type(self))
        for field in fields(self):  # type: ignore[arg-type]  # every concrete domain is a dataclass
            object.__setattr__(part, field.name, _rows(getattr(self, field.name), indices))
        return part


class _Interval(Domain):
    """A box, whatever its parameters: all that follows from `bounds`."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[Value, Value]:
        """The lowest and the highest values."""

    def project(self, x: Tensor) -> Tensor:
        """Clip every element: min(max(x, low), high)."""
        return _clip(x, *self.bounds)

    def project_(self, x: Tensor) -> Tensor:
        """Clip every element in place."""
        low, high = self.bounds
        _demand_dimensions(x, low, high)
        return x.clamp_(min=low).clamp_(max=high)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """See `Domain.contains`."""
        return _within(x, *self.bounds, tolerance)


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
        _demand(self.low <= self.high, f"{self.name}: some lower bound exceeds the upper one.")

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
        _demand_radius(self.name, self.radius)

    @cached_property
    def bounds(self) -> tuple[Value, Value]:
        """(centre - radius, centre + radius)."""
        radius = _column(self.radius, self.centre)
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
        _demand_radius(self.name, self.radius)
        _demand_inside(self.name, self.centre, self.low, self.high)

    @cached_property
    def bounds(self) -> tuple[Value, Value]:
        """(max(centre - radius, low), min(centre + radius, high))."""
        low, high = LinfBall(self.centre, self.radius).bounds
        return _larger(low, self.low), -_larger(-high, -self.high)


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
        _demand_radius(self.name, self.radius)

    def project(self, x: Tensor) -> Tensor:
        """Shorten the shift, c + (x - c) min(1, radius / |x - c|); a point inside stays bit by bit."""
        _demand_dimensions(x, self.centre)
        shift = x - self.centre
        radius, norm = _column(self.radius, x), _column(_norm(shift), x)
        return torch.where(norm > radius, self.centre + shift * (radius / norm), x)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """See `Domain.contains`."""
        return _near(x, self.centre, self.radius, tolerance)


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
        _demand_radius(self.name, self.radius)
        _demand_inside(self.name, self.centre, self.low, self.high)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, exactly: clip(c + t (x - c)) with the largest t <= 1 that fits the ball.

        (Optimality with the multiplier m of the ball: z - c = clip((x - c) / (1 + m)), t = 1 / (1 + m).)
        """
        clipped = _clip(x, self.low, self.high)
        centre, low, high = (_as_double(value, x) for value in (self.centre, self.low, self.high))
        shift = x.double() - centre
        room = torch.where(shift > 0, high - centre, centre - low)
        t = _largest_scale(shift.flatten(1), room.flatten(1), _as_double(self.radius, x))
        shrunk = (centre + _column(t, x) * shift).to(x.dtype)
        return torch.where(_column(t < 1, x), _clip(shrunk, self.low, self.high), clipped)

    def contains(self, x: Tensor, tolerance: float = 1e-6) -> Tensor:
        """See `Domain.contains`."""
        in_box = _within(x, self.low, self.high, tolerance)
        return in_box & _near(x, self.centre, self.radius, tolerance)


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
        _demand_radius(self.name, self.radius)

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


def _largest_scale(shift: Tensor, room: Tensor, radius: Tensor) -> Tensor:
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


def _rows(value: Any, indices: Tensor) -> Any:
    """The entries of a per-instance tensor; anything else as it is."""
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) == 1:
        return value
    return value[indices]


def _clip(x: Tensor, low: Value, high: Value) -> Tensor:
    _demand_dimensions(x, low, high)
    return x.clamp(min=low).clamp(max=high)


def _within(x: Tensor, low: Value, high: Value, tolerance: float) -> Tensor:
    return ((x >= low - tolerance) & (x <= high + tolerance)).flatten(1).all(1)


def _near(x: Tensor, centre: Value, radius: Value, tolerance: float) -> Tensor:
    return _norm(x - centre) <= radius + tolerance * _larger(radius, 1.0)


def _norm(x: Tensor) -> Tensor:
    """The Euclidean norm of every instance, (B,)."""
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norm


def _column(value: Value, like: Value) -> Any:
    """A number an instance, (B,), with the dimensions of `like`: (B, 1, ...)."""
    if isinstance(value, Tensor) and isinstance(like, Tensor) and value.dim() == 1:
        return value.reshape(-1, *[1] * (like.dim() - 1))
    return value


def _larger(a: Value, b: Value) -> Value:
    if isinstance(a, Tensor):
        return a.maximum(torch.as_tensor(b, dtype=a.dtype, device=a.device))
    return b.clamp(min=a) if isinstance(b, Tensor) else max(a, b)


def _as_double(value: Value, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=like.device)


def _demand(condition: bool | Tensor, sentence: str) -> None:
    if not bool(torch.as_tensor(condition).all()):
        raise UserError(sentence)


def _demand_radius(name: str, radius: Value) -> None:
    _demand(radius >= 0, f"{name}: the radius must be >= 0.")


def _demand_inside(name: str, centre: Value, low: Value, high: Value) -> None:
    inside = torch.as_tensor(centre >= low) & torch.as_tensor(centre <= high)
    _demand(inside, f"{name}: the centre lies outside the box; clip it to the bounds first.")


def _demand_dimensions(x: Tensor, *values: Value) -> None:
    for value in values:
        if isinstance(value, Tensor) and value.dim() not in (0, x.dim()):
            raise UserError(
                f"A domain's tensor of shape {tuple(value.shape)} does not have the {x.dim()} dimensions of "
                "x; give it a batch dimension first (of size 1 where all instances share it)."
            )
