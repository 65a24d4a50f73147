"""Progress bars."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invbench.store import Record
    from invbench.study import Study


@contextmanager
def training_progress() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar that appears with the first report of a training."""
    from rich.progress import Progress

    with ExitStack() as stack:
        bars: list[Progress] = []

        def progress(done: int, total: int, text: str) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress(*_columns(), transient=True)))
                bars[0].add_task(text)
            bars[0].update(bars[0].task_ids[0], completed=done, total=total, description=text)

        yield progress


@contextmanager
def run_progress(study: "Study") -> Iterator[Callable[[int, int, "Record | None"], None]]:
    """The progress bar of a study, with the time left."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True)) as bar:
        task = bar.add_task(study.name, total=len(study.runs))

        def notify(done: int, total: int, record: "Record | None") -> None:
            name = study.name if record is None else f"{study.name}: {_told(record)}"
            bar.update(task, completed=done, total=total, description=name)

        yield notify


def _told(record: "Record") -> str:
    """What a record is of."""
    if "labels" not in record:
        return f"{record['name']} on {record['parameters']['network']}"
    labels = record["labels"]
    return f"{labels['solver']} on {labels['trial']} {labels['layer']}".rstrip()


def _columns() -> tuple[Any, ...]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
