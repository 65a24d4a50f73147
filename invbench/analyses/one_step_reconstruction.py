"""How well one step of model-based IHT gives back the activations that a convolution is given."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from invbench.analyses.contract import Analysis, Refused, Row
from invbench.domains import ModelSparse
from invbench.filters import random_like, row_norms, unit_norm
from invbench.network import Network, convolutions, inputs_of, plain
from invbench.solver import Count
from invbench.trials.contract import Scene


@dataclass(frozen=True, kw_only=True)
class OneStepReconstruction(Analysis):
    """The relative error of x^ = c W^T M(W x, k), for every pooled map x with a convolution above it.

    W is that convolution, without its bias and with rows of norm 1, by its `learned` filters or by `random`
    Gaussian ones; M keeps one entry in a pooling region of a channel and k regions in all, as many as are
    active in the network itself (in the mean over the images, after the ReLU). The scale c makes |x^| = |x|,
    as in the paper, which needs to know |x|; `unscaled` is the error with c = 1, and `fitted` the smallest
    that any c attains. As a baseline x^ is Gaussian noise of norm |x| (filters `none`).

    Attributes:
        region: side of a pooling region.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, table 4, activation space. There k comes from table 2,
        which counts all entries; here it counts regions, which is what M may keep.
    """

    region: Count = 2

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (layer, convolution, filters, error, unscaled, fitted, k, blocks): means over the images."""
        pairs = pooled_layers(scene.network)
        if not pairs:
            raise Refused("one_step_reconstruction needs a max-pool that a convolution follows")
        generator = torch.Generator().manual_seed(scene.seed)
        rows: list[Row] = []
        for pool, name in pairs:
            rows += self._rows(scene, pool, name, generator)
        return rows

    def _rows(self, scene: Scene, pool: str, name: str, generator: torch.Generator) -> list[Row]:
        step = reconstruct(scene, name, self.region, generator)
        about = {"layer": pool, "convolution": name}
        sizes = {"k": step.k, "blocks": step.blocks}
        return [about | {"filters": kind} | errors(one, step.x) | sizes for kind, one in step.found.items()]


@dataclass(frozen=True, eq=False)
class Reconstructed:
    """The activations x that a convolution is given, and what was found in their place.

    Attributes:
        x: `(B, C, H, W)`, float64.
        found: by `learned` and `random` filters and without any, `none`; of the shape of x, not scaled.
        k: regions that M keeps.
        blocks: regions that there are.
    """

    x: Tensor
    found: dict[str, Tensor]
    k: int
    blocks: int


def reconstruct(scene: Scene, name: str, region: int, generator: torch.Generator) -> Reconstructed:
    """One step for what the convolution `name` is given for the images of a scene.

    Raises:
        Refused: the regions do not tile its maps.
        UserError: the convolution has a stride, dilation or groups.
    """
    layer = convolutions(scene.network)[name]
    learned, padding = plain(layer, name)
    x = inputs_of(scene.network, layer, scene.images.pixels).double()
    active = scene.network.cut(name.rpartition(".")[0] or name)(scene.images.pixels) > 0
    height, width = active.shape[2:]
    if height % region or width % region:
        raise Refused(f"regions of {region} x {region} do not tile the maps of {name}")
    tiles = functional.max_pool2d(active.double(), region)
    k = max(1, round(float(tiles.flatten(1).sum(1).mean())))
    domain = ModelSparse(k, (region, region))
    drawn = random_like(learned, generator).to(x.device)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    found = {
        "learned": one_step(x, learned.double(), padding, domain),
        "random": one_step(x, drawn, padding, domain),
        "none": noise,
    }
    return Reconstructed(x, found, k, tiles[0].numel())


def one_step(x: Tensor, weight: Tensor, padding: tuple[int, int], domain: ModelSparse) -> Tensor:
    """W^T M(W x), W the convolution by unit rows: (B, M, H, W) -> (B, M, H, W)."""
    weight = unit_norm(weight)
    scale = row_norms(weight, (x.shape[2], x.shape[3]), padding).reciprocal()
    z = domain.project(functional.conv2d(x, weight, padding=padding) * scale)
    return functional.conv_transpose2d(z * scale, weight, padding=padding)


def errors(found: Tensor, x: Tensor) -> dict[str, float]:
    """Mean relative errors over the instances: at the norm of x, as found, and at the best scale.

    An instance without activations, x = 0, does not count.
    """
    x, found = x.flatten(1), found.flatten(1)
    norm, length = x.norm(dim=1), found.norm(dim=1)
    x, found, norm, length = (part[(norm > 0) & (length > 0)] for part in (x, found, norm, length))
    cosine = (x * found).sum(1) / (norm * length)
    return {
        "error": float((2 - 2 * cosine).clamp(min=0).sqrt().mean()),
        "unscaled": float(((found - x).norm(dim=1) / norm).mean()),
        "fitted": float((1 - cosine.square()).clamp(min=0).sqrt().mean()),
    }


def pooled_layers(network: Network) -> list[tuple[str, str]]:
    """(max-pool, convolution) for every stage that pools and is followed by one with a single convolution."""
    known = list(convolutions(network))
    pairs = []
    for pool, above in zip(network.stages, network.stages[1:], strict=False):
        inside = [name for name in known if name == above or name.startswith(f"{above}.")]
        if isinstance(network.module.get_submodule(pool), nn.MaxPool2d) and len(inside) == 1:
            pairs.append((pool, inside[0]))
    return pairs
