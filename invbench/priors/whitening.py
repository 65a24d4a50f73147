"""Whitening of patches: mean, scale, noise and rotation as one affine map, which folds into filters."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from invbench.errors import UserError

Method = Literal["pca", "zca", "none"]
Mean = Literal["patch", "channel", "data"]
Scale = Literal["global", "channel", "none"]

#: Directions with a smaller share of the largest variance are dropped: they are rounding.
LEAST_VARIANCE = 1e-8
#: Data whose deviation is a smaller share of its size are constant.
LEAST_DEVIATION = 1e-6
#: Patches whose moments are taken at a time.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches at random positions of maps, gathered when they are asked for.

    Attributes:
        windows: all patches, a view `(N, C, h, w, p, p)` of the maps.
        places: which of them: map, row and column, `(count, 3)` int64.
        groups: parts G of the channels that are looked at on their own, 1 or C.
    """

    windows: Tensor
    places: Tensor
    groups: int = 1

    @classmethod
    def draw(cls, maps: Tensor, side: int, count: int, groups: int, generator: torch.Generator) -> Self:
        """Patches of side p at uniform positions of maps `(N, C, H, W)`, with repeats."""
        windows = maps.unfold(2, side, 1).unfold(3, side, 1)
        sizes = torch.tensor([windows.shape[0], windows.shape[2], windows.shape[3]])
        places = (torch.rand(count, 3, dtype=torch.float64, generator=generator) * sizes).long()
        return cls(windows, places.to(maps.device), groups)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def elements(self) -> int:
        """Number p^2 of the elements of a channel."""
        return self.windows.shape[-1] ** 2

    @property
    def dimensions(self) -> int:
        """Number n = C / G p^2 of the elements of a patch in its group."""
        return self.windows.shape[1] // self.groups * self.elements

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        """Some patches, `(b, G, n)`."""
        image, row, column = self.places[indices].unbind(1)
        patches: Tensor = self.windows[image, :, row, column]
        return patches.reshape(len(patches), self.groups, self.dimensions)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean `(G, n)` and covariance `(G, n, n)`, in float64, in a second sweep around the mean."""
        starts = range(0, len(self), CHUNK)
        mean: Tensor = sum(self[slice(i, i + CHUNK)].double().sum(0) for i in starts) / len(self)  # type: ignore[assignment]
        covariance = mean.new_zeros(*mean.shape, mean.shape[-1])
        for i in starts:
            centred = (self[slice(i, i + CHUNK)].double() - mean).transpose(0, 1)
            covariance += centred.mT @ centred
        return mean, covariance / len(self)


@dataclass(frozen=True, eq=False)
class Whitening:
    """The affine map z = A (x - m) of patches x, for each of G groups.

        A = R S^-1 P        z = A (x - m + noise S e),  e ~ N(0, I), in training

    P removes a mean that every patch has of its own, S scales, and R rotates and scales to identity
    covariance. Before R, the covariance with noise is S^-1 P (cov(x) + noise^2 S^2) P S^-1 = U D U^T:

    - `pca`: R = D^-1/2 U^T, the leading directions alone, d of them;
    - `zca`: R = U D^-1/2 U^T, in the space of patches, d = n;
    - `none`: R = I.

    So noise on the training patches bounds the gain by 1 / noise: without it, whitening would divide by the
    rounding of 8-bit images. Everything is linear in x, which is why the scale is one of the data and not one
    of every patch: that would not fold into filters.

    Attributes:
        matrix: A, `(G, d, n)`.
        mean: m, `(G, n)`.
        noise: standard deviation of the noise on x, noise S, `(G, n)`.
    """

    matrix: Tensor
    mean: Tensor
    noise: Tensor

    @classmethod
    def fit(cls, patches: Patches, method: Method, mean: Mean, scale: Scale, noise: float) -> Self:
        """The whitening of some patches.

        Args:
            patches: of the training.
            method: see above.
            mean: what P removes: of every patch its mean (`patch`), of every channel in it its mean
                (`channel`), or nothing but the mean of all patches (`data`).
            scale: what S divides by: one standard deviation (`global`), that of each channel (`channel`;
                channels that do not vary count as if they varied globally), or 1 (`none`). It sets the unit
                of the noise, and without whitening the weight of channels.
            noise: relative to S, >= 0.

        Raises:
            UserError: the patches do not vary, or nothing is left of them without their means.
        """
        centre, covariance = patches.moments()
        _demand_variance(centre, covariance)
        keep = _projector(patches.dimensions, patches.elements, mean).to(covariance)
        if not keep.any():
            raise UserError(
                f"patches of {patches.dimensions} number are nothing without their mean: "
                f"take larger patches, or mean: data."
            )
        deviation = _deviation(covariance, patches.elements, scale)
        _demand_variance(covariance.diagonal(dim1=-2, dim2=-1).sqrt(), keep @ covariance @ keep)
        scaled = keep / deviation[:, :, None]
        noisy = covariance + torch.diag_embed((noise * deviation).square())
        matrix = _rotation(scaled @ noisy @ scaled.mT, method) @ scaled
        like = patches.windows
        return cls(matrix.to(like), centre.to(like), (noise * deviation).to(like))

    def __call__(self, patches: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Z of patches `(b, G, n)`: `(G, b, d)`; with a generator, of patches with noise."""
        centred = patches - self.mean
        if generator is not None:
            centred = centred + self.noise * torch.randn(patches.shape, generator=generator).to(patches)
        return centred.transpose(0, 1) @ self.matrix.mT

    def fold(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """Filters `(G, K, d)` on z as filters `(G, K, n)` and biases `(G, K)` on x."""
        folded = filters.double() @ self.matrix.double()
        bias = -(folded * self.mean[:, None].double()).sum(-1)
        return folded.to(filters), bias.to(filters)


def _projector(dimensions: int, elements: int, mean: Mean) -> Tensor:
    """P, `(n, n)`: the identity less the mean over blocks of elements; symmetric."""
    block = {"patch": dimensions, "channel": elements, "data": 0}[mean]
    identity = torch.eye(dimensions, dtype=torch.float64)
    if not block:
        return identity
    parts = torch.arange(dimensions) // block
    return identity - (parts[:, None] == parts).double() / block


def _demand_variance(size: Tensor, covariance: Tensor) -> None:
    """Refuses a variance that is rounding, compared with the size of the numbers."""
    if not covariance.diagonal(dim1=-2, dim2=-1).mean() > LEAST_DEVIATION**2 * size.square().mean():
        raise UserError("the patches to learn from are constant: give varied images.")


def _deviation(covariance: Tensor, elements: int, scale: Scale) -> Tensor:
    """The diagonal of S, `(G, n)`."""
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    overall = variances.mean()
    if scale == "none":
        return torch.ones_like(variances)
    if scale == "global":
        return overall.sqrt().expand_as(variances)
    each = variances.reshape(len(variances), -1, elements).mean(2)
    each = torch.where(each > LEAST_VARIANCE * overall, each, overall)
    return each.sqrt().repeat_interleave(elements, 1)


def _rotation(covariance: Tensor, method: Method) -> Tensor:
    """R, `(G, d, n)`: as many directions for every group as the poorest of them has."""
    values, vectors = torch.linalg.eigh(covariance)
    least = LEAST_VARIANCE * values[:, -1:].clamp_min(LEAST_VARIANCE * values.max())
    if method == "none":
        return torch.eye(covariance.shape[-1]).to(covariance).expand_as(covariance)
    rank = int((values > least).sum(1).min())
    if not rank:
        raise UserError("a channel to learn from is constant: give varied images, or noise > 0.")
    kept, basis = values[:, -rank:], vectors[:, :, -rank:]
    whiten = basis.mT / kept.sqrt()[:, :, None]
    rotation: Tensor = basis @ whiten if method == "zca" else whiten
    return rotation
