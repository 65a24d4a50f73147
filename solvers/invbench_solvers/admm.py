"""ADMM through the layers of a network."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from invbench import penalties
from invbench.losses import SquaredError
from invbench.minimisers import elapsed, geometric
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Solver
from invbench.splitting import ChainProblem, Order, Splitting, State, refusal, sweeps


@dataclass(frozen=True)
class ADMM(Solver):
    """Alternating directions through the stages of a chain, which copies of their variables split apart.

    The chain y_i = W_i z_i + b_i, z_{i+1} = act_i(y_i) is split by copies v_i = z_i and w_i = y_i:

        L = loss + sum_i rho d_i/2 |w_i - y_i + t_i|^2 + rho c_i/2 |v_i - z_i + u_i|^2

    The last w is the proximal point of the loss, or, for a squared error behind an activation, the projection
    of (y - t, target) onto the graph of the activation; any other (w_i, v_{i+1}) is the projection of
    (y_i - t_i, z_{i+1} - u_{i+1}) onto the graph; z_i minimises its quadratic terms. x = v_0 is the
    projection of z_0 - u_0 onto the domain: always feasible. Priors, on x or on the output of any stage, act
    on further copies s = z_i with terms of their own, as proximal points; one on every element of x alone
    acts on v_0, where the domain is a box. Last come the duals, t_i += gamma (w_i - y_i),
    u_i += gamma (v_i - z_i) and those of s. `invbench.splitting` has the updates, `invbench.penalties` the
    choice of rho, c and d.

    Attributes:
        rho: penalty; None: chosen from the problem, instance by instance.
        strength: factor on the penalty that is chosen.
        growth: c_i = growth^i and d_i = growth^(i + 1/2), i from the input; None: 2 where features are the
            target, so that the deep, cheap copies bind first, and otherwise weights in proportion to the
            back-propagated gradients.
        order: in which the variables are updated (see `splitting.sweeps`).
        dual_step: gamma.
        regards: names of the priors that it takes into account; None: all. A prior whose proximal point is
            only approached slows the sweeps down, and is better left to a gradient method behind ADMM.
        prior_scale: factor on the weights of all priors at the first and at the last sweep of the horizon,
            geometric in between.
        horizon: sweeps that the fall of the priors spans; after it the last factor holds.

    References:
        Wong & Kolter, Neural network inversion beyond gradient descent, 2017, algorithm 1. Chosen penalties,
        stage weights, copies for priors, and a single preconditioned step for a convolution are ours.
    """

    rho: Positive | None = None
    strength: Positive = field(default=1.0, metadata={"search": (1e-2, 1e2, "log")})
    growth: Positive | None = None
    order: Order = "backward"
    dual_step: Annotated[float, Gt(0), Le(1)] = 1.0
    regards: tuple[str, ...] | None = None
    prior_scale: tuple[Positive, Positive] = (1.0, 1.0)
    horizon: Count | None = None

    def refuses(self, problem: Problem) -> str | None:
        """See `splitting.refusal`; falling priors need a horizon."""
        first, last = self.prior_scale
        if first != last and self.horizon is None:
            return "prior_scale needs a budget in iterations or work, or a horizon"
        return refusal(self._seen(problem), "admm")

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """One sweep an iterate: two applications and one adjoint of every stage."""
        return (state.x for state in self.states(problem, x, rng))

    @torch.no_grad()
    def states(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[State]:  # noqa: ARG002
        """The sweeps with all their variables; the next one writes into them (see `State`)."""
        problem = self._seen(problem)
        chain, x = ChainProblem.of(problem), problem.domain.project(x)
        weights = self._weights(chain, x)
        splitting = Splitting.of(chain, *weights, self._rho(problem, x, weights), self.dual_step)
        state = splitting.start(x)
        for n, updates in enumerate(sweeps(self.order, len(chain.stages))):
            scale = geometric(*self.prior_scale, elapsed(n, self.horizon))
            splitting.sweep(state, updates, scale)
            yield state

    def _seen(self, problem: Problem) -> Problem:
        """The problem with the priors that are regarded."""
        if self.regards is None:
            return problem
        return replace(problem, priors=tuple(term for term in problem.priors if term.name in self.regards))

    def _weights(self, chain: ChainProblem, x: Tensor) -> penalties.Weights:
        if self.growth is None and not isinstance(chain.loss, SquaredError):
            return penalties.balanced(chain, x)
        return penalties.growing(len(chain.stages), self.growth or penalties.GROWTH)

    def _rho(self, problem: Problem, x: Tensor, weights: penalties.Weights) -> Tensor:
        if self.rho is not None:
            return x.new_full((len(x),), self.rho)
        return self.strength * penalties.penalty(problem, x, weights)
