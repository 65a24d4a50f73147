"""A convolution whose filters are Gabor kernels."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from invbench.gabor.kernel import gabor_kernel

#: What parameters are drawn from: the shortest wavelength, sigma / lambda, gamma.
SHORTEST, RATIOS, ASPECTS = 2.5, (0.25, 0.6), (0.5, 1.0)


class GaborConv2d(nn.Conv2d):
    """A convolution whose filter k is one Gabor kernel of unit norm in a colour of its own.

        w_kc(x, y) = a_kc g(x, y; p_k) / |g(.; p_k)|

    Five trained parameters a filter, p = (lambda, theta, psi, sigma, gamma), make its shape; a, one trained
    weight a channel, is its amplitude and mixes the channels. What is trained is any real number r:

        lambda = 2 + exp r_1,   theta = r_2,   psi = r_3,   sigma = exp r_4,   gamma = exp r_5,

    so that widths are positive and waves stay below half a cycle a pixel. The kernel is periodic in both
    angles, which therefore need no range. To everything else the layer is a convolution with the weight that
    `weight` computes, (out_channels, in_channels, K, K).

    Args:
        in_channels: C.
        out_channels: filters.
        kernel_size: K, of a side.
        stride: as that of torch's convolution.
        padding: likewise; "same" keeps the size of maps.
        bias: whether every filter has a bias.

    References:
        The question asked in public of which source 4 is a copy; unit norm and colours are ours.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = "same",
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        del self._parameters["weight"]  # the property takes its place
        self.raw = nn.Parameter(_raw(drawn(out_channels, kernel_size).to(torch.get_default_dtype())))
        self.mixing = nn.Parameter(torch.randn(out_channels, in_channels) * (2 / in_channels) ** 0.5)

    @property
    def gabor(self) -> Tensor:
        """The parameters of every filter in the order of `PARAMETERS`, (out_channels, 5)."""
        wavelength, theta, psi, sigma, gamma = self.raw.unbind(1)
        return torch.stack([2 + wavelength.exp(), theta, psi, sigma.exp(), gamma.exp()], 1)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # which torch declares as something to be set
        """The filters, (out_channels, in_channels, K, K), differentiable in what is trained."""
        return coloured(gabor_kernel(self.gabor, self.kernel_size[0]), self.mixing)


def coloured(kernels: Tensor, mixing: Tensor) -> Tensor:
    """Kernels scaled to norm 1, in colours: (F, K, K), (F, C) -> (F, C, K, K); what is 0 stays 0."""
    unit = functional.normalize(kernels.flatten(1), dim=1).view_as(kernels)
    return mixing[:, :, None, None] * unit[:, None]


def drawn(count: int, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Random parameters of kernels of size x size pixels, (count, 5), in float64 on the CPU.

    The logarithm of lambda is uniform up to the size, sigma / lambda and gamma are uniform in `RATIOS` and
    `ASPECTS`, angles in a turn: each kernel holds a full cycle of its wave within two sigma of its centre.
    """
    u = torch.rand(5, count, generator=generator, dtype=torch.float64)
    longest = max(float(size), SHORTEST)
    wavelength = SHORTEST * (longest / SHORTEST) ** u[0]
    ratio, gamma = (low + (high - low) * part for (low, high), part in ((RATIOS, u[1]), (ASPECTS, u[2])))
    theta, psi = math.pi * u[3], math.pi * (2 * u[4] - 1)
    return torch.stack([wavelength, theta, psi, ratio * wavelength, gamma], 1)


def _raw(parameters: Tensor) -> Tensor:
    """The real numbers that `GaborConv2d` makes these parameters of."""
    wavelength, theta, psi, sigma, gamma = parameters.unbind(1)
    return torch.stack([(wavelength - 2).log(), theta, psi, sigma.log(), gamma.log()], 1)
