"""Priors from patches: independent components, fields of experts, and the Gaussian that both compete with."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional

from invbench import training
from invbench.errors import UserError
from invbench.priors.learned import LearnedPrior, Lesson
from invbench.priors.patch_energy import PatchEnergy
from invbench.priors.potentials import Logistic, Potential, Quadratic, Student
from invbench.priors.prior import ALL, Grid, Prior
from invbench.priors.proximal import SmoothPrior
from invbench.priors.score_matching import score_matching
from invbench.priors.whitening import Mean, Method, Patches, Scale, Whitening

Channels = Literal["full", "each", "both"]
_Part = Literal["full", "each"]
BETAS = (0.9, 0.99)
#: Validation patches, steps between validations, and validations without improvement that end a training.
VALIDATION, EVERY, PATIENCE = 10_000, 250, 8
#: Validation patches whose responses are held at a time.
CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Samples:
    """Whitened patches to learn from.

    Attributes:
        patches: of the training maps.
        whitening: of these.
        held_out: whitened patches of other maps, with noise, `(G, b, d)`.
        generator: of the noise, fresh whenever a patch is asked for.
    """

    patches: Patches
    whitening: Whitening
    held_out: Tensor
    generator: torch.Generator

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Some samples, `(G, b, d)`."""
        return self.whitening(self.patches[indices.to(self.held_out.device)], self.generator)

    def validation(self, filters: Tensor, weights: Tensor, potential: Potential) -> Tensor:
        """J on the held-out patches, a scalar."""
        parts = torch.split(self.held_out, CHUNK, dim=1)
        sums = [part.shape[1] * score_matching(part, filters, weights, potential) for part in parts]
        return torch.stack(sums).sum() / self.held_out.shape[1]


