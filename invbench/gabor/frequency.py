"""The smooth parametrisation of a Gabor kernel: a frequency vector in place of wavelength and angle."""

import torch
from torch import Tensor


def to_frequency(parameters: Tensor) -> Tensor:
    """Parameters (..., 5) -> (u, v, a, b, log sigma, log gamma), (..., 6).

    (u, v) = (cos theta, sin theta) / lambda is the frequency in cycles a pixel, (a, b) = (cos psi, sin psi).
    Nothing wraps around here, and (theta + pi, -psi) is the point (-u, -v, a, -b).
    """
    wavelength, theta, psi, sigma, gamma = parameters.unbind(-1)
    frequency = theta.cos() / wavelength, theta.sin() / wavelength
    return torch.stack([*frequency, psi.cos(), psi.sin(), sigma.log(), gamma.log()], -1)


def from_frequency(point: Tensor) -> Tensor:
    """The way back, (..., 6) -> (..., 5); the length of (a, b), an amplitude, is dropped."""
    u, v, a, b, log_sigma, log_gamma = point.unbind(-1)
    angles = torch.atan2(v, u), torch.atan2(b, a)
    return torch.stack([torch.hypot(u, v).reciprocal(), *angles, log_sigma.exp(), log_gamma.exp()], -1)
