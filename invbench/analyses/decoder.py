"""A what-where decoder of a network: from a pooled map and the switches of all pools back to the image."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from invbench import training
from invbench.analyses.contract import Refused
from invbench.decoders import missed
from invbench.network import Network
from invbench.unpooling import spread

Pair = tuple[int, int]
Loss = Callable[[Tensor], Tensor]

#: Side of the filters of a block.
KERNEL = 3
#: Of the leaky ReLU in a block: with a plain one, many of its channels die in training.
SLOPE = 0.1
#: Share of the first learning rate with which blocks are trained together: a deep chain is easily upset.
GENTLY = 0.1
#: Steps between validations.
EVERY = 50


@dataclass(frozen=True, eq=False)
class Pool:
    """What a max-pool gives for some images.

    Attributes:
        values: the pooled values, "what": `(B, C, H / kh, W / kw)`.
        switches: 1 where they were found, "where", one in a window, and 0 elsewhere: `(B, C, H, W)`.
    """

    values: Tensor
    switches: Tensor

    @classmethod
    def of(cls, y: Tensor, window: Pair) -> Self:
        """Pool a map `(B, C, H, W)` by windows that tile it; of equal entries the first is taken."""
        values, places = functional.max_pool2d(y, window, return_indices=True)
        switches = torch.zeros_like(y).flatten(2).scatter_(2, places.flatten(2), 1)
        return cls(values, switches.view_as(y))


def unpooled(values: Tensor, switches: Tensor) -> Tensor:
    """Every value at its switch, and beside that, in as many channels more, at all places of its window.

    Args:
        values: `(B, C, h, w)`.
        switches: `(B, C, H, W)`, where the sides are multiples of h and w.

    Returns:
        `(B, 2 C, H, W)`.
    """
    window = (switches.shape[2] // values.shape[2], switches.shape[3] // values.shape[3])
    everywhere = spread(values, window)
    return torch.cat([everywhere * switches, everywhere], 1)


class Encoder:
    """The pools of a network up to a stage, which a decoder goes down again.

    Args:
        network: the network in full.
        last: name of its last max-pool that matters.

    Raises:
        Refused: the windows of a pool do not tile its map, or something else than pools changes the sides.
    """

    def __init__(self, network: Network, last: str) -> None:
        self._network = network.cut(last)
        modules = {name: self._network.module.get_submodule(name) for name in self._network.stages}
        self._pools = {name: one for name, one in modules.items() if isinstance(one, nn.MaxPool2d)}
        self.names = tuple(self._pools)
        self._windows = [_window(one, name) for name, one in self._pools.items()]
        self._check()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> list[Pool]:
        """What every pool gives for images `(B, C, H, W)`, from the first to the last."""
        maps = self._maps(pixels)
        return [Pool.of(y, window) for y, window in zip(maps, self._windows, strict=True)]

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """What every pool is given."""
        seen: list[Tensor] = []
        hooks = [
            one.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            for one in self._pools.values()
        ]
        try:
            self._network(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    @torch.no_grad()
    def _check(self) -> None:
        like = torch.zeros(1, *self._network.input_shape, device=self._network.device)
        sides = like.shape[2:]
        maps = self._maps(like.to(self._network.dtype))
        for name, window, y in zip(self.names, self._windows, maps, strict=True):
            if y.shape[2:] != sides:
                raise Refused(
                    f"the decoder needs layers that keep the sides of their maps, but those before {name} "
                    f"make {_by(y.shape[2:])} of {_by(sides)}"
                )
            if sides[0] % window[0] or sides[1] % window[1]:
                raise Refused(f"the windows of {name} do not tile its maps of {_by(sides)}")
            sides = torch.Size((sides[0] // window[0], sides[1] // window[1]))


class Block(nn.Module):
    """Undo one macro layer: unpool, convolution, leaky ReLU, convolution, without a change of sides.

        x = V act(T u + s) + t, or relu of that

    u is what `unpooled` makes of values and switches, over the root mean square of the values on the first
    images, and the output is likewise in units of its own.

    Args:
        pool: of some images.
        target: what the block should give for them, `(B, M, H, W)`.
        width: channels between the convolutions.
        generator: of the filters.
        rectified: whether the output is, as maps behind a ReLU are.
    """

    def __init__(
        self, pool: Pool, target: Tensor, width: int, generator: torch.Generator, rectified: bool = False
    ) -> None:
        super().__init__()
        self._rectified = rectified
        self._units = _strength(pool.values), _strength(target)
        mean = target.mean((0, 2, 3)) / self._units[1]
        self.first = nn.Parameter(_filters(width, 2 * pool.values.shape[1], generator).to(target))
        self.first_bias = nn.Parameter(target.new_zeros(width))
        self.second = nn.Parameter(_filters(target.shape[1], width, generator).to(target))
        self.second_bias = nn.Parameter(mean.clone())

    def forward(self, values: Tensor, switches: Tensor) -> Tensor:
        """`(B, C, h, w)` and `(B, C, H, W)` -> `(B, M, H, W)`."""
        units, padding = self._units, KERNEL // 2
        u = unpooled(values / units[0], switches)
        hidden = functional.conv2d(u, self.first, self.first_bias, padding=padding)
        hidden = functional.leaky_relu(hidden, SLOPE)
        x = functional.conv2d(hidden, self.second, self.second_bias, padding=padding) * units[1]
        return x.relu() if self._rectified else x


class Decoder(nn.Module):
    """Blocks for the pools 1 to i, one after the other from the last to the first."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, values: Tensor, pools: Sequence[Pool]) -> Tensor:
        """An image `(B, 3, H, W)` from values of pool i, `(B, C, h, w)`, and the switches of pools 1 to i.

        Of the pools only the switches are read. Further ones, above pool i, are left alone.
        """
        down = list(zip(self.blocks, pools, strict=False))[::-1]
        for block, pool in down:
            values = block(values, pool.switches)
        return values


