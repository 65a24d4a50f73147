"""L-BFGS, per instance and projected for boxes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from invbench.domains import Domain, Reals
from invbench.minimisers import dot, norm, shrinkage, two_loop
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Solver


@dataclass(frozen=True)
class LBFGS(Solver):
    """L-BFGS with a memory, direction and step length of its own for each instance; none waits for another.

        d = -H g on the free coordinates,   x(a) = P(x + a d)

    H is the L-BFGS matrix of the last pairs; a coordinate at its bound is free only if the gradient points
    back inside. Each network pass evaluates one candidate x(a) of every instance. An instance that finds

        f(x(a)) <= f(x) + c <g, x(a) - x>,   <g, x(a) - x> < 0

    moves there and takes a new direction; the others shrink their a by the parabola through what they know.
    After `patience` rejections an instance forgets its pairs and tries steepest descent; where that fails,
    too, rounding hides any further descent, and it rests. When all rest, the solver returns.

    Attributes:
        memory: pairs kept.
        first_step: length, in the maximum norm, of a step without curvature information.
        decrease: c.
        patience: rejections in a row before the pairs are given up.

    References:
        Nocedal & Wright 2006, algorithms 7.4-7.5; Bertsekas, SIAM J. Control Optim. 1982 (two-metric
        projection). The line search asks for Armijo's condition alone, so pairs without positive curvature
        are left out.
    """

    memory: Count = field(default=10, metadata={"search": (3, 30, "log")})
    first_step: Positive = field(default=0.1, metadata={"search": (1e-3, 1.0, "log")})
    decrease: Annotated[float, Gt(0), Lt(0.5)] = 1e-4
    patience: Count = 10

    def refuses(self, problem: Problem) -> str | None:
        """The domain must be a box, or no constraint."""
        if problem.domain.bounds is None:
            return f"lbfgs needs a box or no constraint, and the domain here is {problem.domain.name}"
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One network pass an iterate."""
        domain, shape = problem.domain, x.shape
        x = domain.project(x)
        f, g = problem.value_and_gradient(x)
        yield x
        x, g, d = x.flatten(1), g.flatten(1), torch.zeros_like(g.flatten(1))
        pairs = _Pairs(self.memory, x)
        a, rejections = torch.ones_like(f), torch.zeros_like(f)
        turning, resting = torch.ones_like(f, dtype=torch.bool), torch.zeros_like(f, dtype=torch.bool)
        while not resting.all():
            if turning.any():
                d = torch.where(
                    turning[:, None], -two_loop(g, pairs.s, pairs.y, _free(domain, x, g, shape)), d
                )
                a = torch.where(turning, self._first_length(d, pairs), a)
            candidate = domain.project((x + a[:, None] * d).view(shape)).flatten(1)
            f_new, g_new = (
                v.flatten(1) if v.ndim > 1 else v for v in problem.value_and_gradient(candidate.view(shape))
            )
            s = candidate - x
            predicted, change = dot(g, s), f_new - f
            moved = (predicted < 0) & (change <= self.decrease * predicted) & ~resting
            pairs.add(s, g_new - g, moved)
            x, g = torch.where(moved[:, None], candidate, x), torch.where(moved[:, None], g_new, g)
            f = torch.where(moved, f_new, f)
            a = torch.where(moved, a, a * shrinkage(predicted, change))
            rejections = torch.where(moved, 0, rejections + 1)
            tired = rejections >= self.patience
            resting |= tired & (pairs.count == 0)
            pairs.forget(tired)
            rejections = torch.where(tired, 0, rejections)
            turning = moved | tired
            yield x.view(shape)

    def _first_length(self, d: Tensor, pairs: "_Pairs") -> Tensor:
        """1 where the pairs know the scale, else what makes the step `first_step` long."""
        largest = d.abs().amax(1).clamp_min(torch.finfo(d.dtype).tiny)
        return torch.where(pairs.count > 0, 1.0, self.first_step / largest)


class _Pairs:
    """The last m pairs (s, y) of every instance, (m, B, n), oldest first; 0 stands for none."""

    def __init__(self, memory: int, like: Tensor) -> None:
        self.s, self.y = like.new_zeros(memory, *like.shape), like.new_zeros(memory, *like.shape)
        self.count = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def add(self, s: Tensor, y: Tensor, which: Tensor) -> None:
        """Append the pairs of some instances, those with positive curvature; theirs move up, in place."""
        taken = (which & (dot(s, y) > 1e-6 * norm(s) * norm(y)))[:, None]
        move = taken.to(s.dtype)
        for kept, new in ((self.s, s), (self.y, y)):
            for older, newer in pairwise(kept):
                older.lerp_(newer, move)  # exact for 0 and 1
            kept[-1] = torch.where(taken, new, kept[-1])
        self.count += taken[:, 0]

    def forget(self, which: Tensor) -> None:
        """Drop all pairs of some instances."""
        if which.any():
            self.s[:, which], self.y[:, which], self.count[which] = 0.0, 0.0, 0


def _free(domain: Domain, x: Tensor, g: Tensor, shape: torch.Size) -> Tensor | None:
    """Coordinates that may move: all but those held at a bound by the gradient, (B, n); None for all."""
    if isinstance(domain, Reals) or domain.bounds is None:
        return None
    low, high = domain.bounds
    x, g = x.view(shape), g.view(shape)
    held = ((x <= low) & (g > 0)) | ((x >= high) & (g < 0))
    return ~held.flatten(1)
