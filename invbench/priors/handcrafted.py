"""Hand-made priors: norms and total variation.

x is an image batch (B, C, H, W) in [0, 1]. Published weights belong to images in other units; with the
degree of a prior they are converted in one place, where studies are read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from invbench.errors import UserError
from invbench.priors.prior import Prior

Colour = float | Sequence[float]

_NEWTON_STEPS = 10  # of the prox of a power, from a start within a factor 2; 8 suffice for alpha 1.01 to 80


@dataclass(frozen=True)
class AlphaNorm(Prior):
    """The alpha norm R(x) = sum_ijc |x - mean|^alpha: a soft bound on the range of every element.

    Args:
        alpha: exponent, >= 1.
        mean: the mean colour of images, one number or one a channel.

    Raises:
        UserError: alpha < 1.

    References:
        Mahendran & Vedaldi 2015, section 3.2 (there on mean-subtracted images, alpha = 6).
    """

    name: ClassVar[str] = "alpha_norm"
    has_prox: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    alpha: float = 6.0
    mean: Colour = 0.5

    def __post_init__(self) -> None:
        _demand_at_least(self.name, "alpha", self.alpha, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`."""
        shift = x - _colour(self.name, self.mean, x)
        # A power of the square is several times faster, but has no gradient at 0 for alpha < 2.
        powers = shift.square().pow(self.alpha / 2) if self.alpha >= 2 else shift.abs().pow(self.alpha)
        return powers.flatten(1).sum(1)

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.prox`; every element is drawn towards the mean on its own."""
        mean = _colour(self.name, self.mean, point)
        shift = point - mean
        return mean + _shrunk(shift.abs(), _column(self.name, rho, point), self.alpha).copysign(shift)

    @property
    def degree(self) -> float:
        """The exponent, alpha."""
        return self.alpha


@dataclass(frozen=True)
class Range(Prior):
    """The range prior R(x) = sum_ij (|x_ij - mean| / scale)^alpha, with |.| the norm over the channels.

    Args:
        alpha: exponent, >= 2.
        mean: the mean colour of images, one number or one a channel.
        scale: the distance from the mean at which a pixel begins to cost, > 0. The published sum over
            images in 0..255 is `scale = 1/255`, and divided by B^alpha it is `scale = B/255`, which no
            alpha can make overflow in float32.

    Raises:
        UserError: alpha < 2, or scale <= 0.

    References:
        Mahendran & Vedaldi 2016, section 3.1 (mean-subtracted images in 0..255, alpha = 6, B = 80).
    """

    name: ClassVar[str] = "range"
    has_prox: ClassVar[bool] = True
    alpha: float = 6.0
    mean: Colour = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        _demand_at_least(self.name, "alpha", self.alpha, 2)
        _demand_positive(self.name, "scale", self.scale)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`."""
        squares = (x - _colour(self.name, self.mean, x)).square().sum(1) / self.scale**2
        return squares.pow(self.alpha / 2).flatten(1).sum(1)

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.prox`; every pixel is drawn towards the mean, its direction kept."""
        mean = _colour(self.name, self.mean, point)
        shift = point - mean
        radius: Tensor = torch.linalg.vector_norm(shift, dim=1, keepdim=True) / self.scale
        shrunk = _shrunk(radius, _column(self.name, rho, point) * self.scale**2, self.alpha)
        return mean + shift * (shrunk / radius.masked_fill(radius == 0, 1.0))

    @property
    def degree(self) -> float:
        """The exponent, alpha."""
        return self.alpha


@dataclass(frozen=True)
class TotalVariation(Prior):
    """TV-beta: R(x) = sum_ijc ((x_i,j+1 - x_ij)^2 + (x_i+1,j - x_ij)^2)^(beta/2).

    Forward differences; one that would leave the image counts as 0. For beta = 2 this is the plain sum of
    squared differences. For beta < 2 the power has no gradient at flat pixels; there it is smoothed to
    (d^2 + epsilon)^(beta/2).

    Args:
        beta: exponent, > 0; 1 is the isotropic total variation.
        epsilon: smoothing for beta < 2, > 0; the default is invisible above a difference of 1e-4, a
            fortieth of a grey level.

    Raises:
        UserError: beta <= 0, or epsilon <= 0.

    References:
        Mahendran & Vedaldi 2015, section 3.2; 2016, section 3.1 (both without epsilon).
    """

    name: ClassVar[str] = "tv"
    beta: float = 2.0
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _demand_positive(self.name, "beta", self.beta)
        _demand_positive(self.name, "epsilon", self.epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`."""
        across, down = x.diff(dim=-1).square(), x.diff(dim=-2).square()
        if self.beta == 2:
            return across.flatten(1).sum(1) + down.flatten(1).sum(1)
        squares = functional.pad(across, (0, 1)) + functional.pad(down, (0, 0, 0, 1))
        if self.beta < 2:
            squares = squares + self.epsilon
        return squares.pow(self.beta / 2).flatten(1).sum(1)

    @property
    def has_prox(self) -> bool:  # type: ignore[override]  # depends on the exponent
        """Whether beta is 2: then the prox is a linear filter."""
        return self.beta == 2

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.prox`; for beta = 2, (rho + 2 D^T D)^-1 rho point, D the differences.

        Differences that do not leave the image make D^T D diagonal in the cosines of the DCT-II.
        """
        if not self.has_prox:
            return super().prox(point, rho)
        (across, bend), (down, fall) = _cosines(point.shape[-1], point), _cosines(point.shape[-2], point)
        column = _column(self.name, rho, point)
        factor = column / (column + 2 * (fall[:, None] + bend))
        found: Tensor = down.T @ (factor * (down @ point @ across.T)) @ across
        return found

    @property
    def degree(self) -> float:
        """The exponent, beta (exact where epsilon is negligible)."""
        return self.beta


@dataclass(frozen=True)
class SquaredL2(Prior):
    """The squared distance R(x) = 1/2 |x - centre|^2.

    Args:
        centre: a number, or a tensor with the dimensions of x: (1, ...) shared, (B, ...) one an instance.
    """

    name: ClassVar[str] = "l2"
    has_prox: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    centre: float | Tensor = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`."""
        return 0.5 * (x - self.centre).square().flatten(1).sum(1)

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.prox`; the mean (centre + rho point) / (1 + rho)."""
        column = _column(self.name, rho, point)
        return (self.centre + column * point) / (1 + column)

    @property
    def degree(self) -> float:
        """2."""
        return 2.0

    def select(self, indices: Tensor) -> "SquaredL2":
        """See `Prior.select`."""
        if not isinstance(self.centre, Tensor) or self.centre.dim() == 0 or len(self.centre) == 1:
            return self
        return replace(self, centre=self.centre[indices])


@dataclass(frozen=True)
class L1(Prior):
    """The sum of magnitudes R(x) = |x|_1; its gradient at 0 is taken as 0."""

    name: ClassVar[str] = "l1"
    has_prox: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`."""
        return x.abs().flatten(1).sum(1)

    def prox(self, point: Tensor, rho: float | Tensor) -> Tensor:
        """See `Prior.prox`; every magnitude loses 1 / rho, down to 0."""
        return _shrunk(point.abs(), _column(self.name, rho, point), 1.0).copysign(point)

    @property
    def degree(self) -> float:
        """1."""
        return 1.0


def _colour(name: str, mean: Colour, x: Tensor) -> Tensor:
    """A mean colour with the dimensions of the image batch x: (1, C or 1, 1, 1)."""
    colour = torch.as_tensor(mean, dtype=x.dtype, device=x.device).reshape(1, -1, 1, 1)
    if colour.shape[1] not in (1, x.shape[1]):
        raise UserError(f"{name}: the mean has {colour.shape[1]} channels, but the image {x.shape[1]}.")
    return colour


def _column(name: str, rho: float | Tensor, x: Tensor) -> Tensor:
    """A number, or one an instance, with the dimensions of x (B, ...): (1 or B, 1, ...)."""
    if not isinstance(rho, Tensor) and not rho > 0:
        raise UserError(f"{name}: the prox needs rho > 0, but it is {rho}.")
    column = torch.as_tensor(rho, dtype=x.dtype, device=x.device)
    if column.shape not in ((), x.shape[:1]):
        raise UserError(f"{name}: rho has the shape {tuple(column.shape)}; give a number or ({len(x)},).")
    return column.reshape(-1, *[1] * (x.dim() - 1))


def _cosines(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvectors, as rows, and the eigenvalues of the squared differences of `size` numbers in a row.

    Returns:
        The orthonormal DCT-II, (size, size), and 4 sin^2(pi k / (2 size)), (size,).
    """
    k = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * k[:, None] * (k + 0.5)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves.to(like), (4 * torch.sin(math.pi * k / (2 * size)).square()).to(like)


def _shrunk(radius: Tensor, rho: Tensor, alpha: float) -> Tensor:
    """The prox of the power w^alpha, argmin over w >= 0 of w^alpha + rho/2 (w - radius)^2, elementwise.

    Closed for alpha 1 and 2. Otherwise alpha w^(alpha - 1) + rho w = rho radius, solved by Newton's method
    in float64, in w for alpha > 2 and in w^(alpha - 1) below. The left side is then convex and increasing,
    and dropping one term bounds the root from above: the iterates fall to it without a safeguard.
    """
    if alpha == 1:
        return (radius - 1 / rho).relu()
    if alpha == 2:
        return radius * (rho / (rho + 2))
    r, rho = radius.double(), rho.double()
    steep, flat = max(alpha - 1, 1 / (alpha - 1)), alpha > 2
    # The equation is  a y^steep + b y = c  with y = w or w^(alpha - 1).
    a, b, c = (
        (torch.full_like(rho, alpha), rho, rho * r) if flat else (rho, torch.full_like(rho, alpha), rho * r)
    )
    y = torch.minimum(c / b, (c / a) ** (1 / steep))
    for _ in range(_NEWTON_STEPS):
        power = y ** (steep - 1)
        y = y - (a * power * y + b * y - c) / (a * steep * power + b)
    return (y if flat else y**steep).to(radius.dtype)


def _demand_at_least(name: str, what: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{name}: {what} must be >= {least}, but is {value}.")


def _demand_positive(name: str, what: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"{name}: {what} must be > 0, but is {value}.")
