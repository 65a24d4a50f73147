"""Gabor parameters from the spectrum of the kernel, which is found by linear least squares."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from invbench import gabor
from invbench.activations import Identity
from invbench.gabor import GAMMA, LAMBDA, SIGMA, GaborFiltering
from invbench.losses import SquaredError
from invbench.metered import MeteredStage
from invbench.minimisers import damped_step
from invbench.network import Stage
from invbench.problem import Problem
from invbench.solver import Count, Randomness, Solver

#: Widths sigma / lambda and aspects gamma that are tried.
RATIOS, ASPECTS = (0.5, 0.85), (0.55, 0.8)
#: Least number of frequencies an axis of the spectrum, in which the peak is sought.
FREQUENCIES = 128
#: A filter rests after a step that changes its output, or lessens its error, by less than this, relatively,
#: or when its damping exceeds LARGEST, as then no step of a length that counts has led downhill.
PRECISION, LARGEST = 1e-8, 1e8


@dataclass(frozen=True)
class GaborSpectral(Solver):
    """Steps that see the problem for what it is: linear in the kernel, and a peak in its spectrum.

    1. The kernel k itself, by some steps of conjugate gradients on |k * image - y|^2. Image and y are
       sharpened by a Laplacian before, which leaves the equation as it is and evens out the spectrum of the
       image; few steps regularise enough.
    2. The largest peak of |DFT k|, among the wavelengths that the bounds admit, is (cos theta, sin theta) /
       lambda, and its phase is psi. Two widths and two aspects are tried.
    3. From the better aspect of each width damped Gauss-Newton steps on |g(p) * image - y|^2, for all
       instances and filters at once, within bounds that are wider by a factor of `slack`, also where they
       agree: known parameters are let go, for five dimensions have ways around the barriers of one.
    4. The same within the bounds, from where that has led, from its twin (theta + pi, -psi), or from the
       start, whichever has the least residual there.

    A filter that has converged rests, and when all rest, the solver returns.

    Attributes:
        steps: of conjugate gradients.
        slack: how much wider the first bounds are.

    References:
        Hestenes & Stiefel 1952 (conjugate gradients); Marquardt, SIAM J. Appl. Math. 1963. The combination is
        ours, an answer to source 4 of this suite.
    """

    steps: Count = field(default=10, metadata={"search": (3, 30, "log")})
    slack: Annotated[float, Ge(1)] = 1.5

    def refuses(self, problem: Problem) -> str | None:
        """It needs to know the image, and a box."""
        if not isinstance(problem.network.module, GaborFiltering):
            return "gabor_spectral finds the parameters of Gabor filters, and x is something else here"
        if not isinstance(problem.loss, SquaredError) or problem.priors:
            return "gabor_spectral needs a squared error without priors, and the objective here is none"
        if problem.domain.bounds is None:
            return f"gabor_spectral needs a box, and the domain here is {problem.domain.name}"
        if min(problem.network.output_shape[1:]) < 3:
            return "gabor_spectral sharpens outputs over 3 x 3 pixels, and there are fewer here"
        return None

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """One step of one of the methods an iterate."""
        bounds = gabor.bounds(problem)
        wide = gabor.slackened(*bounds, self.slack)
        x = problem.domain.project(x)
        kernels = _kernels(problem, self.steps)
        kernel = next(kernels)
        yield x
        for kernel in kernels:  # noqa: B007  # the last one counts
            yield x
        best, least = x, torch.full(x.shape[:2], torch.inf, dtype=x.dtype, device=x.device)
        for family in _families(problem, kernel):
            guess, error = x, torch.full_like(least, torch.inf)
            for candidate in family:
                guess, error = _better(candidate, _error(problem, candidate), guess, error)
                yield gabor.within(problem, guess)
            for at in _refined(problem, guess, *wide):
                best, least = _better(at.x, at.error, best, least)
                yield gabor.within(problem, best)
        least = _error(problem, x)
        for side in (best, gabor.twin(best)):
            side = gabor.turned(problem, side)
            x, least = _better(side, _error(problem, side), x, least)
            yield x
        for at in _refined(problem, x, *bounds):
            yield at.x


def _error(problem: Problem, x: Tensor) -> Tensor:
    """The squared residual of every filter, (B, F)."""
    return _squared(problem.output(x) - problem.target)[..., 0, 0]


def _better(x: Tensor, error: Tensor, best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """The better one of two points and its error, filter by filter: (B, F, 5) and (B, F)."""
    better = error < least
    return torch.where(better[..., None], x, best), torch.where(better, error, least)


def _kernels(problem: Problem, steps: int) -> Iterator[Tensor]:
    """Conjugate gradients on |k * image - y|^2 from k = 0, for the sharpened image and y: (B, F, K, K)."""
    module = problem.network.module
    assert isinstance(module, GaborFiltering)
    filtering = replace(module.filtering, image=_sharpened(module.image))
    stage = MeteredStage(Stage("filtering", filtering, Identity()), problem.meter)
    r = _sharpened(problem.target)
    k = r.new_zeros(problem.size, *filtering.in_shape)
    s = stage.adjoint(r)
    p, norm = s, _squared(s)
    for _ in range(steps):
        q = stage.linear(p)
        a = norm / _squared(q).clamp_min(torch.finfo(q.dtype).tiny)
        k, r = k + a * p, r - a * q
        yield k
        s, before = stage.adjoint(r), norm
        norm = _squared(s)
        p = s + norm / before.clamp_min(torch.finfo(s.dtype).tiny) * p


def _sharpened(maps: Tensor) -> Tensor:
    """The Laplacian where it fits: (..., H, W) -> (..., H - 2, W - 2)."""
    cross = maps.new_tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None]
    found = functional.conv2d(maps.reshape(-1, 1, *maps.shape[-2:]), cross)
    return found.view(*maps.shape[:-2], *found.shape[-2:])


def _families(problem: Problem, kernel: Tensor) -> list[list[Tensor]]:
    """Parameters with the frequency and the phase of the peak, (B, F, 5), inside the bounds but for angles.

    There is a family for every width, with a member for every aspect; a known one leaves no choice.
    """
    low, high = gabor.slackened(*gabor.bounds(problem), 1.0)
    wavelength, theta, psi = _peak(kernel, low[..., LAMBDA, None], high[..., LAMBDA, None])
    which = gabor.sought(problem)
    ratios, aspects = RATIOS if SIGMA in which else (1.0,), ASPECTS if GAMMA in which else (1.0,)

    def at(ratio: float, aspect: float) -> Tensor:
        shape = ratio * wavelength, torch.full_like(theta, aspect)
        return torch.stack([wavelength, theta, psi, *shape], -1).clamp(low, high)

    return [[at(ratio, aspect) for aspect in aspects] for ratio in ratios]


def _peak(kernel: Tensor, shortest: Tensor, longest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Wavelength, angle and phase of the largest peak of the spectrum, each (B, F).

    Args:
        kernel: (B, F, K, K).
        shortest: wavelength admitted, (B, F, 1).
        longest: wavelength admitted, likewise.
    """
    side = kernel.shape[-1]
    count = max(FREQUENCIES, 1 << (4 * side - 1).bit_length())
    spectrum = torch.fft.fft2(kernel, s=(count, count)).flatten(2)
    axis = torch.fft.fftfreq(count, dtype=kernel.dtype, device=kernel.device)
    u, v = axis.repeat(count), axis.repeat_interleave(count)
    radius, width = torch.hypot(u, v), 1 / count
    ring = (radius > 0) & (radius >= 1 / longest - width) & (radius <= 1 / shortest + width)
    place = torch.where(ring, spectrum.abs(), -1.0).argmax(2)
    u, v = u[place], v[place]
    from_corner = spectrum.gather(2, place[..., None])[..., 0].angle()
    psi = gabor.wrapped(from_corner + math.pi * (side - 1) * (u + v))  # the kernel counts from its centre
    return torch.hypot(u, v).reciprocal(), torch.atan2(v, u), psi


