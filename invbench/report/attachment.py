"""Rows as files that the page carries."""

import base64
import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from invbench.store import Results

#: A larger file is compressed.
PLAIN_BYTES = 500_000


@dataclass(frozen=True)
class Attachment:
    """A file inside the page."""

    name: str
    uri: str
    rows: int
    size: int


def final_rows(results: Results) -> str:
    """One line per cell and instance, at its final point, as CSV.

    Columns that are empty throughout are left out. Text is quoted, and text that a spreadsheet would take
    for a formula is preceded by an apostrophe.
    """
    table = results.table
    rows = table[table["final"]].drop(columns="final").dropna(axis="columns", how="all")
    return _csv(rows)


def attach(results: Results, name: str) -> Attachment:
    """`final_rows` as a data URI; gzip beyond `PLAIN_BYTES`."""
    return _attached(final_rows(results), f"{name or 'invbench'}-final", int(results.table["final"].sum()))


def attach_rows(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], name: str) -> Attachment:
    """Rows of plain data, as `attach` does with those of the table."""
    return _attached(_csv(pd.DataFrame(rows, columns=list(columns))), name, len(rows))


def _csv(rows: pd.DataFrame) -> str:
    """As CSV, with text quoted and made harmless."""
    for name in rows.columns:
        if not pd.api.types.is_numeric_dtype(rows[name]):
            rows[name] = rows[name].astype(object).map(_harmless)
    text: str = rows.to_csv(
        index=False, quoting=csv.QUOTE_NONNUMERIC, float_format="%.9g", lineterminator="\n"
    )
    return text


def _attached(text: str, name: str, rows: int) -> Attachment:
    data, kind, suffix = text.encode(), "text/csv;charset=utf-8", "csv"
    if len(data) > PLAIN_BYTES:
        data, kind, suffix = gzip.compress(data, mtime=0), "application/gzip", "csv.gz"
    uri = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)
    return Attachment(f"{stem}.{suffix}", uri, rows, len(data))


def _harmless(value: object) -> object:
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )
