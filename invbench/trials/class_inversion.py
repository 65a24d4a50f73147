"""Find an image that the network takes for a class."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invbench.domains import Box
from invbench.losses import CrossEntropy
from invbench.meter import Meter
from invbench.problem import Problem
from invbench.trials.classes import Wrong, demand_classes, wrong_classes
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.starts import Start, draw_start
from invbench.trials.terms import weigh


@dataclass(frozen=True, kw_only=True)
class ClassInversion(Trial):
    """Minimise the cross-entropy of class t at f(x) plus priors, over the box [0, 1].

    There are as many instances as images. `around: image` with `priors: {l2: {raw: lambda}}` is, for an
    image x0, the inversion of Wong & Kolter: CE(f(x), t) + lambda/2 |x - x0|^2. (Their cross-entropy in a
    small box around x0 is `adversarial: {loss: cross_entropy, radius: ...}`.)

    Attributes:
        around: the centre of the `l2` prior: mid-`grey` (Simonyan et al. centre it on the mean image, which
            is 0 in their units), or the `image` of each instance, from which distortions are then measured.
        start: `noise`, `grey`, `black` or `image`; by default what `around` names.
        target: t: the classes take `turns`, or the class `next` to the predicted one of the image, its
            `runner_up` or the `least_likely`, so that no image is where it should go.

    References:
        Simonyan, Vedaldi & Zisserman, ICLR 2014 workshop, eq. 1; Wong & Kolter 2017, section 4.
    """

    metrics: ClassVar = ("success", "distortion_l2", "distortion_linf")
    ranked_by: ClassVar = "objective"

    around: Literal["grey", "image"] = "grey"
    start: Literal[Start, "image"] | None = None
    target: Literal["turns", Wrong] = "turns"
    priors: Priors = field(default_factory=lambda: {"l2": 1.0})

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        demand_classes(scene.network)
        pixels, classes = scene.images.pixels, self._classes(scene)
        own = self.around == "image"
        problem = Problem(
            network=scene.network,
            target=classes,
            loss=CrossEntropy(),
            domain=Box(0.0, 1.0),
            priors=weigh(self.priors, scene, centre=pixels if own else 0.5),
            meter=Meter(len(pixels)),
            loss_weight=self.loss_weight,
        )
        names = scene.images.names if own else tuple(scene.classes[label] for label in classes.tolist())
        return Posed(problem, self._first(scene), pixels if own else None, names)

    def _classes(self, scene: Scene) -> Tensor:
        pixels = scene.images.pixels
        if self.target == "turns":
            return torch.arange(len(pixels), device=pixels.device) % len(scene.classes)
        return wrong_classes(scene.network(pixels), self.target)[1]

    def _first(self, scene: Scene) -> Tensor:
        start, pixels = self.start or self.around, scene.images.pixels
        if start == "image":
            return pixels.clone()
        return draw_start(start, tuple(pixels.shape), scene.seed, pixels)

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"start": self.start or self.around}
