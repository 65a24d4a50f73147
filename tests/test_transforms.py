"""The two ways to transform an image are the same map, and each is undone by its inverse."""

import pytest
import torch

from invbench.operators import Convolution, gram_solver, transforms
from invbench.operators.canvas import Canvas
from invbench.operators.transforms import DIRECT_PIXELS, FastTransform, MatrixTransform, transform


def convolution(side=(6, 5), kernel=(3, 3), stride=(1, 1), padding=(1, 1)):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 2, *kernel, generator=generator, dtype=torch.float64)
    return Convolution(weight, None, (2, *side), stride, padding)


GEOMETRIES = [
    {},
    {"kernel": (2, 3), "padding": (0, 2)},
    {"kernel": (4, 3), "stride": (2, 2)},
    {"side": (9, 7), "kernel": (1, 2), "stride": (3, 2), "padding": (0, 0)},  # leaves pixels unread
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_matrices_do_what_the_ffts_do(geometry):
    affine = convolution(**geometry)
    canvas = Canvas.of(affine)
    fast, direct = FastTransform(canvas), MatrixTransform.of(canvas, affine.weight)
    x = torch.randn(3, *affine.in_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spectra = fast.forward(x)
    torch.testing.assert_close(direct.forward(x), spectra, rtol=1e-12, atol=1e-12)
    bent = spectra * (1 + spectra.abs())  # of no image in the canvas
    torch.testing.assert_close(direct.backward(bent), fast.backward(bent), rtol=1e-12, atol=1e-12)
    read = canvas.crop(canvas.embed(x))
    for way in (fast, direct):
        torch.testing.assert_close(way.backward(way.forward(x)), read, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_solvers_do_not_depend_on_the_way(boundary, monkeypatch):
    affine = convolution()
    small = gram_solver(affine, 0.7, 1.9, boundary=boundary)
    monkeypatch.setattr(transforms, "DIRECT_PIXELS", 0)
    large = gram_solver(affine, 0.7, 1.9, boundary=boundary)
    assert isinstance(small.inverse.transform, MatrixTransform)
    assert isinstance(large.inverse.transform, FastTransform)
    r = torch.randn(3, *small.canvas_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(small(r), large(r), rtol=1e-12, atol=1e-12)


def test_precision_and_choice():
    canvas = Canvas.of(convolution())
    made = transform(canvas, torch.empty(0, dtype=torch.float32))
    assert isinstance(made, MatrixTransform) and made.analysis.dtype == torch.float32
    assert made.forward(torch.rand(1, 2, 6, 5)).dtype == torch.complex64
    side = int(DIRECT_PIXELS**0.5) + 1
    assert isinstance(transform(Canvas.of(convolution(side=(side, side))), made.analysis), FastTransform)


def test_prices():
    """Half the spectrum of 6 x 5 pixels in a frame of one: 8 x 4 frequencies, two parts, two matrices."""
    canvas = Canvas.of(convolution())
    assert MatrixTransform.of(canvas, torch.empty(0)).multiply_adds == 2 * 2 * (6 * 5) * (2 * 8 * 4)
    assert FastTransform(canvas).multiply_adds == 2 * 5 * 56 * 6 // 2
