"""Methods: a solver, a preset, or a pipeline of solvers, as a study names them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from invbench.solver import Solver

Share = float | Literal["done"]
#: Lowest and highest value, and the scale on which values are drawn.
Search = tuple[float, float, Literal["log", "linear"]]


@dataclass(frozen=True)
class Method:
    """What is ranked: solvers that take turns, each starting from the last x of the one before.

    Attributes:
        name: as the study calls it.
        stages: the solvers in turn, by name.
        shares: of the budget; `done` lets a stage run until it ends by itself. What a stage leaves unused
            passes on to the next.
        given: what the study set, for the column `parameters`.
        priors: replaces the trial's priors during the run, or None.
        loss_weight: replaces the trial's loss weight during the run, or None.
        search: ranges for tuning that take the place of those that a stage's solver declares, by field.
    """

    name: str
    stages: tuple[tuple[str, Solver], ...]
    shares: tuple[Share, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    priors: Mapping[str, Any] | None = None
    loss_weight: float | None = None
    search: Mapping[str, Search] = field(default_factory=dict)

    def search_space(self) -> dict[str, Search]:
        """What may be tuned, as `STAGE.field` or `loss_weight`; what the study sets is not.

        The loss weight belongs to it only where the method weighs loss and priors by itself.
        """
        space: dict[str, Search] = {}
        for n, (_, solver) in enumerate(self.stages):
            for item in fields(solver):
                if "search" in item.metadata and not (len(self.stages) == 1 and item.name in self.given):
                    space[f"{n}.{item.name}"] = self.search.get(item.name, item.metadata["search"])
        if self.overrides and "loss_weight" not in self.given:
            weight = self.loss_weight or 1.0
            space["loss_weight"] = (weight / 10, weight * 10, "log")
        return space

    def with_settings(self, settings: Mapping[str, float]) -> "Method":
        """The method with some of its search space set."""
        stages, weight = list(self.stages), self.loss_weight
        for key, value in settings.items():
            if key == "loss_weight":
                weight = value
                continue
            stage, _, name = key.partition(".")
            solver_name, solver = stages[int(stage)]
            kept = round(value) if isinstance(getattr(solver, name), int) else value
            parameters: dict[str, Any] = {name: kept}
            stages[int(stage)] = (solver_name, replace(solver, **parameters))
        return replace(self, stages=tuple(stages), loss_weight=weight)

    @property
    def overrides(self) -> bool:
        """Whether the method minimises something else than the trial's objective."""
        return self.priors is not None or self.loss_weight is not None

    def plain(self) -> dict[str, Any]:
        """What identifies the method in records."""
        return {
            "name": self.name,
            "stages": [repr(solver) for _, solver in self.stages],
            "shares": list(self.shares),
            "priors": self.priors,
            "loss_weight": self.loss_weight,
            "overrides": self.overrides,
        }


def show_parameters(given: Mapping[str, Any]) -> str:
    """Parameters on one line.

    Example:
        >>> show_parameters({"lr": 0.03, "priors": {"tv": 2, "l2": 1}})
        'lr=0.03, priors.tv=2, priors.l2=1'
    """
    return ", ".join(_flat("", given))


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [
            item
            for key, inner in value.items()
            for item in _flat(f"{prefix}.{key}" if prefix else key, inner)
        ]
    return [f"{prefix}={value}"]
