"""Reconstruct images from their features."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from invbench.domains import Box, Reals
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.problem import Problem
from invbench.solver import Count
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.masks import Mask, masked
from invbench.trials.starts import Start, draw_start
from invbench.trials.terms import weigh


@dataclass(frozen=True, kw_only=True)
class Preimage(Trial):
    """Given y = f_layer(x0), minimise |f_layer(x) - y|^2 / |y|^2 + sum_i w_i R_i(x) over the box [0, 1].

    With `mask`, f_layer is the network followed by a mask of zeros and ones; what it hides is unknown to the
    loss, the solvers and the metric `feature_error`. With `starts`, every representation is inverted several
    times, from starts that differ: what differs in the results is what the representation does not tell.

    Attributes:
        layer: stage of the network whose output is given.
        mask: the features that are given, as `{window: 3}` or `{channels: first_half}` (see
            `masks.FeatureMask`); by default all.
        start: `noise`, `grey` or `black`.
        starts: how many of one image; instances are the starts of the first image, of the second, ...
        normalisation: denominator of the loss (see `losses.SquaredError`).
        domain: `box` or `reals`.

    References:
        Mahendran & Vedaldi, CVPR 2015, eq. 1-2; several starts: figure 1 there; masks: section 5.
    """

    metrics: ClassVar = ("feature_error", "mse", "psnr", "ssim", "relative_l2", "diversity", "checkerboard")
    ranked_by: ClassVar = "mse"

    layer: str
    mask: Mask = None
    start: Start = "noise"
    starts: Count = 1
    priors: Priors = field(default_factory=lambda: {"tv": 1.0})
    normalisation: Literal["target", "size", "variance", "none"] = "target"
    domain: Literal["box", "reals"] = "box"

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        cut = scene.network.cut(self.layer)
        network, pixels = masked(cut, self.mask), scene.images.pixels
        target, truth = (part.repeat_interleave(self.starts, 0) for part in (network(pixels), pixels))
        problem = Problem(
            network=network,
            target=target,
            loss=SquaredError(self.normalisation),
            domain=Box(0.0, 1.0) if self.domain == "box" else Reals(),
            priors=weigh(self.priors, replace(scene, network=cut)),
            meter=Meter(len(truth)),
            loss_weight=self.loss_weight,
        )
        start = draw_start(self.start, tuple(truth.shape), scene.seed, truth)
        return Posed(problem, start, truth, tuple(self._names(scene.images.names)))

    def lesson(self) -> Self:
        """See `Trial.lesson`; where a run starts, and how often, is of no account either."""
        return replace(super().lesson(), start="grey", starts=1)

    def _names(self, images: tuple[str, ...]) -> Iterator[str]:
        for name in images:
            yield name
            yield from (f"{name}, start {n}" for n in range(2, self.starts + 1))

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"layer": self.layer, "start": self.start}
