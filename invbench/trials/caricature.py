"""Exaggerate what a layer sees in an image."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from torch import Tensor

from invbench.domains import Box
from invbench.losses import InnerProduct
from invbench.meter import Meter
from invbench.problem import Problem
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.masks import Mask, masked
from invbench.trials.starts import Start, draw_start
from invbench.trials.terms import weigh


@dataclass(frozen=True, kw_only=True)
class Caricature(Trial):
    """Minimise -<f_layer(x), y> / |y|^2 + sum_i w_i R_i(x), y = max(f_layer(x0), 0), over the box [0, 1].

    The loss is -1 at the image x0. What f sees there grows with its own strength, and nothing pulls x back
    but the priors, of which `l2` has its centre at x0; distortions say how far x has gone. For an image that
    no feature sees, y = 0 and the loss is 0 everywhere.

    Attributes:
        layer: stage of the network.
        mask: the features that are exaggerated (see `masks.FeatureMask`); by default all.
        start: the `image`, or `noise`, `grey`, `black`.

    References:
        Mahendran & Vedaldi, IJCV 2016, caricaturization; the factor 1 / |y|^2 and the start at the image are
        those of the authors' code. Their domain is a ball around each mean pixel, ours the box; their priors
        are range and TV, which `priors` may set.
    """

    metrics: ClassVar = ("activation", "distortion_l2", "distortion_linf")
    ranked_by: ClassVar = "objective"

    layer: str
    mask: Mask = None
    start: Literal[Start, "image"] = "image"
    priors: Priors = field(default_factory=lambda: {"tv": 1.0})

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        cut, pixels = scene.network.cut(self.layer), scene.images.pixels
        network = masked(cut, self.mask)
        problem = Problem(
            network=network,
            target=direction(network(pixels)),
            loss=InnerProduct(),
            domain=Box(0.0, 1.0),
            priors=weigh(self.priors, replace(scene, network=cut), centre=pixels),
            meter=Meter(len(pixels)),
            loss_weight=self.loss_weight,
        )
        return Posed(problem, self._first(scene), pixels, scene.images.names)

    def _first(self, scene: Scene) -> Tensor:
        pixels = scene.images.pixels
        if self.start == "image":
            return pixels.clone()
        return draw_start(self.start, tuple(pixels.shape), scene.seed, pixels)

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"layer": self.layer, "start": self.start}


def direction(features: Tensor) -> Tensor:
    """For features f, y / |y|^2 with y = max(f, 0); 0 where y is. (B, ...) -> (B, ...)."""
    y = features.clamp(min=0)
    squares = y.flatten(1).square().sum(1)
    return y / squares.masked_fill(squares == 0, 1).view(-1, *[1] * (y.dim() - 1))
