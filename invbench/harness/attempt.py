"""One run of a method on one posed trial."""

from dataclasses import replace

import torch
from torch import Tensor

from invbench import metrics
from invbench.clock import Clock
from invbench.harness.bench import Bench, View, overridden
from invbench.harness.limit import Timeout
from invbench.harness.loop import drive, fill_horizon, warm_up
from invbench.harness.scoring import Judge, Trace
from invbench.meter import Meter
from invbench.method import Method
from invbench.problem import Problem
from invbench.solver import Randomness
from invbench.study import Cell


def problem_for(cell: Cell, bench: Bench, method: Method, view: View = "test") -> Problem:
    """What the solvers see: a meter of their own, and the method's own terms where it has any."""
    problem = bench.pose(cell, overridden(cell.trial, method), view).problem
    return replace(problem, meter=Meter(problem.size))


def refusal(method: Method, problem: Problem) -> str | None:
    """Why one of the stages does not take the problem, or None."""
    for name, solver in method.stages:
        reason = solver.refuses(problem)
        if reason is not None:
            return reason if len(method.stages) == 1 else f"{name}: {reason}"
    return None


def with_horizons(cell: Cell, bench: Bench, method: Method) -> Method:
    """The method with its horizons filled from the budget of the cell."""
    return fill_horizon(method, cell.budget, bench.pose(cell, cell.trial).problem.network.multiply_adds)


def attempt(
    cell: Cell, bench: Bench, method: Method, trace: Trace, view: View = "test", clock: Clock | None = None
) -> Tensor:
    """Run a method on the trial of a cell.

    Args:
        cell: trial, budget, seed, device.
        bench: loads what cells share.
        method: prepared, its horizons filled; not necessarily the cell's own.
        trace: filled here, so that it survives an exception.
        view: which images.
        clock: for tests; a real one by default.

    Returns:
        The last x, in the domain, `(B, ...)`.
    """
    posed = bench.pose(cell, cell.trial, view)
    rng = Randomness(cell.seed, range(posed.problem.size), posed.start)
    _warm_up(cell, bench, method)
    device = torch.device(cell.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    known = metrics.find()
    judge = Judge(posed.problem, posed.truth, {name: known[name] for name in cell.trial.metrics})
    problem = problem_for(cell, bench, method, view)
    return drive(method, problem, posed.start, rng, cell.budget, judge, clock or Clock(device), trace)


def _warm_up(cell: Cell, bench: Bench, method: Method) -> None:
    """Warm up once per method, trial and device; what fails here will fail, and be told, in the run."""

    def warm() -> bool:
        start = bench.pose(cell, cell.trial, "mirrored").start
        problem = problem_for(cell, bench, method, "mirrored")
        try:
            warm_up(method, problem, start, Randomness(cell.seed + 1, range(problem.size), start))
        except Timeout:
            raise
        except Exception:
            return False
        return True

    # Settings of one solver share their kernels: a warm-up serves all of them.
    names = [name for name, _ in method.stages]
    bench.once("warm", [names, repr(cell.trial), cell.network, cell.images, cell.device, cell.dtype], warm)
