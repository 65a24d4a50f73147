"""The command line. Everything heavy is imported inside the commands, so that help comes at once."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invbench import __version__
from invbench.errors import UserError

if TYPE_CHECKING:
    from invbench.store import Record
    from invbench.study import Study

KINDS = ("methods", "trials", "networks", "images", "priors", "metrics", "studies")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Benchmark methods that invert neural networks."""


@cli.command()
@click.argument("study")
@click.option("--out", type=click.Path(path_type=Path), help="Results folder [default: results/STUDY].")
@click.option("--executor", default="serial", show_default=True, help="How cells are run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a place of the study.")
@click.option(
    "--stale",
    type=click.Choice(["keep", "rerun"]),
    default="keep",
    show_default=True,
    help="What to do with finished cells that another version of the code has made.",
)
def run(
    study: str, out: Path | None, executor: str, device: str, settings: tuple[str, ...], stale: Any
) -> None:
    """Run STUDY (a YAML file, or the name of one that comes with the package) and write a report.

    The same command on the same folder goes on where it was stopped.
    """
    from invbench import documents, executors, registry
    from invbench.harness import Bench
    from invbench.store import Store
    from invbench.study import plan

    how = executors.find_executor(executor)
    device = pick_device(device)
    document = documents.read(registry.find_study(study))
    document.check()
    documents.override(document, settings)
    planned = plan(document, registry.catalogue(), device)
    folder = out or Path("results") / planned.name
    store = Store(folder)
    with training_progress() as training:
        bench = Bench(training)
        bench.check(planned.cells)
    with cell_progress(planned) as notify:
        summary = executors.run(planned, store, bench, how, stale, notify)
    write_environment(store, bench, planned, device)
    finish(folder, planned)
    if summary.resumed:
        older = (
            f", {summary.stale} of them by another version of the code (--stale rerun)"
            if summary.stale
            else ""
        )
        click.echo(f"{summary.resumed} cells were finished before{older}.")
    sys.exit(summary.exit_code)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="HTML file [default: FOLDER/report.html]."
)
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), help="Also write the table, one row a trace point."
)
def report(folder: Path, output: Path | None, table: Path | None) -> None:
    """Write the report of a results FOLDER as one self-contained HTML page."""
    from invbench.report import render
    from invbench.store import load

    results = load(folder)
    target = output or folder / "report.html"
    save(target, render(results))
    click.echo(f"report: {target}")
    if table is not None:
        save(table, results.table.to_csv(index=False))
        click.echo(f"table: {table}")


@cli.command("list")
@click.argument("kind", type=click.Choice(KINDS), default="methods")
def list_names(kind: str) -> None:
    """List what is there: methods (the default), trials, networks, images, priors, metrics, studies."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from invbench.registry import describe

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in describe(kind):
        table.add_row(f"[bold]{escape(name)}", escape(text))
    Console().print(table)


@cli.command()
@click.argument("settings", nargs=-1, required=True, metavar="network=NAME images=SOURCE [KEY=VALUE]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the weights to this file.")
@click.option("--refresh", is_flag=True, help="Train again, although trained weights are there.")
def fit(settings: tuple[str, ...], output: Path | None, refresh: bool) -> None:
    """Train a network and keep its weights, for studies to find.

    Parameters are set by name: network.width=0.25, images.size=64, images.path=photos.zip. For example,
    `invbench fit network=lenet images=bundled` makes the weights that come with the package.
    """
    from invbench import networks
    from invbench.images import open_images

    network, images = (parameters(settings, kind) for kind in ("network", "images"))
    name = network.pop("name", None)
    if name is None:
        raise UserError("fit needs a network: invbench fit network=lenet images=bundled")
    source = open_images(**{"source": "bundled", "size": 32, **images})
    with training_progress() as progress:
        trained = networks.load(name, network, source, progress=progress, refresh=refresh)
    for key, value in trained.plain().items():
        click.echo(f"{key}: {value}")
    if output is not None:
        networks.save(trained, output)
        click.echo(f"weights: {output}")


def parameters(settings: tuple[str, ...], kind: str) -> dict[str, Any]:
    """The settings `KIND=NAME` and `KIND.KEY=VALUE` as parameters; the name of images is their source."""
    from invbench import documents

    found: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        head, _, tail = key.partition(".")
        if not sign or head not in ("network", "images"):
            raise UserError(
                f"'{setting}': write network=NAME, images=SOURCE, network.KEY=VALUE or images.KEY=VALUE"
            )
        if head == kind:
            document = documents.parse(value, f"'{key}'")
            document.check()
            found[tail or {"network": "name", "images": "source"}[head]] = document.data
    return found


def pick_device(device: str) -> str:
    """`auto` resolved; raises UserError when CUDA is asked for where there is none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def write_environment(store: Any, bench: Any, study: "Study", device: str) -> None:
    """Write environment.json: machine, versions, command, networks, images left out."""
    from invbench.harness import environment

    about = environment(device) | {
        "command": "invbench " + " ".join(quote(argument) for argument in sys.argv[1:]),
        "networks": bench.networks_used(study.cells),
        "skipped": bench.images_skipped(study.cells),
    }
    store.text("environment.json", json.dumps(about, indent=1))


def quote(argument: str) -> str:
    """An argument as a shell needs it."""
    import shlex

    return shlex.quote(argument)


def finish(folder: Path, study: "Study") -> None:
    """Write the report and print the table of results."""
    from rich.console import Console

    from invbench.report import render, terminal
    from invbench.store import load

    results = load(folder)
    save(folder / "report.html", render(results))
    Console().print(terminal(results))
    click.echo(f"{study.name}: report in {folder / 'report.html'}")


def save(path: Path, text: str) -> None:
    """Write a text file; raises UserError when that is not possible."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def training_progress() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar that appears with the first report of a training."""
    from rich.progress import Progress, TaskID

    with Progress(*_columns(), transient=True) as bar:
        tasks: list[TaskID] = []

        def progress(done: int, total: int, text: str) -> None:
            if not tasks:
                tasks.append(bar.add_task(text))
            bar.update(tasks[0], completed=done, total=total, description=text)

        yield progress


@contextmanager
def cell_progress(study: "Study") -> Iterator[Callable[[int, int, "Record | None"], None]]:
    """The progress bar of a study, with the time left."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True)) as bar:
        task = bar.add_task(study.name, total=len(study.cells))

        def notify(done: int, total: int, record: "Record | None") -> None:
            name = study.name
            if record is not None:
                labels = record["labels"]
                name = f"{study.name}: {labels['solver']} on {labels['trial']} {labels['layer']}".rstrip()
            bar.update(task, completed=done, total=total, description=name)

        yield notify


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


def main() -> None:
    """Entry point: a mistake of the user becomes one sentence and exit code 2."""
    try:
        cli(standalone_mode=True)
    except UserError as error:
        click.echo(f"invbench: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("invbench: stopped; the same command goes on from here", err=True)
        sys.exit(130)
