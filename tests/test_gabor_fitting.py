"""Gabor kernels fitted to filters: they are found again, and no nearer ones are known to scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import Tensor

from invbench.gabor import THETA, canonical, from_frequency, gabor_kernel, twin, wrapped
from invbench.gabor.fitting import A, B, X, explained, fit_gabor, linearised
from invbench.gabor.layer import drawn


def points(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.randn(count, 8, generator=generator, dtype=torch.float64)


def kernels(count: int, size: int) -> tuple[Tensor, Tensor]:
    parameters = drawn(count, size, torch.Generator().manual_seed(1))
    return parameters, gabor_kernel(parameters, size)


@pytest.mark.parametrize("size", [4, 5])
def test_in_the_middle_it_is_the_kernel(size: int) -> None:
    at = points()
    at[:, X:] = 0
    amplitude = torch.hypot(at[:, A], at[:, B])[:, None, None]
    expected = amplitude * gabor_kernel(from_frequency(at[:, :X]), size)
    torch.testing.assert_close(linearised(at, size)[0], expected)


def test_a_centre_moves_the_kernel_by_whole_pixels() -> None:
    at = points()
    at[:, X:] = 0
    moved = at.clone()
    moved[:, X:] = torch.tensor([2.0, -1.0])
    before, after = linearised(at, 9)[0], linearised(moved, 9)[0]
    torch.testing.assert_close(after[:, :-1, 2:], before[:, 1:, :-2])


def test_derivatives_are_those_of_autograd() -> None:
    at = points()
    _, found = linearised(at, 5)
    expected = torch.autograd.functional.jacobian(lambda one: linearised(one, 5)[0].sum(0), at)
    torch.testing.assert_close(found, expected.permute(2, 0, 1, 3))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "noise"), [(5, 0.0), (7, 0.0), (11, 0.0), (11, 0.1)])
def test_parameters_are_found_again(size: int, noise: float) -> None:
    """Without noise to rounding; with noise as well as a descent from the truth finds them."""
    truth, filters = kernels(24, size)
    generator = torch.Generator().manual_seed(2)
    unit = filters / filters.flatten(1).norm(dim=1)[:, None, None]
    noisy = 3 * (unit + noise / size * torch.randn(unit.shape, generator=generator, dtype=torch.float64))
    fit = fit_gabor(noisy, centred=True)
    assert (fit.centre == 0).all()
    if not noise:
        torch.testing.assert_close(fit.fitted, noisy, atol=1e-5, rtol=0)
        apart = gabor_kernel(fit.parameters, size) * fit.amplitude[:, None, None] - fit.fitted
        assert float(apart.abs().max()) < 1e-9
        return
    assert float(explained(noisy[:, None], fit.fitted[:, None]).min()) > 0.97
    sides = torch.stack([wrapped(side[:, THETA] - fit.parameters[:, THETA]) for side in (truth, twin(truth))])
    assert float(sides.abs().amin(0).rad2deg().median()) < 2


def test_off_centre_filters_are_found_where_they_are() -> None:
    at = torch.zeros(6, 8, dtype=torch.float64)
    at[:] = torch.tensor([0.15, 0.1, 1.0, 0.5, math.log(2.0), 0.0, 0.0, 0.0])
    at[:, X] = torch.linspace(-2, 2, 6)
    at[:, X + 1] = torch.linspace(1.5, -1, 6)
    filters, _ = linearised(at, 11)
    fit = fit_gabor(filters)
    torch.testing.assert_close(fit.fitted, filters, atol=1e-6, rtol=0)
    torch.testing.assert_close(fit.centre, at[:, X:], atol=1e-3, rtol=0)
    assert float(explained(filters[:, None], fit_gabor(filters, True).fitted[:, None]).min()) < 0.9


def test_scipy_finds_nothing_nearer() -> None:
    """From eight random starts each, on filters of noise and waves that no Gabor kernel is equal to."""
    generator = torch.Generator().manual_seed(4)
    filters = kernels(6, 7)[1] + 0.3 * torch.randn(6, 7, 7, generator=generator, dtype=torch.float64)
    fit = fit_gabor(filters)
    ours = (filters - fit.fitted).square().sum((1, 2))
    low = [-0.5, -0.5, -9, -9, math.log(0.5), math.log(0.2), -3, -3]
    high = [0.5, 0.5, 9, 9, math.log(14), math.log(5), 3, 3]
    rng = np.random.RandomState(0)
    for k, target in enumerate(filters):

        def residual(at: np.ndarray, target: Tensor = target) -> np.ndarray:
            return (linearised(torch.from_numpy(at), 7)[0] - target).flatten().numpy()

        def slope(at: np.ndarray) -> np.ndarray:
            return linearised(torch.from_numpy(at), 7)[1].flatten(0, 1).numpy()

        starts = [rng.uniform(low, high) * [0.8, 0.8, 0.1, 0.1, 0.5, 0.3, 0.3, 0.3] for _ in range(8)]
        theirs = min(
            2 * least_squares(residual, start, slope, bounds=(low, high), max_nfev=60).cost
            for start in starts
        )
        assert float(ours[k]) <= theirs * 1.02


def test_scale_does_not_matter_and_a_filter_of_zeros_has_no_fit() -> None:
    _, filters = kernels(3, 7)
    filters[2] = 0
    first, second = fit_gabor(filters), fit_gabor(1e-4 * filters)
    torch.testing.assert_close(second.fitted, 1e-4 * first.fitted, atol=1e-12, rtol=0)
    assert second.fitted[2].abs().max() == 0
    shares = explained(filters[:, None], first.fitted[:, None])
    assert shares[:2].min() > 0.999
    assert shares[2].isnan()


def test_what_is_explained_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    filters, fitted = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for k, found in enumerate(explained(filters, fitted)):
        left = sum(float((filters[k, c] - fitted[k, c]).square().sum()) for c in range(3))
        spread = sum(15 * float(filters[k, c].var()) for c in range(3))
        assert float(found) == pytest.approx(1 - left / spread)
    assert explained(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)).isnan().all(), "constants are no filters"


def test_cycles_are_counted_within_the_envelope_and_the_filter() -> None:
    narrow, wide = [4.0, 0.3, 0.2, 1.5, 1.0], [3.0, 0.3, 0.2, 8.0, 1.0]
    fit = fit_gabor(gabor_kernel(torch.tensor([narrow, wide], dtype=torch.float64), 9))
    assert fit.cycles.tolist() == pytest.approx([6.0 / 4, 9 / 3], rel=1e-3)
    torch.testing.assert_close(fit.parameters, canonical(fit.parameters))
