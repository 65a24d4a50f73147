"""How the features of a network are spread: covariances, how stationary they are, Gram matrices, sparsity."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from invbench.analyses.contract import Analysis, Findings, Picture, Plot, Refused, Row
from invbench.operators.toeplitz import toeplitz_distance
from invbench.solver import Positive
from invbench.trials.contract import Scene

#: Images a forward pass takes at a time.
CHUNK = 16
#: Channels that a matrix between channels has at most; of more, some at equal steps are taken.
CHANNELS = 256


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics(Analysis):
    """Second-order statistics and sparsity of the features of every stage.

    With f_ncp channel c at position p for image n, centred over the images for g, all in a centred window:

        Sigma_pq = mean_c sum_n g_ncp g_ncq / (N - 1)      covariance between positions
        K_cd     = mean_p sum_n g_ncp g_ndp / (N - 1)      covariance between channels
        G_cd     = mean_np f_ncp f_ndp                     Gram matrix

    Stationary features have a Sigma that depends on the displacement p - q alone: it is block-Toeplitz with
    Toeplitz blocks. The best such T in the Frobenius norm holds the mean of Sigma over all pairs of one
    displacement, and the distance is |Sigma - T|_F / |Sigma|_F. A small one speaks for priors that are
    convolutions. Inverses are regularised: (A + ridge tr(A) / dim(A) I)^-1. The inverse of a Toeplitz
    matrix is none near the border of the window, so its distance is also measured for its block of the
    positions inside, a quarter of the window away from the border.

    Attributes:
        layers: stages, or one; by default all.
        window: side of the window in positions; smaller maps are taken whole.
        samples: images to measure on: those of the study, then of the split for training.
        ridge: of the inverses.

    References:
        Harder, Deep Restoration, 2017, section 4.1 and figure 4, for 200 images; the distance, the inner
        block and the ridge are ours. Effective rank: Roy & Vetterli, EUSIPCO 2007.
    """

    plot: ClassVar = Plot(x="depth", y="toeplitz")

    layers: str | tuple[str, ...] = ()
    window: Annotated[int, Ge(1), Le(16)] = 8
    samples: Annotated[int, Ge(2)] = 200
    ridge: Positive = 1e-3

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        for stage in self._stages(scene):
            scene.network.cut(stage)

    def measure(self, scene: Scene) -> Findings:
        """Rows (layer, depth, count, channels, height, width, toeplitz, ...), one a stage, and pictures.

        `count` is the number of images, `height` and `width` are of the whole map. `toeplitz`,
        `inverse_toeplitz` and `inverse_inside` are distances as above, of Sigma, its inverse, and the inverse
        inside. `correlation` and `partial` are mean magnitudes off the diagonal of the correlations between
        channels, and of their partial correlations, from the inverse of K. `cosine` is the same of G scaled
        to a diagonal of ones, `effective_rank` exp of the entropy of the eigenvalues of G over their sum.
        `nonzero` is the share of entries that are not 0, `kurtosis` the mean over channels of
        E(f - m)^4 / (E(f - m)^2)^2, which is 3 for a Gaussian.

        What does not apply has no value: positions of a vector, a channel that never changes, and inverses
        of covariances that are not of full rank, as C (N - 1) >= P for Sigma and P (N - 1) >= C for K fail.

        Raises:
            Refused: there is one image, or no stage.
        """
        stages, pixels = self._stages(scene), self._pixels(scene)
        if not stages:
            raise Refused(f"network '{scene.network.name}' has no stages to look behind")
        if len(pixels) < 2:
            raise Refused("covariances need two images or more, but there is 1: raise the count of images")
        rows: list[Row] = []
        pictures: list[Picture] = []
        for depth, stage in enumerate(stages, start=1):
            shape, features = self._features(scene, stage, pixels)
            matrices = _Matrices(features, self.ridge)
            place = dict(zip(("channels", "height", "width"), shape, strict=True))
            rows.append({"layer": stage, "depth": depth, "count": len(pixels), **place, **matrices.figures()})
            pictures += matrices.pictures(stage)
        return Findings(rows, pictures)

    def _stages(self, scene: Scene) -> Sequence[str]:
        named = (self.layers,) if isinstance(self.layers, str) else self.layers
        return named or scene.network.stages

    def _pixels(self, scene: Scene) -> Tensor:
        """The images of the scene, and as many others as are there and asked for, `(N, C, H, W)`."""
        own = scene.images.pixels[: self.samples]
        more = self.samples - len(own)
        if not more:
            return own
        if scene.source is not None:
            return torch.cat([own, scene.source.sample("train", more).pixels.to(own)])
        same = scene.natural is scene.images.pixels
        return own if same else torch.cat([own, scene.natural[:more]])

    def _features(self, scene: Scene, stage: str, pixels: Tensor) -> tuple[tuple[int, int, int], Tensor]:
        """Shape of a map, and the features in the window, `(N, C, h, w)` in double precision on the CPU.

        A vector is a map of one position.
        """
        part = scene.network.cut(stage)
        shape = (*part.output_shape, 1, 1)[:3] if len(part.output_shape) == 1 else part.output_shape
        if len(shape) != 3:
            raise Refused(
                f"stage '{stage}' gives an output of shape {part.output_shape}, no map and no vector"
            )
        channels, height, width = shape
        top, left = (max(0, side - self.window) // 2 for side in (height, width))
        rows, columns = slice(top, top + self.window), slice(left, left + self.window)
        with torch.no_grad():
            found = [
                part(chunk).reshape(len(chunk), *shape)[:, :, rows, columns].double().cpu()
                for chunk in torch.split(pixels, CHUNK)
            ]
        return (channels, height, width), torch.cat(found)


class _Matrices:
    """The matrices of the features of one stage.

    Args:
        features: `(N, C, h, w)`.
        ridge: of the inverses.
    """

    def __init__(self, features: Tensor, ridge: float) -> None:
        count, channels, height, width = features.shape
        self.features, self.sides = features, (height, width)
        positions = height * width
        flat = features.flatten(2)
        some = flat[:, torch.linspace(0, channels - 1, min(channels, CHANNELS)).round().long()]
        centred, chosen = flat - flat.mean(0), some - some.mean(0)
        self.positions = torch.einsum("ncp,ncq->pq", centred, centred) / (channels * (count - 1))
        self.channels = torch.einsum("ncp,ndp->cd", chosen, chosen) / (positions * (count - 1))
        self.gram = torch.einsum("ncp,ndp->cd", some, some) / (positions * count)
        enough = channels * (count - 1) >= positions > 1
        self.inverse = inverse(self.positions, ridge) if enough else None
        enough = positions * (count - 1) >= len(self.channels) > 1
        self.between = inverse(self.channels, ridge) if enough else None

    def figures(self) -> dict[str, float]:
        """The columns of a row."""
        values = torch.linalg.eigvalsh(self.gram).clamp(min=0)
        return {
            "toeplitz": toeplitz_distance(self.positions, *self.sides) if max(self.sides) > 1 else math.nan,
            "inverse_toeplitz": math.nan if self.inverse is None else self._distance(0),
            "inverse_inside": math.nan if self.inverse is None else self._distance(4),
            "correlation": off_diagonal(scaled(self.channels)),
            "partial": math.nan if self.between is None else off_diagonal(scaled(self.between)),
            "cosine": off_diagonal(scaled(self.gram)),
            "effective_rank": effective_rank(values),
            "nonzero": float(self.features.count_nonzero()) / self.features.numel(),
            "kurtosis": kurtosis(self.features),
        }

    def _distance(self, parts: int) -> float:
        """Of the inverse, for the positions which are at least a part of the window away from its border."""
        assert self.inverse is not None
        height, width = self.sides
        down, right = (side // parts if parts else 0 for side in self.sides)
        rows, columns = range(down, height - down), range(right, width - right)
        inner = torch.tensor([row * width + column for row in rows for column in columns])
        return toeplitz_distance(self.inverse[inner][:, inner], len(rows), len(columns))

    def pictures(self, stage: str) -> Iterator[Picture]:
        """The matrices in grey: black is minus the largest magnitude, grey 0, white the largest."""
        matrices = {
            "covariance of positions": self.positions if len(self.positions) > 1 else None,
            "its inverse": self.inverse,
            "correlation of channels": scaled(self.channels) if len(self.channels) > 1 else None,
            "Gram matrix of channels": self.gram if len(self.gram) > 1 else None,
        }
        for title, matrix in matrices.items():
            if matrix is not None and matrix.isfinite().any():
                largest = float(matrix.nan_to_num().abs().max())
                pixels = (matrix.nan_to_num() / (largest or 1.0) + 1) / 2
                what = f"{stage}: {title}, {-largest:.2g} black to {largest:.2g} white"
                yield Picture(what, pixels[None].float())


def inverse(matrix: Tensor, ridge: float) -> Tensor:
    """(A + ridge tr(A) / dim(A) I)^-1; NaN for A = 0."""
    mean = matrix.diagonal().mean()
    if not mean > 0:
        return torch.full_like(matrix, math.nan)
    regular: Tensor = torch.linalg.inv(matrix + ridge * mean * torch.eye(len(matrix), dtype=matrix.dtype))
    return regular


def scaled(matrix: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 with D the diagonal of A; NaN where that is 0."""
    root = matrix.diagonal().clamp(min=0).sqrt()
    root = torch.where(root > 0, root, math.nan)
    return matrix / root[:, None] / root


def off_diagonal(matrix: Tensor) -> float:
    """Mean magnitude off the diagonal, of the entries that have a value."""
    apart = ~torch.eye(len(matrix), dtype=torch.bool)
    return float(matrix[apart].abs().nanmean())


def effective_rank(values: Tensor) -> float:
    """Exp of the entropy of eigenvalues over their sum, `(C,)` not negative: C where they are equal."""
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def kurtosis(features: Tensor) -> float:
    """Mean over channels of the standardised fourth moment, `(N, C, h, w)`; none of a constant channel."""
    centred = features - features.mean((0, 2, 3), keepdim=True)
    second, fourth = (centred.pow(power).mean((0, 2, 3)) for power in (2, 4))
    return float((fourth / torch.where(second > 0, second.square(), math.nan)).nanmean())
