"""`invbench claims`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from invbench.claims import Verdict

_STYLES = {"reproduced": "green", "differs": "bold red", "not run": "dim"}


@click.command("claims")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write the verdicts as a JSON list.")
def command(folder: Path, as_json: bool) -> None:
    """Say which claims of its study a results FOLDER reproduces.

    A claim that differs is a result, no mistake: the exit code is 0.
    """
    from invbench.claims import evaluate, of_study
    from invbench.store import load

    results = load(folder)
    verdicts = evaluate(of_study(results.study), results.table, results.analyses)
    if as_json:
        import json

        click.echo(json.dumps([_plain(verdict) for verdict in verdicts], indent=1))
    elif verdicts:
        from rich.console import Console

        Console().print(_table(verdicts))
    else:
        click.echo(f"the study of {folder} makes no claims")


def _plain(verdict: "Verdict") -> dict[str, object]:
    """All that is told of a verdict; not what its numbers were reduced from."""
    from dataclasses import fields

    return {one.name: getattr(verdict, one.name) for one in fields(verdict) if one.name != "basis"}


def _table(verdicts: "Sequence[Verdict]") -> "Table":
    """A row per claim."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for heading in ("source", "paper", "ours", "verdict", "note"):
        table.add_column(
            heading, justify="right" if heading in ("paper", "ours") else "left", overflow="fold"
        )
    for verdict in verdicts:
        source = f"{verdict.source}: {verdict.says or verdict.id}"
        row = (source, _number(verdict.paper), _ours(verdict), verdict.verdict, _note(verdict))
        styles = ("", "", "", _STYLES[verdict.verdict], "dim")
        table.add_row(*(Text(_printable(text), style) for text, style in zip(row, styles, strict=True)))
    return table


def _ours(verdict: "Verdict") -> str:
    """What is judged; where it is a ratio or a difference, what it was made of."""
    if verdict.value is None or verdict.value == verdict.ours:
        return _number(verdict.ours)
    other = verdict.paper if verdict.against is None else verdict.against
    return f"{_number(verdict.value)} ({_number(verdict.ours)} to {_number(other)})"


def _note(verdict: "Verdict") -> str:
    return "; ".join(filter(None, (verdict.agree, verdict.note)))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
