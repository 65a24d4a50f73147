"""Reconstruct the input of a macro layer from what its max-pool leaves of it."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invbench.activations import MaxPool, ReLUMaxPool
from invbench.domains import Box, Domain, Reals
from invbench.errors import UserError
from invbench.losses import Loss, SquaredError, SwitchedError
from invbench.meter import Meter
from invbench.network import Network, after, without_activations
from invbench.operators import Windows
from invbench.problem import Problem
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.terms import weigh
from invbench.unpooling import switched, tiles


@dataclass(frozen=True, kw_only=True)
class Unpool(Trial):
    """Given p = pool(relu(W x0 + b)), find x0, the input map of a convolution, ReLU and max-pool.

        naive:  min |pool(relu(W x + b)) - p|^2 / |p|^2
        known:  min (sum_{s: p > 0} (y_s - p)^2 + sum_{other places} (y_i - p)_+^2) / |p|^2,   y = W x + b

    over what the stage before can give (images: the box [0, 1]); p at a place is that of its window. The
    switches s say which place of a window is the largest, so that they fix the value there and bound all
    others: every known solution is a naive one, and the known problem is convex. Only p and s are told; s is
    oracle information. x0 are images where the stage is the first one. The start is 0.

    Attributes:
        layer: a stage that ends in a max-pool behind a ReLU, whose windows tile the map.
        switches: `naive` (the pooled values alone) or `known`.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, section 4.5 and Table 4 (activation space), where the
        layer above the pool is inverted; Zhao, Mathieu, Goroshin & LeCun, ICLR 2016 workshop ("what" and
        "where"). The bounds by the other places are ours: without them known switches tell less than none.
    """

    metrics: ClassVar = ("relative_l2",)
    ranked_by: ClassVar = "relative_l2"

    layer: str
    switches: Literal["naive", "known"] = "naive"
    priors: Priors = field(default_factory=dict)

    @property
    def oracle(self) -> str:
        """The switches, where they are known."""
        return "pooling switches" if self.switches == "known" else ""

    @torch.no_grad()
    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        network, truth, domain = self._stage(scene)
        network, target, loss = self._observed(network, truth)
        problem = Problem(
            network=network,
            target=target,
            loss=loss,
            domain=domain,
            priors=weigh(self.priors, scene),
            meter=Meter(len(truth)),
            loss_weight=self.loss_weight,
        )
        return Posed(problem, torch.zeros_like(truth), truth, scene.images.names)

    def _stage(self, scene: Scene) -> tuple[Network, Tensor, Domain]:
        """The macro layer alone, its input for the images, and where that input may lie."""
        cut, pixels = scene.network.cut(self.layer), scene.images.pixels
        chain = cut.chain
        if chain is None:
            raise UserError(f"unpool needs a chain of known layers: {cut.reason}.")
        last, pool = chain[-1], chain[-1].activation
        copied = isinstance(last.affine, Windows)  # how a chain reads a pool whose windows overlap
        if isinstance(pool, MaxPool) and (copied or not tiles(pool, last.affine.out_shape[1:])):
            raise UserError(
                f"unpool: the windows of {self.layer!r} overlap, are padded or do not tile the map; "
                "choose a pool whose windows tile it."
            )
        if not isinstance(pool, ReLUMaxPool):
            raise UserError(
                f"unpool: {self.layer!r} does not end in a max-pool behind a ReLU; name such a stage."
            )
        if len(chain) == 1:
            return cut, pixels, Box(0.0, 1.0)
        previous = chain[-2]
        lowest = previous.activation.lowest
        domain = Reals() if lowest == -torch.inf else Box(lowest, torch.inf)
        return after(cut, previous.name), scene.network.cut(previous.name)(pixels), domain

    def _observed(self, network: Network, truth: Tensor) -> tuple[Network, Tensor, Loss]:
        """The map that is inverted, what is told about its output, and the loss that reads it."""
        if self.switches == "naive":
            return network, network(truth), SquaredError()
        assert network.chain is not None
        (stage,) = network.chain
        assert isinstance(stage.activation, ReLUMaxPool)
        affine = without_activations(network)
        return affine, switched(affine(truth), stage.activation.kernel), SwitchedError()

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"layer": self.layer, "start": "zero"}
