"""Methods: a solver, a preset, or a pipeline of solvers, as a study names them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from invbench.solver import Solver

Share = float | Literal["done"]


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
    """

    name: str
    stages: tuple[tuple[str, Solver], ...]
    shares: tuple[Share, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    priors: Mapping[str, Any] | None = None
    loss_weight: float | None = None

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
