"""Which parameters a problem leaves open."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invbench.gabor.parameters import GAMMA, LAMBDA, PSI, SIGMA, THETA, twin, wrapped
from invbench.problem import Problem


def bounds(problem: Problem) -> tuple[Tensor, Tensor]:
    """The lowest and the highest parameters of every filter, both (B, F, 5); infinite without a box."""
    low, high = problem.domain.bounds or (-torch.inf, torch.inf)
    lowest, highest = (
        torch.as_tensor(bound, dtype=problem.target.dtype, device=problem.target.device).expand(problem.shape)
        for bound in (low, high)
    )
    return lowest, highest


def sought(problem: Problem) -> list[int]:
    """The parameters that the bounds leave free in some filter of some instance."""
    low, high = bounds(problem)
    found: list[int] = (low < high).flatten(0, 1).any(0).nonzero()[:, 0].tolist()
    return found


def directions(problem: Problem, which: Sequence[int]) -> Tensor:
    """For each of some parameters the change of it by 1, in all filters at once: (n, F, 5).

    A filter has an output of its own, so that the derivatives of all filters come out of one pass.
    """
    found = problem.target.new_zeros(len(which), *problem.shape[1:])
    found[range(len(which)), :, list(which)] = 1
    return found


def slackened(low: Tensor, high: Tensor, slack: float) -> tuple[Tensor, Tensor]:
    """Bounds that let known parameters go: wider by a factor, also where they agree, and none for angles.

    Args:
        low: lowest parameters, (..., 5).
        high: highest ones.
        slack: of wavelengths, widths and aspects; 1 leaves their bounds as they are.
    """
    low, high, positive = low.clone(), high.clone(), [LAMBDA, SIGMA, GAMMA]
    low[..., positive] /= slack
    high[..., positive] *= slack
    low[..., [THETA, PSI]], high[..., [THETA, PSI]] = -torch.inf, torch.inf
    return low, high


def turned(problem: Problem, parameters: Tensor) -> Tensor:
    """The nearest point of the domain, angles taken modulo 2 pi, (B, F, 5)."""
    return problem.domain.project(_unwound(parameters, *bounds(problem)))


def within(problem: Problem, parameters: Tensor) -> Tensor:
    """The same, with the kernel seen from behind where its psi is then nearer to the bounds."""
    sides = parameters, twin(parameters)
    front, back = (turned(problem, side) for side in sides)
    far, near = (wrapped(at - side)[..., PSI].abs() for at, side in zip((front, back), sides, strict=True))
    return torch.where((near < far)[..., None], back, front)


def _unwound(parameters: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The same parameters with angles in the turn around the middle of their bounds, where there is one."""
    found = parameters.clone()
    for angle in (THETA, PSI):
        middle = ((low + high) / 2)[..., angle].nan_to_num(0.0)
        found[..., angle] = middle + wrapped(parameters[..., angle] - middle)
    return found
