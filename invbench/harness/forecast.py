"""How long a study will take."""

import math
import time

from invbench.harness.bench import Bench
from invbench.study import Cell

#: A step of a first-order method, its trace points and its warm-up, over a forward and backward pass.
OVERHEAD = 1.5
#: Passes timed; the fastest counts.
PASSES = 3


def forecast(cell: Cell, bench: Bench) -> float:
    """Seconds that a cell is expected to take: iterations at the price of a pass, or its budget of seconds.

    Methods that do more in an iteration than a pass take longer, up to the limit in seconds if there is one.
    """
    spec = [repr(cell.trial), cell.network, cell.images, cell.device, cell.dtype]
    price = bench.once("pass", spec, lambda: _seconds_of_a_pass(cell, bench))
    budget = cell.budget
    cost = 2 * bench.pose(cell, cell.trial).problem.network.multiply_adds
    passes = min(budget.iterations or math.inf, (budget.work or math.inf) / max(cost, 1))
    run = min(passes * price * OVERHEAD, budget.seconds or math.inf)
    if cell.tuning is None:
        return run
    images = int(cell.images["count"])
    return run * (1 + cell.tuning.trials * cell.tuning.images / images)


def _seconds_of_a_pass(cell: Cell, bench: Bench) -> float:
    posed = bench.pose(cell, cell.trial)
    seconds = []
    for _ in range(PASSES):
        started = time.perf_counter()
        posed.problem.value_and_gradient(posed.start)
        if posed.start.is_cuda:
            posed.start.sum().item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return min(seconds)
