"""How few of the features of a network are not zero."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from invbench.analyses.contract import Analysis, Plot, Refused, Row
from invbench.network import Network
from invbench.trials.contract import Scene

#: Images a forward pass takes at a time.
CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class Sparsity(Analysis):
    """The share of the entries of every stage's output that are not exactly zero.

    An output is taken as the stage gives it: after its activation, where it has one. The last stage of a
    classifier has none, so all of its entries count. Where a max-pool of the network takes the output as it
    is, the share of pooling regions with an entry that is not zero is measured, too; after a ReLU that is
    the share of the pooled output that is not zero.

    References:
        Gilbert et al., Towards understanding the invertibility of convolutional neural networks, 2017,
        table 2.
    """

    plot: ClassVar = Plot(x="depth", y="nonzero")

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (layer, depth, entries, nonzero, low, high, active), one a stage.

        `nonzero` is the mean share over the images, `low` and `high` those of the image with the fewest and
        with the most. `active` is the mean share of pooling regions, and has no value for what is not
        pooled. All of them lack for a stage that the network does not use.
        """
        network = scene.network
        if not network.stages:
            raise Refused(f"network '{network.name}' has no stages to look behind")
        found: dict[str, list[_Shares]] = {stage: [] for stage in network.stages}
        with torch.no_grad():
            for pixels in torch.split(scene.images.pixels, CHUNK):
                for stage, shares in _one_pass(network, pixels).items():
                    found[stage].append(shares)
        return [_row(stage, depth, parts) for depth, (stage, parts) in enumerate(found.items(), start=1)]


@dataclass(frozen=True)
class _Shares:
    """Of one stage for some images, `(B,)` each; `active` is None where nothing pools the output."""

    entries: int
    nonzero: Tensor
    active: Tensor | None = None


def _row(stage: str, depth: int, parts: Sequence[_Shares]) -> Row:
    nonzero = torch.cat([part.nonzero for part in parts]) if parts else torch.tensor([math.nan])
    pooled = [part.active for part in parts if part.active is not None]
    return {
        "layer": stage,
        "depth": depth,
        "entries": parts[0].entries if parts else math.nan,
        "nonzero": float(nonzero.mean()),
        "low": float(nonzero.min()),
        "high": float(nonzero.max()),
        "active": float(torch.cat(pooled).mean()) if pooled else math.nan,
    }


def _one_pass(network: Network, pixels: Tensor) -> dict[str, _Shares]:
    """The shares of all stages for some images."""
    watch = _Watch()
    with watch.watching(network):
        network(pixels)
    return watch.found


@dataclass
class _Watch:
    """Listens to one forward pass.

    Attributes:
        found: by stage.
        ahead: the stages that a module stands for and has not yet ended: one that a network lists under two
            names is used in their order, and what it does beyond that is no stage.
        last: the stage that has ended last, with its output.
    """

    found: dict[str, _Shares] = field(default_factory=dict)
    ahead: dict[nn.Module, list[str]] = field(default_factory=dict)
    last: tuple[str, Tensor] | None = None

    @contextmanager
    def watching(self, network: Network) -> Iterator[None]:
        """Hooks on stages and max-pools, which are gone afterwards."""
        for stage in network.stages:
            self.ahead.setdefault(network.module.get_submodule(stage), []).append(stage)
        with ExitStack() as hooks:
            for module in network.module.modules():
                if isinstance(module, nn.MaxPool2d):
                    hooks.enter_context(module.register_forward_pre_hook(self._pooled))
            for module in self.ahead:
                hooks.enter_context(module.register_forward_hook(self._ended))
            yield

    def _ended(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        if not self.ahead[module]:
            return
        stage = self.ahead[module].pop(0)
        if not isinstance(output, Tensor):
            raise Refused(f"stage '{stage}' returns a {type(output).__name__} instead of a tensor")
        self.found[stage] = _Shares(output[0].numel(), _nonzero(output))
        self.last = stage, output

    def _pooled(self, pool: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note the active regions where a pool takes the very output of the stage before it."""
        if self.last is None or inputs[0] is not self.last[1]:
            return
        stage, output = self.last
        assert isinstance(pool, nn.MaxPool2d)
        regions = nn.functional.max_pool2d(
            (output != 0).to(output.dtype),
            pool.kernel_size,
            pool.stride,
            pool.padding,
            pool.dilation,
            pool.ceil_mode,
        )
        shares = self.found[stage]
        self.found[stage] = _Shares(shares.entries, shares.nonzero, _nonzero(regions))


def _nonzero(output: Tensor) -> Tensor:
    """Share of the entries of each instance that are not zero: `(B, ...)` -> `(B,)`."""
    entries = output.flatten(1) if output.dim() > 1 else output[:, None]
    return entries.count_nonzero(dim=1).double().cpu() / entries.shape[1]
