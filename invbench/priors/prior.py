"""What a prior is, and its standard scale."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import ConfigDict
from torch import Tensor

from invbench.errors import UserError


class Grid(NamedTuple):
    """Some positions of patches: every `stride`-th row and column, counted from an offset.

    Attributes:
        stride: >= 1; 1 takes all positions.
        down: first row, in [0, stride).
        right: first column, in [0, stride).
    """

    stride: int = 1
    down: int = 0
    right: int = 0


#: All positions.
ALL = Grid()


class Prior(ABC):
    """An energy of images, low where they are plausible: `prior(x) -> (B,)`, differentiable in x.

    A concrete prior is a frozen dataclass; its `name` is what a study calls it, `has_prox` tells whether
    `prox` is there, which splitting methods need, and `elementwise` whether the energy is a sum of convex
    functions of one element each: then clipping the proximal point gives that within bounds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    name: ClassVar[str]
    has_prox: ClassVar[bool] = False
    elementwise: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The energy of every instance, summed over its elements: (B, C, H, W) -> (B,)."""

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:  # noqa: ARG002  # see below
        """The proximal point argmin_v R(v) + rho/2 |v - point|^2, instance by instance.

        Args:
            point: where to stay near, (B, C, H, W).
            rho: how near, > 0; a number, or (B,) for one an instance. With a weight w on the prior, rho / w.

        Raises:
            UserError: the prior has none (`has_prox` is false), or rho is not as above.
        """
        raise UserError(f"{self.name}: has no proximal operator; choose another prior or a gradient method.")

    def approach(self, v: Tensor, point: Tensor, rho: float | Tensor) -> Tensor:  # noqa: ARG002  # see below
        """A point from which the objective of `prox` is at most what it is at v: by default the prox itself.

        Where the prox is iterative, a few of its steps from v, for methods that come back to it.

        Args:
            v: where to start, (B, C, H, W).
            point: see `prox`.
            rho: see `prox`.
        """
        return self.prox(point, rho)

    @property
    def degree(self) -> float:
        """The degree d of homogeneity, R(c x) = c^d R(x) (centre or mean scaled along).

        Raises:
            UserError: the prior is not homogeneous.
        """
        raise UserError(f"{self.name}: not homogeneous, so a weight for other units cannot be converted.")

    @property
    def digest(self) -> str:
        """Hash of what the prior has learned; "" where it learns nothing."""
        return ""

    def select(self, indices: Tensor) -> Self:  # noqa: ARG002  # nothing to select from
        """The prior of a sub-batch, itself where it holds nothing per instance.

        Args:
            indices: (b,) int64, repeats allowed.
        """
        return self

    def on_grid(self, grid: Grid) -> "Prior":  # noqa: ARG002  # nothing to thin out
        """The prior at some positions alone, an estimate of itself; itself where it has no patches."""
        return self


@dataclass(frozen=True)
class Standardised(Prior):
    """A prior in units that make weights comparable: scale * prior(x).

    Args:
        prior: R.
        scale: factor on its energy, > 0.
    """

    prior: Prior
    scale: float

    @property
    def name(self) -> str:  # type: ignore[override]  # named after the instance it wraps
        """The name of the prior inside."""
        return self.prior.name

    @property
    def has_prox(self) -> bool:  # type: ignore[override]  # as its name
        """Whether the prior inside has a proximal operator."""
        return self.prior.has_prox

    @property
    def elementwise(self) -> bool:  # type: ignore[override]  # as its name
        """Whether the prior inside is a sum over elements."""
        return self.prior.elementwise

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`."""
        return self.scale * self.prior(x)

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.prox`; that of the prior inside at rho / scale."""
        return self.prior.prox(point, rho / self.scale)

    def approach(self, v: Tensor, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.approach`."""
        return self.prior.approach(v, point, rho / self.scale)

    @property
    def degree(self) -> float:
        """The degree of the prior inside."""
        return self.prior.degree

    @property
    def digest(self) -> str:
        """That of the prior inside."""
        return self.prior.digest

    def select(self, indices: Tensor) -> "Standardised":
        """See `Prior.select`."""
        return Standardised(self.prior.select(indices), self.scale)

    def on_grid(self, grid: Grid) -> "Standardised":
        """See `Prior.on_grid`."""
        return Standardised(self.prior.on_grid(grid), self.scale)


def standardise(prior: Prior, natural: Tensor, level: float = 0.09) -> Standardised:
    """Scale a prior so that its mean energy on natural images is `level`.

    With a loss of order 1 (a relative error), weight 1 is then a sensible default for every prior: a level
    of 0.09 was found within a factor 2 above and 5 below the tuned weight, for six priors and four targets.

    Args:
        prior: R, which must not hold anything per instance.
        natural: natural images of the size that R will be applied to, (N, C, H, W) in [0, 1].
        level: mean energy after scaling, > 0.

    Raises:
        UserError: the mean energy is not a positive number, so that it cannot serve as a unit.
    """
    with torch.no_grad():
        mean = prior(natural).double().mean().item()
    if not 0 < mean < torch.inf:
        raise UserError(f"{prior.name}: its mean energy on the natural images is {mean}; give varied images.")
    return Standardised(prior, level / mean)
