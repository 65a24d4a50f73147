"""The stages of a network for solvers that take it apart: what they apply is counted."""

from dataclasses import dataclass

from torch import Tensor

from invbench.activations import Activation
from invbench.meter import Meter, MeterView
from invbench.network import Stage
from invbench.operators import GramSolver, gram_solver


@dataclass(frozen=True, eq=False)
class MeteredStage:
    """A stage of a chain; every pass through its affine map is charged to a meter.

    Attributes:
        stage: the affine map and its activation.
        meter: of the problem.
    """

    stage: Stage
    meter: Meter | MeterView

    @property
    def activation(self) -> Activation:
        """What follows the affine map."""
        return self.stage.activation

    def affine(self, z: Tensor) -> Tensor:
        """W z + b; counts one application."""
        self.meter.count("applications", self.stage.affine.multiply_adds)
        return self.stage.affine(z)

    def linear(self, z: Tensor) -> Tensor:
        """W z; counts one application."""
        self.meter.count("applications", self.stage.affine.multiply_adds)
        return self.stage.affine.linear(z)

    def adjoint(self, r: Tensor) -> Tensor:
        """W^T r; counts one adjoint."""
        self.meter.count("adjoints", self.stage.affine.multiply_adds)
        return self.stage.affine.adjoint(r)

    def gram_solver(self, alpha: float, beta: float) -> "MeteredGramSolver":
        """R -> (alpha I + beta W^T W)^-1 r, factorised now."""
        return MeteredGramSolver(gram_solver(self.stage.affine, alpha, beta), self.meter)


@dataclass(frozen=True, eq=False)
class MeteredGramSolver:
    """A gram solver whose applications are charged to a meter."""

    solver: GramSolver
    meter: Meter | MeterView

    def with_output(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The solution x and W x; counts one gram solve."""
        result = self.solver.with_output(r)
        self.meter.count("gram_solves", self.solver.multiply_adds_with_output)  # iterations are known now
        return result
