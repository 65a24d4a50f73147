"""`invbench run`."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from invbench.cli.device import pick_device
from invbench.cli.files import save
from invbench.cli.plan import show_plan
from invbench.cli.progress import run_progress, training_progress

if TYPE_CHECKING:
    from invbench.harness import Bench
    from invbench.store import Store
    from invbench.study import Study


@click.command("run")
@click.argument("study")
@click.option("--out", type=click.Path(path_type=Path), help="Results folder [default: results/STUDY].")
@click.option("--executor", default="serial", show_default=True, help="How cells are run.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a place of the study.")
@click.option("--plan", "only_plan", is_flag=True, help="Show the matrix and its time; run nothing.")
@click.option(
    "--stale",
    type=click.Choice(["keep", "rerun"]),
    default="keep",
    show_default=True,
    help="What to do with what another version of the code has finished.",
)
def command(
    study: str,
    out: Path | None,
    executor: str,
    device: str,
    settings: tuple[str, ...],
    only_plan: bool,
    stale: Any,
) -> None:
    """Run STUDY (a YAML file, or the name of one that comes with the package) and write a report.

    The same command on the same folder goes on where it was stopped.
    """
    from invbench import documents, executors, registry
    from invbench.harness import Bench, check_analyses, forecast
    from invbench.planning import plan
    from invbench.store import Store

    how = executors.find_executor(executor)
    device = pick_device(device)
    document = documents.read(registry.find_study(study))
    document.check()
    documents.override(document, settings)
    planned = plan(document, registry.catalogue(), device)
    folder = out or Path("results") / planned.name
    store = None if only_plan else Store(folder)
    with training_progress() as training:
        bench = Bench(training)
        bench.check(planned.cells)
        check_analyses(planned.measurements, bench)
    if store is None:
        show_plan(planned, [forecast(cell, bench) for cell in planned.cells])
        return
    with run_progress(planned) as notify:
        summary = executors.run(planned, store, bench, how, stale, notify)
    write_environment(store, bench, planned, device)
    finish(folder, planned)
    if summary.resumed:
        what = "cells and analyses" if planned.measurements else "cells"
        click.echo(f"{summary.resumed} {what} were finished before.")
    if summary.stale:
        click.echo(f"{summary.stale} of them come from another version of the code (--stale rerun).")
    sys.exit(summary.exit_code)


def write_environment(store: "Store", bench: "Bench", study: "Study", device: str) -> None:
    """Write environment.json: machine, versions, command, networks, images left out."""
    from invbench.harness import environment

    about = environment(device) | {
        "command": "invbench " + shlex.join(sys.argv[1:]),
        "networks": bench.networks_used(study.runs),
        "priors": bench.priors_used(),
        "skipped": bench.images_skipped(study.runs),
    }
    store.text("environment.json", json.dumps(about, indent=1))


def finish(folder: Path, study: "Study") -> None:
    """Write the report and print the table of results."""
    from rich.console import Console

    from invbench.method import show_parameters
    from invbench.report import render, terminal
    from invbench.store import load

    results = load(folder)
    save(folder / "report.html", render(results))
    if study.cells:
        Console().print(terminal(results))
    for record in results.analyses:
        if record["status"] != "done":
            where = f"{record['name']} ({show_parameters(record['parameters'])})"
            click.echo(f"analysis {where}: {record['status']}: {record['reason']}")
    click.echo(f"{study.name}: report in {folder / 'report.html'}")
