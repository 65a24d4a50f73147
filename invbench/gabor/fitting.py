"""Gabor kernels fitted to filters by least squares."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.gabor.frequency import from_frequency
from invbench.gabor.parameters import LAMBDA, SIGMA, canonical
from invbench.minimisers import damped_step

#: Starts of every filter: so many peaks of its spectrum, each with these sigma / lambda and these gamma.
PEAKS, RATIOS, ASPECTS = 3, (0.3, 0.6), (0.5, 1.0)
#: Frequencies of the spectrum along an axis.
GRID = 64
#: Steps of Levenberg and Marquardt.
STEPS = 60
#: Ranges: sigma from half a pixel to two sides, wavelengths up to ten sides, gamma.
NARROWEST, WIDEST, LONGEST, ASPECT = 0.5, 2.0, 10.0, (0.2, 5.0)

#: Points are (u, v, a, b, log sigma, log gamma, x, y): see `from_frequency`; (x, y) is the centre.
U, V, A, B, LOG_SIGMA, LOG_GAMMA, X, Y = range(8)


@dataclass(frozen=True, eq=False)
class GaborFit:
    """What fits filters best.

    Attributes:
        parameters: canonical ones of the kernels, (F, 5).
        amplitude: that they are multiplied by, >= 0, (F,).
        centre: of the kernels, right of and below that of the filters in pixels, (F, 2).
        fitted: the fits themselves, (F, K, K).
    """

    parameters: Tensor
    amplitude: Tensor
    centre: Tensor
    fitted: Tensor

    @property
    def cycles(self) -> Tensor:
        """Cycles of the wave within two sigma of the centre, and within the side of the filter, (F,)."""
        extent = (4 * self.parameters[:, SIGMA]).clamp(max=self.fitted.shape[-1])
        return extent / self.parameters[:, LAMBDA]


@torch.no_grad()
def fit_gabor(filters: Tensor, centred: bool = False) -> GaborFit:
    """Fit A g((x, y) - r; p) to every filter w(x, y) by least squares.

    The amplitude A > 0, the five parameters p and the centre r are found by steps of Levenberg and Marquardt
    on all filters and starts at once, of which the best counts; there is no offset. Starts are the largest
    local maxima of the spectrum, each with some widths, and with the best amplitude and phase there.

    Args:
        filters: (F, K, K).
        centred: keep r = 0, where filters of `GaborConv2d` have their centre.

    References:
        Jones & Palmer, J. Neurophysiol. 1987, fit Gabor functions with a free centre to receptive fields.
    """
    filters = filters.detach().double().cpu()
    scale = filters.flatten(1).norm(dim=1)  # steps and damping are those of filters of norm 1
    scale = torch.where(scale > 0, scale, 1.0)
    size = filters.shape[-1]
    point = _fitted(filters / scale[:, None, None], centred)
    kernel, _ = linearised(point, size)
    amplitude = torch.hypot(point[:, A], point[:, B]) * scale
    parameters = canonical(from_frequency(point[:, :X]))
    return GaborFit(parameters, amplitude, point[:, X:], kernel * scale[:, None, None])


def explained(filters: Tensor, fitted: Tensor) -> Tensor:
    """1 - |w - fit|^2 / |w - mean|^2, with a mean of each channel: (F, C, K, K) twice to (F,).

    A constant earns nothing, and of a filter that is constant nothing can be explained: NaN.
    """
    spread = (filters - filters.mean((2, 3), keepdim=True)).square().sum((1, 2, 3))
    left = (filters - fitted).square().sum((1, 2, 3))
    constant = spread <= torch.finfo(filters.dtype).eps * filters.square().sum((1, 2, 3))
    return torch.where(constant, torch.nan, 1 - left / spread)


def linearised(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Gabor kernels of any amplitude and centre, and their derivatives.

    With the centre at 0 and a^2 + b^2 = 1 they are `gabor_kernel(from_frequency(points[..., :6]), size)`.

    Args:
        points: (..., 8).
        size: K.

    Returns:
        (..., K, K) and (..., K, K, 8).
    """
    u, v, a, b, log_sigma, log_gamma, right, below = points[..., None, None].unbind(-3)
    places = torch.arange(size, dtype=points.dtype, device=points.device) - (size - 1) / 2
    x, y = places - right, places[:, None] - below
    along, across = u * x + v * y, u * y - v * x  # times the length of (u, v)
    squared, narrow = u.square() + v.square(), (2 * log_gamma).exp()
    s = (-2 * log_sigma).exp() / squared
    exponent = -s / 2 * (along.square() + narrow * across.square())
    envelope, wave = exponent.exp(), 2 * math.pi * along
    kernel = envelope * (a * wave.cos() - b * wave.sin())
    turned = -2 * math.pi * envelope * (a * wave.sin() + b * wave.cos())  # the derivative in `along`
    derivatives = (
        turned * x - kernel * (s * (along * x + narrow * across * y) + 2 * u / squared * exponent),
        turned * y - kernel * (s * (along * y - narrow * across * x) + 2 * v / squared * exponent),
        envelope * wave.cos(),
        -envelope * wave.sin(),
        -2 * exponent * kernel,
        -s * narrow * across.square() * kernel,
        -turned * u + kernel * s * (along * u - narrow * across * v),
        -turned * v + kernel * s * (along * v + narrow * across * u),
    )
    return kernel, torch.stack(derivatives, -1)


