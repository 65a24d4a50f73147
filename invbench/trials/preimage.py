"""Reconstruct images from their features."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from invbench.domains import Box, Reals
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.problem import Problem
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.starts import Start, draw_start
from invbench.trials.terms import weigh


@dataclass(frozen=True, kw_only=True)
class Preimage(Trial):
    """Given y = f_layer(x0), minimise |f_layer(x) - y|^2 / |y|^2 + sum_i w_i R_i(x) over the box [0, 1].

    Attributes:
        layer: stage of the network whose output is given.
        start: `noise`, `grey` or `black`.
        normalisation: denominator of the loss (see `losses.SquaredError`).
        domain: `box` or `reals`.

    References:
        Mahendran & Vedaldi, CVPR 2015, eq. 1-2.
    """

    metrics: ClassVar = ("feature_error", "mse", "psnr", "ssim", "relative_l2")
    ranked_by: ClassVar = "mse"

    layer: str
    start: Start = "noise"
    priors: Priors = field(default_factory=lambda: {"tv": 1.0})
    normalisation: Literal["target", "size", "variance", "none"] = "target"
    domain: Literal["box", "reals"] = "box"

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        network, pixels = scene.network.cut(self.layer), scene.images.pixels
        problem = Problem(
            network=network,
            target=network(pixels),
            loss=SquaredError(self.normalisation),
            domain=Box(0.0, 1.0) if self.domain == "box" else Reals(),
            priors=weigh(self.priors, replace(scene, network=network)),
            meter=Meter(len(pixels)),
            loss_weight=self.loss_weight,
        )
        start = draw_start(self.start, tuple(pixels.shape), scene.seed, pixels)
        return Posed(problem, start, pixels, scene.images.names)

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"layer": self.layer, "start": self.start}
