"""The report on a small results folder."""

from functools import cache
from pathlib import Path

from benchmarks import studies
from invbench import executors
from invbench.report import render
from invbench.store import Store, load

LAYERS = ["conv1", "pool1", "fc"]
METHODS = ["adam", "projected_gradient", "momentum", "lbfgs"]


@cache
def results() -> Path:
    """Twelve cells of four methods, two images each."""
    store = Store(studies.folder("report"))
    executors.run(studies.study({"layer": LAYERS}, methods=METHODS), store, studies.bench())
    return store.folder


class Report:
    """From a results folder to a page."""

    timeout = 120.0

    def setup(self) -> None:
        """The folder."""
        self.folder = results()

    def time_table(self) -> None:
        """Read the records and lay out the table."""
        assert len(load(self.folder).table)

    def time_page(self) -> None:
        """Read the records and make the page."""
        self._page()

    def peakmem_page(self) -> None:
        """The memory of a process, torch and its libraries included, that makes the page."""
        self._page()

    def track_size(self) -> int:
        """Bytes of the page."""
        return len(self._page().encode())

    track_size.unit = "bytes"  # type: ignore[attr-defined]

    def _page(self) -> str:
        return render(load(self.folder))
