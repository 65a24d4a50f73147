"""From a study file to its cells: axes, methods, and the product of everything."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Annotated, Any, Literal

from annotated_types import Gt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from invbench.claims import Claim, check_claims
from invbench.documents import Document, Place
from invbench.method import Method, Share
from invbench.solver import Solver
from invbench.study import Budget, Catalogue, Cell, Study, Tuning
from invbench.trials.contract import Trial
from invbench.validation import known, validate

Entry = str | dict[str, dict[str, Any] | None]


class _Images(BaseModel):
    model_config = ConfigDict(extra="allow")

    source: str = "bundled"
    count: Annotated[int, Gt(0)] = 8
    size: Annotated[int, Gt(0)] = 32


class _File(BaseModel):
    """The skeleton of a study file; entries are validated by what they name."""

    model_config = ConfigDict(extra="forbid")

    study: str
    description: str = ""
    images: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=dict)
    network: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=lambda: {"name": "lenet"})
    trials: Annotated[list[Entry], Field(min_length=1)]
    methods: Annotated[list[Entry], Field(min_length=1)]
    budget: Budget
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    timeout: Annotated[float, Gt(0)] = 3600.0
    tuning: Tuning | None = None
    claims: Annotated[list[Claim], AfterValidator(check_claims)] = []
    dtype: Literal["float32", "float64"] = "float32"

    @field_validator("budget")
    @classmethod
    def _some_budget(cls, budget: Budget) -> Budget:
        if not str(budget):
            raise ValueError("needs at least one of iterations, seconds, work")
        return budget


def plan(document: Document, catalogue: Catalogue, device: str = "cpu") -> Study:
    """Validate a study and lay out its cells.

    Raises:
        UserError: with one line for every mistake: file, line, column, place, what is wrong.
    """
    return _Planner(document, catalogue, device).plan()


@dataclass(frozen=True)
class _Trial:
    """A trial of a study, and the methods and networks that it is restricted to, if any."""

    name: str
    trial: Trial
    given: Mapping[str, Any]
    methods: Sequence[str] | None
    networks: Sequence[str] | None

    def takes(self, network: Mapping[str, Any], method: Method) -> bool:
        """Whether the study runs the method on this trial of the network."""
        return (self.methods is None or method.name in self.methods) and (
            self.networks is None or network["name"] in self.networks
        )


@dataclass
class _Planner:
    document: Document
    catalogue: Catalogue
    device: str
    methods: list[Method] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    def plan(self) -> Study:
        if not isinstance(self.document.data, dict):
            self.document.mistake((), "a study is a mapping with the keys study, trials, methods, budget")
        self.document.check()
        file = validate(self.document, _File, self.document.data, ())
        if file is None:
            self.document.check()
            raise AssertionError("a mistake without a message")
        images = list(self._images(file))
        networks = list(self._networks(file))
        methods = [
            item for n, entry in enumerate(file.methods) for item in self._methods(("methods", n), entry)
        ]
        trials = [item for n, entry in enumerate(file.trials) for item in self._trials(("trials", n), entry)]
        self.document.check()
        every = product(networks, images, trials, file.seeds, methods)
        cells = (
            Cell(
                study=file.study,
                order=0,
                trial_name=entry.name,
                trial=entry.trial,
                trial_parameters=entry.given,
                images=image,
                network=network,
                method=method,
                seed=seed,
                budget=file.budget,
                device=self.device,
                dtype=file.dtype,
                timeout=file.timeout,
                tuning=tuning,
            )
            for network, image, entry, seed, method in every
            if entry.takes(network, method)
            for tuning in variants(method, file.tuning)
        )
        numbered = tuple(replace(cell, order=order) for order, cell in enumerate(cells))
        return Study(file.study, file.description, self.document.text, numbered)

    # -- the four kinds of entries -----------------------------------------------------------------------

    def _images(self, file: _File) -> Iterator[Mapping[str, Any]]:
        for variant in _every(file.images):
            images = validate(self.document, _Images, variant, ("images",))
            if images is not None:
                place = ("images", "source")
                known(self.document, "image source", images.source, self.catalogue.sources, place)
                yield images.model_dump()

    def _networks(self, file: _File) -> Iterator[Mapping[str, Any]]:
        for variant in _every(file.network):
            name = variant.get("name")
            place = ("network", "name")
            if not isinstance(name, str):
                self.document.mistake(("network",), "needs a name")
            elif ":" in name or known(self.document, "network", name, self.catalogue.networks, place):
                self.networks.append(name)
                yield variant

    def _trials(self, place: Place, entry: Entry) -> Iterator["_Trial"]:
        name, given = self._entry(place, entry)
        if name is None or not known(self.document, "trial", name, self.catalogue.trials, place):
            return
        if "layers" in given:
            given["layer"] = given.pop("layers")
        only = {key: given.pop(key, None) for key in ("methods", "networks")}
        if not self.document.mistaken:  # a method that is misspelt below would be unknown here, too
            names = {item.name for item in self.methods} | {*self.catalogue.solvers, *self.catalogue.presets}
            for n, method in enumerate(only["methods"] or ()):
                known(self.document, "method", method, names, (*place, name, "methods", n))
            for n, network in enumerate(only["networks"] or ()):
                known(self.document, "network", network, self.networks, (*place, name, "networks", n))
        for variant in expand(given):
            trial = validate(self.document, self.catalogue.trials[name], variant, (*place, name))
            if trial is not None:
                yield _Trial(name, trial, variant, **only)

    def _methods(self, place: Place, entry: Entry) -> Iterator[Method]:
        name, given = self._entry(place, entry)
        if name is None:
            return
        names = [*self.catalogue.solvers, *self.catalogue.presets, "pipeline"]
        if not known(self.document, "method", name, names, place):
            return
        structural: dict[str, Any] = {key: given.pop(key) for key in ("stages", "shares") if key in given}
        for variant in expand(given):
            method = self._method(name, variant, structural, (*place, name))
            if method is not None:
                self.methods.append(method)
                yield method

    def _method(
        self, name: str, given: dict[str, Any], structural: dict[str, Any], place: Place
    ) -> Method | None:
        spec: dict[str, Any] = {"stages": [name], **structural}
        if name in self.catalogue.presets:
            spec = choose(
                self.catalogue.presets[name], given, lambda text: self.document.mistake(place, text)
            )
        over = {key: value for key, value in given.items() if key in ("priors", "loss_weight", "name")}
        own = {key: value for key, value in given.items() if key not in {*over, *spec.get("choices", {})}}
        stages = [self._stage(item, own, len(spec["stages"]) == 1, place) for item in spec["stages"]]
        if len(stages) > 1 and own:
            self.document.mistake(
                place, f"a pipeline has no parameter '{next(iter(own))}': set it on a stage"
            )
        shares = spec.get("shares", [1 / len(stages)] * len(stages))
        if not self._shares(shares, len(stages), place) or None in stages:
            return None
        return Method(
            name=str(over.get("name", name)),
            stages=tuple(stage for stage in stages if stage is not None),
            shares=tuple(shares),
            given={key: value for key, value in given.items() if key != "name"},
            priors=over.get("priors", spec.get("priors")),
            loss_weight=over.get("loss_weight", spec.get("loss_weight")),
            search={key: tuple(value) for key, value in spec.get("search", {}).items()},
        )

    def _stage(
        self, entry: Entry, given: Mapping[str, Any], merge: bool, place: Place
    ) -> tuple[str, Solver] | None:
        name, own = self._entry(place, entry)
        if name is None or not known(self.document, "solver", name, self.catalogue.solvers, place):
            return None
        parameters = {**own, **given} if merge else own
        solver = validate(self.document, self.catalogue.solvers[name], parameters, place)
        return None if solver is None else (name, solver)

    def _shares(self, shares: Sequence[Share], stages: int, place: Place) -> bool:
        fractions = [share for share in shares if isinstance(share, int | float)]
        fits = len(shares) == stages and all(
            share == "done" or (isinstance(share, int | float) and share > 0) for share in shares
        )
        if not fits or sum(fractions) > 1 + 1e-9:
            message = f"needs a share for each of {stages} stages: 'done', or numbers > 0, at most 1 together"
            self.document.mistake((*place, "shares"), message)
            return False
        return True

    # -- helpers -----------------------------------------------------------------------------------------

    def _entry(self, place: Place, entry: Entry) -> tuple[str | None, dict[str, Any]]:
        if isinstance(entry, str):
            return entry, {}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            self.document.mistake(
                place, "must be a name, or one name with its parameters ('adam: {lr: 0.1}')"
            )
            return None, {}
        ((name, given),) = entry.items()
        return name, dict(given or {})


def variants(method: Method, tuning: Tuning | None) -> tuple[Tuning | None, ...]:
    """The default setting and, where a study tunes and the method has something to tune, the tuned one."""
    return (None,) if tuning is None or not method.search_space() else (None, tuning)


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


def _every(data: Mapping[str, Any] | list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The variants of one mapping, or of each of a list of mappings."""
    for item in data if isinstance(data, list) else [data]:
        yield from expand(item)


def choose(
    preset: Mapping[str, Any], given: Mapping[str, Any], mistake: Callable[[str], None]
) -> dict[str, Any]:
    """A preset with its choices made.

    A preset may offer named choices, `choices: {depth: {shallow: {loss_weight: 300}, ...}}`, whose defaults
    it states under `default`; what is chosen is merged into the preset, and `solver` into its only stage.
    """
    spec = {key: value for key, value in preset.items() if key != "default"}
    for name, options in preset.get("choices", {}).items():
        picked = given.get(name, preset["default"][name])
        if picked not in options:
            mistake(f"{name} must be one of {', '.join(options)} (got {picked})")
            continue
        chosen = dict(options[picked])
        extra = chosen.pop("solver", {})
        if extra:
            ((solver, parameters),) = spec["stages"][0].items()
            spec["stages"] = [{solver: {**parameters, **extra}}]
        spec |= chosen
    return spec
