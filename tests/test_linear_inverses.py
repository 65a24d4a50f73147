"""Linear inverses against dense solves, definitions and explicit least squares."""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invbench.linear_inverses import (
    Layout,
    best_convolution,
    expected_error,
    matrix_of,
    optimal_inverse,
    regularised_inverse,
    shrunk,
    stationary,
)
from invbench.operators import Convolution
from invbench.operators.toeplitz import closest_toeplitz, toeplitz_distance


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance_of(size: int) -> Tensor:
    root = normal(size, size, seed=7)
    return root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


def test_the_matrix_of_a_map() -> None:
    layer = Convolution(normal(4, 2, 3, 3), normal(4), (2, 9, 5), (2, 1), (1, 0))
    matrix, x = matrix_of(layer.linear, layer.in_shape), normal(3, *layer.in_shape)
    assert matrix.shape == (math.prod(layer.out_shape), 90), "more than a chunk of columns"
    torch.testing.assert_close((x.flatten(1) @ matrix.T).view(3, *layer.out_shape), layer.linear(x))
    torch.testing.assert_close(matrix_of(layer.adjoint, layer.out_shape), matrix.T)


@pytest.mark.parametrize("rows", [4, 7, 11])
def test_both_forms_of_the_optimal_inverse_against_dense_solves(rows: int) -> None:
    W, covariance, noise = normal(rows, 7), covariance_of(7), 0.3
    found = optimal_inverse(W, covariance, noise)
    first = covariance @ W.T @ torch.linalg.inv(W @ covariance @ W.T + noise**2 * torch.eye(rows))
    second = torch.linalg.inv(noise**2 * torch.linalg.inv(covariance) + W.T @ W) @ W.T
    torch.testing.assert_close(found, first)
    torch.testing.assert_close(found, second)
    torch.testing.assert_close(regularised_inverse(W.T @ W, covariance, noise) @ W.T, first)


def test_the_expected_error_is_that_of_many_samples_and_least_for_the_optimal_inverse() -> None:
    W, covariance, noise, count = normal(5, 6), covariance_of(6), 0.4, 200_000
    best = optimal_inverse(W, covariance, noise)
    least = expected_error(best, W, covariance, noise)
    assert least == pytest.approx(float((covariance - best @ W @ covariance).trace()), rel=1e-12)
    x = normal(count, 6, seed=1) @ torch.linalg.cholesky(covariance).T
    y = x @ W.T + noise * normal(count, 5, seed=2)
    other = best + 0.1 * normal(6, 5, seed=3)
    for inverse in (best, other):
        mean = float((y @ inverse.T - x).square().sum(1).mean())
        assert expected_error(inverse, W, covariance, noise) == pytest.approx(mean, rel=0.01)
    fitted = torch.linalg.lstsq(y, x).solution.T
    torch.testing.assert_close(fitted, best, atol=0.01, rtol=0)
    for seed, scale in product(range(5), (1e-3, -1e-3)):
        assert expected_error(best + scale * normal(6, 5, seed=seed), W, covariance, noise) > least