@dataclass(frozen=True, eq=False)
class Schooling:
    """How decoders are trained.

    Attributes:
        train: images, `(N, C, H, W)`.
        validation: those that pick the best state.
        width: channels within a block.
        steps: in which all blocks are trained, each alone.
        tuning: steps for each pool, in which its blocks are trained together.
        batch: images a step.
        lr: first learning rate; in tuning, a tenth of it.
    """

    train: Tensor
    validation: Tensor
    width: int
    steps: int
    tuning: int
    batch: int
    lr: float

    def decoders(self, encoder: Encoder, generator: torch.Generator) -> dict[str, Decoder]:
        """A decoder for every pool by its name; each begins as the one before with a block more."""
        first = self.train[: self.batch]
        pools = encoder(first)
        targets = [first, *(pool.values for pool in pools[:-1])]
        rectified = [False, *(bool(pool.values.min() >= 0) for pool in pools[:-1])]
        blocks = [
            Block(pool, target, self.width, generator, positive)
            for pool, target, positive in zip(pools, targets, rectified, strict=True)
        ]
        self._fit(blocks, encoder, generator)
        below: list[Block] = []
        decoders = {}
        for name, block in zip(encoder.names, blocks, strict=True):
            below = [*copy.deepcopy(below), block]
            decoders[name] = self._tuned(Decoder(below), encoder, generator)
        return decoders

    def _fit(self, blocks: Sequence[Block], encoder: Encoder, generator: torch.Generator) -> None:
        """Each block alone, from a pool to the one before or the image; all in one go, as they share none."""

        def loss(images: Tensor) -> Tensor:
            pools = encoder(images)
            targets = [images, *(pool.values for pool in pools[:-1])]
            found = [block(pool.values, pool.switches) for block, pool in zip(blocks, pools, strict=True)]
            return torch.stack([missed(*pair) for pair in zip(found, targets, strict=True)]).sum()

        self._train(nn.ModuleList(blocks), loss, self.steps, self.lr, generator)

    def _tuned(self, decoder: Decoder, encoder: Encoder, generator: torch.Generator) -> Decoder:
        """The whole way from a pool to the image."""

        def loss(images: Tensor) -> Tensor:
            pools = encoder(images)
            return missed(decoder(pools[len(decoder.blocks) - 1].values, pools), images)

        self._train(decoder, loss, self.tuning, GENTLY * self.lr, generator)
        return decoder

    def _train(
        self, module: nn.Module, loss: Loss, steps: int, lr: float, generator: torch.Generator
    ) -> None:
        training.fit(
            module.parameters(),
            lambda indices: loss(self.train[indices.to(self.train.device)]),
            len(self.train),
            steps=steps,
            batch=self.batch,
            lr=lr,
            generator=generator,
            validate=lambda: float(loss(self.validation)),
            every=EVERY,
        )


def _filters(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Gaussian ones of variance 2 / fan-in."""
    drawn = torch.randn((count, channels, KERNEL, KERNEL), generator=generator, dtype=torch.float64)
    return drawn * math.sqrt(2 / (channels * KERNEL**2))


def _strength(x: Tensor) -> float:
    """The root mean square, or 1 where all is 0."""
    return float(x.square().mean().sqrt()) or 1.0


def _window(pool: nn.MaxPool2d, name: str) -> Pair:
    """The window of a pool whose windows lie side by side."""
    kernel, stride, padding, dilation = (
        (one, one) if isinstance(one, int) else (one[0], one[1])
        for one in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    if stride != kernel or padding != (0, 0) or dilation != (1, 1):
        raise Refused(f"the decoder needs pools whose windows tile their maps, and those of {name} do not")
    return kernel


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
