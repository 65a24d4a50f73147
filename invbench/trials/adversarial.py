"""Change an image a little so that the network takes it for something else."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invbench.domains import Domain, L2BallInBox, LinfBallInBox
from invbench.losses import CrossEntropy, InnerProduct, Loss, TargetedMargin
from invbench.meter import Meter
from invbench.problem import Problem
from invbench.solver import NonNegative, Positive
from invbench.trials.classes import Wrong, demand_classes, wrong_classes
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.terms import weigh


@dataclass(frozen=True, kw_only=True)
class Adversarial(Trial):
    """Minimise a loss that pulls f(x) to a wrong class, over a ball around the image within the box [0, 1].

    The wrong class differs from the predicted one, so that no instance starts solved.

    Attributes:
        loss: `margin` (max_{j != t} f_j - f_t, down to -confidence), `linear` (f_predicted - f_t, as Wong
            & Kolter 2017) or `cross_entropy`.
        target: the wrong class: `runner_up` of the prediction, `next` in order, or `least_likely`.
        norm: of the ball, `linf` or `l2`.
        radius: of the ball, in units of x.
        confidence: by how much the wrong class must win before the margin is satisfied.

    References:
        Carlini & Wagner, S&P 2017, loss f6; Madry et al., ICLR 2018; Wong & Kolter 2017, section 4.3.
    """

    metrics: ClassVar = ("success", "distortion_l2", "distortion_linf")
    ranked_by: ClassVar = "success"

    loss: Literal["margin", "linear", "cross_entropy"] = "margin"
    target: Wrong = "runner_up"
    norm: Literal["linf", "l2"] = "linf"
    radius: Positive = 8 / 255
    confidence: NonNegative = 0.0
    priors: Priors = field(default_factory=dict)

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        demand_classes(scene.network)
        pixels = scene.images.pixels
        predicted, wrong = wrong_classes(scene.network(pixels), self.target)
        loss, target = self._loss(predicted, wrong, len(scene.classes), pixels)
        problem = Problem(
            network=scene.network,
            target=target,
            loss=loss,
            domain=self._ball(pixels),
            priors=weigh(self.priors, scene, centre=pixels),
            meter=Meter(len(pixels)),
            loss_weight=self.loss_weight,
        )
        return Posed(problem, pixels.clone(), pixels, scene.images.names)

    def _loss(self, predicted: Tensor, wrong: Tensor, classes: int, like: Tensor) -> tuple[Loss, Tensor]:
        if self.loss == "linear":
            one_hot = torch.nn.functional.one_hot
            return InnerProduct(), (one_hot(wrong, classes) - one_hot(predicted, classes)).to(like)
        return (TargetedMargin(self.confidence) if self.loss == "margin" else CrossEntropy()), wrong

    def _ball(self, pixels: Tensor) -> Domain:
        ball = L2BallInBox if self.norm == "l2" else LinfBallInBox
        return ball(pixels, self.radius, 0.0, 1.0)

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"start": "image"}