def test_shrinkage_keeps_the_trace() -> None:
    singular = torch.diag(torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(shrunk(singular, 0.3).diagonal(), torch.tensor([2.4, 0.3, 0.3]).double())
    assert singular[1, 1] == 0, "not in place"


def test_a_stationary_covariance_is_the_mean_over_all_shifts() -> None:
    shape, covariance = (2, 3, 4), covariance_of(24)
    shifted = [
        covariance.view(*shape, *shape).roll((r, c, r, c), (1, 2, 4, 5)).reshape(24, 24)
        for r in range(3)
        for c in range(4)
    ]
    found = stationary(covariance, shape)
    torch.testing.assert_close(found, torch.stack(shifted).mean(0))
    assert torch.linalg.eigvalsh(found).min() > 0
    torch.testing.assert_close(stationary(covariance, (24,)), covariance)


# -- convolutions --------------------------------------------------------------------------------------------

#: (stride, padding, height, width, kernel of the layer, kernel of the inverse, circular)
GEOMETRIES = [
    (1, 1, 5, 6, 3, 3, False),
    (1, 1, 4, 5, 3, 3, True),
    (2, 1, 6, 6, 3, 3, False),
    (2, 1, 8, 6, 3, 3, True),
    (2, 1, 7, 6, 3, 3, False),  # blocks stand over
    (2, 0, 7, 8, 2, 1, False),
    (1, 0, 6, 6, 3, 5, False),  # y is smaller than x
    (3, 2, 7, 8, 5, 3, False),
    (2, 1, 8, 8, 3, 4, True),  # a kernel as large as the torus
]


def forward(layer: Convolution, circular: bool, x: Tensor) -> Tensor:
    if not circular:
        return layer.linear(x)
    pad = layer.padding[0]
    padded = functional.pad(x, (pad, pad, pad, pad), mode="circular")
    return functional.conv2d(padded, layer.weight, stride=layer.stride)


def layout_and_layer(geometry: tuple[int, int, int, int, int, int, bool]) -> tuple[Layout, Convolution]:
    stride, padding, height, width, size, kernel, circular = geometry
    layer = Convolution(normal(3, 2, size, size), None, (2, height, width), (stride,) * 2, (padding,) * 2)
    return Layout.behind(layer, kernel, circular), layer


def entries(layout: Layout, channels: int, maps: int) -> Iterator[Tensor]:
    """The matrix of the convolution with one entry 1 and all others 0, entry after entry, by loops."""
    (height, width), (below, right) = layout.image, layout.maps
    (down, across), k = layout.stride, layout.kernel
    for c, pr, pc, m, i, j in product(*map(range, (channels, down, across, maps, k, k))):
        matrix = torch.zeros(channels, height, width, maps, below, right, dtype=torch.float64)
        for row, column in product(range(pr, height, down), range(pc, width, across)):
            r, s = layout.first[0] + row // down + i, layout.first[1] + column // across + j
            if layout.circular:
                r, s = r % below, s % right
            if 0 <= r < below and 0 <= s < right:
                matrix[c, row, column, m, r, s] = 1
        yield matrix.flatten(3).flatten(0, 2)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_layout_applies_the_kernel_it_says(geometry: tuple[int, int, int, int, int, int, bool]) -> None:
    layout, layer = layout_and_layer(geometry)
    blocks = layout.stride[0] * layout.stride[1]
    kernel, y = normal(2 * blocks, 3, layout.kernel, layout.kernel), normal(2, *layer.out_shape)
    values = zip(kernel.flatten().tolist(), entries(layout, 2, 3), strict=True)
    matrix = torch.stack([value * entry for value, entry in values]).sum(0)
    expected = (y.flatten(1) @ matrix.T).view(2, *layer.in_shape)
    torch.testing.assert_close(layout.apply(kernel, y), expected)
    windows = torch.einsum("od,bdrc->borc", kernel.flatten(1), layout.windows(y))
    torch.testing.assert_close(layout.join(windows), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_best_convolution_against_least_squares(
    geometry: tuple[int, int, int, int, int, int, bool],
) -> None:
    """The error for a covariance and that from noise, as one long vector over the entries."""
    layout, layer = layout_and_layer(geometry)
    size, noise = math.prod(layer.in_shape), 0.2
    W = matrix_of(lambda x: forward(layer, layout.circular, x), layer.in_shape)
    covariance = covariance_of(size)
    root = torch.linalg.cholesky(covariance)
    basis = list(entries(layout, 2, 3))
    design = torch.stack([torch.cat([(e @ W @ root).flatten(), noise * e.flatten()]) for e in basis], 1)
    wanted = torch.cat([root.flatten(), torch.zeros(size * len(W), dtype=torch.float64)])
    solution = np.linalg.lstsq(design.numpy(), wanted.numpy(), rcond=None)[0]
    x = root.T.view(-1, *layer.in_shape)
    pairs = [(part, forward(layer, layout.circular, part)) for part in x.split(17)]
    kernel = best_convolution(pairs, layout, noise, count=1)
    torch.testing.assert_close(kernel.flatten(), torch.from_numpy(solution), atol=1e-9, rtol=1e-7)
    convolution = matrix_of(lambda y: layout.apply(kernel, y), layer.out_shape)
    residual = float((design @ kernel.flatten() - wanted).square().sum())
    assert expected_error(convolution, W, covariance, noise) == pytest.approx(residual, rel=1e-9)


def test_samples_with_drawn_noise_give_the_kernel_of_expected_noise() -> None:
    layout, layer = layout_and_layer(GEOMETRIES[2])
    x = normal(20, *layer.in_shape)
    y = layer.linear(x)
    expected = best_convolution([(x, y)], layout, 0.5)
    torch.testing.assert_close(best_convolution([(x, y), (x, y)], layout, 0.5), expected)
    draws = [(x, y + 0.5 * normal(*y.shape, seed=seed)) for seed in range(1, 400)]
    drawn = best_convolution(draws, layout, 1e-6)
    torch.testing.assert_close(drawn, expected, atol=0.006, rtol=0)
    assert (best_convolution([(x, y)], layout, 1e-6) - expected).abs().max() > 0.02


def test_a_block_lies_in_the_middle_of_the_kernel() -> None:
    def first(size: int, stride: int, padding: int, dilation: int = 1) -> int:
        weight, dilated = normal(1, 1, size, size), (dilation, dilation)
        layer = Convolution(weight, None, (1, 12, 12), (stride, stride), (padding, padding), dilated)
        return Layout.behind(layer, 3).first[0]

    assert first(3, 1, 1) == first(5, 1, 2) == -1, "a pixel is under the middle of the filter at its place"
    assert (first(3, 1, 0), first(5, 1, 0), first(5, 1, 4)) == (-2, -3, 1)
    assert first(2, 2, 0) == first(3, 2, 1) == first(5, 2, 2) == -1
    assert (first(3, 1, 0, dilation=2), first(5, 2, 0)) == (-3, -2)


def test_entries_that_read_nothing_are_zero() -> None:
    layer = Convolution(normal(2, 1, 3, 3), None, (1, 3, 3), padding=(1, 1))
    layout, x = Layout.behind(layer, 9), normal(30, 1, 3, 3)
    kernel = best_convolution([(x, layer.linear(x))], layout, 0.1)
    assert kernel[..., :2, :].abs().max() == 0 < kernel[..., 2:7, 2:7].abs().min()


# -- Toeplitz ------------------------------------------------------------------------------------------------


def test_the_closest_toeplitz_matrix_by_hand() -> None:
    line = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 12]], dtype=torch.float64)
    plain = torch.tensor([[6.0, 4, 3], [6, 6, 4], [7, 6, 6]], dtype=torch.float64)
    torch.testing.assert_close(closest_toeplitz(line, (1, 3)), plain)
    torch.testing.assert_close(closest_toeplitz(line, (3, 1)), plain)
    wrapped = torch.tensor([[6.0, 5, 5], [5, 6, 5], [5, 5, 6]], dtype=torch.float64)
    torch.testing.assert_close(closest_toeplitz(line, (1, 3), circular=True), wrapped)
    middle = closest_toeplitz(line, (1, 3), rows=torch.tensor([False, True, False]))
    expected = torch.tensor([[5.0, 6, 0], [4, 5, 6], [0, 4, 5]], dtype=torch.float64)
    torch.testing.assert_close(middle, expected)
    stacked = torch.stack([line, line.T])[:, None]
    torch.testing.assert_close(closest_toeplitz(stacked, (1, 3))[1, 0], plain.T)
    distance = float((line - wrapped).norm() / line.norm())
    assert toeplitz_distance(line, 1, 3, circular=True) == pytest.approx(distance)


def test_convolutions_are_toeplitz_and_circulant_where_they_wrap() -> None:
    layer = Convolution(normal(3, 2, 3, 3), None, (2, 4, 5), padding=(1, 1))
    for circular in (False, True):
        matrix = matrix_of(lambda x: forward(layer, circular, x), layer.in_shape)  # noqa: B023
        blocks = matrix.view(3, 20, 2, 20).transpose(1, 2)
        assert toeplitz_distance(blocks, 4, 5) < 1e-15
        assert (toeplitz_distance(blocks, 4, 5, circular=True) < 1e-15) == circular
