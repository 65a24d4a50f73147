"""Penalties of a splitting, chosen from the problem so that a method needs no tuning.

Where ADMM converges, its duals are forces: rho c_i u_i is the gradient of the objective with respect to the
input of stage i. A penalty fits when the distance over which it balances that force is the distance that
the copy has to go.
"""

import math

import torch
from torch import Tensor

from invbench.activations import Identity
from invbench.losses import Loss, SquaredError
from invbench.metered import MeteredStage
from invbench.priors import Prior
from invbench.problem import Problem
from invbench.splitting import ChainProblem

Weights = tuple[list[float], list[float]]
#: Growth of the weights from stage to stage where features are the target.
GROWTH = 2.0
#: Penalty of the last copies over the curvature of the loss there.
STIFFNESS = 0.001
#: Penalty of an input with a copy for a prior over the curvature of the prior.
FIRMNESS = 0.1
#: Share of the first gradient that is left where the domain stops an x without a prior.
REMAINDER = 0.03
#: Least and greatest penalty for scores, and curvature: what the prox of the cross-entropy is accurate for.
LEAST, GREATEST = 1e-8, 1e4
#: Strength of the noise around mid-grey by which a chain is probed.
PROBE = 0.05


def growing(stages: int, growth: float) -> Weights:
    """c_i = growth^i and d_i = growth^(i + 1/2): with growth > 1 the deep, cheap copies bind first."""
    return [growth**i for i in range(stages)], [growth ** (i + 0.5) for i in range(stages)]


@torch.no_grad()
def balanced(problem: ChainProblem, x: Tensor) -> Weights:
    """Weights like the back-propagated gradients: c_i = |g(z_i)| / |g(z_0)|, d_i = |g(y_i)| / |g(z_0)|.

    A force on the output arrives at every cut with a strength of its own; with these weights all scaled
    duals have the size of that at the input. They are measured with one noisy grey input and one random
    force, so that they depend on the network alone and the members of a batch share them. Every instance is
    charged the two passes, as it would be alone.

    Args:
        problem: the chain.
        x: an input, `(B, ...)`, of which shape, dtype and device count.
    """
    generator = torch.Generator().manual_seed(0)
    _, y, output = problem.forward(0.5 + PROBE * _noise(x, generator))
    force = _noise(output, generator)
    c, d = [], []
    for stage, value in zip(reversed(problem.stages), reversed(y), strict=True):
        force = _pulled_back(stage, value, force)
        d.append(_norm(force))
        force = stage.adjoint(force)
        c.append(_norm(force))
    return [value / c[-1] for value in reversed(c)], [value / c[-1] for value in reversed(d)]


def penalty(problem: Problem, x: Tensor, weights: Weights) -> Tensor:
    """The penalty rho for which rho c_i or rho d_i balances the forces, `(B,)`.

    - Features, a squared error: rho d_last is a small part of the curvature of the loss at the output, for
      the residual vanishes at the solution, and with it all forces. Through a linear network it is the
      whole curvature: there a prior or domain holds against the loss to the end.
    - Scores with a prior: rho c_0 is the curvature of the prior, which pulls x back from where the loss
      pulls it to.
    - Scores without a prior: rho c_0 = `REMAINDER` |g| / r, with g the gradient at x, and r how far the
      domain lets x move.

    Where priors have copies of their own, rho c_i is besides at least `FIRMNESS` of the curvature of each:
    with a tenth of that the copies are still far apart after 150 sweeps (measured with squared TV).

    Args:
        problem: with one of these three kinds of objective.
        x: the start, `(B, ...)`.
        weights: c and d.
    """
    c, d = weights
    chain = ChainProblem.of(problem)
    firm = FIRMNESS * _curvature_apart(chain, x, c)
    if isinstance(problem.loss, SquaredError):
        curvature = output_curvature(problem.loss, problem.target, problem.target)
        share = 1.0 if _linear(problem) else STIFFNESS
        return (share * (problem.loss_weight * curvature) / d[-1]).maximum(firm)
    bent = _curvature_at_once(chain, x)
    found = torch.where(bent > 0, bent, _pressure(problem, x)) / c[0]
    return found.maximum(firm).clamp(LEAST, GREATEST)


