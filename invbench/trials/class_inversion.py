"""Find an image that the network takes for a class."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from invbench.domains import Box
from invbench.losses import CrossEntropy
from invbench.meter import Meter
from invbench.problem import Problem
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.starts import Start, draw_start
from invbench.trials.terms import weigh


@dataclass(frozen=True, kw_only=True)
class ClassInversion(Trial):
    """Minimise the cross-entropy of class t at f(x) plus priors, over the box [0, 1].

    There are as many instances as images; the classes take turns. The `l2` prior is centred on mid-grey
    (Simonyan et al. centre it on the mean image, which is 0 in their units).

    Attributes:
        start: `noise`, `grey` or `black`.

    References:
        Simonyan, Vedaldi & Zisserman, ICLR 2014 workshop, eq. 1; Wong & Kolter 2017, section 4.
    """

    metrics: ClassVar = ("success",)
    ranked_by: ClassVar = "objective"

    start: Start = "grey"
    priors: Priors = field(default_factory=lambda: {"l2": 1.0})

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        pixels = scene.images.pixels
        labels = torch.arange(len(pixels), device=pixels.device) % len(scene.classes)
        problem = Problem(
            network=scene.network,
            target=labels,
            loss=CrossEntropy(),
            domain=Box(0.0, 1.0),
            priors=weigh(self.priors, scene.natural, centre=0.5),
            meter=Meter(len(pixels)),
            loss_weight=self.loss_weight,
        )
        start = draw_start(self.start, tuple(pixels.shape), scene.seed, pixels)
        return Posed(problem, start, None, tuple(scene.classes[label] for label in labels.tolist()))

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"start": self.start}
