"""The gram matrix of a convolution with circular boundaries, inverted frequency by frequency."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from invbench.operators.canvas import Canvas, kernel_size
from invbench.operators.convolutions import Convolution
from invbench.operators.factorisation import BlockInverse, invert
from invbench.operators.transforms import Transform, transform


@dataclass(frozen=True, eq=False)
class CircularInverse:
    """(alpha I + beta W^T W)^-1 on the canvas, W the convolution with circular boundaries.

    W is block-diagonal over frequencies and groups, its (K / groups) x D blocks, D = C s^2 / groups, are the
    conjugate spectrum of the kernel's polyphase channels.

    References:
        Wong & Kolter 2017, "Neural network inversion beyond gradient descent", who solve the gram systems
        with the FFT. Ours takes strides (by polyphase channels), groups and dilation, too.
    """

    transform: Transform
    blocks: BlockInverse
    groups: int

    @classmethod
    def of(cls, affine: Convolution, canvas: Canvas, alpha: float, beta: float) -> "CircularInverse":
        """Factorise the gram matrix of a convolution in double precision, to be applied in its own.

        Args:
            affine: the convolution.
            canvas: its canvas, or the same one `bare`.
            alpha: weight of the identity.
            beta: weight of the gram matrix.
        """
        blocks = invert(_spectrum(affine, canvas), alpha, beta, affine.weight.dtype.to_complex())
        return cls(transform(canvas, affine.weight), blocks, affine.groups)

    @property
    def multiply_adds(self) -> int:
        """The blocks and the transforms."""
        return self.blocks.multiply_adds + self.transform.multiply_adds

    def __call__(self, r: Tensor) -> Tensor:
        """Apply it, between embedding and cropping: (B, C, H, W) -> (B, C, H, W).

        At pixels which no window reads the inverse is r / alpha.
        """
        spectra = self.transform.forward(r)
        # every frequency and group multiplies a contiguous batch of rows: (N N'/2, groups, B, D)
        rows = spectra.reshape(len(r), self.groups, -1, spectra.shape[-1]).permute(3, 1, 0, 2).contiguous()
        columns = self.blocks(rows).permute(2, 1, 3, 0).contiguous().view(spectra.shape)
        return self.transform.canvas.fill(self.transform.backward(columns), r, 1 / self.blocks.alpha)


@torch.no_grad()
def _spectrum(affine: Convolution, canvas: Canvas) -> Tensor:
    """The circular convolution at every frequency of the half grid, (N N'/2, groups, K / groups, D)."""
    weight = affine.weight.double()
    kernel = weight.new_zeros(*weight.shape[:2], *kernel_size(affine))
    kernel[..., :: affine.dilation[0], :: affine.dilation[1]] = weight
    down, across = (-side % step for side, step in zip(kernel.shape[2:], affine.stride, strict=True))
    kernel = functional.pad(kernel, (0, across, 0, down))
    rows, columns = (side // step for side, step in zip(kernel.shape[2:], affine.stride, strict=True))
    phases = replace(canvas, grid=(rows, columns)).split(kernel)
    spectrum: Tensor = torch.fft.rfft2(phases, s=canvas.grid).conj()  # a correlation
    outputs = weight.shape[0] // affine.groups
    size = weight.shape[1] * affine.stride[0] * affine.stride[1]
    return spectrum.reshape(affine.groups, outputs, size, -1).permute(3, 0, 1, 2)
