"""The energy of the patches of a map, and its gradient, in one sweep over the responses of filters."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from invbench.priors.potentials import Potential
from invbench.priors.prior import ALL, Grid

#: Responses that are held at a time: few enough for a cache, enough to keep a graphics card busy.
HELD = {"cpu": 2**19, "cuda": 2**27}


@dataclass(frozen=True, eq=False)
class PatchEnergy:
    """The mean over patch positions of weighted potentials of filter responses.

        E(x) = 1/P sum_p sum_k a_k rho(w_k . x_p + b_k)

    x_p are the P patches of x that lie wholly inside: one valid convolution. With G groups the channels and
    the filters are split into G parts that see nothing of each other, and their energies are summed.

    On a grid of stride s, the sum over its positions is scaled by s^2 / P, with P still the number of all
    positions. Every position belongs to one of the s^2 offsets, so that the expectation over uniform offsets
    is E(x) exactly, also where offsets have different numbers of positions.

    Attributes:
        filters: w, `(G K, C / G, p, p)`.
        bias: b, `(G K,)`.
        weights: a >= 0, `(G, K)`.
        potential: rho.
    """

    filters: Tensor
    bias: Tensor
    weights: Tensor
    potential: Potential

    @property
    def groups(self) -> int:
        """G."""
        return len(self.weights)

    @property
    def channels(self) -> int:
        """C."""
        return self.filters.shape[1] * self.groups

    @property
    def patch(self) -> int:
        """Side p of a patch."""
        return self.filters.shape[-1]

    def positions(self, shape: tuple[int, ...]) -> int:
        """Number P of the positions of patches in a map of shape (..., H, W), if they fit."""
        return (shape[-2] - self.patch + 1) * (shape[-1] - self.patch + 1)

    def __call__(self, x: Tensor, grid: Grid = ALL) -> Tensor:
        """E(x), `(B, C, H, W) -> (B,)`; once differentiable in x."""
        if torch.is_grad_enabled() and x.requires_grad:
            energy: Tensor = _Energy.apply(x, self, grid)
            return energy
        return self.evaluate(x, grid)[0]

    def evaluate(self, x: Tensor, grid: Grid = ALL, sloping: bool = False) -> tuple[Tensor, Tensor | None]:
        """E(x), `(B,)`, and where `sloping` its gradient, `(B, C, H, W)`.

        The responses are never held all at once: some instances are taken at a time, and their responses are
        turned into values and slopes where they lie. The adjoint is a product with the filters and a sum of
        overlapping patches; on CPUs that is two to three times as fast as a transposed convolution to few
        channels.
        """
        x = x.detach()
        cut = x[..., grid.down :, grid.right :]
        energy = x.new_zeros(len(x))
        gradient = torch.zeros_like(x) if sloping else None
        if min(cut.shape[-2:]) < self.patch:
            return energy, gradient
        scale = grid.stride**2 / self.positions(x.shape)
        some = self._at_a_time(cut, grid)
        for start in range(0, len(x), some):
            part = slice(start, start + some)
            s = functional.conv2d(cut[part], self.filters, self.bias, grid.stride, groups=self.groups)
            value, slope = self.potential.consume(s)
            energy[part] = scale * (self.weights.reshape(-1) @ value.flatten(2)).sum(1)
            if gradient is not None:
                back = self._adjoint(slope, grid.stride)
                height, width = back.shape[-2:]
                below, right = grid.down + height, grid.right + width
                gradient[part, :, grid.down : below, grid.right : right] = back.mul_(scale)
        return energy, gradient

    def curvature(self, shape: tuple[int, ...]) -> float:
        """An upper bound on the largest eigenvalue of the Hessian of E, at any x of shape (C, H, W).

        As rho'' <= 1, the Hessian is at most 1/P sum_k a_k W_k^T W_k with W_k the valid convolution, whose
        outputs are some of those of the circular convolution. The latter has the spectrum of the C x C blocks
        sum_k a_k conj(w_k(f)) w_k(f)^T, f the frequencies of the torus.
        """
        filters = torch.tensor_split(self.filters.double(), self.groups)
        bounds = [
            _spectrum(some, weights, shape[-2:]).amax()
            for some, weights in zip(filters, self.weights.double(), strict=True)
        ]
        return float(torch.stack(bounds).max()) / self.positions(shape)

    @cached_property
    def _pullback(self) -> Tensor:
        """Weighted filters as the columns of the adjoint, `(G, n, K)` with n = C / G p^2."""
        weighted = self.filters.flatten(1) * self.weights.reshape(-1, 1)
        return weighted.reshape(*self.weights.shape, -1).mT.contiguous()

    def _adjoint(self, slope: Tensor, stride: int) -> Tensor:
        """sum_k a_k W_k^T slope_k, `(b, G K, h, w) -> (b, C, H, W)` up to the last row and column read."""
        height, width = ((side - 1) * stride + self.patch for side in slope.shape[-2:])
        patches = self._pullback @ slope.reshape(len(slope), *self.weights.shape, -1)
        folded: Tensor = functional.fold(patches.flatten(1, 2), (height, width), self.patch, stride=stride)
        return folded

    def _at_a_time(self, cut: Tensor, grid: Grid) -> int:
        """Instances whose responses are held at a time."""
        responses = self.weights.numel() * self.positions(cut.shape) // grid.stride**2
        return max(1, HELD.get(cut.device.type, HELD["cuda"]) // max(1, responses))


class _Energy(torch.autograd.Function):
    """E(x), with its gradient computed on the way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, energy: PatchEnergy, grid: Grid) -> Tensor:
        value, gradient = energy.evaluate(x, grid, sloping=True)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return scale.reshape(-1, 1, 1, 1) * gradient, None, None


def _spectrum(filters: Tensor, weights: Tensor, size: tuple[int, ...]) -> Tensor:
    """Eigenvalues of sum_k a_k W_k^T W_k on the torus of this size, filters `(K, C, p, p)`: `(H, W', C)`."""
    blocks: Tensor | float = 0.0
    for some, share in zip(torch.split(filters, 64), torch.split(weights, 64), strict=True):
        spectra = torch.fft.rfft2(some, s=size)
        blocks = blocks + torch.einsum("k,kchw,kdhw->hwcd", share.to(spectra), spectra.conj(), spectra)
    eigenvalues: Tensor = torch.linalg.eigvalsh(blocks)
    return eigenvalues
