"""From a study file to what is run: axes, entries, and the product of everything."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

from invbench.analyses.contract import Analysis
from invbench.documents import Document, Place
from invbench.method import Method
from invbench.planning.axes import every, expand
from invbench.planning.entries import Chosen, Entries
from invbench.planning.methods import Methods
from invbench.planning.skeleton import Entry, ImagesSpec, StudyFile
from invbench.study import Budget, Catalogue, Cell, Measurement, Study, Tuning
from invbench.trials.contract import Trial
from invbench.validation import known, validate

__all__ = ["expand", "plan"]

T = TypeVar("T")
Spec = Mapping[str, Any]


def plan(document: Document, catalogue: Catalogue, device: str = "cpu") -> Study:
    """Validate a study and lay out its cells and measurements.

    Raises:
        UserError: with one line for every mistake: file, line, column, place, what is wrong.
    """
    return _Planner(document, catalogue, device).plan()


@dataclass(frozen=True)
class _Scope:
    """What an entry says beside its own parameters; None where it does not.

    Attributes:
        methods: names of those that it is run with.
        networks: names of those that it is run on.
        budget: in place of that of the study.
    """

    methods: list[Any] | None = None
    networks: list[Any] | None = None
    budget: Budget | None = None

    def takes(self, network: Spec, method: Method | None = None) -> bool:
        """Whether the study runs the entry on this network, with this method where there is one."""
        return (self.networks is None or network["name"] in self.networks) and (
            method is None or self.methods is None or method.name in self.methods
        )


@dataclass
class _Planner:
    document: Document
    catalogue: Catalogue
    device: str
    methods: list[Method] = field(default_factory=list)
    networks: list[Spec] = field(default_factory=list)
    images: list[Spec] = field(default_factory=list)

    @cached_property
    def entries(self) -> Entries:
        return Entries(self.document, self.catalogue)

    def plan(self) -> Study:
        file = self._file()
        self.images = list(self._images(file))
        self.networks = list(self._networks(file))
        for n, entry in enumerate(file.methods):
            self.methods += Methods(self.entries).read(("methods", n), entry)
        keys = ("methods", "networks", "budget")
        trials = list(self._scoped("trials", file.trials, self.entries.trials, keys))
        analyses = list(self._scoped("analyses", file.analyses, self.entries.analyses, ("networks",)))
        self._check_claims(file, {one.name for _, one in analyses})
        self.document.check()
        cells = tuple(replace(cell, order=n) for n, cell in enumerate(self._cells(file, trials)))
        measurements = tuple(self._measurements(file, analyses))
        return Study(file.study, file.description, self.document.text, cells, measurements)

    def _file(self) -> StudyFile:
        """The skeleton of the file, or all that is wrong with it."""
        if not isinstance(self.document.data, dict):
            self.document.mistake((), "a study is a mapping with the keys study, trials, methods, budget")
        self.document.check()
        file = validate(self.document, StudyFile, self.document.data, ())
        if file is None:
            self.document.check()
            raise AssertionError("a mistake without a message")
        if file.trials or not file.analyses:
            for key in ("trials", "methods", "budget"):
                if not getattr(file, key):
                    self.document.mistake((key,), "is required")
        return file

    def _cells(self, file: StudyFile, trials: Sequence[tuple[_Scope, Chosen[Trial]]]) -> Iterator[Cell]:
        matrix = product(self.networks, self.images, trials, file.seeds, self.methods)
        for network, images, (scope, trial), seed, method in matrix:
            budget = scope.budget or file.budget
            if scope.takes(network, method):
                assert budget is not None, "_file() tells"
                for tuning in variants(method, file.tuning):
                    yield Cell(
                        study=file.study,
                        order=0,
                        trial_name=trial.name,
                        trial=trial.item,
                        trial_parameters=trial.given,
                        method=method,
                        budget=budget,
                        tuning=tuning,
                        **self._conditions(file, network, images, seed),
                    )

    def _measurements(
        self, file: StudyFile, analyses: Sequence[tuple[_Scope, Chosen[Analysis]]]
    ) -> Iterator[Measurement]:
        matrix = product(self.networks, self.images, analyses, file.seeds)
        for network, images, (scope, analysis), seed in matrix:
            if scope.takes(network):
                yield Measurement(
                    name=analysis.name,
                    analysis=analysis.item,
                    given=analysis.given,
                    **self._conditions(file, network, images, seed),
                )

    def _conditions(self, file: StudyFile, network: Spec, images: Spec, seed: int) -> dict[str, Any]:
        return {
            "images": images,
            "network": network,
            "seed": seed,
            "device": self.device,
            "dtype": file.dtype,
            "timeout": file.timeout,
        }

    def _images(self, file: StudyFile) -> Iterator[Spec]:
        for variant in every(file.images):
            images = validate(self.document, ImagesSpec, variant, ("images",))
            if images is not None:
                place = ("images", "source")
                known(self.document, "image source", images.source, self.catalogue.sources, place)
                yield images.model_dump()

    def _networks(self, file: StudyFile) -> Iterator[Spec]:
        for variant in every(file.network):
            name = variant.get("name")
            place = ("network", "name")
            if not isinstance(name, str):
                self.document.mistake(("network",), "needs a name")
            elif ":" in name or known(self.document, "network", name, self.catalogue.networks, place):
                yield variant

    def _scoped(
        self,
        section: str,
        listed: Sequence[Entry],
        read: Callable[[Place, Any], Iterator[Chosen[T]]],
        keys: Sequence[str],
    ) -> Iterator[tuple[_Scope, Chosen[T]]]:
        """Every variant of the entries of a section, with what these keys of an entry say."""
        for n, entry in enumerate(listed):
            name, given = self.entries.split((section, n), entry)
            if name is not None:
                scope = self._scope((section, n, name), given, keys)
                yield from ((scope, one) for one in read((section, n), {name: given}))

    def _scope(self, place: Place, given: dict[str, Any], keys: Sequence[str]) -> _Scope:
        """What these keys say, which are taken out of the parameters of an entry."""
        said = {key: given.pop(key) for key in keys if given.get(key) is not None}
        budget = said.pop("budget", None)
        if budget is not None:
            budget = validate(self.document, Budget, budget, (*place, "budget"))
        only = {key: names if isinstance(names, list) else [names] for key, names in said.items()}
        if not self.document.mistaken:  # a method or network that is misspelt would be unknown, too
            methods = {item.name for item in self.methods} | {
                *self.catalogue.solvers,
                *self.catalogue.presets,
            }
            networks = {*(network["name"] for network in self.networks), *self.catalogue.networks}
            there = {"methods": methods, "networks": networks}
            for key, names in only.items():
                for n, item in enumerate(names):
                    known(self.document, key.removesuffix("s"), item, there[key], (*place, key, n))
        return _Scope(**only, budget=budget)

    def _check_claims(self, file: StudyFile, names: set[str]) -> None:
        """A claim on an analysis that the study does not run could never be judged."""
        if self.document.mistaken:  # an analysis that is misspelt would be unknown here, too
            return
        for n, claim in enumerate(file.claims):
            for key, side in (("ours", claim.ours), ("against", claim.against)):
                place = ("claims", n, key, "analysis")
                if side is None or side.analysis is None:
                    continue
                if names:
                    known(self.document, "analysis", side.analysis, names, place)
                else:
                    self.document.mistake(place, "the study has no analyses: list it under 'analyses'")


def variants(method: Method, tuning: Tuning | None) -> tuple[Tuning | None, ...]:
    """The default setting and, where a study tunes and the method has something to tune, the tuned one.

    A study may leave out the default of methods that can be tuned.
    """
    if tuning is None or not method.search_space():
        return (None,)
    return (None, tuning) if tuning.default else (tuning,)
