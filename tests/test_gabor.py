"""Gabor kernels, their symmetries, what they make of an image, and what that tells of their parameters."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invbench import gabor, metrics
from invbench.domains import Box
from invbench.errors import UserError
from invbench.gabor import Filtering, GaborFiltering, gabor_kernel
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.problem import Problem
from invbench.solver import Randomness
from invbench.trials.contract import Posed, Scene
from invbench.trials.gabor import Gabor
from tests.scenes import scene_of
from tests.toys import tiny_network

LAMBDA, THETA, PSI, SIGMA, GAMMA = range(5)
POSITIVE = [LAMBDA, SIGMA, GAMMA]


def texture(side: int = 40, count: int = 2) -> Tensor:
    """Random images with the falling spectrum of photographs."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)
    axis = torch.fft.fftfreq(side, dtype=torch.float64)
    radius = torch.hypot(axis[:, None], axis[None]).clamp(min=1 / side)
    images: Tensor = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    return ((images - images.amin()) / (images.amax() - images.amin())).float()


def scene(side: int = 40, seed: int = 0) -> Scene:
    return scene_of(tiny_network(torch.float32), texture(side), seed)


def posed(**changes: Any) -> Posed:
    return Gabor(**{"wavelength": (2.5, 3.0), "draws": 8, **changes}).pose(scene())


def drawn(count: int = 50, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in ((2, -4, -4, 1, 0.4), (6, 4, 4, 4, 1.2)))
    return low + (high - low) * torch.rand(count, 1, 5, generator=generator, dtype=torch.float64)


def test_the_kernel_is_its_formula() -> None:
    for wavelength, theta, psi, sigma, ratio in drawn(5)[:, 0].tolist():
        expected = np.zeros((7, 7))
        for i in range(7):
            for j in range(7):
                x, y = j - 3, i - 3
                along = x * math.cos(theta) + y * math.sin(theta)
                across = -x * math.sin(theta) + y * math.cos(theta)
                envelope = math.exp(-(along**2 + ratio**2 * across**2) / (2 * sigma**2))
                expected[i, j] = envelope * math.cos(2 * math.pi * along / wavelength + psi)
        found = gabor_kernel(torch.tensor([wavelength, theta, psi, sigma, ratio], dtype=torch.float64), 7)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


