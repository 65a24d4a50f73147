"""Offline work of solvers: done once, cached by content, and timed apart from the runs."""

import time
from dataclasses import replace

import torch
from torch import Tensor

from invbench import cache
from invbench.harness.bench import Bench
from invbench.images import ImageBatch
from invbench.method import Method
from invbench.solver import Setting, Solver
from invbench.store import key_of
from invbench.study import Cell
from invbench.trials.contract import Posed


def prepare(cell: Cell, bench: Bench, method: Method) -> tuple[Method, float | None]:
    """Do, or fetch, the offline work of every stage.

    Returns:
        The method with its solvers prepared, and the seconds that the work took when it was done; None
        where there is none.
    """
    if not any(solver.learns() for _, solver in method.stages):
        return method, None
    prepared = [(name, *_prepare(cell, bench, solver)) for name, solver in method.stages]
    stages = tuple((name, solver) for name, solver, _ in prepared)
    return replace(method, stages=stages), sum(seconds for _, _, seconds in prepared)


def _prepare(cell: Cell, bench: Bench, solver: Solver) -> tuple[Solver, float]:
    if not solver.learns():
        return solver, 0.0
    images, network = bench.images(cell), bench.trained(cell).network
    key = key_of([repr(solver), repr(cell.trial), network.digest, images.digest, cell.seed])
    kept = cache.fetch(f"solvers/{key}")
    if kept is not None:
        tensors, about = kept
        return replace(solver, learned=tensors), float(about["seconds"])
    started = time.perf_counter()
    solver = solver.prepare(_setting(cell, bench))
    seconds = time.perf_counter() - started
    about = {"seconds": str(seconds), "solver": repr(solver)}
    cache.keep(f"solvers/{key}", dict(solver.learned or {}), about)
    return solver, seconds


def _setting(cell: Cell, bench: Bench) -> Setting:
    images = bench.images(cell)

    def pose(pixels: Tensor) -> Posed:
        names = tuple(str(n) for n in range(len(pixels)))
        batch = ImageBatch(pixels, torch.zeros(len(pixels), dtype=torch.int64), names)
        return cell.trial.pose(bench.scene(cell, batch))

    device, dtype = bench.batch(cell, "test").pixels.device, bench.batch(cell, "test").pixels.dtype
    return Setting(
        pose=pose,
        train=images.all("train").pixels.to(device, dtype),
        validation=images.all("validation").pixels.to(device, dtype),
        seed=cell.seed,
        progress=bench.progress,
    )
