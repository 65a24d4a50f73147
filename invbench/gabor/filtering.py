"""What kernels make of one image: as a linear map of the kernel, and as a network of Gabor parameters."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invbench.gabor.kernel import gabor_kernel
from invbench.gabor.parameters import PARAMETERS
from invbench.operators.maps import Map


@dataclass(frozen=True, eq=False)
class Filtering(Map):
    """Kernel -> filtered image, k -> k * image: (B, F, K, K) -> (B, F, H - K + 1, W - K + 1).

        (k * image)(i, j) = sum_{p, q} k(p, q) image(i + p, j + q)

    This is what layers of networks call a convolution: kernels are not mirrored, and outputs exist where
    the kernel lies inside the image, so that no border is made up. It is computed by FFT, and priced as the
    convolution that it is.

    Args:
        image: (H, W).
        size: K, at most H and W.
        count: F, kernels of an instance.
    """

    image: Tensor
    size: int
    count: int = 1

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(F, K, K)."""
        return self.count, self.size, self.size

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(F, H - K + 1, W - K + 1)."""
        height, width = self.image.shape
        return self.count, height - self.size + 1, width - self.size + 1

    @property
    def multiply_adds(self) -> int:
        """K^2 for every output."""
        count, height, width = self.out_shape
        return count * height * width * self.size**2

    def linear(self, x: Tensor) -> Tensor:
        """Filter the image: (B, F, K, K) -> (B, F, H - K + 1, W - K + 1)."""
        return filtered(self.image, x)

    def adjoint(self, z: Tensor) -> Tensor:
        """Filter the image by outputs: (B, F, H - K + 1, W - K + 1) -> (B, F, K, K)."""
        return filtered(self.image, z)


def filtered(image: Tensor, kernels: Tensor) -> Tensor:
    """The image filtered by kernels, (H, W) and (..., h, w) -> (..., H - h + 1, W - w + 1).

    A circular correlation by FFT, which is not circular where the kernel lies inside the image.
    """
    sides = image.shape[0], image.shape[1]
    spectrum = torch.fft.rfft2(image) * torch.fft.rfft2(kernels, s=sides).conj()
    height, width = (whole - part + 1 for whole, part in zip(sides, kernels.shape[-2:], strict=True))
    found: Tensor = torch.fft.irfft2(spectrum, s=sides)[..., :height, :width]
    return found


class GaborFiltering(nn.Module):
    """Gabor parameters -> one image filtered by their kernels: (B, F, 5) -> (B, F, H - K + 1, W - K + 1).

    Args:
        image: (H, W).
        size: K, the side of the kernels.
        count: F, the filters of an instance.
    """

    image: Tensor

    def __init__(self, image: Tensor, size: int, count: int = 1) -> None:
        super().__init__()
        self.register_buffer("image", image)
        self.size = size
        self.count = count

    def forward(self, parameters: Tensor) -> Tensor:
        """See the class."""
        return filtered(self.image, gabor_kernel(parameters, self.size))

    def extra_repr(self) -> str:
        """What the digest of a network sees of the class beside its tensors."""
        return f"size={self.size}, count={self.count}"

    @property
    def filtering(self) -> Filtering:
        """The linear part, from kernels to filtered images."""
        return Filtering(self.image, self.size, self.count)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(F, 5)."""
        return self.count, len(PARAMETERS)

    @property
    def multiply_adds(self) -> int:
        """Price of one pass, the convolutions."""
        return self.filtering.multiply_adds
