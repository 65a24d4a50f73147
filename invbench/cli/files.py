"""Files that commands write."""

from pathlib import Path

from invbench.errors import UserError


def save(path: Path, text: str) -> None:
    """Write a text file; raises UserError when that is not possible."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
