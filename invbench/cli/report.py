"""`invbench report`."""

from pathlib import Path

import click

from invbench.cli.files import save


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="HTML file [default: FOLDER/report.html]."
)
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), help="Also write the table, one row a trace point."
)
def command(folder: Path, output: Path | None, table: Path | None) -> None:
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
