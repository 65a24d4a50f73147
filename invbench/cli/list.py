"""`invbench list`."""

import click

KINDS = ("methods", "trials", "analyses", "networks", "images", "priors", "metrics", "studies")


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), default="methods")
def command(kind: str) -> None:
    """List what is there: methods (the default), trials, analyses, networks, images, and so on."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from invbench.registry import describe

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in describe(kind):
        table.add_row(f"[bold]{escape(name)}", escape(text))
    Console().print(table)
