"""The Gabor kernel."""

import math

import torch
from torch import Tensor


def gabor_kernel(parameters: Tensor, size: int) -> Tensor:
    """The real Gabor kernel on a square grid of pixels around its centre, differentiable in the parameters.

        g(x, y) = exp(-(x'^2 + gamma^2 y'^2) / (2 sigma^2)) cos(2 pi x' / lambda + psi)
        x' = x cos theta + y sin theta,    y' = -x sin theta + y cos theta

    x counts columns to the right, y rows downwards. The amplitude is 1.

    Args:
        parameters: (..., 5), in the order of `PARAMETERS`.
        size: K, pixels of a side.

    Returns:
        (..., K, K).

    References:
        Daugman, J. Opt. Soc. Am. A 1985. scikit-image's `gabor_kernel` is this one at the frequency
        1 / lambda, with sigma_x = sigma, sigma_y = sigma / gamma, divided by 2 pi sigma_x sigma_y.
    """
    wavelength, theta, psi, sigma, gamma = parameters[..., None, None].unbind(-3)
    places = torch.arange(size, dtype=parameters.dtype, device=parameters.device) - (size - 1) / 2
    x, y = places, places[:, None]
    cos, sin = theta.cos(), theta.sin()
    along, across = x * cos + y * sin, y * cos - x * sin
    envelope = (-(along.square() + (gamma * across).square()) / (2 * sigma.square())).exp()
    return envelope * (2 * math.pi / wavelength * along + psi).cos()
