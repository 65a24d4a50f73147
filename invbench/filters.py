"""Filter banks: random ones, their norms, and codes to signals, x = W^T z."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from invbench.errors import UserError
from invbench.operators import Rescale

Pair = tuple[int, int]


def random_filters(
    count: int,
    channels: int,
    kernel: Pair,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Gaussian filters of expected squared norm 1: entries of variance 1 / (M kh kw), (K, M, kh, kw).

    Args:
        count: K.
        channels: M.
        kernel: (kh, kw).
        generator: of the draw, on the CPU.
        dtype: of the result; the draw itself is always the same.

    References:
        Gilbert et al., IJCAI 2017, section 4.1 (the scale 1 / sqrt(l M)).
    """
    draws: Tensor = torch.randn(count, channels, *kernel, generator=generator, dtype=torch.float64)
    scaled: Tensor = draws / (channels * kernel[0] * kernel[1]) ** 0.5
    return scaled.to(dtype)


def random_like(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Random filters of the shape (K, M, kh, kw) of others, in float64 on the CPU; see `random_filters`."""
    count, channels, height, width = weight.shape
    return random_filters(count, channels, (height, width), generator)


def norms(weight: Tensor) -> Tensor:
    """The norm of every filter: (K, ...) -> (K,).

    Raises:
        UserError: the filters are not real numbers, or one of them has no norm above 0.
    """
    if not weight.is_floating_point():
        raise UserError(f"filters of {weight.dtype} have no sparse codes here: give real numbers.")
    found: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    wrong = ~(found.isfinite() & (found > 0))
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise UserError(
            f"filter {first} has norm {float(found[first]):g}: it cannot be scaled to 1; drop it."
        )
    return found


def unit_norm(weight: Tensor) -> Tensor:
    """Every filter divided by its norm: (K, ...) -> (K, ...); raises as `norms`."""
    return weight / norms(weight).reshape(-1, *[1] * (weight.dim() - 1))


def code_shape(weight: Tensor, shape: Pair, padding: Pair = (0, 0)) -> tuple[int, int, int]:
    """The shape (K, h, w) of W x for signals of shape (H, W); h = H + 2 ph - kh + 1.

    Raises:
        UserError: the filters are larger than the padded signal.
    """
    (count, _, *kernel), (height, width) = weight.shape, shape
    sides = height + 2 * padding[0] - kernel[0] + 1, width + 2 * padding[1] - kernel[1] + 1
    if min(sides) < 1:
        tile = f"{kernel[0]} x {kernel[1]}"
        raise UserError(f"filters of {tile} do not fit a signal of {height} x {width}: enlarge the signal.")
    return (count, *sides)


def synthesis(weight: Tensor, shape: Pair, padding: Pair = (0, 0), unit_rows: bool = False) -> nn.Sequential:
    """The module x = W^T z, where W is the convolution by some filters, stride 1.

    Args:
        weight: (K, M, kh, kw), the filters as a convolution has them.
        shape: (H, W) of x, which is (B, M, H, W); codes z have the `code_shape`.
        padding: zeros that W sees on both sides (vertical, horizontal).
        unit_rows: scale every row of W to norm 1, also those that reach into the padding and so are shorter.

    Raises:
        UserError: filters that `norms` refuses, larger than the padded signal, or rows in the padding alone.
    """
    norms(weight)
    code_shape(weight, shape, padding)
    count, channels, *kernel = weight.shape
    with torch.device("meta"):  # which keeps torch from drawing weights from the global random state
        transposed = nn.ConvTranspose2d(count, channels, (kernel[0], kernel[1]), padding=padding, bias=False)
    transposed.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if not unit_rows:
        return nn.Sequential(OrderedDict(synthesis=transposed))
    rescale = Rescale(row_norms(weight, shape, padding).reciprocal())
    return nn.Sequential(OrderedDict(rescale=rescale, synthesis=transposed))


def row_norms(weight: Tensor, shape: Pair, padding: Pair = (0, 0)) -> Tensor:
    """The norms of the rows of W, one for each filter and place: (K, h, w), or (K, 1, 1) without padding.

    Raises:
        UserError: a row lies in the padding alone, so that it has norm 0.
    """
    if not any(padding):
        return norms(weight)[:, None, None]
    inside = weight.new_ones(1, 1, *shape)
    squares = functional.conv2d(inside, weight.square().sum(1, keepdim=True), padding=padding)[0]
    if not bool((squares > 0).all()):
        raise UserError("some rows of W see nothing but padding: use a smaller padding.")
    return squares.sqrt()
