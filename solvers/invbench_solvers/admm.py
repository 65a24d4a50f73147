"""ADMM through the layers of a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from invbench.activations import Identity
from invbench.losses import SquaredError
from invbench.problem import Problem
from invbench.solver import Positive, Randomness, Solver


@dataclass(frozen=True)
class State:
    """The variables of ADMM at the end of a sweep, one entry a stage.

    Attributes:
        x: v_0, the input copy: what is found, `(B, ...)`, in the domain.
        z: inputs of the stages.
        y: W_i z_i + b_i.
        v: copies of the inputs.
        w: copies of the pre-activations (v with a tilde in the paper).
        u: scaled duals of v = z.
        t: scaled duals of w = y.
    """

    x: Tensor
    z: Sequence[Tensor]
    y: Sequence[Tensor]
    v: Sequence[Tensor]
    w: Sequence[Tensor]
    u: Sequence[Tensor]
    t: Sequence[Tensor]


@dataclass(frozen=True)
class ADMM(Solver):
    """Split the chain y_i = W_i z_i + b_i, z_{i+1} = act_i(y_i) by copies v_i = z_i and w_i = y_i.

        L = loss + sum_i rho d_i/2 |w_i - y_i + t_i|^2 + rho c_i/2 |v_i - z_i + u_i|^2

    One sweep goes from the last stage to the first. The last w is the proximal point of the loss, or, for a
    squared error behind an activation, the projection of (y - t, target) onto the graph of the activation;
    any other (w_i, v_{i+1}) is the projection of (y_i - t_i, z_{i+1} - u_{i+1}) onto the graph; then

        z_i <- z_i + (c_i I + d_i W^T W)^-1 (c_i (v_i + u_i - z_i) + d_i W^T (w_i + t_i - y_i))

    where a convolution takes one step with the circulant inverse as preconditioner instead of the exact
    solve. x = v_0 is the proximal point of the prior, projected onto the domain: always feasible. Last come
    the duals, t_i += gamma (w_i - y_i) and u_i += gamma (v_i - z_i).

    Attributes:
        rho: penalty.
        growth: c_i = growth^i and d_i = growth^(i + 1/2), i from the input: weights that grow with depth let
            the deep, cheap copies bind first.
        dual_step: gamma.

    References:
        Wong & Kolter, Neural network inversion beyond gradient descent, 2017, algorithm 1, in backward
        order. Stage weights and the single preconditioned step are ours.
    """

    rho: Positive = field(default=1e-5, metadata={"search": (1e-7, 1e-2, "log")})
    growth: Positive = field(default=2.0, metadata={"search": (1.0, 4.0, "log")})
    dual_step: Annotated[float, Gt(0), Le(1)] = 1.0

    def refuses(self, problem: Problem) -> str | None:
        """The network must be a chain whose activations have projections; loss and prior need a prox."""
        chain = problem.chain
        if chain is None:
            return f"admm needs a chain of affine maps and activations: {problem.network.reason}"
        reasons = [stage.activation.refuses() for stage in chain]
        if any(reasons):
            return f"admm needs projections onto the graphs of all activations: {next(filter(None, reasons))}"
        if not problem.loss.has_prox:
            return f"admm needs a loss with a proximal map, and {problem.loss.name} has none"
        behind = not isinstance(chain[-1].activation, Identity)
        if behind and not isinstance(problem.loss, SquaredError):
            return f"admm takes {problem.loss.name} only behind an affine map, and here an activation ends"
        if len(problem.priors) > 1 or not all(term.prior.has_prox for term in problem.priors):
            names = ", ".join(term.name for term in problem.priors)
            return f"admm takes at most one prior, one with a proximal map, and the problem has {names}"
        return None

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """One sweep an iterate: about two applications and one adjoint of every stage."""
        return (state.x for state in self.states(problem, x, rng))

    @torch.no_grad()
    def states(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[State]:  # noqa: ARG002
        """The sweeps with all their variables; what is yielded is changed by the next sweep."""
        chain = problem.chain
        assert chain is not None, "refuses() tells"
        c = [self.growth**i for i in range(len(chain))]
        d = [self.growth ** (i + 0.5) for i in range(len(chain))]
        solvers = [stage.gram_solver(*weights) for stage, *weights in zip(chain, c, d, strict=True)]
        z, y = [problem.domain.project(x)], []
        for stage in chain:
            y.append(stage.affine(z[-1]))
            z.append(stage.activation(y[-1]))
        z.pop()
        v, w = list(z), list(y)
        u, t = [torch.zeros_like(value) for value in z], [torch.zeros_like(value) for value in y]
        last = len(chain) - 1
        while True:
            for i in range(last, -1, -1):
                if i == last:
                    w[i] = self._last(problem, y[i] - t[i], d[i])
                else:
                    p, q = y[i] - t[i], z[i + 1] - u[i + 1]
                    w[i], v[i + 1] = chain[i].activation.project(p, q, d[i], c[i + 1])
                if i == 0:
                    v[0] = self._input(problem, z[0] - u[0], c[0])
                pull = c[i] * (v[i] + u[i] - z[i]) + d[i] * chain[i].adjoint(w[i] + t[i] - y[i])
                step, change = solvers[i].with_output(pull)
                z[i], y[i] = z[i] + step, y[i] + change
            for i in range(len(chain)):
                t[i] = t[i] + self.dual_step * (w[i] - y[i])
                u[i] = u[i] + self.dual_step * (v[i] - z[i])
            yield State(v[0], z, y, v, w, u, t)

    def _last(self, problem: Problem, point: Tensor, weight: float) -> Tensor:
        """The last pre-activation copy: weighs the loss against its distance from `point`."""
        rho = self.rho * weight / problem.loss_weight
        chain, loss = problem.chain, problem.loss
        assert chain is not None
        if isinstance(chain[-1].activation, Identity):
            return loss.prox(point, problem.target, rho)
        assert isinstance(loss, SquaredError)
        near, far = loss.weights(problem.target), torch.full_like(point.flatten(1)[:, 0], rho / 2)
        return chain[-1].activation.project(point, problem.target, far, near)[0]

    def _input(self, problem: Problem, point: Tensor, weight: float) -> Tensor:
        """The input copy. For priors that act on each element alone the projection of the prox is exact."""
        for term in problem.priors:
            if term.weight > 0:
                point = term.prior.prox(point, self.rho * weight / term.weight)
        return problem.domain.project(point)
