"""The five parameters of a Gabor kernel, and which of their values mean the same kernel.

The kernel is unchanged by: theta + 2 pi; psi + 2 pi; (theta + pi, -psi); (-lambda, -psi); -sigma; -gamma.
"""

import math

import torch
from torch import Tensor

#: Their order in the last dimension of a tensor (..., 5): pixels, radians, radians, pixels, a ratio.
PARAMETERS = ("lambda", "theta", "psi", "sigma", "gamma")
LAMBDA, THETA, PSI, SIGMA, GAMMA = range(5)

#: How far outside a range an angle may lie and still count as within.
_ROUNDING = 1e-6


def wrapped(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def canonical(parameters: Tensor) -> Tensor:
    """The representative with lambda, sigma, gamma > 0, theta in [0, pi) and psi in [-pi, pi).

    Two sets of parameters whose kernels agree by one of the symmetries above have the same one.

    Args:
        parameters: (..., 5).
    """
    wavelength, theta, psi, sigma, gamma = parameters.unbind(-1)
    psi = torch.where(wavelength < 0, -psi, psi)
    theta = torch.remainder(theta, 2 * math.pi)
    back = theta >= math.pi
    theta = torch.where(back, theta - math.pi, theta)
    psi = wrapped(torch.where(back, -psi, psi))
    return torch.stack([wavelength.abs(), theta, psi, sigma.abs(), gamma.abs()], -1)


def twin(parameters: Tensor) -> Tensor:
    """The same kernel seen from behind: (theta + pi, -psi)."""
    wavelength, theta, psi, sigma, gamma = parameters.unbind(-1)
    return torch.stack([wavelength, theta + math.pi, -psi, sigma, gamma], -1)


def representative(truth: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Of all parameters that mean the true kernel, and that the bounds admit, those nearest in theta to x.

    Where psi is known, its bounds leave no choice: theta + pi means the same kernel only if -psi = psi
    modulo 2 pi, which holds for 0 and pi alone. Angles differ from those of x by at most pi.

    Args:
        truth: true parameters, positive where the symmetries let them be, (..., 5).
        x: found ones, likewise.
        low: lowest values, likewise.
        high: highest values.
    """
    behind = twin(truth)
    admitted = _admits(low[..., PSI], high[..., PSI], behind[..., PSI])
    nearer = wrapped(behind - x)[..., THETA].abs() < wrapped(truth - x)[..., THETA].abs()
    found = torch.where((admitted & nearer)[..., None], behind, truth).clone()
    for angle in (THETA, PSI):
        found[..., angle] = x[..., angle] + wrapped(found[..., angle] - x[..., angle])
    return found


def _admits(low: Tensor, high: Tensor, angle: Tensor) -> Tensor:
    """Whether an angle, plus some multiple of 2 pi, lies between two bounds."""
    above = torch.remainder(angle - low + _ROUNDING, 2 * math.pi)
    return (above <= high - low + 2 * _ROUNDING) | low.isinf() | high.isinf()
