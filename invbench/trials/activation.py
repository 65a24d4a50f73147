"""Find an image that excites one neuron, or all neurons of a channel."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, MinLen
from torch import Tensor
from torch.nn import functional

from invbench.domains import Box
from invbench.errors import UserError
from invbench.losses import InnerProduct
from invbench.meter import Meter
from invbench.network import Network
from invbench.problem import Problem
from invbench.solver import Count
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.starts import Start, draw_start
from invbench.trials.terms import weigh

Channels = Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class Activation(Trial):
    """Minimise -<m, f_layer(x)> / M + sum_i w_i R_i(x) over the box [0, 1].

    m picks the neuron in the middle of a channel, or takes the mean over the channel. M is the largest
    response of that channel to natural images: that of any of its neurons, or of its mean. So the loss is of
    order 1, and the metric `activation` is above 1 where x excites the unit more than any of these images
    does. Every instance has a channel of its own; those with M <= 0 have none. A ReLU that is off at x has no
    gradient there, and some are off at any noise: start at `natural` images, or name the layer in front.

    Attributes:
        layer: stage of the network; a vector has one neuron a channel.
        extent: the central `neuron`, or the mean over the whole `channel`.
        units: how many units, by default as many as images (or channels, where these are fewer).
        order: in which channels are taken: largest M first (`strongest`), or as the `network` has them.
        channels: these channels instead, from 0; a list in a study is an axis, so write `[[3, 17]]`.
        start: `noise`, `grey`, `black`, or the `natural` image that excites the unit most.

    References:
        Erhan, Bengio, Courville & Vincent, 2009 (on a sphere); Simonyan, Vedaldi & Zisserman, ICLR 2014
        workshop, eq. 1 (of a class, with `priors: {l2: ...}`); Mahendran & Vedaldi, IJCV 2016, activation
        maximisation. The last divide by M rho^2, M the maximum of the neuron's channel over images and
        places, rho the side of its receptive field, as their priors are sums over an image of that size.
        Ours are standardised, and the image keeps its size. The mean over a channel is ours.
    """

    metrics: ClassVar = ("activation",)
    ranked_by: ClassVar = "objective"

    layer: str
    extent: Literal["neuron", "channel"] = "neuron"
    units: Count | None = None
    order: Literal["strongest", "network"] = "strongest"
    channels: Channels | None = None
    start: Literal[Start, "natural"] = "noise"
    priors: Priors = field(default_factory=lambda: {"tv": 1.0})

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        network = scene.network.cut(self.layer)
        maps = scene.maps(self.layer)
        strengths = self._strengths(maps)
        chosen = self._chosen(strengths, len(scene.images))
        target = self._picks(chosen, network) / _column(strengths[chosen], network)
        problem = Problem(
            network=network,
            target=target,
            loss=InnerProduct(),
            domain=Box(0.0, 1.0),
            priors=weigh(self.priors, replace(scene, network=network)),
            meter=Meter(len(chosen)),
            loss_weight=self.loss_weight,
        )
        if self.start == "natural":
            start = scene.natural[(maps.flatten(1) @ target.flatten(1).T).argmax(0)]
        else:
            start = draw_start(self.start, problem.shape, scene.seed, target)
        return Posed(problem, start, None, self._names(chosen, scene))

    def _strengths(self, maps: Tensor) -> Tensor:
        """M of every channel, (N, C, ...) -> (C,)."""
        places = maps.reshape(*maps.shape[:2], -1)
        responses = places.mean(2) if self.extent == "channel" else places.amax(2)
        return responses.amax(0)

    def _chosen(self, strengths: Tensor, images: int) -> Tensor:
        """The channels that instances are given, (B,) int64."""
        if self.channels is not None:
            return self._named(strengths)
        order = strengths.argsort(descending=True, stable=True)
        excited = order[strengths[order] > 0]
        if self.order == "network":
            excited = excited.sort().values
        units = min(images, len(excited)) if self.units is None else self.units
        if not 0 < units <= len(excited):
            raise UserError(
                f"activation: natural images excite {len(excited)} of the {len(strengths)} channels of "
                f"{self.layer!r}; choose another layer, or units among so many."
            )
        return excited[:units]

    def _named(self, strengths: Tensor) -> Tensor:
        """The channels that the study names."""
        assert self.channels is not None
        if self.units is not None:
            raise UserError("activation: units and channels both say which units; leave one of them out.")
        for channel in self.channels:
            if channel >= len(strengths):
                raise UserError(
                    f"activation: {self.layer!r} has {len(strengths)} channels, and no channel {channel}."
                )
            if not strengths[channel] > 0:
                raise UserError(
                    f"activation: no natural image excites channel {channel} of {self.layer!r}, so that its "
                    "response has no scale; name another."
                )
        return torch.tensor(self.channels, device=strengths.device)

    def _picks(self, chosen: Tensor, network: Network) -> Tensor:
        """What the instances respond with, m: (B, *output_shape)."""
        channels, *sides = network.output_shape
        pick = torch.zeros(sides, device=network.device, dtype=network.dtype)
        if self.extent == "channel":
            pick += 1 / pick.numel()
        else:
            pick[tuple(side // 2 for side in sides)] = 1
        one_hot = functional.one_hot(chosen, channels).to(pick)
        return one_hot.view(len(chosen), channels, *[1] * len(sides)) * pick

    def _names(self, chosen: Tensor, scene: Scene) -> tuple[str, ...]:
        """Names of the channels; those of the last stage are classes."""
        last = self.layer == scene.network.stages[-1] and scene.classes
        return tuple(scene.classes[c] if last else f"channel {c}" for c in chosen.tolist())

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"layer": self.layer, "start": self.start}


def _column(numbers: Tensor, network: Network) -> Tensor:
    """One number an instance, (B,) -> (B, 1, ...) with the dimensions of an output."""
    return numbers.view(-1, *[1] * len(network.output_shape))
