"""Networks of one's own: `module:factory`, a function that returns an nn.Module."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from invbench.errors import UserError


def call_factory(name: str, parameters: Mapping[str, Any]) -> nn.Module:
    """What the factory `module:factory` returns for these parameters.

    The module is looked for in the current directory first, as with `python -m`.

    Raises:
        UserError: there is no such module or function, it takes other parameters, or returns no nn.Module.
    """
    place, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(place)
    except (ImportError, TypeError, ValueError) as error:  # the last two where the name is empty or relative
        raise UserError(f"network '{name}' cannot be imported: {error}") from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise UserError(f"network '{name}': the module '{place}' has no function '{function}'")
    try:
        inspect.signature(factory).bind(**parameters)
    except TypeError as error:
        raise UserError(f"network '{name}': the factory takes other parameters ({error})") from None
    network = factory(**parameters)
    if not isinstance(network, nn.Module):
        raise UserError(f"network '{name}': the factory returned {type(network).__name__}, not an nn.Module")
    return network
