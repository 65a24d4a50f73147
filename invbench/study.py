"""What a study is: cells, each of them one run of a method, and measurements beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

from annotated_types import Gt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from invbench.analyses.contract import Analysis
from invbench.method import Method, show_parameters
from invbench.solver import Solver
from invbench.trials.contract import Trial


@dataclass(frozen=True)
class Catalogue:
    """The names that a study may use (filled by the registry)."""

    solvers: Mapping[str, type[Solver]]
    presets: Mapping[str, Mapping[str, Any]]
    trials: Mapping[str, type[Trial]]
    analyses: Mapping[str, type[Analysis]]
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

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not str(self):
            raise ValueError("needs at least one of iterations, seconds, work")
        return self

    def __str__(self) -> str:
        return ", ".join(f"{value:g} {name}" for name, value in self if value is not None)


class Tuning(BaseModel):
    """Every method is run twice: as it is, and with the best of some settings of its search space.

    A budget in seconds is one for all images of a cell; a setting that is tried gets its share per image.

    Attributes:
        trials: settings tried, the default among them; the same number for every method.
        images: that they are tried on; none of them is reported.
        default: whether methods are also run as they are; no part of the identity of a tuned cell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: Annotated[int, Field(ge=2)] = 8
    images: Annotated[int, Gt(0)] = 8
    default: bool = True


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under what something is run, whatever it is.

    Attributes:
        images: source, count, size and parameters of the source.
        network: name and parameters.
        seed: of start and randomness.
        device: `cpu` or `cuda`.
        dtype: of x and the network.
        timeout: seconds after which a run is given up; no part of the identity.
    """

    images: Mapping[str, Any]
    network: Mapping[str, Any]
    seed: int
    device: str
    dtype: str
    timeout: float

    def plain(self) -> dict[str, Any]:
        """What identifies the run, beside the content of weights and images."""
        return {
            "images": _without_paths(self.images),
            "network": _without_paths(self.network),
            "seed": self.seed,
            "device": self.device,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, kw_only=True)
class Cell(Conditions):
    """One run of a method: plain data, but for the validated trial and method objects.

    Attributes:
        study: name of the study; no part of the identity.
        order: position in the study; no part of the identity.
        trial_name: kind of trial.
        trial: with its parameters.
        trial_parameters: as given, for the column.
        method: what is run.
        budget: of the run.
        tuning: how the method is tuned first, or None for its default setting.
    """

    study: str
    order: int
    trial_name: str
    trial: Trial
    trial_parameters: Mapping[str, Any]
    method: Method
    budget: Budget
    tuning: Tuning | None = None

    def plain(self) -> dict[str, Any]:
        """See `Conditions.plain`."""
        return super().plain() | {
            "trial": self.trial_name,
            "trial_parameters": repr(replace(self.trial, priors=_without_paths(self.trial.priors))),
            "method": _without_paths(self.method.plain()),
            "budget": self.budget.model_dump(exclude_none=True),
            "tuning": None if self.tuning is None else self.tuning.model_dump(exclude={"default"}),
        }

    def labels(self) -> dict[str, Any]:
        """The columns of the table that are known before the run."""
        return {
            "study": self.study,
            "trial": self.trial_name,
            "trial_parameters": show_parameters(
                {k: v for k, v in self.trial_parameters.items() if k not in ("layer", "start", "priors")}
            ),
            "images": show_images(self.images),
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


@dataclass(frozen=True, kw_only=True)
class Measurement(Conditions):
    """One analysis of a network on images: plain data, but for the validated analysis object.

    Attributes:
        name: kind of analysis.
        analysis: with its parameters.
        given: its parameters as the study states them, those of an entry within as `trial.layer`.
    """

    name: str
    analysis: Analysis
    given: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """See `Conditions.plain`."""
        return super().plain() | {"analysis": self.name, "parameters": repr(self.analysis)}

    def parameters(self) -> dict[str, str | float]:
        """What distinguishes the measurement within its study: columns beside those of its rows."""
        return _columns("", self.given) | {
            "network": show_network(self.network),
            "images": show_images(self.images),
            "seed": self.seed,
        }


def _without_paths(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What does not depend on where files lie; their content is hashed apart."""
    return {
        key: _without_paths(value) if isinstance(value, Mapping) else value
        for key, value in spec.items()
        if key not in ("path", "root", "weights")
    }


def _columns(prefix: str, value: Any) -> dict[str, str | float]:
    """Plain data as columns: what is nested gets names such as `trial.priors.tv`."""
    if isinstance(value, Mapping) and (value or not prefix):
        return {
            column: scalar
            for key, inner in value.items()
            for column, scalar in _columns(f"{prefix}.{key}" if prefix else key, inner).items()
        }
    if isinstance(value, Mapping) or value is None:
        return {prefix: "none"}
    return {prefix: value if isinstance(value, str | int | float) else str(value)}


def show_images(images: Mapping[str, Any]) -> str:
    """A choice of images as tables name it."""
    return f"{images['source']} {images['count']} x {images['size']} px"


def show_network(network: Mapping[str, Any]) -> str:
    """A network as tables name it: its name and the parameters given."""
    own = {key: value for key, value in network.items() if key not in ("name", "weights")}
    if isinstance(own.get("images"), Mapping):
        source, size = (own["images"].get(key, "") for key in ("source", "size"))
        own["images"] = f"{source} {size} px" if size else source
    parameters = show_parameters(own)
    return f"{network['name']} ({parameters})" if parameters else str(network["name"])


@dataclass(frozen=True)
class Study:
    """A validated study.

    Attributes:
        name: of the study.
        description: a sentence for the report.
        text: of the file.
        cells: in the order in which they are run: all methods of a trial follow each other.
        measurements: the analyses, run after the cells.
    """

    name: str
    description: str
    text: str
    cells: tuple[Cell, ...]
    measurements: tuple[Measurement, ...] = ()

    @property
    def runs(self) -> tuple[Cell | Measurement, ...]:
        """Everything that is run."""
        return (*self.cells, *self.measurements)
