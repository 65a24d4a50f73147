"""What a domain is, and what the tensors among its parameters may be.

Scalars may be floats. A tensor among the parameters has the dimensions of x, the batch first: a first size
of 1 is shared by all instances, any other is one entry an instance, which `select` slices. A radius is a
float or one number an instance, (B,). Tensors have the dtype and the device of x.
"""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invbench.errors import UserError

Value = float | Tensor


class Domain(ABC):
    """A closed set of instances; `name` identifies it in records."""

    name: ClassVar[str]

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set, or one of them: argmin_{z in C} |z - x|, (B, ...) -> (B, ...)."""

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

    @property
    def is_bounded_box(self) -> bool:
        """Whether the set is a box whose bounds are finite, so that points can be drawn from all over it."""
        bounds = self.bounds
        return bounds is not None and all(bool(torch.as_tensor(one).isfinite().all()) for one in bounds)

    def select(self, indices: Tensor) -> Self:
        """The domain of a sub-batch; indices: (b,) int64, repeats allowed."""
        # The parts of a valid domain are valid: the checks of the constructor do not run again.
        part = object.__new__(type(self))
        for field in fields(self):  # type: ignore[arg-type]  # every concrete domain is a dataclass
            object.__setattr__(part, field.name, rows(getattr(self, field.name), indices))
        return part


def rows(value: Any, indices: Tensor) -> Any:
    """The entries of a per-instance tensor; anything else as it is."""
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) == 1:
        return value
    return value[indices]


def clip(x: Tensor, low: Value, high: Value) -> Tensor:
    """X between two bounds, element by element."""
    demand_dimensions(x, low, high)
    return x.clamp(min=low).clamp(max=high)


def within(x: Tensor, low: Value, high: Value, tolerance: float) -> Tensor:
    """Whether each instance keeps to the bounds up to a tolerance, (B,)."""
    return ((x >= low - tolerance) & (x <= high + tolerance)).flatten(1).all(1)


def near(x: Tensor, centre: Value, radius: Value, tolerance: float) -> Tensor:
    """Whether each instance lies in a ball, up to a tolerance times max(radius, 1), (B,)."""
    return length(x - centre) <= radius + tolerance * larger(radius, 1.0)


def length(x: Tensor) -> Tensor:
    """The Euclidean norm of every instance, (B,)."""
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return found


def column(value: Value, like: Value) -> Any:
    """A number an instance, (B,), with the dimensions of `like`: (B, 1, ...)."""
    if isinstance(value, Tensor) and isinstance(like, Tensor) and value.dim() == 1:
        return value.reshape(-1, *[1] * (like.dim() - 1))
    return value


def larger(a: Value, b: Value) -> Value:
    """The larger of two numbers or tensors, element by element."""
    if isinstance(a, Tensor):
        return a.maximum(torch.as_tensor(b, dtype=a.dtype, device=a.device))
    return b.clamp(min=a) if isinstance(b, Tensor) else max(a, b)


def as_double(value: Value, like: Tensor) -> Tensor:
    """A parameter in double precision, on the device of a tensor."""
    return torch.as_tensor(value, dtype=torch.float64, device=like.device)


def demand(condition: bool | Tensor, sentence: str) -> None:
    """Raise UserError with the sentence where a condition fails anywhere."""
    if not bool(torch.as_tensor(condition).all()):
        raise UserError(sentence)


def demand_radius(name: str, radius: Value) -> None:
    """Raise UserError for a negative radius."""
    demand(radius >= 0, f"{name}: the radius must be >= 0.")


def demand_inside(name: str, centre: Value, low: Value, high: Value) -> None:
    """Raise UserError for a centre outside the bounds."""
    inside = torch.as_tensor(centre >= low) & torch.as_tensor(centre <= high)
    demand(inside, f"{name}: the centre lies outside the box; clip it to the bounds first.")


def demand_dimensions(x: Tensor, *values: Value) -> None:
    """Raise UserError for a tensor without the dimensions of x."""
    for value in values:
        if isinstance(value, Tensor) and value.dim() not in (0, x.dim()):
            raise UserError(
                f"A domain's tensor of shape {tuple(value.shape)} does not have the {x.dim()} dimensions of "
                "x; give it a batch dimension first (of size 1 where all instances share it)."
            )