def test_the_kernel_is_that_of_scikit_image_but_for_its_scale() -> None:
    from skimage.filters import gabor_kernel as reference

    for parameters in drawn(10)[:, 0]:
        wavelength, theta, psi, sigma, ratio = parameters.tolist()
        expected = reference(
            1 / wavelength, theta, sigma_x=sigma, sigma_y=sigma / ratio, offset=psi, n_stds=5
        ).real
        scale = 2 * math.pi * sigma * sigma / ratio
        size = min(expected.shape)
        crop = tuple(slice((side - size) // 2, (side + size) // 2) for side in expected.shape)
        found = gabor_kernel(parameters, size).numpy()
        np.testing.assert_allclose(found, scale * expected[crop], atol=1e-12)


SYMMETRIES = {
    "a turn": lambda p: (p[0], p[1] + 2 * math.pi, p[2], p[3], p[4]),
    "a turn of the phase": lambda p: (p[0], p[1], p[2] - 2 * math.pi, p[3], p[4]),
    "from behind": lambda p: (p[0], p[1] + math.pi, -p[2], p[3], p[4]),
    "lambda": lambda p: (-p[0], p[1], -p[2], p[3], p[4]),
    "sigma": lambda p: (p[0], p[1], p[2], -p[3], p[4]),
    "gamma": lambda p: (p[0], p[1], p[2], p[3], -p[4]),
}


@pytest.mark.parametrize("name", SYMMETRIES)
def test_a_symmetry_changes_neither_kernel_nor_representative(name: str) -> None:
    parameters = drawn()
    other = torch.stack(SYMMETRIES[name](parameters.unbind(-1)), -1)
    assert (gabor_kernel(other, 15) - gabor_kernel(parameters, 15)).abs().max() < 1e-12
    one, two = gabor.canonical(parameters), gabor.canonical(other)
    assert (gabor_kernel(one, 15) - gabor_kernel(parameters, 15)).abs().max() < 1e-12
    assert (one - two).abs().max() < 1e-12
    assert ((one[..., THETA] >= 0) & (one[..., THETA] < math.pi)).all()
    assert (one[..., POSITIVE] > 0).all()


def test_the_opposite_amplitude_is_half_a_turn_of_the_phase() -> None:
    parameters = drawn()
    other = parameters.clone()
    other[..., PSI] += math.pi
    assert (gabor_kernel(other, 15) + gabor_kernel(parameters, 15)).abs().max() < 1e-12


def test_theta_has_period_pi_for_even_kernels_alone() -> None:
    even = drawn()
    even[..., PSI] = 0
    even[10:, :, PSI] = math.pi
    behind = even.clone()
    behind[..., THETA] += math.pi
    assert (gabor_kernel(behind, 15) - gabor_kernel(even, 15)).abs().max() < 1e-12
    odd = even.clone()
    odd[..., PSI] = 1.0
    behind[..., PSI] = 1.0
    assert (gabor_kernel(behind, 15) - gabor_kernel(odd, 15)).abs().amax((1, 2, 3)).min() > 0.1


def test_filtering_is_a_convolution_as_layers_compute_it_and_has_its_adjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(12, 15, generator=generator, dtype=torch.float64)
    kernels = torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64)
    filtering = Filtering(image, 5, 2)
    found = filtering.linear(kernels)
    expected = functional.conv2d(image[None, None], kernels.reshape(-1, 1, 5, 5))[0].view_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert tuple(found.shape[1:]) == filtering.out_shape
    assert tuple(kernels.shape[1:]) == filtering.in_shape
    z = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((found * z).sum(), (kernels * filtering.adjoint(z)).sum())


def test_the_price_is_that_of_the_convolution() -> None:
    module = GaborFiltering(torch.rand(12, 15), 5, 2)
    network = parse(module, module.input_shape)
    assert network.multiply_adds == 2 * 8 * 11 * 25
    assert network.output_shape == (2, 8, 11)
    other = GaborFiltering(module.image, 7, 2)
    assert parse(other, other.input_shape).digest != network.digest


def test_gradients_and_derivatives_agree_with_finite_differences() -> None:
    problem, start = posed(filters=2).problem, posed(filters=2).start
    _, gradient = problem.value_and_gradient(start)
    which = list(range(5))
    output, derivatives = problem.linearised(start, gabor.directions(problem, which))
    torch.testing.assert_close(output, problem.network(start))
    for n, direction in enumerate(gabor.directions(problem, which)):
        step = 1e-5 * direction
        ahead, behind = problem.network(start + step), problem.network(start - step)
        torch.testing.assert_close(derivatives[n], (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-6)
        slope = (problem.objective(start + step) - problem.objective(start - step)) / 2e-5
        torch.testing.assert_close((gradient * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-7)


def test_the_smooth_parametrisation_goes_there_and_back() -> None:
    parameters = drawn()
    point = gabor.to_frequency(parameters)
    there = gabor.canonical(gabor.from_frequency(point))
    assert (there - gabor.canonical(parameters)).abs().max() < 1e-12
    u, v, a, b, *shape = gabor.to_frequency(gabor.twin(parameters)).unbind(-1)
    behind = torch.stack([-u, -v, a, -b, *shape], -1)
    assert (behind - point).abs().max() < 1e-12


def test_points_outside_the_bounds_are_brought_back_modulo_the_symmetries() -> None:
    both = posed(), posed(parameters="theta")
    for one in both:
        problem, truth = one.problem, one.truth
        assert truth is not None
        moved = gabor.twin(truth)
        moved[..., [THETA, PSI]] += 4 * math.pi
        found = gabor.within(problem, moved)
        assert problem.domain.contains(found).all()
        kernels = (gabor_kernel(p, 15) for p in (found, truth))
        assert (next(kernels) - next(kernels)).abs().max() < 1e-9


def scored(name: str, x: Tensor, one: Posed) -> Tensor:
    return metrics.find()[name](x, one.truth, one.problem)


def test_metrics_are_zero_at_every_representative_of_the_truth() -> None:
    one = posed(filters=2)
    assert one.truth is not None
    for x in (one.truth, gabor.twin(one.truth), one.truth + 2 * math.pi * torch.eye(5)[THETA].double()):
        for name in set(Gabor.metrics) - {"found"}:
            assert scored(name, x, one).abs().max() < 1e-10
        assert scored("found", x, one).eq(1).all()


def test_metrics_are_errors_of_the_worst_filter() -> None:
    one = posed(filters=2)
    assert one.truth is not None
    x = one.truth.clone()
    x[:, 0] += torch.tensor([0, math.radians(3), math.radians(-7), 0, 0])
    x[:, 1] *= torch.tensor([1.1, 1, 1, 0.8, 1.3])
    x[:, 1, THETA] += math.radians(1)
    for name, expected in {
        "angular_error": 3,
        "phase_error": 7,
        "wavelength_error": 0.1,
        "sigma_error": 0.2,
        "gamma_error": 0.3,
    }.items():
        torch.testing.assert_close(scored(name, x, one), torch.full((8,), float(expected)).double())
    assert scored("found", x, one).eq(0).all()
    assert scored("found", one.truth + x.new_tensor([0, math.radians(0.9), 0, 0, 0]), one).eq(1).all()
    side = one.problem.network.module.size
    kernels = [gabor_kernel(p, int(side)).flatten(2) for p in (x, one.truth)]
    errors = (kernels[0] - kernels[1]).norm(dim=2) / kernels[1].norm(dim=2)
    torch.testing.assert_close(scored("kernel_error", x, one), errors.amax(1))


@pytest.mark.parametrize(("psi", "error"), [(0.0, 0.0), (math.pi, 0.0), (1.0, 180.0)])
def test_half_a_turn_is_no_error_only_where_it_means_the_same_kernel(psi: float, error: float) -> None:
    one = posed(parameters="theta", truth={"psi": psi})
    assert one.truth is not None
    x = one.truth.clone()
    x[..., THETA] += math.pi
    torch.testing.assert_close(scored("angular_error", x, one), torch.full((8,), error).double())
    free = posed(truth={"psi": psi})
    assert scored("angular_error", x, free).max() < 1e-6  # the phase is to blame


def test_the_target_is_the_filtered_image_and_the_known_parameters_are_fixed() -> None:
    one = posed(parameters="theta", image=1)
    assert one.truth is not None
    image = texture()[1].double().mean(0)
    kernels = gabor_kernel(one.truth, 19)
    expected = functional.conv2d(image[None, None], kernels)[0][:, None]
    torch.testing.assert_close(one.problem.target, expected)
    assert one.problem.objective(one.truth).max() == 0
    assert one.problem.domain.contains(one.start).all()
    assert gabor.sought(one.problem) == [THETA]
    known = [LAMBDA, PSI, SIGMA, GAMMA]
    assert torch.equal(one.start[..., known], one.truth[..., known])
    assert one.names[3] == "1 3"


def test_truths_and_starts_are_drawn_from_the_ranges_and_do_not_depend_on_the_others() -> None:
    many, few = posed(draws=500, ratio=(0.5, 0.9)), posed(draws=3, ratio=(0.5, 0.9))
    for all_, some in ((many.truth, few.truth), (many.start, few.start)):
        assert all_ is not None
        assert some is not None
        assert torch.equal(all_[:3], some)
        ratio = all_[..., SIGMA] / all_[..., LAMBDA]
        spans = {LAMBDA: (2.5, 3.0), THETA: (-math.pi, math.pi), PSI: (-math.pi, math.pi), GAMMA: (0.5, 1)}
        for values, (low, high) in [
            (ratio, (0.5, 0.9)),
            *((all_[..., key], span) for key, span in spans.items()),
        ]:
            assert low <= values.min() < low + 0.03 * (high - low)
            assert high - 0.03 * (high - low) < values.max() <= high


def test_the_noise_has_its_level_beside_the_variance_of_the_clean_output() -> None:
    clean, noisy = posed(filters=2), posed(filters=2, noise_db=20.0)
    noise = noisy.problem.target - clean.problem.target
    ratio = clean.problem.target.var((2, 3)) / noise.square().mean((2, 3))
    assert (10 * ratio.log10() - 20).abs().max() < 1.5
    assert abs(float(10 * ratio.mean().log10()) - 20) < 0.3


def test_a_given_truth_and_start_are_taken() -> None:
    one = posed(parameters="theta", truth={"theta": math.pi / 4, "psi": 0}, start={"theta": -math.pi / 4})
    assert one.truth is not None
    assert (one.truth[..., THETA] == math.pi / 4).all()
    assert (one.start[..., THETA] == -math.pi / 4).all()
    assert (one.start[..., PSI] == 0).all()


def test_minus_a_quarter_of_pi_is_special_in_kernel_space() -> None:
    """Swapping x and y maps theta to pi/2 - theta, which fixes the truth and the start: the slope is 0."""
    truth = torch.tensor([4.0, math.pi / 4, 0, 2.5, 0.7], dtype=torch.float64)
    start = truth.clone()
    start[THETA] = -math.pi / 4
    start.requires_grad_()
    error = (gabor_kernel(start, 21) - gabor_kernel(truth, 21)).square().sum()
    (slope,) = torch.autograd.grad(error, start)
    assert slope[THETA].abs() < 1e-12
    turned = [start.detach() + torch.tensor([0, d, 0, 0, 0]) for d in (-0.1, 0.1)]
    assert all((gabor_kernel(p, 21) - gabor_kernel(truth, 21)).square().sum() < error for p in turned)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernel": 41}, "does not fit"),
        ({"image": 2}, "there is no image 2"),
        ({"start": {"lambda": 9.0}}, "the start has lambda = 9 outside its range, 2.5 to 3"),
        ({"truth": {"theta": 7.0}}, "the truth has theta = 7 outside its range"),
    ],
)
def test_bad_input_is_told_in_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        posed(**changes)
    assert "\n" not in str(caught.value)


def test_a_constant_image_is_told() -> None:
    flat = scene_of(tiny_network(torch.float32), torch.full((1, 3, 40, 40), 0.3))
    with pytest.raises(UserError, match="image 0 is constant"):
        Gabor(wavelength=(2.5, 3.0)).pose(flat)


def test_wavelengths_below_two_pixels_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"wavelengths from 1\.8 px on alias"):
        posed(wavelength=(1.8, 2.5))