@dataclass(frozen=True)
class PatchPrior(SmoothPrior, LearnedPrior):
    """What priors on patches share.

    The energy of a map is the mean over the positions of p x p patches that lie wholly inside,

        R(x) = 1/P sum_p sum_k a_k rho(w_k . z_p),      z_p the whitened patch at p.

    `channels: full` looks at patches of all C channels; `each` at patches of every channel on its own, with
    experts of its own (a grouped convolution), and sums over the channels; `both` is the sum of the two. For
    maps of one channel there is but one kind: all three are `full`.

    Attributes:
        patch: side p.
        channels: see above.
        mean: removed from every patch: its mean (`patch`), that of every channel in it (`channel`), or only
            that of the data (`data`).
        scale: unit of the noise: the standard deviation of the maps (`global`), of each channel (`channel`),
            or 1 (`none`).
        noise: standard deviation of the Gaussian noise on training patches, in that unit; it bounds the gain
            of the whitening. 0.1 is 0.02 to 0.03 for photographs in [0, 1].
        patches: drawn for the training.

    What was learned is, for each PART of `full` and `each`: `PART.filters`, `PART.bias` and `PART.weights`, a
    `PatchEnergy` on x itself, since mean, scale and whitening are folded into the filters; and
    `PART.validation`, the objective J of score matching on patches of the validation maps.
    """

    patch: int = 8
    channels: Channels = "full"
    mean: Mean = "patch"
    scale: Scale = "global"
    noise: float = 0.1
    patches: int = 100_000

    potential: ClassVar[Potential]

    def __post_init__(self) -> None:
        for what, kind in {"channels": Channels, "mean": Mean, "scale": Scale}.items():
            self._demand_one_of(what, kind)
        for what in ("patch", "patches"):
            self._demand_count(what)
        if not 0 <= self.noise < torch.inf:
            raise UserError(f"{self.name}: noise must be >= 0, but is {self.noise}.")

    @classmethod
    def tiny(cls) -> Self:
        """See `LearnedPrior.tiny`."""
        return cls(patches=2000)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`.

        Raises:
            UserError: x is smaller than a patch, or has other channels than the maps that were learned from.
        """
        return self.energy(x)

    def energy(self, x: Tensor, grid: Grid = ALL) -> Tensor:
        """R(x), or its estimate from the positions of a grid (see `PatchEnergy`); raises as a call."""
        self._demand_fitting(tuple(x.shape[1:]))
        parts = [part(x, grid) for part in self._parts]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def on_grid(self, grid: Grid) -> Prior:
        """See `Prior.on_grid`; unbiased where the offsets are uniform."""
        return self if grid == ALL else _OnGrid(self, grid)

    def curvature(self, shape: tuple[int, ...]) -> float:
        """See `SmoothPrior.curvature`; one number a shape is remembered."""
        if shape not in self._curvatures:
            self._demand_fitting(shape)
            self._curvatures[shape] = sum(part.curvature(shape) for part in self._parts)
        return self._curvatures[shape]

    def fit(self, lesson: Lesson) -> Self:
        """See `LearnedPrior.fit`.

        Raises:
            UserError: maps are no maps, smaller than a patch, constant or not finite.
        """
        for maps in (lesson.train, lesson.validation):
            self._demand_maps(maps)
            self._demand_size(tuple(maps.shape))
        generator = self._generator(lesson)
        learned = {
            f"{part}.{what}": tensor
            for part, groups in self._groups(lesson.train.shape[1]).items()
            for what, tensor in self._learn(lesson, groups, generator).items()
        }
        return replace(self, learned=learned)

    @abstractmethod
    def _train(self, samples: Samples, progress: training.Progress) -> tuple[Tensor, Tensor]:
        """Filters on whitened patches, `(G, K, d)`, and their weights, `(G, K)`."""

    @property
    def _whitening(self) -> Method:
        return "pca"

    def _learn(self, lesson: Lesson, groups: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One part, from the maps of a lesson."""
        train = Patches.draw(lesson.train, self.patch, self.patches, groups, generator)
        other = Patches.draw(lesson.validation, self.patch, VALIDATION, groups, generator)
        try:
            whitening = Whitening.fit(train, self._whitening, self.mean, self.scale, self.noise)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        samples = Samples(train, whitening, whitening(other[slice(None)], generator), generator)
        filters, weights = self._train(samples, lesson.progress)
        folded, bias = whitening.fold(filters)
        return {
            "filters": folded.reshape(-1, lesson.train.shape[1] // groups, self.patch, self.patch),
            "bias": bias.flatten(),
            "weights": weights,
            "validation": samples.validation(filters, weights, self.potential),
        }

    def _groups(self, channels: int) -> dict[_Part, int]:
        """The parts for maps of so many channels, each with its number of groups."""
        if self.channels == "full" or channels == 1:
            return {"full": 1}
        return {"each": channels} if self.channels == "each" else {"full": 1, "each": channels}

    @cached_property
    def _parts(self) -> tuple[PatchEnergy, ...]:
        """What was learned, ready to be applied."""
        learned = self._tensors
        return tuple(
            PatchEnergy(
                learned[f"{part}.filters"],
                learned[f"{part}.bias"],
                learned[f"{part}.weights"],
                self.potential,
            )
            for part in get_args(_Part)
            if f"{part}.filters" in learned
        )

    @cached_property
    def _curvatures(self) -> dict[tuple[int, ...], float]:
        """By shape."""
        return {}

    def _demand_fitting(self, shape: tuple[int, ...]) -> None:
        """A shape (C, H, W) that what was learned applies to."""
        channels = self._parts[0].channels
        if len(shape) != 3 or shape[0] != channels:
            raise UserError(
                f"{self.name}: was fitted to maps of {channels} channels, but is applied to the shape "
                f"{shape}; fit it to such maps."
            )
        self._demand_size(shape)

    def _demand_size(self, shape: tuple[int, ...]) -> None:
        if min(shape[-2:]) < self.patch:
            raise UserError(
                f"{self.name}: patches of {self.patch} x {self.patch} do not fit maps of "
                f"{shape[-2]} x {shape[-1]}; choose a smaller patch."
            )

    def _demand_one_of(self, what: str, kind: object) -> None:
        if getattr(self, what) not in get_args(kind):
            known = ", ".join(get_args(kind))
            raise UserError(f"{self.name}: {what} must be one of {known}, but is {getattr(self, what)!r}.")

    def _demand_count(self, what: str) -> None:
        value = getattr(self, what)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{self.name}: {what} must be a whole number >= 1, but is {value!r}.")


@dataclass(frozen=True)
class Gaussian(PatchPrior):
    """A Gaussian of patches: 1/2 |z|^2 of the whitened patch, meaned over positions.

    The covariance is all that is learned, so this costs nothing to fit: the baseline of the others.

    References:
        Zoran & Weiss, From learning models of natural image patches to whole image restoration, ICCV 2011
        (the mean log-likelihood over all patches as energy; there also with mixtures).
    """

    name: ClassVar[str] = "gaussian"
    potential: ClassVar[Potential] = Quadratic()

    def _train(self, samples: Samples, progress: training.Progress) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The whitened dimensions themselves."""
        groups, dimensions, _ = samples.whitening.matrix.shape
        filters = torch.eye(dimensions).to(samples.held_out).expand(groups, -1, -1)
        return filters, torch.ones_like(filters[..., 0])


@dataclass(frozen=True)
class Experts(PatchPrior):
    """Experts a_k rho(w_k . z) on whitened patches, fitted by score matching.

    w_k = v_k / |v_k| and a_k = softplus(b_k), with v_k and b_k free. AdamW with a cosine schedule; the best
    of the states validated on other maps is kept. v_k starts with norm 1: its growth slows its turning, and
    a start with the norm of a Gaussian draw would turn too slowly from the beginning.

    Attributes:
        experts: K of every group; None for 8/3 of the numbers in its patch: 512 for 8 x 8 x 3. With fewer
            than dimensions the learned filters leave directions unseen, and the prior is weak.
        whitening: `pca`, `zca` or `none`.
        steps: of the training, at most.
        batch: patches a step.
        lr: first learning rate.
    """

    experts: int | None = None
    whitening: Method = "pca"
    steps: int = 5000
    batch: int = 500
    lr: float = 0.03

    def __post_init__(self) -> None:
        super().__post_init__()
        self._demand_one_of("whitening", Method)
        for what in ("steps", "batch") if self.experts is None else ("experts", "steps", "batch"):
            self._demand_count(what)
        if not 0 < self.lr < torch.inf:
            raise UserError(f"{self.name}: lr must be > 0, but is {self.lr}.")

    @classmethod
    def tiny(cls) -> Self:
        """See `LearnedPrior.tiny`."""
        return cls(patches=2000, steps=10)

    @property
    def _whitening(self) -> Method:
        return self.whitening

    def _train(self, samples: Samples, progress: training.Progress) -> tuple[Tensor, Tensor]:
        """By score matching."""
        groups, dimensions, elements = samples.whitening.matrix.shape
        experts = self.experts or max(1, 8 * elements // 3)
        start = torch.randn(groups, experts, dimensions, generator=samples.generator).to(samples.held_out)
        directions = functional.normalize(start, dim=-1).requires_grad_()
        levels = torch.zeros_like(start[..., 0]).requires_grad_()

        def present() -> tuple[Tensor, Tensor]:
            return functional.normalize(directions, dim=-1), functional.softplus(levels)

        training.fit(
            (directions, levels),
            lambda indices: score_matching(samples[indices], *present(), self.potential),
            len(samples.patches),
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            betas=BETAS,
            generator=samples.generator,
            validate=lambda: float(samples.validation(*present(), self.potential)),
            every=EVERY,
            patience=PATIENCE,
            progress=progress,
        )
        with torch.no_grad():
            return present()


@dataclass(frozen=True)
class ICA(Experts):
    """Logistic experts, rho(s) = log cosh s: independent components, overcomplete.

    References:
        Harder 2017 (ICA prior; there trained with a learning rate of 1 that falls to 3e-5 in 25,000 steps).
        Hyvarinen, Estimation of non-normalized statistical models by score matching, JMLR 2005, section 3.2.
    """

    name: ClassVar[str] = "ica"
    potential: ClassVar[Potential] = Logistic()


@dataclass(frozen=True)
class FieldOfExperts(Experts):
    """Student experts, rho(s) = log(1 + s^2 / 2), on all patches of a map.

    References:
        Roth & Black, Fields of experts, IJCV 2009 (there trained by contrastive divergence on whole images;
        here, as in Harder 2017, by score matching on patches).
    """

    name: ClassVar[str] = "foe"
    potential: ClassVar[Potential] = Student()


@dataclass(frozen=True)
class _OnGrid(Prior):
    """A prior on patches at the positions of a grid."""

    prior: PatchPrior
    grid: Grid

    @property
    def name(self) -> str:  # type: ignore[override]  # named after the prior that it estimates
        """The name of the prior."""
        return self.prior.name

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`."""
        return self.prior.energy(x, self.grid)

    def on_grid(self, grid: Grid) -> Prior:
        """See `Prior.on_grid`."""
        return self.prior.on_grid(grid)
