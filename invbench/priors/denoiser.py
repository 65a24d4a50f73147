"""A prior from a denoiser: maps are plausible where a network trained to remove noise changes little."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from invbench import training
from invbench.errors import UserError
from invbench.priors.learned import LearnedPrior, Lesson

#: Steps between validations, and validations without improvement after which a training ends.
EVERY, PATIENCE = 100, 4
#: A channel counts as varying at least so much, as a share of what all channels vary.
QUIET = 0.01


@dataclass(frozen=True)
class Denoiser(LearnedPrior):
    """The energy of what a denoiser D would take away.

        R(x) = sum_cij ((x - D(x))_cij / s_c)^2 / (2 sigma^2)
        dR/dx = (I - J_D(x))^T ((x - D(x)) / s^2) / sigma^2

    The gradient is the true one, through D. The step D(x) - x without the Jacobian is the gradient of no
    energy, and belongs to solvers that plug a denoiser in.

    Maps of any scale are standardised by mean and deviation s_c of every channel of the training maps,
    z = (x - mean) / s, and the noise counts in these units: sigma = 1 on photographs in [0, 1] with a
    deviation of 0.25 is noise of 0.25. D takes away what a chain n of 3 x 3 convolutions with SiLU between
    them believes to be noise,

        D(x) = x - s n(z),   n fitted to  E |n(z + t e) - t e|^2,   e ~ N(0, I),  t ~ U(least sigma, sigma),

    on random crops of the training maps. With `least` = 0 the network has to tell how strong the noise is, so
    that x - D(x) shrinks together with the distance to natural maps. With `least` = 1 it always takes away
    noise of one strength, D approximates the posterior mean there, and R has bad minima far from them.

    SiLU makes R smooth. n sees z mirrored at its border, once, by as many elements as it reaches, and pads
    nothing inside: D is what one shift-invariant network makes of the mirrored map, and the border adds no
    edge, as zeros would. So a map needs at least `depth` rows and columns.

    There is no proximal operator, nor a bound on the curvature: n times its second derivatives is part of the
    Hessian, and n grows without bound.

    Args:
        sigma: deviation of the strongest noise, relative to that of the data, > 0.
        least: deviation of the weakest noise, as a share of sigma, in [0, 1].
        width: channels inside the network, >= 1.
        depth: convolutions, >= 2; D looks `depth` elements far.
        crop: side of the crops that are trained on, >= depth; smaller maps are taken whole.
        steps: of the training, at most, >= 1.
        batch: crops a step, >= 1.
        lr: first learning rate, > 0.

    Raises:
        UserError: a parameter is out of its range.

    References:
        Zhang, Zuo, Chen, Meng & Zhang, Beyond a Gaussian denoiser: residual learning of deep CNN for image
        denoising, IEEE TIP 2017, section III (17 or 20 layers, batch norms, ReLU, zeros at the border; a
        range of noise levels in III.D).
        Hurault, Leclaire & Papadakis, Gradient step denoiser for convergent plug-and-play, ICLR 2022:
        |x - N(x)|^2 / 2 as an energy; there the denoiser is a gradient step on it, here it is N itself.
    """

    name: ClassVar[str] = "denoiser"
    sigma: float = 1.0
    least: float = 0.0
    width: int = 16
    depth: int = 5
    crop: int = 32
    steps: int = 600
    batch: int = 16
    lr: float = 3e-3

    def __post_init__(self) -> None:
        for what in ("sigma", "lr"):
            if not getattr(self, what) > 0:
                raise UserError(f"{self.name}: {what} must be > 0, but is {getattr(self, what)}.")
        if not 0 <= self.least <= 1:
            raise UserError(f"{self.name}: least must be in [0, 1], but is {self.least}.")
        for what, lowest in {"width": 1, "depth": 2, "crop": self.depth, "steps": 1, "batch": 1}.items():
            if not getattr(self, what) >= lowest:
                raise UserError(f"{self.name}: {what} must be >= {lowest}, but is {getattr(self, what)}.")

    def __call__(self, x: Tensor) -> Tensor:
        """See `Prior.__call__`.

        Raises:
            UserError: x has other channels than the training maps, or is smaller than `depth`.
        """
        return self._noise(self._standardised(x)).square().flatten(1).sum(1) / (2 * self.sigma**2)

    def denoise(self, x: Tensor) -> Tensor:
        """D(x), (B, C, H, W); raises as a call does."""
        return x - self._tensors["scale"] * self._noise(self._standardised(x))

    def fit(self, lesson: Lesson) -> Self:
        """See `LearnedPrior.fit`; what is validated is the share of the noise that is left on other maps.

        Raises:
            UserError: the maps are none of (N, C, H, W), too small, constant or not finite.
        """
        for maps in (lesson.train, lesson.validation):
            self._demand_maps(maps)
            self._demand_size(maps)
        generator, train = self._generator(lesson), lesson.train
        mean, scale = self._statistics(train)
        layers = self._initial(train.shape[1], generator)
        layers = {name: tensor.to(train).requires_grad_() for name, tensor in layers.items()}
        prior = replace(self, learned={"mean": mean, "scale": scale, **layers})
        held_out = self._pairs(lesson.validation, generator)
        training.fit(
            layers.values(),
            lambda indices: prior._left(*self._pairs(train[indices.to(train.device)], generator)),
            len(train),
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            generator=generator,
            validate=lambda: float(prior._left(*held_out)),
            every=EVERY,
            patience=PATIENCE,
            progress=lesson.progress,
        )
        return replace(prior, learned={name: tensor.detach() for name, tensor in prior._tensors.items()})

    @classmethod
    def tiny(cls) -> Self:
        """See `LearnedPrior.tiny`; a few steps on small crops."""
        return cls(crop=8, steps=20, batch=4)

    def _standardised(self, x: Tensor) -> Tensor:
        """The standardised map z; refuses x of other channels, and x too small to be mirrored."""
        mean = self._tensors["mean"]
        if x.dim() != 4 or x.shape[1] != mean.shape[1]:
            raise UserError(
                f"{self.name}: was trained on maps of {mean.shape[1]} channels, but is applied to the shape "
                f"{tuple(x.shape[1:])}; fit it to such maps."
            )
        self._demand_size(x)
        return (x - mean) / self._tensors["scale"]

    def _noise(self, z: Tensor) -> Tensor:
        """n(z), of the shape of z."""
        learned = self._tensors
        z = _mirrored(_mirrored(z, self.depth).mT, self.depth).mT
        for layer in range(self.depth):
            z = functional.silu(z) if layer else z
            z = functional.conv2d(z, learned[f"weight{layer}"], learned[f"bias{layer}"])
        return z

    def _left(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The mean square of what D leaves of the noise, as a share of its own: 1 where D does nothing."""
        left = (self._noise(self._standardised(clean) + noise) - noise).square().mean()
        return left / (self.sigma**2 * (1 + self.least + self.least**2) / 3)

    def _pairs(self, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random crops with noise for them, each (B, C, h, w)."""
        height, width = (min(self.crop, side) for side in maps.shape[-2:])
        ends = torch.tensor([maps.shape[-2] - height + 1, maps.shape[-1] - width + 1])
        corners = (torch.rand(len(maps), 2, generator=generator, dtype=torch.float64) * ends).long().tolist()
        clean = torch.stack(
            [x[:, i : i + height, j : j + width] for x, (i, j) in zip(maps, corners, strict=True)]
        )
        levels = self.sigma * (self.least + (1 - self.least) * torch.rand(len(maps), generator=generator))
        noise = torch.randn(clean.shape, generator=generator) * levels.view(-1, 1, 1, 1)
        return clean, noise.to(clean)

    def _initial(self, channels: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Gaussian filters that keep the strength of their input; the last ones are weak: D starts near x."""
        widths = [channels, *[self.width] * (self.depth - 1), channels]
        layers = {}
        for layer, (before, after) in enumerate(pairwise(widths)):
            gain = 0.1 if layer == self.depth - 1 else 2**0.5
            filters = torch.randn(after, before, 3, 3, generator=generator)
            layers[f"weight{layer}"] = filters * (gain / (9 * before) ** 0.5)
            layers[f"bias{layer}"] = torch.zeros(after)
        return layers

    def _statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every channel, (1, C, 1, 1); quiet channels count as if they varied more."""
        variance, mean = torch.var_mean(maps.double(), dim=(0, 2, 3), correction=0, keepdim=True)
        deviation = variance.sqrt()
        overall = float(variance.mean().sqrt())
        # Rounding alone lets a constant vary by some 1e-8 of its size.
        if not overall > 1e-6 * float(mean.abs().max()):
            raise UserError(f"{self.name}: the training maps are constant; give varied ones.")
        return mean.to(maps), deviation.clamp_min(QUIET * overall).to(maps)

    def _demand_size(self, x: Tensor) -> None:
        if min(x.shape[-2:]) < self.depth:
            raise UserError(
                f"{self.name}: maps of {x.shape[-2]} x {x.shape[-1]} are smaller than the {self.depth} "
                f"elements that the network reaches; lower depth or choose larger maps."
            )


def _mirrored(x: Tensor, reach: int) -> Tensor:
    """Rows mirrored at both ends, the last element repeated; joined from slices, whose adjoint is ordered.

    (The adjoint of a reflection padding adds in any order on a GPU.)
    """
    return torch.cat([x[..., :reach].flip(-1), x, x[..., -reach:].flip(-1)], dim=-1)