def test_narrow_envelopes_are_told_to_be_unidentifiable_by_the_jacobian() -> None:
    with pytest.warns(UserWarning, match="8 of 8 truths cannot be identified well"):
        narrow = posed(ratio=(0.05, 0.1), kernel=15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = posed()
    assert narrow.truth is not None
    assert wide.truth is not None
    least = [gabor.sensitivity(one.problem, one.truth)[..., -1] for one in (narrow, wide)]
    assert least[0].max() < 1e-2 < least[1].min()


def test_sensitivities_are_singular_values_of_the_scaled_jacobian() -> None:
    one = posed(filters=2, draws=2)
    assert one.truth is not None
    found = gabor.sensitivity(one.problem, one.truth)
    for b in range(2):
        for f in range(2):
            module = GaborFiltering(one.problem.network.module.image, 19)  # type: ignore[arg-type]
            parameters = one.truth[b, f]
            jacobian = torch.autograd.functional.jacobian(
                lambda p, m=module: m(p[None, None]).flatten(), parameters
            )
            scale = torch.where(torch.tensor([True, False, False, True, True]), parameters, 1.0)
            expected = torch.linalg.svdvals(jacobian * scale / module(parameters[None, None]).norm())
            torch.testing.assert_close(found[b, f], expected)
    assert one.problem.meter.multiply_adds.sum() == 0


def test_noise_moves_parameters_as_far_as_the_singular_values_say() -> None:
    """Of the least-squares estimate to first order: the largest deviation is e / (s sqrt(n))."""
    one = posed(draws=1)
    assert one.truth is not None
    problem, truth = one.problem, one.truth
    _, derivatives = problem.linearised(truth, gabor.directions(problem, list(range(5))))
    scale = torch.where(torch.tensor([True, False, False, True, True]), truth[0, 0], 1.0)
    jacobian = derivatives.flatten(1).T * scale
    count, norm = jacobian.shape[0], problem.target.norm()
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * norm / count**0.5 * torch.randn(4000, count, generator=generator, dtype=torch.float64)
    moved = torch.linalg.lstsq(jacobian, noise.T).solution.T
    largest = torch.linalg.eigvalsh(moved.T @ moved / 4000)[-1].sqrt()
    predicted = 0.1 / (gabor.sensitivity(problem, truth)[0, 0, -1] * count**0.5)
    assert float(largest / predicted) == pytest.approx(1, abs=0.05)


def test_uniform_draws_are_uniform_and_per_instance() -> None:
    like = torch.zeros((), dtype=torch.float64)
    many = Randomness(0, range(40), like).uniform((50,))
    assert torch.equal(many[3:5], Randomness(0, range(3, 5), like).uniform((50,)))
    assert 0 <= many.min() < 0.01 < 0.99 < many.max() < 1
    assert float(many.mean()) == pytest.approx(0.5, abs=0.02)


def test_without_a_box_all_parameters_are_sought() -> None:
    from invbench.domains import Reals

    problem = replace(posed().problem, domain=Reals())
    assert gabor.sought(problem) == list(range(5))


def test_a_linearised_problem_counts_a_pass_for_every_direction() -> None:
    network = tiny_network()
    x = torch.rand(3, *network.input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = Problem(network, network(x), SquaredError(), Box(0.0, 1.0), (), Meter(3))
    directions = torch.randn(
        4, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    output, derivatives = problem.linearised(x, directions)
    torch.testing.assert_close(output, network(x))
    for direction, found in zip(directions, derivatives, strict=True):
        step = 1e-6 * direction
        torch.testing.assert_close(
            found, (network(x + step) - network(x - step)) / 2e-6, rtol=1e-5, atol=1e-7
        )
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("applications").tolist() == [5, 5, 5]
    assert problem.output(x).equal(network(x))
    assert problem.meter.total("applications").tolist() == [6, 6, 6]
