"""What a solver is: the contract between methods and the harness (see solvers/README.md)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict
from torch import Tensor

from invbench import training
from invbench.errors import UserError
from invbench.priors import ALL, Grid
from invbench.problem import Problem

#: Ranges of hyper-parameters, read by the study validation.
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
ProperFraction = Annotated[float, Ge(0), Lt(1)]
Count = Annotated[int, Ge(1)]

#: Images that a state of a training is valued on, at most, and steps between valuations.
VALIDATED, EVERY = 256, 100


class Randomness:
    """Randomness of one run: a stream for the batch, and one for each instance.

    The streams of instance i depend on (seed, i) alone, so a batch draws what its members draw. Draws are
    made on the CPU in float64 and then moved, so all devices and precisions see the same numbers.

    Args:
        seed: of the run.
        instances: identities of the members of the batch.
        like: a tensor with the device and dtype of the draws.
    """

    def __init__(self, seed: int, instances: Sequence[int], like: Tensor) -> None:
        self._like = like
        self._shared = np.random.default_rng([seed, 0])
        self._each = [np.random.default_rng([seed, 1, instance]) for instance in instances]

    def integers(self, low: int, high: int, count: int) -> tuple[int, ...]:
        """`count` integers in [low, high], both ends included, one draw for the batch (jitter, offsets)."""
        return tuple(self._shared.integers(low, high, count, endpoint=True).tolist())

    def grid(self, stride: int) -> Grid:
        """Positions of patches, every `stride`-th from an offset of its own: one draw for the batch."""
        return Grid(stride, *self.integers(0, stride - 1, 2)) if stride > 1 else ALL

    def shared(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers of this shape, one draw for the batch."""
        return self._tensor(self._shared.standard_normal(shape))

    def each(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, `(B, *shape)`: one stream per instance."""
        return self._tensor(np.stack([rng.standard_normal(shape) for rng in self._each]))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers uniform on [0, 1), `(B, *shape)`: one stream per instance."""
        return self._tensor(np.stack([rng.random(shape) for rng in self._each]))

    def _tensor(self, draws: np.typing.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(draws).to(self._like.device, self._like.dtype)


class Sample(Protocol):
    """A problem to learn from, with its solution: what a training may see of the truth, a run may not."""

    @property
    def problem(self) -> Problem:
        """What solvers see."""

    @property
    def truth(self) -> Tensor | None:
        """What the target was made of, `(B, ...)`; None where the trial has no truth."""


@dataclass(frozen=True)
class Setting:
    """What offline work may see: never an image that is tuned on or reported.

    Attributes:
        pose: makes the problem whose target comes from a batch of images, and its truth, as the trial does.
        train: `(N, C, H, W)` images.
        validation: images that share no pixel with `train`.
        seed: of the training.
        progress: called with (done, total, text).
    """

    pose: Callable[[Tensor], Sample]
    train: Tensor
    validation: Tensor
    seed: int
    progress: Callable[[int, int, str], None]

    def solved(self, pixels: Tensor) -> tuple[Problem, Tensor]:
        """A problem for each image, and what solves it.

        Raises:
            UserError: the trial has no solutions.
        """
        sample = self.pose(pixels)
        if sample.truth is None:
            raise UserError("a method that learns from solutions cannot be trained here: the trial has none.")
        return sample.problem, sample.truth

    def fit(
        self,
        parameters: Iterable[Tensor],
        loss: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        *,
        steps: int,
        batch: int,
        lr: float,
        validate: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Fit parameters to the training images by `training.fit`, and keep the state that validates best.

        Args:
            parameters: trained in place.
            loss: images `(b, C, H, W)` -> scalar.
            generator: of the batches.
            steps: of the training.
            batch: images a step.
            lr: first learning rate.
            validate: the same as `loss` where the state is chosen by another one.
        """
        held_out, value = self.validation[:VALIDATED], validate or loss
        training.fit(
            parameters,
            lambda indices: loss(self.train[indices.to(self.train.device)]),
            len(self.train),
            steps=steps,
            batch=batch,
            lr=lr,
            generator=generator,
            validate=lambda: float(value(held_out)),
            every=EVERY,
            progress=self.progress,
        )


@dataclass(frozen=True)
class Solver(ABC):
    """A method: a frozen dataclass of its hyper-parameters, whose repr identifies it in records.

    Declare ranges with the annotated types above, and what may be tuned by
    `field(metadata={"search": (low, high, "log")})`. A field named `horizon` (the iterations that a
    schedule spans) is filled from the budget where it is None. Outer stopping belongs to the harness.

    Attributes:
        learned: tensors from offline work, kept out of the repr; the harness caches them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    learned: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False, kw_only=True)

    def refuses(self, problem: Problem) -> str | None:  # noqa: ARG002
        """Why this problem cannot be taken, in one sentence, or None. A refusal is a result."""
        return None

    def prepare(self, setting: Setting) -> Self:  # noqa: ARG002
        """Do the offline work and return a copy of the solver with `learned` filled."""
        return self

    @abstractmethod
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """Yield the current iterate, `(B, ...)`, at least once per network pass.

        A yielded tensor is valid until the next `next`; the solver must not expect it back unchanged.

        Args:
            problem: what is minimised; knows no truth, clock or budget.
            x: the start, the same for all solvers; not to be written into.
            rng: the only source of randomness.
        """

    @classmethod
    def tiny(cls) -> Self:
        """The solver with its offline work shrunk to fit a test."""
        return cls()

    @classmethod
    def learns(cls) -> bool:
        """Whether there is offline work."""
        return cls.prepare is not Solver.prepare


def with_horizon(solver: Solver, iterations: int) -> Solver:
    """The solver with its horizon filled, where it has one that is None."""
    if getattr(solver, "horizon", 0) is None:
        changes: dict[str, Any] = {"horizon": iterations}
        return replace(solver, **changes)
    return solver
