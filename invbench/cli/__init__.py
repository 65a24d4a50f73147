"""The command line: one file a command, found without a list.

Everything heavy is imported inside the commands, so that help comes at once.
"""

import sys
import warnings
from importlib import import_module
from pkgutil import iter_modules

import click

from invbench import __version__
from invbench.errors import UserError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Benchmark methods that invert neural networks."""


def _add_commands() -> None:
    for module in iter_modules(__path__):
        command = getattr(import_module(f"{__name__}.{module.name}"), "command", None)
        if command is not None:
            cli.add_command(command)


_add_commands()


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning to the user as one sentence; one about code, such as a deprecation, with its place."""
    if category is UserWarning:
        return f"invbench: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n" + (f"  {line}\n" if line else "")


def main() -> None:
    """Entry point: a mistake of the user becomes one sentence and exit code 2."""
    warnings.formatwarning = format_warning
    try:
        cli(standalone_mode=True)
    except UserError as error:
        click.echo(f"invbench: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo("invbench: stopped; the same command goes on from here", err=True)
        sys.exit(130)
