"""Whether convolutions can be undone by convolutions: optimal linear inverses beside convolutional ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional

from invbench.analyses.contract import Analysis, Findings, Picture, Refused, Row
from invbench.errors import UserError
from invbench.filters import random_filters, unit_norm
from invbench.linear_inverses import (
    Layout,
    best_convolution,
    expected_error,
    matrix_of,
    optimal_inverse,
    shrunk,
    stationary,
)
from invbench.network import convolutions
from invbench.operators import Convolution
from invbench.operators.toeplitz import closest_toeplitz
from invbench.solver import Count, Positive
from invbench.trials.contract import Scene

Side = Annotated[int, Ge(4), Le(24)]
Boundary = Literal["circular", "zero"]
BOUNDARIES: tuple[Boundary, ...] = ("circular", "zero")
#: Share of white in the covariance of patches.
SHRINKAGE = 1e-3
#: Columns of a root of the covariance whose windows are in memory at once.
CHUNK = 32
#: Deviations below this share of the largest entry are rounding, and are drawn as none.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class ConvolutionalInverse(Analysis):
    """The optimal linear inverse G of a convolution W, the best convolutional one, and how they differ.

    For y = W x + n, with x of covariance Sigma and white noise n of deviation sigma,

        G = (sigma^2 Sigma^-1 + W^T W)^-1 W^T

    has the least E|G y - x|^2. For stride s, G maps the positions of y to blocks of s x s pixels, and is a
    convolution where every entry depends on channels, place in the block and displacement alone. The claim
    that "convolutions are not sufficient for inverting convolutions" needs a condition: G is one where W has
    a circular boundary and Sigma is stationary on the torus, and a kernel as large as the torus then has its
    error, while a small one has more. With stride it is one in the sense above, a transposed convolution,
    but no Toeplitz matrix between pixels. With zeros around the image, or the Sigma of photographs, it is
    none.

    The filters have norm 1. Sigma is that of patches of images (`images`), its mean over all circular shifts
    (`stationary`), or a multiple of the identity (`white`); all three have one trace. Errors are exact.

    Attributes:
        side: of the patches x.
        filters: `random`, Gaussian ones on grey patches; or `network`, those of its first convolution, whose
            kernel replaces `kernels`, on colour patches.
        features: number of filters; of those of a network the first ones.
        kernels: sides of the filters, odd.
        strides: of the convolutions; they divide the side.
        noise: sigma.
        support: side of the smaller convolutional inverse; the larger one has that of the map y.
        samples: training images that the patches are cut from.

    References:
        Harder, Deep Restoration, 2017, section 1.1.1, which leaves the conditions open.
    """

    side: Side = 12
    filters: Literal["random", "network"] = "random"
    features: Count = 2
    kernels: tuple[Count, ...] = (3, 5)
    strides: tuple[Count, ...] = (1, 2)
    noise: Positive = 0.03
    support: Count = 5
    samples: Count = 500

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        for stride in self.strides:
            if self.side % stride or self.side // stride < 4:
                fix = f"choose strides that divide the side {self.side} into 4 parts or more"
                raise UserError(f"convolutional_inverse cannot take stride {stride}: {fix}")
        for kernel in self.kernels:
            if kernel % 2 == 0 or kernel > self.side:
                raise UserError(
                    f"convolutional_inverse needs odd kernels up to its side {self.side}, not {kernel}"
                )
        if self.side > scene.natural.shape[-1]:
            least = f"set side to {scene.natural.shape[-1]} at most"
            raise UserError(f"convolutional_inverse cuts patches of side {self.side} from images: {least}")

    def measure(self, scene: Scene) -> Findings:
        """Rows (boundary, kernel, stride, prior, ...), one a case, and pictures of two of them.

        `optimal`, `small` and `large` are E|x^ - x|^2 / E|x|^2 of the optimal inverse and of the best
        convolutions with both supports, `small_ratio` and `large_ratio` the latter over the first.

        `toeplitz` is |G - T| / |G| with T the convolution that is closest to G. With T the mean over the
        blocks inside alone, a quarter of the map away from its border, `interior` and `borders` are the same
        for the blocks inside and for all others, `interior_peak` and `border_peak` the largest entries of
        |G - T| there over the largest of |G|.

        Raises:
            Refused: the filters of the network are not to be had.
        """
        covariances = self._covariances(scene)
        rows: list[Row] = []
        pictures: list[Picture] = []
        for weight, stride in product(self._filters(scene), self.strides):
            for boundary, (prior, covariance) in product(BOUNDARIES, covariances.items()):
                case = _Case(self._layer(weight, stride), boundary, covariance, self.noise)
                about: Row = {
                    "boundary": boundary,
                    "kernel": weight.shape[-1],
                    "stride": stride,
                    "prior": prior,
                }
                rows.append({**about, **case.errors(self.support), **case.distances()})
                if prior == "stationary" and len(pictures) < 3 * len(BOUNDARIES):
                    pictures += case.pictures()
        return Findings(rows, pictures)

    def _layer(self, weight: Tensor, stride: int) -> Convolution:
        shape, half = (weight.shape[1], self.side, self.side), weight.shape[-1] // 2
        return Convolution(weight, None, shape, (stride, stride), (half, half))

    def _filters(self, scene: Scene) -> Iterator[Tensor]:
        """Filters of norm 1 in double precision, `(K, C, k, k)`."""
        if self.filters == "random":
            generator = torch.Generator().manual_seed(scene.seed)
            for side in self.kernels:
                yield unit_norm(random_filters(self.features, 1, (side, side), generator))
            return
        layers = convolutions(scene.network)
        if not layers:
            raise Refused(f"network '{scene.network.name}' has no convolution")
        name, layer = next(iter(layers.items()))
        side = layer.weight.shape[-1]
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.weight.shape[-2:] == (side, side)
        if not plain or side % 2 == 0 or side > self.side or layer.weight.shape[1] != len(scene.natural[0]):
            raise Refused(
                f"convolution '{name}' has no square, odd kernels of side up to {self.side} on an image: "
                "take `filters: random`"
            )
        yield unit_norm(layer.weight[: self.features].detach().double().cpu())

    def _covariances(self, scene: Scene) -> dict[str, Tensor]:
        """Sigma by prior, `(C side^2, C side^2)`."""
        found = scene.natural if scene.source is None else scene.source.sample("train", self.samples).pixels
        pixels = found[: self.samples].double().cpu()
        if self.filters == "random":
            pixels = pixels.mean(1, keepdim=True)
        cut = pixels.unfold(2, self.side, self.side // 2).unfold(3, self.side, self.side // 2)
        patches = cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        shape = tuple(patches.shape[1:])
        centred = (patches - patches.mean(0)).flatten(1)
        images = shrunk(centred.T @ centred / len(centred), SHRINKAGE)
        white = images.diagonal().mean() * torch.eye(len(images), dtype=images.dtype)
        return {"white": white, "stationary": stationary(images, shape), "images": images}


class _Case:
    """One layer with its boundary, and the optimal inverse for a covariance.

    Args:
        layer: the convolution, padded so that stride 1 keeps the sides.
        boundary: what is in the padding: the other side, or 0.
        covariance: Sigma.
        noise: sigma.
    """

    def __init__(self, layer: Convolution, boundary: Boundary, covariance: Tensor, noise: float) -> None:
        self.layer, self.boundary, self.covariance, self.noise = layer, boundary, covariance, noise
        self.matrix = matrix_of(self.linear, layer.in_shape)
        self.inverse = optimal_inverse(self.matrix, covariance, noise)
        _, rows, columns = layer.out_shape
        self.blocks, self.sides = by_position(self.inverse, layer), (rows, columns)

    def linear(self, x: Tensor) -> Tensor:
        """W x: (B, C, H, W) -> (B, K, H', W')."""
        if self.boundary == "zero":
            return self.layer.linear(x)
        half = self.layer.padding[0]
        padded = functional.pad(x, (half, half, half, half), mode="circular")
        return functional.conv2d(padded, self.layer.weight, stride=self.layer.stride)

    def errors(self, support: int) -> dict[str, float]:
        """Relative errors of the three inverses."""
        power = float(self.covariance.trace())
        root = torch.linalg.cholesky(self.covariance).T.view(-1, *self.layer.in_shape)
        found = {"optimal": expected_error(self.inverse, self.matrix, self.covariance, self.noise) / power}
        for name, kernel in (("small", min(support, min(self.sides))), ("large", min(self.sides))):
            layout = Layout.behind(self.layer, kernel, self.boundary == "circular")
            pairs = ((x, self.linear(x)) for x in torch.split(root, CHUNK))
            weight = best_convolution(pairs, layout, self.noise, count=1)
            convolution = matrix_of(lambda y: layout.apply(weight, y), self.layer.out_shape)  # noqa: B023
            found[name] = expected_error(convolution, self.matrix, self.covariance, self.noise) / power
        ratios = {f"{name}_ratio": found[name] / found["optimal"] for name in ("small", "large")}
        return found | ratios

    def distances(self) -> dict[str, float]:
        """How far the inverse is from a convolution."""
        inside = self._inside()
        whole, inner = self._deviation(None), self._deviation(inside)
        largest = self.blocks.abs().max()
        found = {"toeplitz": float(whole.norm() / self.blocks.norm())}
        for name, rows in (("interior", inside), ("borders", ~inside)):
            found[name] = float(inner[..., rows, :].norm() / self.blocks[..., rows, :].norm())
        for name, rows in (("interior_peak", inside), ("border_peak", ~inside)):
            found[name] = float(inner[..., rows, :].abs().max() / largest)
        return found

    def _deviation(self, rows: Tensor | None) -> Tensor:
        closest = closest_toeplitz(self.blocks, self.sides, self.boundary == "circular", rows)
        return self.blocks - closest

    def _inside(self) -> Tensor:
        """Whether a position of the map is a quarter of it away from its border, `(P,)`."""
        rows, columns = (
            (place >= side // 4) & (place < side - side // 4)
            for side in self.sides
            for place in (torch.arange(side),)
        )
        return (rows[:, None] & columns).flatten()

    def pictures(self) -> Iterator[Picture]:
        """The matrix between the first channels, what it has beside the convolution inside, and where."""
        what = (
            f"{self.boundary} boundary, kernel {self.layer.weight.shape[-1]}, stride {self.layer.stride[0]}"
        )
        matrix, deviation = self.blocks[0, 0, 0, 0], self._deviation(self._inside())
        yield _signed(f"optimal inverse, {what}", matrix, 0)
        limit = ROUNDING * float(self.blocks.abs().max())
        yield _signed(f"its deviation from a convolution, {what}", deviation[0, 0, 0, 0], limit)
        places = deviation.abs().amax((0, 1, 2, 3, 5)).view(self.sides)
        largest = float(places.max())
        shown = places / largest if largest > limit else torch.zeros_like(places)
        share = largest / float(self.blocks.abs().max())
        title = f"largest deviation by place, {what}, white is {share:.2g} of the largest entry"
        yield Picture(title, shown[None].float())


def by_position(inverse: Tensor, layer: Convolution) -> Tensor:
    """An inverse between positions of the map, `(C, s, s', K, P, P)`, from `(C H W, K P)`.

    Args:
        inverse: G.
        layer: the convolution W, whose stride divides the sides H and W into those of its map.
    """
    (channels, *_), (maps, rows, columns), (down, right) = layer.in_shape, layer.out_shape, layer.stride
    split = inverse.view(channels, rows, down, columns, right, maps, rows * columns)
    return split.permute(0, 2, 4, 5, 1, 3, 6).flatten(4, 5)


def _signed(title: str, matrix: Tensor, limit: float) -> Picture:
    """A matrix in grey: black is minus the largest magnitude, grey 0, white the largest."""
    largest = float(matrix.abs().max())
    scaled = matrix / largest if largest > limit else torch.zeros_like(matrix)
    title = f"{title}, {-largest:.2g} black to {largest:.2g} white"
    return Picture(title, ((scaled + 1) / 2)[None].float())
