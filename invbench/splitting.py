"""A chain of stages split by copies: the variables of ADMM and the updates that all its orders share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from invbench.activations import Identity
from invbench.domains import Domain
from invbench.losses import Loss, SquaredError
from invbench.metered import MeteredGramSolver, MeteredStage
from invbench.network import Stage
from invbench.operators import Diagonal
from invbench.priors import Prior
from invbench.problem import Problem

Order = Literal["backward", "forward", "alternating", "jacobi"]
#: One update: of the copies behind stage i (of the input for -1), or of the input of stage i.
Update = tuple[Literal["copies", "input"], int]
#: Weight of the copy of an input for a prior over that of the copy which obeys an activation or the domain.
COMPANY = 2.0


@dataclass(frozen=True, eq=False)
class StagePrior:
    """The term w R(z_i) of the objective.

    Attributes:
        stage: i, the stage whose input has the prior.
        weight: w, > 0.
        prior: R.
    """

    stage: int
    weight: float
    prior: Prior


@dataclass(frozen=True, eq=False)
class ChainProblem:
    """A problem whose network is a chain, or a piece of one.

    Attributes:
        stages: y_i = W_i z_i + b_i, z_{i+1} = act_i(y_i).
        loss: of the last output.
        target: `(B, ...)`, as the loss reads it.
        domain: of z_0.
        priors: on inputs of stages.
        loss_weight: factor on the loss.
    """

    stages: tuple[MeteredStage, ...]
    loss: Loss
    target: Tensor
    domain: Domain
    priors: tuple[StagePrior, ...] = ()
    loss_weight: float = 1.0

    @classmethod
    def of(cls, problem: Problem) -> "ChainProblem":
        """All of a problem that `refusal` does not refuse.

        Where the output has a prior it becomes the input of one more stage, which does nothing.
        """
        stages = problem.chain
        assert stages is not None, "refusal() tells"
        places = _places(stages)
        priors = tuple(
            StagePrior(places[term.layer], term.weight, term.prior) for term in problem.priors if term.weight
        )
        if any(term.stage == len(stages) for term in priors):
            idle = Stage("output", Diagonal(problem.network.output_shape), Identity())
            stages = (*stages, MeteredStage(idle, problem.meter))
        return cls(stages, problem.loss, problem.target, problem.domain, priors, problem.loss_weight)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Inputs z_i and pre-activations y_i of all stages at x, and the output."""
        z, y = [x], []
        for stage in self.stages:
            y.append(stage.affine(z[-1]))
            z.append(stage.activation(y[-1]))
        return z[:-1], y, z[-1]

    @property
    def at_once(self) -> StagePrior | None:
        """A prior that can share the copy v_0 with the domain: elementwise, where the domain is a box.

        The proximal point of the sum is then that of the prior, clipped.
        """
        in_box = self.domain.bounds is not None
        candidates = (term for term in self.priors if term.stage == 0 and term.prior.elementwise)
        return next(candidates, None) if in_box else None

    @property
    def apart(self) -> tuple[StagePrior, ...]:
        """The other priors, each of which needs a copy of its own."""
        return tuple(term for term in self.priors if term is not self.at_once)


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
    for term in problem.priors:
        if term.weight < 0:
            return f"takes priors with weights >= 0, and that of {term.name} is {term.weight:g}"
        if not term.prior.has_prox:
            return f"takes priors with a proximal map, and {term.name} has none"
        if term.layer not in _places(chain):
            known = ", ".join(stage.stage.name for stage in chain)
            return f"takes priors on x and on outputs of its stages {known}, and {term.name} is on neither"
    return None


def _places(stages: Sequence[MeteredStage]) -> dict[str, int]:
    """By the name of a layer, "" for x, the index of its output among the inputs of the stages and beyond."""
    return {name: i for i, name in enumerate(["", *(stage.stage.name for stage in stages)])}


@dataclass(frozen=True, eq=False)
class State:
    """The variables at the end of a sweep, one entry a stage; of s and r, one a prior that has a copy.

    The next sweep writes into z, y, u, t and r, and puts new tensors in place of v, w and s, so that an x
    which was read before stays as it was.

    Attributes:
        z: inputs of the stages.
        y: W_i z_i + b_i.
        v: copies of the inputs; v_0 lies in the domain.
        w: copies of the pre-activations (v with a tilde in Wong & Kolter 2017).
        u: scaled duals of v = z.
        t: scaled duals of w = y.
        s: further copies of inputs, for priors.
        r: scaled duals of s = z.
    """

    z: list[Tensor]
    y: list[Tensor]
    v: list[Tensor]
    w: list[Tensor]
    u: list[Tensor]
    t: list[Tensor]
    s: list[Tensor] = field(default_factory=list)
    r: list[Tensor] = field(default_factory=list)

    @property
    def x(self) -> Tensor:
        """v_0, the input copy: what is found, `(B, ...)`, in the domain."""
        return self.v[0]


