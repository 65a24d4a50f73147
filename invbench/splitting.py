"""A chain of stages split by copies: the variables of ADMM and the updates that all its orders share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from invbench.activations import Identity
from invbench.domains import Domain
from invbench.losses import Loss, SquaredError
from invbench.metered import MeteredGramSolver, MeteredStage
from invbench.problem import Problem, WeightedPrior

Order = Literal["backward", "forward", "alternating", "jacobi"]
#: One update: of the copies behind stage i (of the input for -1), or of the input of stage i.
Update = tuple[Literal["copies", "input"], int]


@dataclass(frozen=True, eq=False)
class ChainProblem:
    """A problem whose network is a chain, or a piece of one.

    Attributes:
        stages: y_i = W_i z_i + b_i, z_{i+1} = act_i(y_i).
        loss: of the last output.
        target: `(B, ...)`, as the loss reads it.
        domain: of z_0.
        priors: on z_0, at most one.
        loss_weight: factor on the loss.
    """

    stages: tuple[MeteredStage, ...]
    loss: Loss
    target: Tensor
    domain: Domain
    priors: tuple[WeightedPrior, ...] = ()
    loss_weight: float = 1.0

    @classmethod
    def of(cls, problem: Problem) -> "ChainProblem":
        """All of a problem that `refusal` does not refuse."""
        assert problem.chain is not None, "refusal() tells"
        return cls(
            problem.chain,
            problem.loss,
            problem.target,
            problem.domain,
            problem.priors,
            problem.loss_weight,
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Inputs z_i and pre-activations y_i of all stages at x, and the output."""
        z, y = [x], []
        for stage in self.stages:
            y.append(stage.affine(z[-1]))
            z.append(stage.activation(y[-1]))
        return z[:-1], y, z[-1]


def refusal(problem: Problem, method: str) -> str | None:
    """Why a splitting method cannot take a problem, in a sentence that begins with its name; None if it can.

    The network must be a chain whose activations have projections; loss and prior need a proximal map.
    """
    lack = _lack(problem)
    return None if lack is None else f"{method} {lack}"


def _lack(problem: Problem) -> str | None:
    chain = problem.chain
    if chain is None:
        return f"needs a chain of affine maps and activations: {problem.network.reason}"
    reasons = [stage.activation.refuses() for stage in chain]
    if any(reasons):
        return f"needs projections onto the graphs of all activations: {next(filter(None, reasons))}"
    if not problem.loss.has_prox:
        return f"needs a loss with a proximal map, and {problem.loss.name} has none"
    ends_in_activation = not isinstance(chain[-1].activation, Identity)
    if ends_in_activation and not isinstance(problem.loss, SquaredError):
        return f"takes {problem.loss.name} only behind an affine map, and here an activation ends"
    if len(problem.priors) > 1 or not all(term.prior.has_prox for term in problem.priors):
        names = ", ".join(term.name for term in problem.priors)
        return f"takes at most one prior, one with a proximal map, and the problem has {names}"
    return None


@dataclass(frozen=True, eq=False)
class State:
    """The variables at the end of a sweep, one entry a stage.

    The next sweep writes into z, y, u and t, and puts new tensors in place of v and w, so that an x which was
    read before stays as it was.

    Attributes:
        z: inputs of the stages.
        y: W_i z_i + b_i.
        v: copies of the inputs; v_0 lies in the domain.
        w: copies of the pre-activations (v with a tilde in Wong & Kolter 2017).
        u: scaled duals of v = z.
        t: scaled duals of w = y.
    """

    z: list[Tensor]
    y: list[Tensor]
    v: list[Tensor]
    w: list[Tensor]
    u: list[Tensor]
    t: list[Tensor]

    @property
    def x(self) -> Tensor:
        """v_0, the input copy: what is found, `(B, ...)`, in the domain."""
        return self.v[0]


