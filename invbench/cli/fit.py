"""`invbench fit`."""

from pathlib import Path
from typing import Any

import click

from invbench.cli.progress import training_progress
from invbench.errors import UserError


@click.command("fit")
@click.argument("settings", nargs=-1, required=True, metavar="network=NAME images=SOURCE [KEY=VALUE]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the weights to this file.")
@click.option("--refresh", is_flag=True, help="Train again, although trained weights are there.")
def command(settings: tuple[str, ...], output: Path | None, refresh: bool) -> None:
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
