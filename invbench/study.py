"""What a study is: cells, each of them one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt
from pydantic import BaseModel, ConfigDict, Field

from invbench.method import Method, show_parameters
from invbench.solver import Solver
from invbench.trials.contract import Trial


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
