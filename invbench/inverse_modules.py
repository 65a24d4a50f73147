"""The operations of a chain, one by one, and the modules that undo them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from invbench.activations import Activation, Identity, LocalResponseNorm, MaxPool, ReLU, ReLUMaxPool
from invbench.decoders import Layer, Pair, convolution, dense, resized, transposed
from invbench.network import Stage
from invbench.operators import AveragePooling, Composition, Convolution, Diagonal, Reshape, Windows

Shape = tuple[int, ...]
Kind = Literal["deconv-conv", "conv-deconv", "deconv-deconv", "upsample-conv"]


@dataclass(frozen=True)
class Geometry:
    """Where the windows of an operation lie on a map; pairs are (vertical, horizontal)."""

    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)


def operations(chain: Sequence[Stage]) -> tuple[Stage, ...]:
    """A chain with an operation a stage: affine map with ReLU, pool, normalisation; all that does something.

    Args:
        chain: of a network, whose stages may hold a pool behind an affine map.

    Returns:
        Stages that do in turn what the chain does.
    """
    return tuple(one for stage in chain for one in _apart(stage) if not _idle(one))


def maps(steps: Sequence[Stage], x: Tensor) -> list[Tensor]:
    """X, and the outputs of all operations in turn: one more than there are operations."""
    found = [x]
    for step in steps:
        found.append(step(found[-1]))
    return found


def modules(steps: Sequence[Stage], kind: Kind, width: int, cut: bool = True) -> tuple[Layer, ...]:
    """Two layers for every operation, those of the last one first, as a decoder applies them.

    With `cut`, a module whose operation takes what lies behind a ReLU gives no negative numbers either. That
    helps where its output is held to that of the operation before; where it is free, it may die of it.
    """
    pairs = []
    lowest = -math.inf
    for step in steps:
        pairs.append(module(step, lowest if cut else -math.inf, kind, width))
        keeps = isinstance(step.activation, MaxPool | LocalResponseNorm) and isinstance(
            step.affine, Diagonal | Windows
        )
        lowest = max(lowest if keeps else -math.inf, step.activation.lowest)
    return tuple(layer for pair in reversed(pairs) for layer in pair)


def module(step: Stage, lowest: float, kind: Kind, width: int) -> tuple[Layer, Layer]:
    """Two layers with a ReLU between that lead from the output of an operation back to its input.

    Of the layers of `kind`, `deconv` is a transposed convolution and `conv` a convolution that keeps the
    sides of its map; the layer that changes them mirrors the geometry of the operation, the other one has
    3 x 3 filters. In `upsample-conv` entries are repeated and convolved instead. Dense operations get dense
    layers, whatever the kind.

    Args:
        step: the operation.
        lowest: least value of its input, 0 behind a ReLU: the output of the module is cut there.
        kind: of the module.
        width: channels between the layers; of dense layers four times as many.

    References:
        Harder, Deep Restoration, 2017, section 3.2: an operation, a ReLU, an operation; sizes and cut ours.
    """
    end: Activation = ReLU() if lowest == 0 else Identity()
    source, goal = step.out_shape, step.affine.in_shape
    geometry = _geometry(step)
    if geometry is None:
        wide = (4 * width,)
        return dense(source, wide, ReLU()), dense(wide, goal, end)
    where = (geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
    between = (width, *(source if kind == "conv-deconv" else goal)[1:])
    same = ((3, 3), (1, 1), (1, 1))
    match kind:
        case "deconv-conv":
            return transposed(source, between, ReLU(), *where), convolution(between, goal[0], end)
        case "conv-deconv":
            return convolution(source, width, ReLU()), transposed(between, goal, end, *where)
        case "deconv-deconv":
            return transposed(source, between, ReLU(), *where), transposed(between, goal, end, *same)
        case "upsample-conv":
            side = max(geometry.kernel) // 2 * 2 + 1
            return resized(source, between, ReLU(), side), convolution(between, goal[0], end)


def refusal(steps: Sequence[Stage]) -> str | None:
    """Why there are no modules for some operations, or None."""
    if all(_trivial(step) for step in steps):
        return "there is nothing to invert: up to this stage the network only scales its input"
    for step in steps:
        vector = len(step.out_shape) == 1 or len(step.affine.in_shape) == 1
        if _geometry(step) is None and not vector:
            kind = type(step.affine).__name__
            return f"there is no module that undoes stage '{step.name}', a {kind} between maps"
    return None


def _apart(stage: Stage) -> Iterator[Stage]:
    """The affine map with its ReLU, and what follows as an operation of its own."""
    act = stage.activation
    if isinstance(stage.affine, Composition) and len(stage.affine.out_shape) == 3:
        *before, last = stage.affine.maps
        yield from (replace(stage, affine=one, activation=Identity()) for one in before)
        yield from _apart(replace(stage, affine=last))
    elif isinstance(act, MaxPool | LocalResponseNorm) and not isinstance(stage.affine, Windows):
        rectified = isinstance(act, ReLUMaxPool)
        yield replace(stage, activation=ReLU() if rectified else Identity())
        if isinstance(act, MaxPool):
            act = MaxPool(act.kernel, act.stride, act.padding)
        yield replace(stage, affine=Diagonal(stage.affine.out_shape), activation=act)
    else:
        yield stage


def _idle(step: Stage) -> bool:
    """Whether an operation does nothing at all."""
    plain = isinstance(step.affine, Diagonal) and step.affine.scale is None and step.affine.shift is None
    return plain and isinstance(step.activation, Identity)


def _trivial(step: Stage) -> bool:
    """Whether an operation changes nothing but the scale or the shape of its input."""
    pieces = step.affine.maps if isinstance(step.affine, Composition) else (step.affine,)
    scales = all(isinstance(one, Diagonal | Reshape) for one in pieces)
    return scales and isinstance(step.activation, Identity)


def _geometry(step: Stage) -> Geometry | None:
    """Of an operation between maps; None of others."""
    match step.affine, step.activation:
        case Windows(kernel=kernel, stride=stride), MaxPool():
            return Geometry(kernel, stride, (0, 0))
        case Diagonal(), MaxPool(kernel=kernel, stride=stride, padding=padding):
            return Geometry(kernel, stride, padding)
        case Convolution() as one, _:
            height, width = one.weight.shape[2:]
            return Geometry((height, width), one.stride, one.padding, one.dilation)
        case AveragePooling(kernel=kernel, stride=stride, padding=padding), _:
            return Geometry(kernel, stride, padding)
        case Diagonal(in_shape=shape), _ if len(shape) == 3:
            return Geometry()
    return None
