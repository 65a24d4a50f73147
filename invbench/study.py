"""From a study file to the cells that it plans: validation, axes, and the product of everything."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import product
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Gt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from invbench.documents import Document, Place, show
from invbench.method import Method, Share, show_parameters
from invbench.solver import Solver
from invbench.trials.contract import Trial

T = TypeVar("T")
Entry = str | dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class Catalogue:
    """The names that a study may use (filled by the registry)."""

    solvers: Mapping[str, type[Solver]]
    presets: Mapping[str, Mapping[str, Any]]
    trials: Mapping[str, type[Trial]]
    networks: Sequence[str]
    sources: Sequence[str]


class Budget(BaseModel):
    """When a run ends; the smallest of those given.

    Attributes:
        iterations: iterates.
        seconds: of the solver, by the host clock.
        work: multiply-adds per instance, averaged over the batch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    iterations: Annotated[int, Gt(0)] | None = None
    seconds: Annotated[float, Gt(0)] | None = None
    work: Annotated[float, Gt(0)] | None = None

    def __str__(self) -> str:
        return ", ".join(f"{value:g} {name}" for name, value in self if value is not None)


class Tuning(BaseModel):
    """Every method is run twice: as it is, and with the best of some settings of its search space.

    Attributes:
        trials: settings tried, the default among them; the same number for every method.
        images: that they are tried on; none of them is reported.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: Annotated[int, Field(ge=2)] = 8
    images: Annotated[int, Gt(0)] = 8


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
    images: dict[str, Any] = Field(default_factory=dict)
    network: dict[str, Any] = Field(default_factory=lambda: {"name": "lenet"})
    trials: Annotated[list[Entry], Field(min_length=1)]
    methods: Annotated[list[Entry], Field(min_length=1)]
    budget: Budget
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    timeout: Annotated[float, Gt(0)] = 3600.0
    tuning: Tuning | None = None
    dtype: Literal["float32", "float64"] = "float32"

    @field_validator("budget")
    @classmethod
    def _some_budget(cls, budget: Budget) -> Budget:
        if not str(budget):
            raise ValueError("needs at least one of iterations, seconds, work")
        return budget


@dataclass(frozen=True)
class Cell:
    """One run: plain data, but for the validated trial and method objects.

    Attributes:
        study: name of the study; no part of the identity.
        order: position in the study; no part of the identity.
        trial_name: kind of trial.
        trial: with its parameters.
        trial_parameters: as given, for the column.
        images: source, count, size and parameters of the source.
        network: name and parameters.
        method: what is run.
        seed: of start and randomness.
        budget: of the run.
        device: `cpu` or `cuda`.
        dtype: of x and the network.
        timeout: seconds after which a run of the cell is given up; no part of the identity.
        tuning: how the method is tuned first, or None for its default setting.
    """

    study: str
    order: int
    trial_name: str
    trial: Trial
    trial_parameters: Mapping[str, Any]
    images: Mapping[str, Any]
    network: Mapping[str, Any]
    method: Method
    seed: int
    budget: Budget
    device: str
    dtype: str
    timeout: float
    tuning: Tuning | None = None

    def plain(self) -> dict[str, Any]:
        """What identifies the cell, beside the content of weights and images."""
        return {
            "trial": self.trial_name,
            "trial_parameters": repr(self.trial),
            "images": {key: value for key, value in self.images.items() if key not in ("path", "root")},
            "network": {key: value for key, value in self.network.items() if key != "weights"},
            "method": self.method.plain(),
            "seed": self.seed,
            "budget": self.budget.model_dump(exclude_none=True),
            "device": self.device,
            "dtype": self.dtype,
            "tuning": None if self.tuning is None else self.tuning.model_dump(),
        }

    def labels(self) -> dict[str, Any]:
        """The columns of the table that are known before the run."""
        count = self.images["count"]
        return {
            "study": self.study,
            "trial": self.trial_name,
            "trial_parameters": show_parameters(
                {k: v for k, v in self.trial_parameters.items() if k not in ("layer", "start", "priors")}
            ),
            "images": f"{self.images['source']} {count} x {self.images['size']} px",
            "network": show_network(self.network),
            "layer": "",
            "start": "",
            "priors": show_parameters(self.trial.priors),
            "solver": self.method.name,
            "parameters": show_parameters(self.method.given),
            "variant": "default" if self.tuning is None else "tuned",
            "oracle": self.trial.oracle,
            "seed": self.seed,
            "budget": str(self.budget),
            "device": self.device,
            "ranked_by": self.trial.ranked_by,
            **self.trial.labels(),
        }


def variants(method: Method, tuning: Tuning | None) -> tuple[Tuning | None, ...]:
    """The default setting and, where a study tunes and the method has something to tune, the tuned one."""
    return (None,) if tuning is None or not method.search_space() else (None, tuning)


def show_network(network: Mapping[str, Any]) -> str:
    """A network as tables name it: its name and the parameters given."""
    parameters = show_parameters({k: v for k, v in network.items() if k not in ("name", "weights")})
    return f"{network['name']} ({parameters})" if parameters else str(network["name"])


@dataclass(frozen=True)
class Study:
    """A validated study.

    Attributes:
        name: of the study.
        description: a sentence for the report.
        text: of the file.
        cells: in the order in which they are run: all methods of a trial follow each other.
    """

    name: str
    description: str
    text: str
    cells: tuple[Cell, ...]


def plan(document: Document, catalogue: Catalogue, device: str = "cpu") -> Study:
    """Validate a study and lay out its cells.

    Raises:
        UserError: with one line for every mistake: file, line, column, place, what is wrong.
    """
    return _Planner(document, catalogue, device).plan()


@dataclass
class _Planner:
    document: Document
    catalogue: Catalogue
    device: str
    methods: list[Method] = field(default_factory=list)

    def plan(self) -> Study:
        if not isinstance(self.document.data, dict):
            self.document.mistake((), "a study is a mapping with the keys study, trials, methods, budget")
        self.document.check()
        file = self._validate(_File, self.document.data, ())
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
                trial_name=name,
                trial=trial,
                trial_parameters=given,
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
            for network, image, (name, trial, given, only), seed, method in every
            if only is None or method.name in only
            for tuning in variants(method, file.tuning)
        )
        numbered = tuple(replace(cell, order=order) for order, cell in enumerate(cells))
        return Study(file.study, file.description, self.document.text, numbered)

    # -- the four kinds of entries -----------------------------------------------------------------------

    def _images(self, file: _File) -> Iterator[Mapping[str, Any]]:
        for variant in expand(file.images):
            images = self._validate(_Images, variant, ("images",))
            if images is not None:
                self._known("image source", images.source, self.catalogue.sources, ("images", "source"))
                yield images.model_dump()

    def _networks(self, file: _File) -> Iterator[Mapping[str, Any]]:
        for variant in expand(file.network):
            name = variant.get("name")
            if not isinstance(name, str):
                self.document.mistake(("network",), "needs a name")
            elif ":" in name or self._known("network", name, self.catalogue.networks, ("network", "name")):
                yield variant

    def _trials(
        self, place: Place, entry: Entry
    ) -> Iterator[tuple[str, Trial, Mapping[str, Any], list[str] | None]]:
        name, given = self._entry(place, entry)
        if name is None or not self._known("trial", name, self.catalogue.trials, place):
            return
        if "layers" in given:
            given["layer"] = given.pop("layers")
        only = given.pop("methods", None)
        if not self.document.mistaken:  # a method that is misspelt below would be unknown here, too
            for n, method in enumerate(only or ()):
                self._known("method", method, {m.name for m in self.methods}, (*place, name, "methods", n))
        for variant in expand(given):
            trial = self._validate(self.catalogue.trials[name], variant, (*place, name))
            if trial is not None:
                yield name, trial, variant, only

    def _methods(self, place: Place, entry: Entry) -> Iterator[Method]:
        name, given = self._entry(place, entry)
        if name is None:
            return
        known = [*self.catalogue.solvers, *self.catalogue.presets, "pipeline"]
        if not self._known("method", name, known, place):
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
        )

    def _stage(
        self, entry: Entry, given: Mapping[str, Any], merge: bool, place: Place
    ) -> tuple[str, Solver] | None:
        name, own = self._entry(place, entry)
        if name is None or not self._known("solver", name, self.catalogue.solvers, place):
            return None
        parameters = {**own, **given} if merge else own
        solver = self._validate(self.catalogue.solvers[name], parameters, place)
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

    def _known(self, kind: str, name: Any, known: Any, place: Place) -> bool:
        if name in known:
            return True
        near = get_close_matches(str(name), list(known), 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(sorted(known))}"
        self.document.mistake(place, f"unknown {kind} '{name}': {hint}")
        return False

    def _validate(self, kind: type[T], data: Any, place: Place) -> T | None:
        try:
            return TypeAdapter(kind).validate_python(data)
        except ValidationError as error:
            names = _parameters(kind)
            for item in error.errors():
                at = (
                    *place,
                    *(
                        step
                        for step in item["loc"]
                        if step not in ("str", "dict[str,nullable[dict[str,any]]]")
                    ),
                )
                self.document.mistake(at, sentence(item, names))
            return None


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


def sentence(error: Any, names: Sequence[str]) -> str:
    """What pydantic found, as one short sentence."""
    got = error.get("input")
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than":
            return f"must be > {context['gt']:g} (got {got})"
        case "greater_than_equal":
            return f"must be >= {context['ge']:g} (got {got})"
        case "less_than":
            return f"must be < {context['lt']:g} (got {got})"
        case "less_than_equal":
            return f"must be <= {context['le']:g} (got {got})"
        case "literal_error":
            return f"must be one of {context['expected']} (got {got})"
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "is required"
        case "unexpected_keyword_argument" | "extra_forbidden":
            name = str(error["loc"][-1])
            near = get_close_matches(name, names, 1)
            return (
                f"is unknown: did you mean '{near[0]}'?"
                if near
                else f"is unknown: known are {', '.join(names)}"
            )
        case "value_error":
            return str(context["error"])
        case _:
            return f"{error['msg'][0].lower()}{error['msg'][1:]} (got {got!r})"


def _parameters(kind: Any) -> list[str]:
    names = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    return sorted(name for name in names if name != "learned")


__all__ = ["Budget", "Catalogue", "Cell", "Study", "expand", "plan", "show", "show_network"]
