"""What the harness sees at a trace point. Solvers have no part in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from invbench.meter import Meter
from invbench.metrics import Metric
from invbench.problem import Problem

Scores = Mapping[str, npt.NDArray[np.float64]]


class Judge:
    """Scores iterates on the trial's own objective and metrics, off the solver's meter.

    Args:
        problem: the trial's problem; methods with priors of their own are judged on it all the same.
        truth: `(B, ...)` or None.
        metrics: of the trial, by name.
    """

    def __init__(self, problem: Problem, truth: Tensor | None, metrics: Mapping[str, Metric]) -> None:
        self._problem = replace(problem, meter=Meter(problem.size))
        self._truth = truth
        self._metrics = {
            name: metric for name, metric in metrics.items() if truth is not None or not metric.needs_truth
        }

    @torch.no_grad()
    def score(self, x: Tensor) -> tuple[Scores, Tensor]:
        """Every series at the projection of x onto the domain, each `(B,)`, and that projection.

        The objective is exact and comes from the real network; `projection_distance` is how far x lay
        outside the domain.
        """
        inside = self._problem.domain.project(x)
        series = self._problem.terms(inside)
        for name, metric in self._metrics.items():
            series[name] = metric(inside, self._truth, self._problem)
        series["projection_distance"] = (x - inside).flatten(1).norm(dim=1)
        values = torch.stack([value.double() for value in series.values()]).cpu().numpy()
        return dict(zip(series, values, strict=True)), inside


@dataclass
class Trace:
    """The curves of one cell.

    Attributes:
        iteration: of every trace point.
        seconds: of the solver up to there.
        stage: the solver at work.
        series: name -> one `(B,)` array per trace point.
        points: per instance, trace points before it diverged.
    """

    iteration: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stage: list[str] = field(default_factory=list)
    series: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    points: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, iteration: int, seconds: float, stage: str, scores: Scores, work: npt.NDArray[Any]) -> bool:
        """Append a trace point; returns whether any instance is still finite."""
        alive = np.isfinite(scores["objective"]) & np.isfinite(scores["projection_distance"])
        if not self.iteration:
            self.points = np.zeros(len(work), np.int64)
        alive &= self.points == len(self.iteration)
        self.points += alive
        self.iteration.append(iteration)
        self.seconds.append(seconds)
        self.stage.append(stage)
        for name, values in {**scores, "work": work}.items():
            self.series.setdefault(name, []).append(values)
        return bool(alive.any())

    def plain(self) -> dict[str, Any]:
        """The trace as records hold it."""
        return {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "stage": self.stage,
            "series": self.series,
        }