def _linear(problem: Problem) -> bool:
    return all(isinstance(stage.activation, Identity) for stage in problem.network.chain or ())


def output_curvature(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    """The curvature |g|^2 / (2 |l|) of the parabola with value l, slope g and minimum 0, `(B,)`.

    For a squared error w |r|^2 this is 2 w, which holds at the target, too.

    Args:
        loss: of an output.
        output: where, `(B, ...)`.
        target: as the loss reads it.

    Returns:
        The curvatures, > 0 and finite.
    """
    if isinstance(loss, SquaredError):
        return 2 * loss.weights(target)
    with torch.enable_grad():
        leaf = output.detach().clone().requires_grad_()
        value = loss(leaf, target)
        (g,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    tiny = torch.finfo(value.dtype).tiny
    return (_squares(g) / (2 * value.detach().abs().clamp_min(tiny))).clamp(LEAST, GREATEST)


def _pulled_back(stage: MeteredStage, y: Tensor, force: Tensor) -> Tensor:
    """A force on the output of an activation, as it acts on the input."""
    with torch.enable_grad():
        leaf = y.detach().clone().requires_grad_()
        (pulled,) = torch.autograd.grad(stage.activation(leaf), leaf, force)
    return pulled


def _norm(force: Tensor) -> float:
    """Its length; 1 where a dead stage lets nothing through, so that weights stay positive."""
    return float(force.norm()) or 1.0


def _curvature_at_once(chain: ChainProblem, x: Tensor) -> Tensor:
    """That of the weighted prior which shares its copy, over a tenth of the range of x, `(B,)`; or 0."""
    term = chain.at_once
    if term is None:
        return x.new_zeros(len(x))
    return term.weight * _curvature(term.prior, x, torch.full_like(x, 0.1))


def _curvature_apart(chain: ChainProblem, x: Tensor, c: list[float]) -> Tensor:
    """The greatest of the other weighted priors in a random direction, over c_i, `(B,)` or `(1,)`; or 0.

    Measured at a noisy grey input and what becomes of it, so that the members of a batch share it.
    """
    generator = torch.Generator().manual_seed(0)
    z = [0.5 + PROBE * _noise(x, generator)]
    if any(term.stage for term in chain.apart):
        z, _, _ = chain.forward(z[0])
    greatest = x.new_zeros(1)
    for term in chain.apart:
        at = z[term.stage]
        found = _curvature(term.prior, at, PROBE * _noise(at, generator))
        greatest = greatest.maximum(term.weight * found / c[term.stage])
    return greatest


def _curvature(prior: Prior, x: Tensor, step: Tensor) -> Tensor:
    """The second difference of a prior, `(B,)`; 0 where that is negative or rounding."""
    around = prior(x + step) + prior(x - step)
    bend = around - 2 * prior(x)
    rounding = 100 * torch.finfo(x.dtype).eps * around
    return torch.where(bend > rounding, bend / _squares(step), 0)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers for one instance, (1, ...)."""
    return torch.randn(1, *like.shape[1:], generator=generator, dtype=torch.float64).to(like)


def _pressure(problem: Problem, x: Tensor) -> Tensor:
    """`REMAINDER` |g| / r, `(B,)`; r is half the diagonal of what lies in the domain within 1 of x."""
    _, g = problem.value_and_gradient(x)
    reach = problem.domain.project(x + 1) - problem.domain.project(x - 1)
    half = _squares(reach).sqrt() / 2
    return REMAINDER * _squares(g).sqrt() / half.clamp_min(math.sqrt(torch.finfo(x.dtype).tiny))


def _squares(x: Tensor) -> Tensor:
    """|x|^2 of every instance, (B, ...) -> (B,)."""
    return x.flatten(1).square().sum(1)