def _refined(problem: Problem, x: Tensor, low: Tensor, high: Tensor) -> Iterator["_Linear"]:
    """Damped Gauss-Newton steps within bounds, every filter of every instance with its own damping."""
    which = (low < high).flatten(0, 1).any(0).nonzero()[:, 0].tolist()
    directions = gabor.directions(problem, which)
    energy = _squared(problem.target)[..., 0, 0]
    damping = torch.full_like(energy, 1e-2)
    resting = torch.zeros_like(energy, dtype=torch.bool)
    at = _Linear.of(problem, x, directions)
    yield at
    while not resting.all():
        free = ((at.x > low)[..., which] | (at.slope < 0)) & ((at.x < high)[..., which] | (at.slope > 0))
        step = torch.zeros_like(x)
        step[..., which] = damped_step(at.jacobian, at.residual, damping, free)
        there = _Linear.of(problem, (at.x + step).clamp(low, high), directions)
        change = at.jacobian @ (there.x - at.x)[..., which, None]
        gain, rested = at.error - there.error, resting.clone()
        resting |= (_squared(change)[..., 0, 0] <= PRECISION**2 * energy) | (damping > LARGEST)
        resting |= (gain >= 0) & (gain <= PRECISION * at.error)
        better = gain > 0
        at = at.moved(better & ~rested, there)
        damping = damping * torch.where(better, 0.1, 10.0)
        yield at


@dataclass(frozen=True, eq=False)
class _Linear:
    """A point (B, F, 5), the residual there, (B, F, m), and its Jacobian in n unknowns, (B, F, m, n)."""

    x: Tensor
    residual: Tensor
    jacobian: Tensor

    @classmethod
    def of(cls, problem: Problem, x: Tensor, directions: Tensor) -> "_Linear":
        output, derivatives = problem.linearised(x, directions)
        return cls(x, (output - problem.target).flatten(2), derivatives.flatten(3).movedim(0, 3))

    @property
    def error(self) -> Tensor:
        """The squared residual, (B, F)."""
        return self.residual.square().sum(2)

    @property
    def slope(self) -> Tensor:
        """Half the gradient of the error, (B, F, n)."""
        return (self.jacobian.mT @ self.residual[..., None])[..., 0]

    def moved(self, where: Tensor, there: "_Linear") -> "_Linear":
        """There, for the filters that have moved, (B, F)."""
        return _Linear(
            torch.where(where[..., None], there.x, self.x),
            torch.where(where[..., None], there.residual, self.residual),
            torch.where(where[..., None, None], there.jacobian, self.jacobian),
        )


def _squared(x: Tensor) -> Tensor:
    """The squared norm of every filter's map, (B, F, 1, 1)."""
    return x.square().sum((2, 3), keepdim=True)
