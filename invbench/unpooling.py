"""Max-pools undone: where pooled values go, and the stage behind them; shared by trial and solvers."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from invbench.activations import Identity, MaxPool, ReLUMaxPool
from invbench.losses import SquaredError, SwitchedError
from invbench.metered import MeteredStage
from invbench.problem import Problem

Pair = tuple[int, int]


def tiles(pool: MaxPool, sides: tuple[int, ...]) -> bool:
    """Whether the windows of a pool cover a map of these sides, each place once."""
    divides = all(side % step == 0 for side, step in zip(sides, pool.kernel, strict=True))
    return pool.stride == pool.kernel and pool.padding == (0, 0) and divides


def spread(pooled: Tensor, window: Pair) -> Tensor:
    """Every value at all places of its window: (B, K, H / kh, W / kw) -> (B, K, H, W)."""
    return pooled.repeat_interleave(window[0], -2).repeat_interleave(window[1], -1)


def cornered(pooled: Tensor, window: Pair) -> Tensor:
    """Every value in the top-left corner of its window, 0 elsewhere; shapes as in `spread`."""
    height, width = pooled.shape[-2] * window[0], pooled.shape[-1] * window[1]
    places = pooled.new_zeros(*pooled.shape[:-2], height, width)
    places[..., :: window[0], :: window[1]] = pooled
    return places


def switched(y: Tensor, window: Pair) -> Tensor:
    """What a solver is told that knows the switches, the target of `SwitchedError`.

    Args:
        y: what is rectified and pooled, `(B, K, H, W)`.
        window: of the pool, which tiles the map.

    Returns:
        `(B, 2, K, H, W)`: the rectified largest value of its window at every place; and the switches, 1 at
        the (first) largest entry of every window where that is positive, 0 elsewhere.
    """
    largest, places = functional.max_pool2d(y, window, return_indices=True)
    switches = torch.zeros_like(y).flatten(2)
    switches.scatter_(2, places.flatten(2), (largest > 0).to(y.dtype).flatten(2))
    return torch.stack([spread(largest.relu(), window), switches.view_as(y)], 1)


def refusal(problem: Problem, solver: str) -> str | None:
    """Why a problem is no unpooling of one macro layer, convolution, ReLU and max-pool, or None.

    Either the network is that layer and its output the target; or the switches are known, and the network is
    the affine map alone, with the loss `switched_error`.
    """
    chain = problem.network.chain
    if chain is None:
        return f"{solver} needs a macro layer of convolution, ReLU and max-pool: {problem.network.reason}"
    if len(chain) > 1:
        return f"{solver} undoes one macro layer of convolution, ReLU and max-pool, not {len(chain)} stages"
    stage, loss = chain[0], problem.loss
    if isinstance(loss, SwitchedError) and isinstance(stage.activation, Identity):
        known = True
    elif isinstance(stage.activation, ReLUMaxPool) and isinstance(loss, SquaredError):
        known = tiles(stage.activation, stage.affine.out_shape[1:])
    else:
        known = False
    if not known:
        return (
            f"{solver} needs convolution, ReLU and a max-pool that tiles its map, and their output as target"
        )
    if problem.priors:
        return f"{solver} takes no priors: it computes x from the pooled values alone"
    return None


@dataclass(frozen=True, eq=False)
class Pooled:
    """What is known about the output of the affine map of a macro layer.

    Attributes:
        stage: the affine map, metered.
        values: every positive pooled value at one place of its window, `(B, K, H, W)`: at its switch where
            that is known, else in the top-left corner; 0 elsewhere.
    """

    stage: MeteredStage
    values: Tensor

    @classmethod
    def of(cls, problem: Problem) -> "Pooled":
        """Read from a problem that `refusal` lets pass."""
        assert problem.chain is not None
        (stage,) = problem.chain
        if isinstance(problem.loss, SwitchedError):
            values, switches = problem.target.unbind(1)
            return cls(stage, values * switches)
        assert isinstance(stage.activation, ReLUMaxPool)
        return cls(stage, cornered(problem.target.clamp(min=0), stage.activation.kernel))
