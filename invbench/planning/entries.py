"""Entries of a study: a name, or one name with its parameters, among which may be entries again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from invbench.analyses.contract import Analysis
from invbench.documents import Document, Place
from invbench.planning.axes import expand
from invbench.solver import Solver
from invbench.study import Catalogue
from invbench.trials.contract import Trial
from invbench.validation import known, validate

T = TypeVar("T")


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """One variant of an entry.

    Attributes:
        name: what the entry names.
        item: the validated object.
        given: its parameters as the study states them; those of an entry within as `trial.layer`.
    """

    name: str
    item: T
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Entries:
    """Reads entries; every mistake is noted in the document at its place."""

    document: Document
    catalogue: Catalogue

    def split(self, place: Place, entry: Any) -> tuple[str | None, dict[str, Any]]:
        """Name and parameters; no name, with the mistake noted, where the entry is none."""
        if isinstance(entry, str):
            return entry, {}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            self.document.mistake(
                place, "must be a name, or one name with its parameters ('adam: {lr: 0.1}')"
            )
            return None, {}
        ((name, given),) = entry.items()
        if given is not None and not isinstance(given, Mapping):
            self.document.mistake((*place, name), f"must be a mapping of parameters (got {given!r})")
            return None, {}
        return name, dict(given or {})

    def trials(self, place: Place, entry: Any) -> Iterator[Chosen[Trial]]:
        """Every variant of an entry that names a trial."""
        return self._named("trial", self.catalogue.trials, place, entry)

    def solvers(self, place: Place, entry: Any) -> Iterator[Chosen[Solver]]:
        """Every variant of an entry that names a solver."""
        return self._named("solver", self.catalogue.solvers, place, entry)

    def analyses(self, place: Place, entry: Any) -> Iterator[Chosen[Analysis]]:
        """Every variant of an entry that names an analysis."""
        return self._named("analysis", self.catalogue.analyses, place, entry)

    def _named(
        self, word: str, kinds: Mapping[str, type[T]], place: Place, entry: Any
    ) -> Iterator[Chosen[T]]:
        name, given = self.split(place, entry)
        if name is not None and known(self.document, word, name, kinds, place):
            yield from self._variants(name, kinds[name], (*place, name), given)

    def _variants(
        self, name: str, kind: type[T], place: Place, given: Mapping[str, Any]
    ) -> Iterator[Chosen[T]]:
        """The product of all axes: lists of parameters, and the variants of entries within."""
        readers = self._readers(kind)
        given = {_singular(key, kind): value for key, value in given.items()}
        inner = {
            key: list(self._within(readers[key], (*place, key), value))
            for key, value in given.items()
            if key in readers
        }
        told = [key for key, found in inner.items() if not found]
        choices = {key: found for key, found in inner.items() if found}
        for variant in expand({key: value for key, value in given.items() if key not in inner}):
            for picked in product(*choices.values()):
                within = dict(zip(choices, picked, strict=True))
                data = variant | {key: one.item for key, one in within.items()}
                item = validate(self.document, kind, data, place, told)
                if item is not None:
                    yield Chosen(name, item, _stated(given, variant, within))

    def _readers(self, kind: type[Any]) -> dict[str, Any]:
        """How to read the fields of a kind that are entries."""
        readers = ((Trial, self.trials), (Solver, self.solvers))
        return {name: read for base, read in readers for name in _fields_of(kind, base)}

    def _within(self, read: Any, place: Place, value: Any) -> Iterator[Chosen[Any]]:
        """The variants of an entry within, or of each of a list of them."""
        if not isinstance(value, list):
            yield from read(place, value)
            return
        if not value:
            self.document.mistake(place, "needs at least one entry")
        for n, item in enumerate(value):
            yield from read((*place, n), item)


def solver_fields(kind: type[Any]) -> list[str]:
    """The fields of a kind that are solver entries, as the inner solver of `multistart`."""
    return _fields_of(kind, Solver)


def _fields_of(kind: type[Any], base: type[Any]) -> list[str]:
    """The fields whose type is a base, or one of its kinds, or that or None."""
    hints = get_type_hints(kind)
    types = {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in fields(kind)}
    return [
        name
        for name, options in types.items()
        if any(isinstance(option, type) and issubclass(option, base) for option in options)
    ]


def _singular(key: str, kind: type[Any]) -> str:
    """`layers` may be written for the field `layer`."""
    names = {field.name for field in fields(kind)}
    return "layer" if key == "layers" and "layer" in names and key not in names else key


def _stated(
    given: Mapping[str, Any], variant: Mapping[str, Any], within: Mapping[str, Chosen[Any]]
) -> dict[str, Any]:
    """What a variant states, in the order of the study."""
    stated: dict[str, Any] = {}
    for key in given:
        if key in within:
            stated[key] = within[key].name
            stated |= {f"{key}.{name}": value for name, value in within[key].given.items()}
        else:
            stated[key] = variant[key]
    return stated
