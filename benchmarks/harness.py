"""What the suite costs beside the solvers: per cell, per iterate, per finished cell."""

import time
from functools import cache

from benchmarks import studies
from invbench import executors
from invbench.harness import run_cell
from invbench.store import Store

FINISHED = 100
FEW, MANY = 50_000, 250_000


@cache
def finished() -> Store:
    """A results folder in which a hundred cells are done."""
    store = Store(studies.folder("finished"))
    executors.run(studies.idle_study(FINISHED), store, studies.bench())
    return store


class Overhead:
    """The harness around a solver that does nothing."""

    timeout = 120.0

    def setup(self) -> None:
        """A cell that has run before, so that images and network are there."""
        self.cell, self.store = studies.idle_study(1).cells[0], Store(studies.folder("cell"))
        self.time_cell()

    def time_cell(self) -> None:
        """A cell of one iterate: pose, drive, score the start and the iterate, write the record."""
        record, arrays = run_cell(self.cell, studies.bench(), "cell")
        self.store.write("cell", record, arrays)

    def track_unscored_iterate(self) -> float:
        """Microseconds per iterate that is not scored: the slope from a short to a long run."""
        return (self._seconds(MANY) - self._seconds(FEW)) / (MANY - FEW) * 1e6

    track_unscored_iterate.unit = "us"  # type: ignore[attr-defined]

    def _seconds(self, iterations: int) -> float:
        cell = studies.idle(self.cell, iterations)
        started = time.perf_counter()
        run_cell(cell, studies.bench(), "cell")
        return time.perf_counter() - started


class Resume:
    """The same command again."""

    timeout = 120.0

    def setup(self) -> None:
        """A results folder with a hundred finished cells."""
        self.store = finished()

    def time_resume_100_cells(self) -> None:
        """To find that nothing is left to do."""
        summary = executors.run(studies.idle_study(FINISHED), self.store, studies.bench())
        assert summary.resumed == FINISHED