@dataclass(frozen=True, eq=False)
class Splitting:
    """The chain cut before and behind every affine map, with penalties on the cuts.

        L = loss + priors + sum_i rho d_i/2 |w_i - y_i + t_i|^2 + rho c_i/2 |v_i - z_i + u_i|^2

    Given the inputs z, each pair of copies (w_i, v_{i+1}) has a minimiser of its own, and so has, given the
    copies, each input z_i. rho cancels in the latter, so that it may differ from instance to instance
    although all share the factorised gram matrices.

    Attributes:
        problem: what is minimised.
        c: weights of the input copies, > 0.
        d: weights of the pre-activation copies, > 0.
        rho: penalty, > 0, `(B,)`.
        dual_step: gamma, in (0, 1].
        solvers: (I + d_i/c_i W_i^T W_i)^-1.

    References:
        Wong & Kolter, Neural network inversion beyond gradient descent, 2017, algorithm 1.
    """

    problem: ChainProblem
    c: Sequence[float]
    d: Sequence[float]
    rho: Tensor
    dual_step: float
    solvers: tuple[MeteredGramSolver, ...]

    @classmethod
    def of(
        cls,
        problem: ChainProblem,
        c: Sequence[float],
        d: Sequence[float],
        rho: Tensor,
        dual_step: float = 1.0,
    ) -> "Splitting":
        """Factorise the gram matrices for these weights."""
        solvers = (
            stage.gram_solver(1.0, di / ci) for stage, ci, di in zip(problem.stages, c, d, strict=True)
        )
        return cls(problem, c, d, rho, dual_step, tuple(solvers))

    def start(self, x: Tensor) -> State:
        """All copies agree with a forward pass at x, and all duals are 0."""
        v, w, _ = self.problem.forward(self.problem.domain.project(x))
        z, y = [value.clone() for value in v], [value.clone() for value in w]  # written into from here on
        u, t = [torch.zeros_like(value) for value in v], [torch.zeros_like(value) for value in w]
        return State(z, y, v, w, u, t)

    def sweep(self, state: State, updates: Sequence[Update]) -> None:
        """The updates in turn, and the duals: t_i += gamma (w_i - y_i), u_i += gamma (v_i - z_i).

        t_i enters the two updates of stage i alone, so that it may change as soon as both are done: it moves
        to the gap w_i - y_i + t_i, which the first of them hands to the second.
        """
        gaps: dict[int, Tensor] = {}
        for what, i in updates:
            if i < 0:
                state.v[0] = self._feasible(state.z[0] - state.u[0])
                continue
            known = gaps.pop(i, None)
            gap = self._update_copies(state, i) if what == "copies" else self._update_input(state, i, known)
            if known is None:
                gaps[i] = gap
            else:
                state.t[i].lerp_(gap, self.dual_step)
        for u, v, z in zip(state.u, state.v, state.z, strict=True):
            u.add_(v - z, alpha=self.dual_step)

    def _update_copies(self, state: State, i: int) -> Tensor:
        """The minimiser over (w_i, v_{i+1}): a projection, or the proximal point of the loss.

        Returns:
            The gap w_i - y_i + t_i.
        """
        p = state.y[i] - state.t[i]
        if i == len(state.z) - 1:
            state.w[i] = self._fitting(p)
        else:
            q, activation = state.z[i + 1] - state.u[i + 1], self.problem.stages[i].activation
            state.w[i], state.v[i + 1] = activation.project(p, q, self.d[i], self.c[i + 1])
        return state.w[i] - p

    def _update_input(self, state: State, i: int, gap: Tensor | None) -> Tensor:
        """z_i <- z_i + (I + d_i/c_i W^T W)^-1 (v_i - z_i + u_i + d_i/c_i W^T (w_i - y_i + t_i)).

        A convolution takes one step with the circulant inverse as preconditioner instead of the exact solve.

        Args:
            state: the variables.
            i: the stage.
            gap: w_i - y_i + t_i where it is known; it is written into.

        Returns:
            The gap with the new y_i.
        """
        if gap is None:
            gap = (state.w[i] - state.y[i]).add_(state.t[i])
        pull = (state.v[i] - state.z[i]).add_(state.u[i])
        pull.add_(self.problem.stages[i].adjoint(gap), alpha=self.d[i] / self.c[i])
        step, change = self.solvers[i].with_output(pull)
        state.z[i].add_(step)
        state.y[i].add_(change)
        return gap.sub_(change)

    def _feasible(self, point: Tensor) -> Tensor:
        """The input copy. For priors that act on each element alone the projection of the prox is exact."""
        for term in self.problem.priors:
            if term.weight > 0:
                point = term.prior.prox(point, self.rho * self.c[0] / term.weight)
        return self.problem.domain.project(point)

    def _fitting(self, point: Tensor) -> Tensor:
        """The last pre-activation copy: weighs the loss against its distance from `point`.

        Behind an activation the loss is a squared error, and the copies lie on its graph.
        """
        loss, target = self.problem.loss, self.problem.target
        rho = self.rho * self.d[-1] / self.problem.loss_weight
        activation = self.problem.stages[-1].activation
        if isinstance(activation, Identity):
            return loss.prox(point, target, rho)
        assert isinstance(loss, SquaredError), "refusal() tells"
        return activation.project(point, target, rho / 2, loss.weights(target))[0]


def sweeps(order: Order, stages: int) -> Iterator[tuple[Update, ...]]:
    """The updates of each sweep, without end.

    - `backward`: from the loss to the input, each stage with the newest copies behind it.
    - `forward`: from the input to the loss.
    - `alternating`: these two in turn.
    - `jacobi`: all copies, then all inputs; ADMM with two blocks.
    """
    forward: list[Update] = [("copies", -1)]
    for i in range(stages):
        forward += [("input", i), ("copies", i)]
    copies: list[Update] = [("copies", i) for i in range(-1, stages)]
    inputs: list[Update] = [("input", i) for i in range(stages)]
    cycle: dict[Order, list[list[Update]]] = {
        "backward": [forward[::-1]],
        "forward": [forward],
        "alternating": [forward[::-1], forward],
        "jacobi": [copies + inputs],
    }
    while True:
        yield from map(tuple, cycle[order])
