"""Recover the parameters of Gabor filters from an image and what they make of it."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from pydantic import AfterValidator
from torch import Tensor

from invbench.domains import Box
from invbench.errors import UserError
from invbench.gabor import LAMBDA, PARAMETERS, SIGMA, THETA, GaborFiltering, sensitivity
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.problem import Problem
from invbench.solver import Count, Randomness
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.terms import weigh

#: Two turns: a descent that starts within one of them seldom meets a bound.
TURNS = 2 * math.pi
#: Below this singular value of the scaled Jacobian a combination of parameters is called unidentifiable: what
#: changes the output by as little as noise at 40 dB is then a change of all parameters by themselves.
LEAST = 1e-2

Range = tuple[float, float]


def check_parameters(given: Mapping[str, float]) -> Mapping[str, float]:
    """Validate named parameters; raises ValueError with a sentence."""
    unknown = [name for name in given if name not in PARAMETERS]
    if unknown:
        raise ValueError(f"has no parameter '{unknown[0]}': there are {', '.join(PARAMETERS)}")
    return given


def check_range(given: Range) -> Range:
    """Validate a range; raises ValueError with a sentence."""
    if not 0 < given[0] <= given[1]:
        raise ValueError(f"must be two numbers > 0, the lower one first (got {list(given)})")
    return given


Named = Annotated[Mapping[str, float], AfterValidator(check_parameters)]
Positives = Annotated[Range, AfterValidator(check_range)]


@dataclass(frozen=True, kw_only=True)
class Gabor(Trial):
    """Given an image and the image filtered by a Gabor kernel g(p*), find p; in float64.

        min |g(p) * image - y|^2 / |y|^2,    y = g(p*) * image + noise

    over p = (lambda, theta, psi, sigma, gamma) (see `gabor_kernel`), or over theta alone, where the others
    are known: then lower and upper bounds of the domain agree there. All instances share one image; each has
    a truth and a start of its own, drawn uniformly from the ranges below. Several filters at once are one
    instance, which sees the outputs of all of them.

    Attributes:
        parameters: what is to be found.
        image: which one of the images, its channels averaged.
        draws: pairs of truth and start.
        filters: of one instance.
        noise_db: 10 log10 of the variance of the clean output over that of the white noise; none by default.
        truth: parameters of p* that are not drawn, by name.
        start: parameters of the start that are not drawn, by name.
        wavelength: range of lambda, in pixels.
        ratio: range of sigma / lambda.
        gamma: range of gamma.
        kernel: side of the kernel; by default six times the largest sigma, and odd.

    References:
        A question asked in public (source 4 of this suite): theta by gradient descent from -pi/4, where the
        truth is pi/4: `truth: {theta: 0.7854}, start: {theta: -0.7854}`.
    """

    metrics: ClassVar = (
        "angular_error",
        "found",
        "wavelength_error",
        "phase_error",
        "sigma_error",
        "gamma_error",
        "kernel_error",
    )
    ranked_by: ClassVar = "angular_error"

    parameters: Literal["theta", "all"] = "all"
    image: Annotated[int, Ge(0)] = 0
    draws: Count = 16
    filters: Count = 1
    noise_db: float | None = None
    truth: Named = field(default_factory=dict)
    start: Named = field(default_factory=dict)
    wavelength: Positives = (3.0, 5.0)
    ratio: Positives = (0.4, 1.0)
    gamma: Positives = (0.5, 1.0)
    kernel: Count | None = None
    priors: Priors = field(default_factory=dict)

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        if self.wavelength[0] < 2:
            warnings.warn(
                f"gabor: wavelengths from {self.wavelength[0]:g} px on alias, as less than 2 px do on a grid "
                "of pixels: other parameters mean the same kernel there.",
                stacklevel=2,
            )
        image = self._image(scene)
        module = GaborFiltering(image, self._side(image), self.filters)
        network = parse(module, module.input_shape, "gabor")
        stream = Randomness(scene.seed, range(self.draws), image)
        truth, start = self._truth(stream), self._start(stream)
        low, high = self._bounds(image)
        if self.parameters == "theta":
            low, high = (_with_theta(truth, bound) for bound in (low, high))
            start = _with_theta(truth, start)
        clean = network(truth)
        noise = stream.each(network.output_shape)
        problem = Problem(
            network=network,
            target=clean if self.noise_db is None else clean + self._deviation(clean) * noise,
            loss=SquaredError(),
            domain=Box(low, high),
            priors=weigh(self.priors, scene),
            meter=Meter(self.draws),
            loss_weight=self.loss_weight,
        )
        self._tell_unidentifiable(problem, truth)
        name = scene.images.names[self.image]
        return Posed(problem, start, truth, tuple(f"{name} {n}" for n in range(self.draws)))

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"start": ", ".join(f"{name} {value:g}" for name, value in self.start.items()) or "random"}

    def _image(self, scene: Scene) -> Tensor:
        """The image, grey, (H, W)."""
        if self.image >= len(scene.images):
            raise UserError(
                f"gabor: there is no image {self.image} among {len(scene.images)}; the first one is 0."
            )
        image = scene.images.pixels[self.image].double().mean(0)
        if float(image.max() - image.min()) < 1e-6:
            raise UserError(
                f"gabor: image {self.image} is constant, so that all it tells of a kernel is its sum; take "
                "another one."
            )
        return image

    def _side(self, image: Tensor) -> int:
        """The side of the kernel, which fits the image."""
        least = math.ceil(6 * self._largest_sigma)
        side = self.kernel or least + 1 - least % 2
        if side > min(image.shape):
            sides = " x ".join(str(n) for n in image.shape)
            raise UserError(
                f"gabor: a kernel of {side} x {side} does not fit into an image of {sides}; take a larger "
                "image, or smaller wavelengths."
            )
        return side

    @property
    def _largest_sigma(self) -> float:
        return self.wavelength[1] * self.ratio[1]

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest values of the parameters, (1, F, 5)."""
        sigmas = self.wavelength[0] * self.ratio[0], self._largest_sigma
        ranges = (self.wavelength, (-TURNS, TURNS), (-TURNS, TURNS), sigmas, self.gamma)
        low, high = (like.new_tensor(ends).expand(1, self.filters, -1) for ends in zip(*ranges, strict=True))
        return low, high

    def _truth(self, stream: Randomness) -> Tensor:
        """True parameters, (B, F, 5): sigma goes with lambda."""
        drawn = self._drawn(stream)
        drawn[..., SIGMA] *= drawn[..., LAMBDA]
        return self._given("truth", self.truth, drawn)

    def _start(self, stream: Randomness) -> Tensor:
        """Where solvers start, (B, F, 5): sigma goes with lambda."""
        drawn = self._drawn(stream)
        drawn[..., SIGMA] *= drawn[..., LAMBDA]
        return self._given("start", self.start, drawn)

    def _drawn(self, stream: Randomness) -> Tensor:
        """Uniform numbers in the ranges of lambda, theta, psi, sigma / lambda and gamma, (B, F, 5)."""
        turn = (-math.pi, math.pi)
        ranges = (self.wavelength, turn, turn, self.ratio, self.gamma)
        uniform = stream.uniform((self.filters, len(PARAMETERS)))
        low, high = (uniform.new_tensor(ends) for ends in zip(*ranges, strict=True))
        return low + (high - low) * uniform

    def _given(self, what: str, given: Mapping[str, float], drawn: Tensor) -> Tensor:
        """The drawn parameters with those in place that are given, which lie within the ranges."""
        low, high = (bound[0, 0] for bound in self._bounds(drawn))
        for name, value in given.items():
            which = PARAMETERS.index(name)
            lowest, highest = float(low[which]), float(high[which])
            if not lowest <= value <= highest:
                raise UserError(
                    f"gabor: the {what} has {name} = {value:g} outside its range, {lowest:g} to {highest:g}; "
                    "move it inside, or widen the range."
                )
            drawn[..., which] = value
        return drawn

    def _deviation(self, clean: Tensor) -> Tensor:
        """Standard deviation of the noise of every output, (B, F, 1, 1)."""
        assert self.noise_db is not None
        return clean.std((2, 3), correction=0, keepdim=True) * 10 ** (-self.noise_db / 20)

    def _tell_unidentifiable(self, problem: Problem, truth: Tensor) -> None:
        """Warn where the output hardly depends on some combination of the parameters that are sought."""
        least = sensitivity(problem, truth).amin((1, 2))
        count = int((least < LEAST).sum())
        if count:
            warnings.warn(
                f"gabor: {count} of {len(truth)} truths cannot be identified well, as the least singular "
                f"value of the Jacobian falls to {float(least.min()):.1e}; sigma is far below lambda there, "
                "or the output is too small to tell.",
                stacklevel=3,
            )


def _with_theta(known: Tensor, other: Tensor) -> Tensor:
    """Known parameters, (B, F, 5), but theta from another tensor."""
    found = known.clone()
    found[..., THETA] = other[..., THETA]
    return found
