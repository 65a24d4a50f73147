"""Priors: energies of images, found by name in the modules of this package."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from invbench.priors.handcrafted import L1, AlphaNorm, Range, SquaredL2, TotalVariation
from invbench.priors.learned import LearnedPrior, Lesson
from invbench.priors.prior import ALL, Grid, Prior, Standardised, standardise

__all__ = [
    "ALL",
    "L1",
    "AlphaNorm",
    "Grid",
    "LearnedPrior",
    "Lesson",
    "Prior",
    "Range",
    "SquaredL2",
    "Standardised",
    "TotalVariation",
    "find",
    "standardise",
]


@cache
def _found() -> dict[str, type[Prior]]:
    found: dict[str, type[Prior]] = {}
    for module in iter_modules(__path__, f"{__name__}."):
        for member in vars(import_module(module.name)).values():
            if _is_prior_of(member, module.name):
                name = member.name
                if name in found:
                    raise ImportError(f"Two priors are named {name!r}: {found[name]} and {member}.")
                found[name] = member
    return found


def find() -> dict[str, type[Prior]]:
    """Every prior by its name.

    A class that derives from `Prior`, defined in a module of this package, with a string as class attribute
    `name`: there is no list to edit.

    Example:
        >>> find()["tv"](beta=1)
        TotalVariation(beta=1, epsilon=1e-08)
    """
    return dict(_found())


def _is_prior_of(member: object, module: str) -> bool:
    return (
        isinstance(member, type)
        and issubclass(member, Prior)
        and member.__module__ == module
        and isinstance(vars(member).get("name"), str)
    )
