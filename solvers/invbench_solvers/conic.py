"""The optimum of small convex problems, by cvxpy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from invbench.errors import UserError
from invbench.losses import SquaredError
from invbench.priors import L1, Standardised
from invbench.problem import Problem
from invbench.recovery import LinearModel, refusal
from invbench.solver import Count, Randomness, Solver

# Below the tolerances that the default library comes with: its answers are to serve as optima.
ACCURATE = {"CLARABEL": {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-10}}


@dataclass(frozen=True)
class Conic(Solver):
    """The problem of a linear network as a conic program, which an interior-point method solves as a whole.

        min a |y - A z|^2 + w |z|_1   over the z in R^n or in a box; w may be 0

    cvxpy states it, one instance after the other, with A as a sparse matrix. The answer is an optimum to
    compare others with, in objective to about 1e-10, at seconds an instance. It yields once, when all are
    done, projected onto the domain. A is read off by one adjoint for each measurement, each charged to all
    instances; the work of the library itself, on the CPU and in float64, shows in the time alone.

    Attributes:
        library: the solver behind cvxpy.
        limit: most unknowns times measurements of an instance: about 4 s on one core for a convolution with
            the default.

    References:
        Diamond & Boyd, "CVXPY: a Python-embedded modeling language for convex optimization", JMLR 2016.
        Goulart & Chen, "Clarabel: an interior-point solver for conic programs with quadratic objectives",
        2024 (the default).
    """

    library: str = "CLARABEL"
    limit: Count = 4_000_000

    def refuses(self, problem: Problem) -> str | None:
        """What is no such program, is above the limit, or lacks its library here."""
        return (
            refusal(problem, "conic", sparse=False)
            or _beyond(problem)
            or self._too_large(problem)
            or self._missing()
        )

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """All at once: a single iterate."""
        assert isinstance(problem.loss, SquaredError), "refuses() tells"
        model = LinearModel.of(problem)
        matrix, targets = _matrix(model), model.y.flatten(1).double().cpu()
        pulls = _l1_weight(problem) / (problem.loss_weight * problem.loss.weights(problem.target))
        bounds = [
            torch.as_tensor(bound, dtype=torch.float64).cpu().expand(x.shape).flatten(1)
            for bound in problem.domain.bounds or ()
        ]
        found = [
            self._optimum(matrix, y, float(pull), low, high)
            for y, pull, low, high in zip(targets, pulls, *bounds, strict=True)
        ]
        yield problem.domain.project(torch.stack(found).view(x.shape).to(x))

    def _optimum(self, matrix: Any, y: Tensor, pull: float, low: Tensor, high: Tensor) -> Tensor:
        """Argmin |y - A z|^2 + pull |z|_1, low <= z <= high; in units in which |y| = 1."""
        cvxpy: Any = import_module("cvxpy")  # here, as not everybody has it, and it takes a second
        scale = float(y.norm()) or 1.0
        z = cvxpy.Variable(matrix.shape[1], bounds=[(low / scale).numpy(), (high / scale).numpy()])
        objective = cvxpy.sum_squares(matrix @ z - (y / scale).numpy())
        if pull > 0:
            objective += pull / scale * cvxpy.norm1(z)
        program = cvxpy.Problem(cvxpy.Minimize(objective))
        try:
            program.solve(solver=self.library, **ACCURATE.get(self.library, {}))
        except cvxpy.SolverError as error:
            raise UserError(f"conic: {self.library} found no solution: {error}") from None
        if z.value is None:
            raise UserError(f"conic: {self.library} found no solution ({program.status}).")
        return scale * torch.from_numpy(z.value)

    def _too_large(self, problem: Problem) -> str | None:
        size = math.prod(problem.network.input_shape) * problem.target[0].numel()
        if size <= self.limit:
            return None
        most = f"at most {self.limit:,} unknowns times measurements, and here they are {size:,}"
        return f"conic takes {most}: raise its limit, or take fista"

    def _missing(self) -> str | None:
        if find_spec("cvxpy") is None:
            return "conic needs cvxpy, which is not installed: pip install 'invbench[reference]'"
        installed: list[str] = import_module("cvxpy").installed_solvers()
        if self.library in installed:
            return None
        return f"conic finds no {self.library} here, but {', '.join(installed)}"


def _beyond(problem: Problem) -> str | None:
    if any(term.weight < 0 or term.layer or not _is_l1(term.prior) for term in problem.priors):
        names = ", ".join(term.name for term in problem.priors)
        return f"conic takes no priors but l1 on x: {names} is beyond it"
    if problem.domain.bounds is None:
        return f"conic takes the domain reals or a box, not {problem.domain.name}"
    return None


def _is_l1(prior: object) -> bool:
    return isinstance(prior.prior if isinstance(prior, Standardised) else prior, L1)


def _l1_weight(problem: Problem) -> float:
    """The sum of the weights on |z|_1."""
    factors = (t.prior.scale if isinstance(t.prior, Standardised) else 1.0 for t in problem.priors)
    return sum(term.weight * factor for term, factor in zip(problem.priors, factors, strict=True))


def _matrix(model: LinearModel) -> Any:
    """A, sparse: (measurements, unknowns), row by row."""
    shape = model.y.shape[1:]
    units = torch.eye(shape.numel(), dtype=model.y.dtype, device=model.y.device)
    rows = (model.adjoint(unit.view(1, *shape)) for unit in units)
    return csr_array(torch.cat([row.flatten(1) for row in rows]).double().cpu().numpy())
