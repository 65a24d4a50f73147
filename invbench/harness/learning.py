"""Offline work of the stages of a method, timed apart from the runs."""

from dataclasses import dataclass, replace

from invbench.harness.bench import Bench
from invbench.method import Method
from invbench.study import Cell
from invbench.trials import offline


@dataclass(frozen=True)
class Cost:
    """What offline work took, all stages together, when it was done."""

    seconds: float
    multiply_adds: int


def prepare(cell: Cell, bench: Bench, method: Method) -> tuple[Method, Cost | None]:
    """Do, or fetch, the offline work of every stage.

    Returns:
        The method with its solvers prepared, and what the work cost; None where there is none.
    """
    if not any(solver.learns() for _, solver in method.stages):
        return method, None
    scene = bench.scene(cell, bench.batch(cell, "test"))
    stages, seconds, work = [], 0.0, 0
    for name, solver in method.stages:
        if not solver.learns():
            stages.append((name, solver))
            continue
        prepared = offline.prepare(solver, cell.trial, scene, bench.progress)
        stages.append((name, prepared.solver))
        seconds, work = seconds + prepared.seconds, work + prepared.multiply_adds
    return replace(method, stages=tuple(stages)), Cost(seconds, work)
