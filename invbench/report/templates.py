"""The templates of the pages: text stays text, and a name that is not there is an error."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment, Template

Filters = tuple[tuple[str, Callable[..., Any]], ...]


@cache
def template(name: str, filters: Filters = ()) -> "Template":
    """A template of this folder, with filters of its own, by name."""
    environment = _environment()
    environment.filters |= dict(filters)
    return environment.get_template(name)


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
