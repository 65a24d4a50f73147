"""Finds what is there: solvers, presets, trials, analyses, studies. No list anywhere has to be edited.

Solvers and presets come from the packages and modules named in the entry-point group `invbench.solvers`;
ours is one of them. A module holds one solver, whose name is the name of the module.
"""

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module, resources
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from invbench import analyses, documents, trials
from invbench.analyses.contract import Analysis
from invbench.errors import UserError
from invbench.solver import Solver
from invbench.study import Catalogue
from invbench.trials.contract import Trial

GROUP = "invbench.solvers"


@cache
def catalogue() -> Catalogue:
    """All names that a study may use; solver modules are imported when first looked up."""
    from invbench import images, networks

    return Catalogue(
        solvers=_Lazy(dict(_solver_modules())),
        presets=_presets(),
        trials=_found(trials, Trial),
        analyses=_found(analyses, Analysis),
        networks=tuple(sorted(networks.find())),
        sources=tuple(images.find()),
    )


class _Lazy(Mapping[str, type[Solver]]):
    """Solver classes by name, each module imported when asked for: one that is broken harms no other."""

    def __init__(self, modules: dict[str, str]) -> None:
        self._modules = modules

    def __getitem__(self, name: str) -> type[Solver]:
        return _solver(self._modules[name])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._modules))

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules


@cache
def _solver(module_name: str) -> type[Solver]:
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(f"solver module {module_name} cannot be imported: {error}") from None
    found = list(_concrete(module, Solver))
    if len(found) != 1:
        raise UserError(f"{module_name} must define exactly one solver (it defines {len(found)})")
    return found[0]


def _solver_modules() -> Iterator[tuple[str, str]]:
    """(solver name, module) of every entry point."""
    for point in entry_points(group=GROUP):
        spec = find_spec(point.value)
        if spec is None:
            continue
        if spec.submodule_search_locations is None:
            yield point.value.rpartition(".")[2], point.value
        else:
            for module in iter_modules(spec.submodule_search_locations):
                if not module.ispkg and not module.name.startswith("_"):
                    yield module.name, f"{point.value}.{module.name}"


def _presets() -> dict[str, Mapping[str, Any]]:
    """Presets are YAML files in a folder `presets` of the packages that hold solvers."""
    found: dict[str, Mapping[str, Any]] = {}
    for point in entry_points(group=GROUP):
        spec = find_spec(point.value)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(location, "presets").glob("*.yaml")):
                document = documents.read(path)
                document.check()
                found[path.stem] = document.data
    return found


def _found(package: ModuleType, base: type[Any]) -> dict[str, type[Any]]:
    """The classes of a kind in the modules of a package, by the name of the module."""
    names = [module.name for module in iter_modules(package.__path__)]
    modules = {name: import_module(f"{package.__name__}.{name}") for name in names}
    return {name: kind for name, module in modules.items() for kind in _concrete(module, base)}


def _concrete(module: ModuleType, base: type[Any]) -> Iterator[type[Any]]:
    for _, kind in inspect.getmembers(module, inspect.isclass):
        if issubclass(kind, base) and not inspect.isabstract(kind) and kind.__module__ == module.__name__:
            yield kind


def studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    folder = Path(str(resources.files("invbench"))) / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_study(name: str) -> Path:
    """The file of a study: one of ours by name, or a path.

    Raises:
        UserError: there is no such study; with the nearest name.
    """
    known = studies()
    path = known.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"there is no study '{name}': give a YAML file, or one of {', '.join(known)}")
    return path


def describe(kind: str) -> list[tuple[str, str]]:
    """Names of a kind with a line about each, for `invbench list`."""
    from invbench import images, metrics, networks, priors

    known = catalogue()
    if kind == "methods":
        solvers = [(name, _summary(solver)) for name, solver in known.solvers.items()]
        presets = [(name, f"preset: {preset['summary']}") for name, preset in known.presets.items()]
        return sorted(solvers + presets)
    if kind == "studies":
        return [(name, documents.read(path).data.get("description", "")) for name, path in studies().items()]
    found: Mapping[str, Any] = {
        "trials": known.trials,
        "analyses": known.analyses,
        "networks": networks.find(),
        "images": images.find(),
        "priors": priors.find(),
        "metrics": metrics.find(),
    }[kind]
    return [(name, _summary(item)) for name, item in sorted(found.items())]


def _summary(item: Any) -> str:
    return str(getattr(item, "summary", None) or (inspect.getdoc(item) or "").partition("\n")[0])
