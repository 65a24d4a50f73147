"""`invbench show`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from invbench.cli.device import pick_device
from invbench.cli.progress import training_progress
from invbench.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from invbench.show import Comparison

_STYLES = {"done": "green", "refused": "dim", "diverged": "yellow", "timeout": "red", "failed": "bold red"}
_PATH = click.Path(path_type=Path)


@click.command("show")
@click.option("--image", type=_PATH, help="An image of any size [default: one that comes with the package].")
@click.option("--layer", default="pool2", show_default=True, help="Stage whose features are inverted.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("adam", "lbfgs"),
    show_default=True,
    help="A solver or preset, such as adam or adam:lr=0.3,schedule=cosine; may be repeated.",
)
@click.option("--network", default="lenet", show_default=True)
@click.option("--budget", type=click.IntRange(min=1), default=200, show_default=True, help="Iterations.")
@click.option("--size", type=click.IntRange(1, 64), default=32, show_default=True, help="Pixels of a side.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("-o", "--output", type=_PATH, default=Path("comparison.png"), show_default=True)
def command(
    image: Path | None,
    layer: str,
    methods: tuple[str, ...],
    network: str,
    budget: int,
    size: int,
    device: str,
    output: Path,
) -> None:
    """Invert one image by some methods and draw the results into one picture."""
    from rich.console import Console

    from invbench import show

    if output.suffix.lower() not in show.SUFFIXES:
        raise UserError(f"-o {output}: the picture is written as {', '.join(show.SUFFIXES)}")
    if not output.parent.is_dir():
        raise UserError(f"-o {output}: there is no folder {output.parent}")
    request = show.Request(
        layer=layer,
        methods=tuple(dict.fromkeys(methods)),
        network=network,
        size=size,
        budget=budget,
        device=pick_device(device),
        image=image,
    )
    with training_progress() as progress:
        comparison = show.compare_methods(request, progress)
    show.save(comparison, output)
    click.echo("".join(char if char.isprintable() else " " for char in comparison.title))
    Console().print(_table(comparison))
    click.echo(f"picture: {output}")
    if any(attempt.status in ("failed", "timeout") for attempt in comparison.attempts):
        sys.exit(1)


def _table(comparison: "Comparison") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from invbench.report.quantities import number

    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    table.add_column("method")
    for heading in ("MSE", "SSIM", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    for one in comparison.attempts:
        best = "bold" if one.method == comparison.best else ""
        status = f"{one.status}: {one.reason}" if one.reason else one.status
        figures = (number(value) for value in (one.mse, one.ssim, one.seconds))
        table.add_row(
            Text(one.method, best), *(Text(text, best) for text in figures), Text(status, _STYLES[one.status])
        )
    return table
