"""Methods of a study: solvers, presets with their choices, pipelines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invbench.documents import Place
from invbench.method import Method, Share
from invbench.planning.axes import expand
from invbench.planning.entries import Entries, solver_fields
from invbench.solver import Solver
from invbench.trials.terms import check_priors
from invbench.validation import known, validate


@dataclass(frozen=True)
class Methods:
    """Reads the entries that name methods."""

    entries: Entries

    def read(self, place: Place, entry: Any) -> Iterator[Method]:
        """Every variant of an entry."""
        name, given = self.entries.split(place, entry)
        if name is None:
            return
        catalogue = self.entries.catalogue
        names = [*catalogue.solvers, *catalogue.presets, "pipeline"]
        if not known(self.entries.document, "method", name, names, place):
            return
        structural: dict[str, Any] = {key: given.pop(key) for key in ("stages", "shares") if key in given}
        for variant in expand(given):
            method = self._method(name, variant, structural, (*place, name))
            if method is not None:
                yield method

    def _method(
        self, name: str, given: dict[str, Any], structural: dict[str, Any], place: Place
    ) -> Method | None:
        spec: dict[str, Any] = {"stages": [name], **structural}
        presets = self.entries.catalogue.presets
        if name in presets:
            spec = choose(presets[name], given, lambda text: self._mistake(place, text))
        over = {key: value for key, value in given.items() if key in ("priors", "loss_weight", "name")}
        own = {key: value for key, value in given.items() if key not in {*over, *spec.get("choices", {})}}
        stages = [self._stage(item, own, len(spec["stages"]) == 1, place) for item in spec["stages"]]
        if len(stages) > 1 and own:
            self._mistake(place, f"a pipeline has no parameter '{next(iter(own))}': set it on a stage")
        shares = spec.get("shares", [1 / len(stages)] * len(stages))
        if not self._shares(shares, len(stages), place) or None in stages:
            return None
        priors = over.get("priors", spec.get("priors"))
        if not self._priors(priors, place):
            return None
        return Method(
            name=str(over.get("name", name)),
            stages=tuple(stage for stage in stages if stage is not None),
            shares=tuple(shares),
            given={key: value for key, value in given.items() if key != "name"},
            priors=priors,
            loss_weight=over.get("loss_weight", spec.get("loss_weight")),
            search={key: tuple(value) for key, value in spec.get("search", {}).items()},
        )

    def _priors(self, priors: Any, place: Place) -> bool:
        """Whether these priors can be weighed."""
        if priors is None:
            return True
        try:
            check_priors(priors)
        except ValueError as error:
            self._mistake((*place, "priors"), str(error))
            return False
        return True

    def _stage(
        self, entry: Any, given: Mapping[str, Any], merge: bool, place: Place
    ) -> tuple[str, Solver] | None:
        name, own = self.entries.split(place, entry)
        solvers = self.entries.catalogue.solvers
        if name is None or not known(self.entries.document, "solver", name, solvers, place):
            return None
        parameters = {**own, **given} if merge else own
        within = {
            key: self._stage(parameters[key], {}, False, (*place, key))
            for key in solver_fields(solvers[name])
            if parameters.get(key) is not None
        }
        if None in within.values():
            return None
        inner = {key: stage[1] for key, stage in within.items() if stage is not None}
        solver = validate(self.entries.document, solvers[name], {**parameters, **inner}, place)
        return None if solver is None else (name, solver)

    def _shares(self, shares: Sequence[Share], stages: int, place: Place) -> bool:
        fractions = [share for share in shares if isinstance(share, int | float)]
        fits = len(shares) == stages and all(
            share == "done" or (isinstance(share, int | float) and share > 0) for share in shares
        )
        if not fits or sum(fractions) > 1 + 1e-9:
            message = f"needs a share for each of {stages} stages: 'done', or numbers > 0, at most 1 together"
            self._mistake((*place, "shares"), message)
            return False
        return True

    def _mistake(self, place: Place, message: str) -> None:
        self.entries.document.mistake(place, message)


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