def _fitted(filters: Tensor, centred: bool) -> Tensor:
    """The best point of each filter, over all starts: (F, K, K) -> (F, 8)."""
    starts = _starts(filters)
    count, each, _ = starts.shape
    points, errors = _descended(starts.flatten(0, 1), filters.repeat_interleave(each, 0), centred)
    best = errors.view(count, each).argmin(1)
    return points.view(count, each, -1)[torch.arange(count), best]


def _starts(filters: Tensor) -> Tensor:
    """Points at the largest local maxima of the spectra, (F, K, K) -> (F, starts, 8)."""
    size = filters.shape[-1]
    power = torch.fft.fft2(filters, s=(GRID, GRID)).abs()
    moves = [power.roll((down, right), (1, 2)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    highest, largest = torch.stack(moves).amax(0), power.amax((1, 2), keepdim=True)
    axis = torch.fft.fftfreq(GRID, dtype=filters.dtype)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.hypot(u, v)
    half = (u > 0) | ((u == 0) & (v > 0))  # the spectrum of real numbers is symmetric
    admitted = half & (radius < 0.5) & (radius >= 0.25 / size)
    rank = torch.where(admitted, power + largest * (power == highest), -1.0)  # local maxima come first
    top = rank.flatten(1).topk(PEAKS).indices
    points = filters.new_zeros(*top.shape, len(RATIOS), len(ASPECTS), 8)
    points[..., U], points[..., V] = (part.flatten()[top][..., None, None] for part in (u, v))
    widths = filters.new_tensor(RATIOS) / radius.flatten()[top][..., None]
    points[..., LOG_SIGMA] = widths.log()[..., None]
    points[..., LOG_GAMMA] = filters.new_tensor(ASPECTS).log()
    return _with_amplitudes(_inside(points.flatten(1, 3), size), filters)


def _with_amplitudes(points: Tensor, filters: Tensor) -> Tensor:
    """The same points with the best (a, b), in which kernels are linear: (F, starts, 8), (F, K, K)."""
    _, derivatives = linearised(points, filters.shape[-1])
    parts = derivatives[..., A : B + 1].flatten(2, 3)
    points[..., A : B + 1] = (torch.linalg.pinv(parts) @ filters.flatten(1)[:, None, :, None])[..., 0]
    return points


def _descended(points: Tensor, targets: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt from points (N, 8) towards targets (N, K, K): points and squared errors, (N,)."""
    size = targets.shape[-1]
    free = torch.ones_like(points, dtype=torch.bool)
    free[:, X:] = not centred
    damping = points.new_full(points.shape[:1], 1e-2)
    kernel, derivatives = linearised(points, size)
    for _ in range(STEPS):
        residual = (kernel - targets).flatten(1)
        step = damped_step(derivatives.flatten(1, 2), residual, damping, free)
        moved = _inside(points + step, size)
        there, there_derivatives = linearised(moved, size)
        better = (there - targets).square().sum((1, 2)) < residual.square().sum(1)
        points = torch.where(better[:, None], moved, points)
        kernel = torch.where(better[:, None, None], there, kernel)
        derivatives = torch.where(better[:, None, None, None], there_derivatives, derivatives)
        damping = (damping * torch.where(better, 0.2, 5.0)).clamp(1e-9, 1e9)
    return points, (kernel - targets).square().sum((1, 2))


def _inside(points: Tensor, size: int) -> Tensor:
    """Within the ranges: wavelengths from 2 to `LONGEST` sides, the centre in the filter."""
    found, reach = points.clone(), (size - 1) / 2
    length = torch.hypot(points[..., U], points[..., V])
    found[..., : V + 1] *= (length.clamp(1 / (LONGEST * size), 0.5) / length)[..., None]
    found[..., LOG_SIGMA].clamp_(math.log(NARROWEST), math.log(WIDEST * size))
    found[..., LOG_GAMMA].clamp_(*map(math.log, ASPECT))
    found[..., X:].clamp_(-reach, reach)
    return found
