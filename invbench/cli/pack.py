"""`invbench pack`."""

from pathlib import Path

import click


@click.command("pack")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Pack although planned cells have not been run.")
def command(folder: Path, dest: Path, force: bool) -> None:
    """Condense a finished results FOLDER to what is published, and write it to DEST.

    The report and claims commands read both forms.
    """
    from invbench.packing import pack

    pack(folder, dest, force)
    click.echo(f"{dest}: {_megabytes(dest)} ({folder}: {_megabytes(folder)})")


def _megabytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB"
