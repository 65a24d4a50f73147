"""What is measured of a reconstruction or an attack, per image, on the device: (x, truth, problem) -> (B,).

The harness projects x onto the domain before it calls a metric. Image metrics score on the one range
[0, 1], to which they clip x, so that no method is stretched or clipped in a way of its own.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from invbench import gabor
from invbench.problem import Problem

Function = Callable[[Tensor, Tensor, Problem], Tensor]

#: Gaussian window of the SSIM: sigma 1.5, cut off at 3.5 sigma, as scikit-image has it.
SIGMA, RADIUS = 1.5, 5
#: Stabilisers of the SSIM for a range of 1.
C1, C2 = 0.01**2, 0.03**2


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: its column in the table.
        summary: one line.
        better: which way is better.
        needs_truth: whether it is defined only where a trial has a ground truth.
        function: (x, truth, problem) -> (B,).
    """

    name: str
    summary: str
    better: Literal["lower", "higher"]
    needs_truth: bool
    function: Function

    def __call__(self, x: Tensor, truth: Tensor | None, problem: Problem) -> Tensor:
        """The metric of every instance, (B,)."""
        assert truth is not None or not self.needs_truth
        return self.function(x, x if truth is None else truth, problem)


_found: dict[str, Metric] = {}


def find() -> dict[str, Metric]:
    """All metrics by name."""
    return dict(_found)


def _metric(better: Literal["lower", "higher"], needs_truth: bool = True) -> Callable[[Function], Function]:
    def collect(function: Function) -> Function:
        name = function.__name__
        summary = (function.__doc__ or "").partition("\n")[0]
        _found[name] = Metric(name, summary, better, needs_truth, function)
        return function

    return collect


