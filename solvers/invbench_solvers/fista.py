"""Accelerated proximal gradient with adaptive restart."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.domains import ModelSparse, Reals
from invbench.losses import SquaredError
from invbench.minimisers import column, dot, norm
from invbench.priors import L1, AlphaNorm, Prior, SquaredL2, Standardised
from invbench.problem import Problem
from invbench.recovery import LinearModel, refusal
from invbench.solver import Randomness, Solver

GROWTH = 1.05  # of L beyond the curvature that a rejected step has shown
MEANINGFUL = 1e3  # in units of rounding: steps of z that are shorter show no curvature


@dataclass(frozen=True)
class FISTA(Solver):
    """Accelerated proximal gradient for a linear network: min a |y - A z|^2 + w R(z) over the domain.

        z+ = prox(v + 2a/L A^T (y - A v)),   v+ = z+ + (t - 1)/t+ (z+ - z),   t+ = (1 + sqrt(1 + 4 t^2))/2

    prox is that of w R / L within the domain; without a prior it is the projection. An iterate takes one
    application and one adjoint: A z is kept, and A v follows from it. Every instance adapts on its own:

    - Restart: where momentum led astray, <v - z+, z+ - z> > 0, it starts anew with t = 1. Once the support
      is found the convergence is then linear, without knowing how fast.
    - Step length: a step d = z+ - v with 2a |A d|^2 > L |d|^2 is rejected: z stays, the momentum is dropped,
      and L becomes 1.05 times the curvature that d has shown. As the loss is quadratic, this is the condition
      that convergence needs, it costs no pass, and L stays below 1.05 * 2a |A|^2 without anybody computing
      |A|. Sparse steps show much less than that, which saves iterates. L begins at about 0, so that the
      first step measures the curvature in its direction, and is rejected.

    References:
        Beck & Teboulle, SIAM J. Imaging Sciences 2009, section 4 (FISTA with backtracking; there a rejected
        step is repeated at once, with L times a constant).
        O'Donoghue & Candes, Found. Comput. Math. 2015, section 3.2 (the gradient scheme of restart).
    """

    def refuses(self, problem: Problem) -> str | None:
        """Anything but a squared error behind a linear network, and terms whose joint prox is not known."""
        names = ", ".join(term.name for term in problem.priors)
        if len(problem.priors) > 1 or not all(term.prior.has_prox for term in problem.priors):
            return f"fista takes at most one prior, one with a proximal map, and the problem has {names}"
        if any(term.layer for term in problem.priors):
            return f"fista takes a prior on x alone, and {names} is on the output of a stage"
        if any(term.weight < 0 for term in problem.priors):
            return f"fista needs a prior with a weight of 0 or more, unlike {names} here"
        if isinstance(problem.domain, ModelSparse):
            return "fista needs a convex domain, and model_sparse is none"
        if not all(_compatible(problem, term.prior) for term in problem.priors):
            return f"fista knows no proximal map of {names} within the domain {problem.domain.name}"
        return refusal(problem, "fista", sparse=False)

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One application and one adjoint an iterate, and an application before the first."""
        assert isinstance(problem.loss, SquaredError), "refuses() tells"
        model = LinearModel.of(problem)
        weights = 2 * problem.loss_weight * problem.loss.weights(problem.target)
        z = v = problem.domain.project(x)
        z_image = v_image = model.apply(z)
        L, t = weights * torch.finfo(x.dtype).eps ** 2, torch.ones_like(weights)
        while True:
            pull = column(weights / L, v_image) * (model.y - v_image)
            new = _proximal(problem, model.adjoint(pull).add_(v), L)
            image = model.apply(new)
            step = (new - v).flatten(1)
            shown = weights * (norm((image - v_image).flatten(1)) / norm(step)).square()
            meaningful = norm(step) > MEANINGFUL * torch.finfo(x.dtype).eps * norm(new.flatten(1))
            rejected = (shown > L) & meaningful
            L = torch.where(rejected, GROWTH * shown, L)
            new = torch.where(column(rejected, new), z, new)
            image = torch.where(column(rejected, image), z_image, image)
            move = new - z
            before = torch.where(dot(step, move.flatten(1)) < 0, 1.0, t)
            t = (1 + (1 + 4 * before.square()).sqrt()) / 2
            momentum = (before - 1) / t
            t = torch.where(rejected, 1.0, t)
            v = move.mul_(column(momentum, move)).add_(new)
            v_image = torch.lerp(z_image, image, column(1 + momentum, image))
            z, z_image = new, image
            yield z


def _compatible(problem: Problem, prior: Prior) -> bool:
    """Whether the projection of the prior's prox is the prox within the domain."""
    inner = prior.prior if isinstance(prior, Standardised) else prior
    # In one dimension the prox within an interval is the prox, clipped; these act on every element alone.
    elementwise = isinstance(inner, L1 | AlphaNorm | SquaredL2)
    return isinstance(problem.domain, Reals) or (elementwise and problem.domain.bounds is not None)


def _proximal(problem: Problem, point: Tensor, L: Tensor) -> Tensor:
    """The minimiser over the domain of w R(z) + L/2 |z - point|^2; may write into the point."""
    for term in problem.priors:
        if term.weight > 0:
            point = term.prior.prox(point, L / term.weight)
    return problem.domain.project_(point)
