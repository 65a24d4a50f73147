"""Studies so small that what is left of a run is what the suite itself costs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from invbench import documents
from invbench.harness import Bench
from invbench.method import Method
from invbench.planning import plan
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Solver
from invbench.study import Budget, Cell, Study


@dataclass(frozen=True)
class Idle(Solver):
    """Yields its start for ever."""

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """The start, again and again."""
        while True:
            yield x


@cache
def bench() -> Bench:
    """What keeps images, networks and posed trials."""
    return Bench()


@cache
def scratch() -> TemporaryDirectory[str]:
    """A folder that lives as long as the process."""
    return TemporaryDirectory()


def folder(name: str) -> Path:
    """A folder within it."""
    return Path(scratch().name) / name


def study(trial: dict[str, Any], **changes: Any) -> Study:
    """A study of two images of 12 x 12 pixels and a network of one layer."""
    file = {
        "study": "benchmark",
        "images": {"source": "bundled", "count": 2, "size": 12},
        "network": {"name": "random_cnn", "layers": 1, "width": 2, "kernel": 3},
        "trials": [{"preimage": {"priors": {}, **trial}}],
        "methods": ["adam"],
        "budget": {"iterations": 100},
    }
    return plan(documents.parse(json.dumps(file | changes), "benchmark"), catalogue())


def idle(cell: Cell, iterations: int) -> Cell:
    """The cell with a solver that does nothing, so many times."""
    method = Method("idle", (("idle", Idle()),), (1.0,))
    return replace(cell, method=method, budget=Budget(iterations=iterations))


@cache
def idle_study(cells: int) -> Study:
    """Cells of one idle iterate each, which differ in their seed."""
    made = study({"layer": "conv1", "start": "grey"}, seeds=list(range(cells)))
    return replace(made, cells=tuple(idle(cell, 1) for cell in made.cells))
