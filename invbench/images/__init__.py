"""Images to invert: photographs that come along, CIFAR-10, or a folder of one's own.

A source is one file of this package with a subclass of `Images`; nothing else is edited to add one.
"""

import difflib
import importlib
import inspect
import pkgutil
from typing import Any

from invbench.errors import UserError
from invbench.images.source import SPLITS, ImageBatch, Images, Split, registered

__all__ = ["SPLITS", "ImageBatch", "Images", "Split", "find", "open_images"]


def find() -> dict[str, type[Images]]:
    """The image sources by name, found by looking into this package."""
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(module.name)
    return registered()


def open_images(source: str, size: int, **parameters: Any) -> Images:
    """Open a source of images.

    Args:
        source: its name, such as `bundled`, `cifar10` or `folder`.
        size: side of the square images in pixels.
        **parameters: what the source takes, such as `path`.

    Returns:
        The source; pixels are read when they are asked for.

    Raises:
        UserError: if the source or a parameter is unknown, or there are no images.
    """
    found = find()
    if source not in found:
        near = difflib.get_close_matches(str(source), found, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(found)}"
        raise UserError(f"unknown images '{source}': {hint}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(
            f"images '{source}': size is {size!r}, but a positive whole number of pixels is needed"
        )
    _check_parameters(source, found[source], parameters)
    return found[source](size, **parameters)


def _check_parameters(name: str, source: type[Images], given: dict[str, Any]) -> None:
    known = dict(inspect.signature(source).parameters)
    del known["size"]
    for parameter in given:
        if parameter not in known:
            takes = ", ".join(["size", *known])
            raise UserError(f"images '{name}' have no parameter '{parameter}': they take {takes}")
    for parameter, description in known.items():
        if description.default is inspect.Parameter.empty and parameter not in given:
            raise UserError(f"images '{name}' need the parameter '{parameter}'")