@dataclass(frozen=True, eq=False)
class Splitting:
    """The chain cut before and behind every affine map, with penalties on the cuts.

        L = loss + priors + sum_i rho d_i/2 |w_i - y_i + t_i|^2 + rho c_i/2 |v_i - z_i + u_i|^2
                          + sum_j rho e_j/2 |s_j - z_i(j) + r_j|^2

    Given the inputs z, each pair of copies (w_i, v_{i+1}) has a minimiser of its own, and so has, given the
    copies, each input z_i. rho cancels in the latter, so that it may differ from instance to instance
    although all share the factorised gram matrices. Copies v obey the domain or an activation, and each
    prior j acts on a further copy s_j of the input of its stage i(j), so that any number of them may meet
    there; one that `ChainProblem.at_once` names acts on v_0 itself.

    Attributes:
        problem: what is minimised.
        c: weights of the input copies, > 0.
        d: weights of the pre-activation copies, > 0.
        rho: penalty, > 0, `(B,)`.
        dual_step: gamma, in (0, 1].
        solvers: (I + sum_j e_j/c_i I + d_i/c_i W_i^T W_i)^-1, the sum over priors with a copy of z_i.
        e: weights of the copies for priors, > 0.

    References:
        Wong & Kolter, Neural network inversion beyond gradient descent, 2017, algorithm 1; copies for priors
        are ours.
    """

    problem: ChainProblem
    c: Sequence[float]
    d: Sequence[float]
    rho: Tensor
    dual_step: float
    solvers: tuple[MeteredGramSolver, ...]
    e: Sequence[float] = ()

    @classmethod
    def of(
        cls,
        problem: ChainProblem,
        c: Sequence[float],
        d: Sequence[float],
        rho: Tensor,
        dual_step: float = 1.0,
        e: Sequence[float] | None = None,
    ) -> "Splitting":
        """Factorise the gram matrices for these weights; without e, e_j = `COMPANY` c_i(j)."""
        apart = problem.apart
        e = [COMPANY * c[term.stage] for term in apart] if e is None else e
        further = [0.0] * len(c)
        for term, weight in zip(apart, e, strict=True):
            further[term.stage] += weight / c[term.stage]
        solvers = (
            stage.gram_solver(1.0 + more, di / ci)
            for stage, ci, di, more in zip(problem.stages, c, d, further, strict=True)
        )
        return cls(problem, c, d, rho, dual_step, tuple(solvers), e)

    def start(self, x: Tensor) -> State:
        """All copies agree with a forward pass at x, and all duals are 0."""
        v, w, _ = self.problem.forward(self.problem.domain.project(x))
        s = [v[term.stage] for term in self.problem.apart]
        z, y = [value.clone() for value in v], [value.clone() for value in w]  # written into from here on
        u, t, r = ([torch.zeros_like(value) for value in copies] for copies in (v, w, s))
        return State(z, y, v, w, u, t, s, r)

    def sweep(self, state: State, updates: Sequence[Update], prior_scale: float = 1.0) -> None:
        """The updates in turn, and the duals: t_i += gamma (w_i - y_i), u_i += gamma (v_i - z_i), r alike.

        t_i enters the two updates of stage i alone, so that it may change as soon as both are done: it moves
        to the gap w_i - y_i + t_i, which the first of them hands to the second.

        Args:
            state: the variables.
            updates: an item of `sweeps`.
            prior_scale: factor on the weights of all priors, > 0.
        """
        gaps: dict[int, Tensor] = {}
        for what, i in updates:
            if what == "copies":
                self._update_prior_copies(state, i + 1, prior_scale)
            if i < 0:
                state.v[0] = self._feasible(state.z[0] - state.u[0], prior_scale)
                continue
            known = gaps.pop(i, None)
            gap = self._update_copies(state, i) if what == "copies" else self._update_input(state, i, known)
            if known is None:
                gaps[i] = gap
            else:
                state.t[i].lerp_(gap, self.dual_step)
        for u, v, z in zip(state.u, state.v, state.z, strict=True):
            u.add_(v - z, alpha=self.dual_step)
        for r, s, term in zip(state.r, state.s, self.problem.apart, strict=True):
            r.add_(s - state.z[term.stage], alpha=self.dual_step)

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

        Each copy s_j of z_i adds e_j/c_i I to the matrix and e_j/c_i (s_j - z_i + r_j) to the right side.
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
        for s, r, e, term in zip(state.s, state.r, self.e, self.problem.apart, strict=True):
            if term.stage == i:
                pull.add_((s - state.z[i]).add_(r), alpha=e / self.c[i])
        pull.add_(self.problem.stages[i].adjoint(gap), alpha=self.d[i] / self.c[i])
        step, change = self.solvers[i].with_output(pull)
        state.z[i].add_(step)
        state.y[i].add_(change)
        return gap.sub_(change)

    def _update_prior_copies(self, state: State, i: int, prior_scale: float) -> None:
        """The copies of z_i for priors: their proximal points, or an approach to them."""
        for j, (term, e) in enumerate(zip(self.problem.apart, self.e, strict=True)):
            if term.stage == i:
                point = state.z[i] - state.r[j]
                rho = self.rho * e / (prior_scale * term.weight)
                state.s[j] = term.prior.approach(state.s[j], point, rho)

    def _feasible(self, point: Tensor, prior_scale: float) -> Tensor:
        """The input copy: in the domain, and where a prior acts on it its proximal point there."""
        term = self.problem.at_once
        if term is not None:
            point = term.prior.prox(point, self.rho * self.c[0] / (prior_scale * term.weight))
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
