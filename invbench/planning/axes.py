"""Axes of the matrix: any list in a study is one."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any


def expand(data: Any) -> Iterator[Any]:
    """All choices of one element from every list in a mapping: any list is an axis.

    A list within a list stays a list, so a parameter that is itself a list is written `[[1, 2]]`.

    Example:
        >>> list(expand({"lr": [1, 2], "priors": {"tv": [0, 1]}, "mean": [[3, 4]]}))[1]
        {'lr': 1, 'priors': {'tv': 1}, 'mean': [3, 4]}
    """
    if not isinstance(data, Mapping):
        yield from data if isinstance(data, list) else (data,)
        return
    for values in product(*(list(expand(value)) for value in data.values())):
        yield dict(zip(data, values, strict=True))


def every(data: Mapping[str, Any] | list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The variants of one mapping, or of each of a list of mappings."""
    for item in data if isinstance(data, list) else [data]:
        yield from expand(item)
