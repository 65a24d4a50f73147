"""`invbench report`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from invbench.cli.files import save
from invbench.errors import UserError

if TYPE_CHECKING:
    from invbench.store import Results

_PATH = click.Path(path_type=Path)


@click.command("report")
@click.argument("folder", type=_PATH)
@click.argument("other", type=_PATH, required=False)
@click.option(
    "-o", "--output", type=_PATH, help="HTML file [default: FOLDER/report.html, OTHER/compare.html]."
)
@click.option("--csv", "table", type=_PATH, help="Also write the table, one row a trace point (or a change).")
@click.option("--markdown", type=_PATH, help="Also write the rankings as Markdown.")
@click.option("--latex", type=_PATH, help="Also write the rankings as LaTeX.")
@click.option("--figures", type=_PATH, help="Also write the figures into this folder, as SVG.")
@click.option("--asv", type=_PATH, help="Draw the trends of these asv results (.asv/results) into the page.")
def command(
    folder: Path,
    other: Path | None,
    output: Path | None,
    table: Path | None,
    markdown: Path | None,
    latex: Path | None,
    figures: Path | None,
    asv: Path | None,
) -> None:
    """Write the report of a results FOLDER as one self-contained HTML page.

    With an OTHER results folder the page tells what changed from FOLDER to OTHER: cells, environment,
    statuses, and every metric with paired statistics.
    """
    from invbench.store import load

    results = load(folder)
    if other is not None:
        if markdown or latex or figures or asv:
            options = "--markdown, --latex, --figures and --asv"
            raise UserError(f"{options} belong to the report of one folder: give a single results folder")
        _compare(results, load(other), output or other / "compare.html", table)
        return
    from invbench.report import export, render
    from invbench.report.trends import section

    trends = None if asv is None else section(asv)
    _write("report", output or folder / "report.html", render(results, trends=trends))
    if table is not None:
        _write("table", table, results.table.to_csv(index=False))
    if markdown is not None:
        _write("rankings", markdown, export.markdown(results))
    if latex is not None:
        _write("rankings", latex, export.latex(results))
    if figures is not None:
        _write_figures(figures, export.svg_files(results))


def _compare(before: "Results", after: "Results", output: Path, table: Path | None) -> None:
    from rich.console import Console

    from invbench.report.versus import csv_of, print_versus, render_versus, versus

    found = versus(before, after)
    Console().print(print_versus(found))
    _write("comparison", output, render_versus(found))
    if table is not None:
        _write("table", table, csv_of(found))


def _write(what: str, path: Path, text: str) -> None:
    save(path, text)
    click.echo(f"{what}: {path}")


def _write_figures(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write figures to {folder}: {error.strerror}") from None
    for name, text in files.items():
        save(folder / name, text)
    click.echo(f"figures: {len(files)} in {folder}")
