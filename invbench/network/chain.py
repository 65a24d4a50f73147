"""A module read as a chain of stages, each an affine map followed by an activation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from invbench.activations import Activation, Identity, MaxPool, ReLU, ReLUMaxPool
from invbench.network.interpretation import NoChainError, children, interpret, is_sequential, with_article
from invbench.operators import Affine, Diagonal, Windows, compose

Shape = tuple[int, ...]
Chain = tuple["Stage", ...]


@dataclass(frozen=True, eq=False)
class Stage:
    """One link of a chain: an affine map, then an activation, (B, *in_shape) -> (B, *out_shape).

    Args:
        name: where the network is to be cut to end with this stage.
        affine: the map in front.
        activation: what follows it.
    """

    name: str
    affine: Affine
    activation: Activation

    def __call__(self, x: Tensor) -> Tensor:
        """act(W x + b): (B, *in_shape) -> (B, *out_shape)."""
        return self.activation(self.affine(x))

    @property
    def out_shape(self) -> Shape:
        """Shape of one output."""
        return self.activation.out_shape(self.affine.out_shape)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Stage":
        """The same stage on another device or in another precision."""
        return replace(self, affine=self.affine.to(device, dtype))


def read_chain(module: nn.Module, input_shape: Shape) -> Chain:
    """The stages of a (nested) nn.Sequential: affine maps in a row are composed, ReLU and max-pool merged.

    An activation that no affine map precedes gets an identity in front. Pooling over overlapping windows is a
    stage of its own, which copies the windows apart and pools over disjoint ones: so its projection is exact,
    and that the copies agree is left to y = W z, like all else. A stage bears the shortest name of a child
    that ends where the stage does, layers which do nothing left aside.

    Args:
        module: a module in evaluation mode.
        input_shape: (C, H, W).

    Raises:
        NoChainError: where a child is neither an affine map nor an activation, or there is none.
    """
    leaves = tuple(_leaves(module, ""))
    if not leaves:
        raise NoChainError("the network is empty")
    chain = [Stage(leaves[-1][0], Diagonal(input_shape), Identity())]
    read: list[str] = []
    for path, leaf in leaves:
        piece = _piece(leaf, chain[-1].out_shape, path)
        if piece is not None:
            chain[-1:] = _continued(chain[-1], path, piece)
            read.append(path)
    following = dict(pairwise([*read, ""]))
    return tuple(replace(one, name=_shortest_name(one.name, following.get(one.name, ""))) for one in chain)


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules applied in turn, each with its dotted name."""
    if not is_sequential(module):
        yield path, module
        return
    for name, child in children(module):
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _piece(leaf: nn.Module, shape: Shape, path: str) -> Affine | Activation | None:
    """What a leaf computes; a failure names the leaf and its type."""
    try:
        return interpret(leaf, shape)
    except NoChainError as error:
        kind = with_article(leaf)
        if not path:
            raise NoChainError(f"the network is {kind} instead of an nn.Sequential of known layers") from None
        raise NoChainError(f"stage {path!r} is {kind}, which {error}") from None


def _shortest_name(path: str, following: str) -> str:
    """The shortest dotted name of what ends with the leaf at `path`, where another leaf follows it."""
    names, others = path.split("."), following.split(".")
    shared = next((i for i, (a, b) in enumerate(zip(names, others, strict=False)) if a != b), 0)
    return ".".join(names[: shared + 1])


def _continued(last: Stage, name: str, piece: Affine | Activation) -> Sequence[Stage]:
    """The last stage of a chain with one more piece: one stage, or two where the piece needs its own."""
    if isinstance(piece, Affine):
        if isinstance(last.activation, Identity):
            return [replace(last, name=name, affine=compose(last.affine, piece))]
        return [last, Stage(name, piece, Identity())]
    if isinstance(piece, MaxPool) and piece.overlaps and piece.padding == (0, 0):
        windows = Windows(last.out_shape, piece.kernel, piece.stride)
        return [last, Stage(name, windows, MaxPool(piece.kernel, piece.kernel))]
    merged = _merged(last.activation, piece)
    if merged is not None:
        return [replace(last, name=name, activation=merged)]
    return [last, Stage(name, Diagonal(last.out_shape), piece)]


def _merged(first: Activation, second: Activation) -> Activation | None:
    """One activation equal to `second` after `first`, or None where there is none of a known kind."""
    match first, second:
        case Identity(), _:
            return second
        case (ReLU(slope=0), MaxPool() as pool) | (MaxPool() as pool, ReLU(slope=0)):
            return ReLUMaxPool(pool.kernel, pool.stride, pool.padding)
    return None


def apply_chain(chain: Chain, x: Tensor) -> Tensor:
    """All stages in turn."""
    for stage in chain:
        x = stage(x)
    return x
