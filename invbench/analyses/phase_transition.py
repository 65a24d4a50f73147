"""How sparse a code must be for a solver to recover it."""

import math
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from invbench.analyses.contract import Analysis, Plot, Refused, Row
from invbench.analyses.draws import reseeded
from invbench.analyses.isometry import length
from invbench.domains import ModelSparse
from invbench.solver import Count, Positive, Randomness, Solver, with_horizon
from invbench.trials.contract import Scene
from invbench.trials.sparse_code import SparseCode

Counts = Annotated[tuple[Count, ...], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class PhaseTransition(Analysis):
    """The share of random codes that a solver recovers, over the non-zeros k and the number of filters K.

    Each point is the trial `sparse_code`, form model_sparse, for Gaussian filters: given x = W^T z0, find z0.
    It is recovered where |z - z0| / |z0| < `tolerance` after the last iteration. All codes of one W are
    solved as one batch. Lists of M, kernels or solvers are axes of the study: each makes a figure.

    Attributes:
        solver: what recovers the codes.
        ks: non-zeros; as a list within a list in a study, `ks: [[5, 10, 20]]`, for a plain list is an axis.
            One that exceeds the blocks of K filters has no row there.
        counts: K, written in the same way; each is a line of the figure.
        channels: M.
        kernel: side of a filter.
        size: of the signal.
        dimensions: 1 or 2.
        region: side of the blocks, square tiles of a map; by default every channel is one block.
        iterations: that the solver takes.
        draws: of W, at every point.
        samples: codes for each W.
        tolerance: of the relative error.

    References:
        Donoho & Tanner, Phil. Trans. R. Soc. A 2009 (such pictures for l1); Gilbert et al., IJCAI 2017,
        Algorithm 1 and section 4.2 (the codes and the sizes; no such picture there).
    """

    plot: ClassVar = Plot(x="k", y="success", lines="bank")

    solver: Solver
    ks: Counts = (5, 10, 20, 40, 60, 80, 100, 120, 140, 160, 200)
    counts: Counts = (32, 96, 288)
    channels: Count = 32
    kernel: Count = 5
    size: Count = 32
    dimensions: Literal[1, 2] = 1
    region: Count | None = None
    iterations: Count = 100
    draws: Count = 5
    samples: Count = 20
    tolerance: Positive = 1e-6

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        for count in self.counts:
            self._points(scene, count)

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (bank, count, k, success, median, worst, number).

        `bank` is the text "K = 96", `success` the share of codes that are recovered, `number` that of codes;
        `median` and `worst` are relative errors, infinite ones without a value.
        """
        solver = with_horizon(self.solver, self.iterations)
        rows: list[Row] = []
        for count in self.counts:
            for trial in self._points(scene, count):
                errors = torch.cat(
                    [self._errors(trial, solver, part) for part in reseeded(scene, self.draws)]
                )
                summary = _summary(errors, self.tolerance)
                rows.append({"bank": f"K = {count}", "count": count, "k": trial.k, **summary})
        return rows

    def _points(self, scene: Scene, count: int) -> list[SparseCode]:
        """The points of a line.

        Raises:
            UserError: the trial does not fit, or there is no point.
        """
        trial = SparseCode(
            k=min(self.ks),
            region=self.region,
            draws=self.samples,
            count=count,
            channels=self.channels,
            kernel=self.kernel,
            size=self.size,
            dimensions=self.dimensions,
        )
        posed = replace(trial, draws=1).pose(scene).problem
        assert isinstance(posed.domain, ModelSparse)
        blocks = replace(posed.domain, k=1).blocks(posed.network.input_shape)
        return [replace(trial, k=k) for k in sorted(set(self.ks)) if k <= blocks]

    def _errors(self, trial: SparseCode, solver: Solver, scene: Scene) -> Tensor:
        """The relative error of every code after the last iteration, `(B,)`."""
        posed = trial.pose(scene)
        reason = solver.refuses(posed.problem)
        if reason is not None:
            raise Refused(reason)
        assert posed.truth is not None
        start = posed.start
        z, rng = start, Randomness(scene.seed, range(len(start)), start)
        for z in islice(solver.iterates(posed.problem, start, rng), self.iterations):  # noqa: B007
            pass
        return (length(z - posed.truth) / length(posed.truth)).nan_to_num(nan=math.inf).cpu()


def _summary(errors: Tensor, tolerance: float) -> dict[str, float]:
    """Of the relative errors of all codes of a point."""
    return {
        "success": float((errors < tolerance).double().mean()),
        "median": float(errors.median()),
        "worst": float(errors.max()),
        "number": len(errors),
    }
