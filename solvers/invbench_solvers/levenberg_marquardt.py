"""Levenberg-Marquardt for small least-squares problems, by SciPy."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.losses import SquaredError
from invbench.problem import Problem
from invbench.solver import Randomness, Solver
from invbench.unknowns import Array, Unknowns, too_many

#: Relative changes that end an instance: those of rounding.
PRECISION = 1e-12


@dataclass(frozen=True)
class LevenbergMarquardt(Solver):
    """Damped Gauss-Newton steps on the residual r(x) = f(x) - y within bounds, one instance after the other.

        x <- x - (J^T J + mu D)^-1 J^T r

    It is SciPy's `least_squares` with the trust region reflective method, a Levenberg-Marquardt method that
    knows bounds, with the unknowns scaled by the columns of J. J is exact: every unknown costs one pass of
    forward differentiation. Coordinates whose bounds agree are no unknowns. SciPy cannot be stepped: the
    only iterate comes when all instances are solved.

    References:
        Marquardt, SIAM J. Appl. Math. 1963; Branch, Coleman & Li, SIAM J. Sci. Comput. 1999 (the bounds).
    """

    def refuses(self, problem: Problem) -> str | None:
        """It needs a squared error and nothing else, a box or no constraint, and few unknowns."""
        few = too_many(problem)
        if few:
            return f"levenberg_marquardt {few}"
        if not isinstance(problem.loss, SquaredError) or problem.priors:
            return "levenberg_marquardt needs a squared error without priors, and the objective here is none"
        if problem.domain.bounds is None:
            return f"levenberg_marquardt needs a box, and the domain here is {problem.domain.name}"
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One iterate, the solution."""
        x = problem.domain.project(x)
        places = torch.arange(problem.size, device=x.device)[:, None]
        yield torch.cat([_solved(problem.select(i), x[i]) for i in places])


def _solved(problem: Problem, x: Tensor) -> Tensor:
    """The minimum that SciPy finds from x, for a problem of one instance."""
    from scipy.optimize import least_squares  # seldom needed

    assert isinstance(problem.loss, SquaredError)
    unknowns = Unknowns.of(problem, x)
    if not len(unknowns.low):
        return x
    scale, directions = problem.loss.weights(problem.target).sqrt(), unknowns.directions

    def residual(vector: Array) -> Array:
        found: Array = (
            (scale * (problem.output(unknowns.at(vector)) - problem.target)).flatten().cpu().numpy()
        )
        return found

    def jacobian(vector: Array) -> Array:
        _, derivatives = problem.linearised(unknowns.at(vector), directions)
        found: Array = (scale * derivatives).flatten(1).T.cpu().numpy()
        return found

    precision = {"ftol": PRECISION, "xtol": PRECISION, "gtol": PRECISION}
    bounds = unknowns.low, unknowns.high
    found = least_squares(residual, unknowns.vector, jacobian, bounds, x_scale="jac", **precision)
    return unknowns.at(found.x)