@_metric("lower")
def mse(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Mean squared error, on [0, 1]."""
    return (x.clamp(0, 1) - truth).square().flatten(1).mean(1)


@_metric("higher")
def psnr(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
    """Peak signal-to-noise ratio in dB, -10 log10 MSE; infinite for a perfect reconstruction."""
    return -10 * mse(x, truth, problem).log10()


@_metric("higher")
def ssim(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Structural similarity, at most 1: Gaussian window of sigma 1.5, population covariance, data range 1.

        mean over channels and pixels of
        (2 mu_x mu_t + C1) (2 s_xt + C2) / ((mu_x^2 + mu_t^2 + C1) (s_x^2 + s_t^2 + C2))

    It is scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1)`, which averages over the pixels whose window of 11 x 11 lies
    inside the image. NaN for images smaller than the window.

    References:
        Wang, Bovik, Sheikh & Simoncelli, IEEE TIP 2004, eq. 13.
    """
    if min(x.shape[-2:]) <= 2 * RADIUS:
        return torch.full_like(x[:, 0, 0, 0], torch.nan)
    x = x.clamp(0, 1)
    # Variances are differences of large numbers in float32: take them around the mean of both images.
    centre = ((x + truth) / 2).mean((2, 3), keepdim=True)
    a, b = x - centre, truth - centre
    with _full_precision():
        mean_a, mean_b, aa, bb, ab = _blur(torch.stack([a, b, a * a, b * b, a * b])).unbind()
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    mu_x, mu_t = mean_a + centre, mean_b + centre
    luminance = (2 * mu_x * mu_t + C1) / (mu_x**2 + mu_t**2 + C1)
    structure = (2 * cov + C2) / (var_a + var_b + C2)
    return (luminance * structure).flatten(1).mean(1)


def _blur(images: Tensor) -> Tensor:
    """Gaussian mean over every full window: (..., H, W) -> (..., H - 10, W - 10)."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=images.device, dtype=torch.float64)
    window = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    window = (window / window.sum()).to(images.dtype)
    *rest, height, width = images.shape
    flat = images.reshape(-1, 1, height, width)
    flat = functional.conv2d(functional.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return flat.view(*rest, *flat.shape[-2:])


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions without TF32, which would show in the third digit."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@_metric("lower")
def relative_l2(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Relative error |x - truth| / |truth|, unclipped."""
    return _norm(x - truth) / _norm(truth)


@_metric("lower", needs_truth=False)
def feature_error(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Relative squared error of the features, |f(x) - y|^2 / |y|^2."""
    residual = problem.network(x) - problem.target
    return residual.flatten(1).square().sum(1) / problem.target.flatten(1).square().sum(1)


@_metric("lower")
def checkerboard(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
    """Energy of the error x - truth at the frequencies of the stride, over that of white noise as strong.

    With s the number of pixels from one position of the feature map to the next, these are the frequencies
    (i / s, j / s) cycles a pixel, but for (0, 0): what repeats itself every s pixels, as the overlaps of a
    transposed convolution do. With e the error without the mean of each channel, and m its means over the s^2
    classes of pixels that are a multiple of s apart,

        mean m^2 / mean e^2 * H W / (s^2 - 1),

    about 1 for noise, H W / (s^2 - 1) for a pure checkerboard. NaN where features are no map, as fine as the
    image, or do not tile it.

    References:
        Odena, Dumoulin & Olah, Deconvolution and checkerboard artifacts, Distill 2016, for the effect.
    """
    side, stride = x.shape[-1], _stride(problem)
    if stride is None:
        return torch.full_like(x[:, 0, 0, 0], torch.nan)
    error = x.clamp(0, 1) - truth
    error = error - error.mean((2, 3), keepdim=True)
    classes = error.unfold(2, stride, stride).unfold(3, stride, stride).mean((2, 3))
    pixels = x.shape[-2] * side / (stride**2 - 1)
    whole = error.square().flatten(1).mean(1)
    return pixels * classes.square().flatten(1).mean(1) / whole


def _stride(problem: Problem) -> int | None:
    """Pixels from one position of the feature map to the next, where that is a whole number above 1."""
    images, features = problem.network.input_shape, problem.network.output_shape
    if len(features) != 3 or len(images) != 3:
        return None
    strides = {a / b for a, b in zip(images[1:], features[1:], strict=True)}
    (stride, *others) = strides
    return int(stride) if not others and stride > 1 and stride.is_integer() else None


@_metric("higher")
def diversity(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """How far x is from the other pre-images of the same image: mean root mean square distance, on [0, 1].

    The others are the instances with the same truth. NaN where there is none; those that have diverged to
    NaN count as none. It tells invariance from failure only among results of equal feature error.
    """
    others = (_distances(truth) == 0).fill_diagonal_(False)
    mean: Tensor = _distances(x.clamp(0, 1)).masked_fill(~others, torch.nan).nanmean(1)
    return mean / math.sqrt(x[0].numel())


@_metric("higher", needs_truth=False)
def activation(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Response <f(x), y> in the direction y; trials scale it so that a natural image has at most 1."""
    return (problem.network(x) * problem.target).flatten(1).sum(1)


@_metric("higher", needs_truth=False)
def success(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """1 where the network takes x for the wanted class, else 0; the mean is the success rate."""
    target = problem.target
    wanted = target.argmax(1) if target.is_floating_point() else target  # a direction points at its class
    return (problem.network(x).argmax(1) == wanted).to(x.dtype)


@_metric("lower")
def distortion_l2(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Distance |x - original| that an attack needed."""
    return _norm(x - truth)


@_metric("lower")
def distortion_linf(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Largest change of an element that an attack needed, max |x - original|."""
    return (x - truth).flatten(1).abs().amax(1)


@_metric("higher")
def support_recovery(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Share of the non-zeros of the true code that are among as many entries of x, the largest ones."""
    found, active = x.flatten(1).abs(), truth.flatten(1) != 0
    count = active.sum(1, keepdim=True)
    ranked = found.sort(1, descending=True).values
    least = ranked.gather(1, (count - 1).clamp(min=0))
    hits = active & (found >= least) & (found > 0)
    return hits.sum(1).to(x.dtype) / count.squeeze(1)


@_metric("lower")
def angular_error(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
    """Distance in degrees of the angle of a Gabor filter from the true one, modulo its symmetries.

    Theta + pi counts as theta where psi is sought, too, or is 0 or pi (see `gabor.representative`). As in all
    metrics of Gabor filters, of several filters the worst one counts.
    """
    return _differences(x, truth, problem)[..., gabor.THETA].abs().amax(1).rad2deg()


@_metric("higher")
def found(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
    """1 where the angle of a Gabor filter is found within a degree, else 0; the mean is the success rate."""
    return (angular_error(x, truth, problem) <= 1).to(x.dtype)


@_metric("lower")
def phase_error(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
    """Distance in degrees of the phase psi of a Gabor filter from the true one, modulo its symmetries."""
    return _differences(x, truth, problem)[..., gabor.PSI].abs().amax(1).rad2deg()


@_metric("lower")
def wavelength_error(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Relative error of the wavelength lambda of a Gabor filter."""
    return _relative(x, truth, gabor.LAMBDA)


@_metric("lower")
def sigma_error(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Relative error of the width sigma of a Gabor filter."""
    return _relative(x, truth, gabor.SIGMA)


@_metric("lower")
def gamma_error(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:  # noqa: ARG001
    """Relative error of the aspect gamma of a Gabor filter."""
    return _relative(x, truth, gabor.GAMMA)


@_metric("lower")
def kernel_error(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
    """Relative distance |g(x) - g(truth)| / |g(truth)| of a Gabor kernel from the true one."""
    module = problem.network.module
    assert isinstance(module, gabor.GaborFiltering)
    found, true = (gabor.gabor_kernel(parameters, module.size).flatten(2) for parameters in (x, truth))
    error: Tensor = (found - true).norm(dim=2) / true.norm(dim=2)
    return error.amax(1)


def _differences(x: Tensor, truth: Tensor, problem: Problem) -> Tensor:
    """Gabor parameters less the true ones, modulo the symmetries, (B, F, 5)."""
    return x - gabor.representative(truth, x, *gabor.bounds(problem))


def _relative(x: Tensor, truth: Tensor, which: int) -> Tensor:
    """Relative error of a Gabor parameter that is positive, that of the worst filter, (B,)."""
    return (x[..., which] / truth[..., which] - 1).abs().amax(1)


def _distances(x: Tensor) -> Tensor:
    """|x_i - x_j| of all pairs of instances, (B, ...) -> (B, B), accurate for those that nearly agree."""
    rows, exact = x.flatten(1), "donot_use_mm_for_euclid_dist"
    distances: Tensor = torch.cdist(rows, rows, compute_mode=exact)
    return distances


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norm
