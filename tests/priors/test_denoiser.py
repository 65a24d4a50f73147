"""The denoiser prior: its definition, its gradient, Wiener's error, photographs, and what it refuses."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from invbench.errors import UserError
from invbench.images import open_images
from invbench.priors import Lesson, find, standardise
from invbench.priors.denoiser import Denoiser

SMALL = Denoiser(sigma=0.7, width=4, depth=3, crop=8, steps=30, batch=8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coloured(count: int, seed: int = 0, side: int = 10) -> Tensor:
    """White Gaussian maps of two channels with their own means and deviations."""
    deviation, mean = torch.tensor([2.0, 0.5]).view(2, 1, 1), torch.tensor([3.0, -1.0]).view(2, 1, 1)
    return normal(count, 2, side, side, seed=seed) * deviation + mean


@cache
def small() -> Denoiser:
    """A network of two channels in float64, far enough from its start to be any function."""
    return SMALL.fit(Lesson(coloured(40), coloured(10, seed=1)))


def learned(prior: Denoiser) -> dict[str, Tensor]:
    assert prior.learned is not None
    return dict(prior.learned)


def defined(prior: Denoiser, x: Tensor) -> tuple[Tensor, Tensor]:
    """D(x) and the energy of one map, by NumPy's mirror and PyTorch's modules."""
    tensors = learned(prior)
    mean, scale = (tensors[name].view(-1, 1, 1) for name in ("mean", "scale"))
    layers: list[nn.Module] = []
    for layer in range(prior.depth):
        weight, bias = tensors[f"weight{layer}"], tensors[f"bias{layer}"]
        convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, dtype=torch.float64)
        convolution.load_state_dict({"weight": weight, "bias": bias})
        layers += [convolution, nn.SiLU()]
    reach = (prior.depth, prior.depth)
    mirrored = torch.from_numpy(np.pad(((x - mean) / scale).numpy(), ((0, 0), reach, reach), "symmetric"))
    with torch.no_grad():
        cleaned = x - scale * nn.Sequential(*layers[:-1])(mirrored[None])[0]
    return cleaned, 0.5 * ((x - cleaned) / (prior.sigma * scale)).square().sum()


def test_it_is_its_definition() -> None:
    x = coloured(3, seed=2, side=7)[:, :, :5]
    cleaned, energies = zip(*(defined(small(), one) for one in x), strict=True)
    torch.testing.assert_close(small().denoise(x), torch.stack(cleaned))
    torch.testing.assert_close(small()(x), torch.stack(energies))
    assert (small()(x) > 0.1).all(), "a network that does nothing would pass, too"


def test_its_gradient_goes_through_the_denoiser() -> None:
    x = coloured(2, seed=2, side=4).requires_grad_()
    assert torch.autograd.gradcheck(small(), x)
    assert torch.autograd.gradgradcheck(small(), x)
    (gradient,) = torch.autograd.grad(small()(x).sum(), x)
    jacobian: Any = torch.autograd.functional.jacobian(small().denoise, x[:1])  # type: ignore[no-untyped-call]
    removed = (x - small().denoise(x))[0] / (small().sigma * learned(small())["scale"][0]).square()
    size = removed.numel()
    expected = removed.flatten() - jacobian.view(size, size).T @ removed.flatten()
    torch.testing.assert_close(gradient[0].flatten(), expected)
    assert not torch.allclose(gradient[0], removed, rtol=0.1), "the step without Jacobian is another one"


def test_a_batch_equals_its_members_and_a_stage_may_be_standardised() -> None:
    x = coloured(4, seed=2)
    for function in (small(), small().denoise, standardise(small(), x)):
        torch.testing.assert_close(function(x), torch.cat([function(one[None]) for one in x]))
    assert standardise(small(), x)(x).mean().item() == pytest.approx(0.09)


def test_the_border_adds_nothing() -> None:
    """D commutes with mirroring, and leaves no trace of the border on a map of one colour."""
    x = coloured(2, seed=2, side=6)
    mirrored = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (6, 6), (6, 6)), "symmetric"))
    torch.testing.assert_close(small().denoise(mirrored)[..., 6:12, 6:12], small().denoise(x))
    flat = small().denoise(torch.ones_like(x))
    torch.testing.assert_close(flat, flat[..., :1, :1].expand_as(flat))


def test_units_do_not_matter() -> None:
    def energy(unit: float, offset: float) -> Tensor:
        train, validation, x = (unit * coloured(9, seed) + offset for seed in range(3))
        return SMALL.fit(Lesson(train, validation))(x)

    torch.testing.assert_close(energy(1000.0, -4e3), energy(1.0, 0.0), rtol=1e-6, atol=0)


def test_a_channel_that_hardly_varies_does_no_harm() -> None:
    train, validation = coloured(9), coloured(9, seed=1)
    train[:, 1] = validation[:, 1] = -1.0
    prior = SMALL.fit(Lesson(train, validation))
    scale = learned(prior)["scale"].flatten()
    assert scale[1].item() == pytest.approx(0.01 * scale[0].item() / 2**0.5)
    assert prior(validation).isfinite().all()


def test_white_maps_are_drawn_to_their_means_as_wiener_says() -> None:
    """Single noise level: D(y) = mean + (y - mean) / (1 + sigma^2) leaves the share 1 / (1 + sigma^2)."""
    prior = Denoiser(sigma=0.7, least=1.0, width=8, depth=2, crop=10, steps=300, batch=16, lr=1e-2)
    prior = prior.fit(Lesson(coloured(200).float(), coloured(20, seed=1).float())).to(coloured(1))
    x, scale = coloured(200, seed=2), torch.tensor([2.0, 0.5]).view(2, 1, 1)
    noise = 0.7 * scale * normal(*x.shape, seed=3)
    left = ((prior.denoise(x + noise) - x) / noise.std((0, 2, 3), keepdim=True)).square().mean((0, 2, 3))
    torch.testing.assert_close(left, torch.full_like(left, 1 / 1.49), rtol=0.02, atol=0)
    for channel, mean in enumerate((3.0, -1.0)):
        y = (x + noise)[:, channel].flatten() - mean
        slope = ((prior.denoise(x + noise)[:, channel].flatten() - mean) @ y / (y @ y)).item()
        assert slope == pytest.approx(1 / 1.49, rel=0.02)


def test_an_unknown_level_costs_something_but_not_more_than_the_best_linear_map() -> None:
    """Levels t ~ U(0, 1): E[t^2 / (1 + t^2)] = 1 - pi/4 if t were known, m / (1 + m), m = 1/3, if ignored."""
    prior = Denoiser(sigma=1.0, width=8, depth=2, crop=10, steps=300, batch=16, lr=1e-2)
    told: list[str] = []
    lesson = Lesson(coloured(400).float(), coloured(200, 1).float(), 0, lambda *news: told.append(news[2]))
    prior.fit(lesson)
    share = min(float(text.rsplit(maxsplit=1)[1]) for text in told)
    assert 0.98 * 3 * (1 - torch.pi / 4) < share < 1.02 * 3 / 4


def test_smooth_fields_are_filtered_as_wiener_does() -> None:
    """Circular fields of spectrum S and white noise: the best map leaves the mean of S / (S + sigma^2)."""
    side, sigma = 24, 0.8
    kernel = torch.zeros(side, side, dtype=torch.float64)
    kernel[:3, :3] = 1 / 3
    transfer = torch.fft.fft2(kernel)
    spectrum = transfer.abs().square()

    def fields(count: int, seed: int) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(normal(count, 1, side, side, seed=seed)) * transfer).real

    prior = Denoiser(sigma=sigma, least=1.0, width=8, depth=4, crop=16, steps=300, batch=8, lr=1e-2)
    prior = prior.fit(Lesson(fields(100, 0).float(), fields(20, 1).float())).to(kernel)
    x, noise = fields(40, 2), sigma * normal(40, 1, side, side, seed=3)
    left = ((prior.denoise(x + noise) - x)[..., 4:-4, 4:-4].square().mean() / sigma**2).item()
    wiener = (spectrum / (spectrum + sigma**2)).mean().item()
    assert wiener < left * 1.01
    assert left == pytest.approx(wiener, rel=0.08)


@cache
def photographs(split: Any, count: int) -> Tensor:
    pixels: Tensor = open_images("bundled", 32).sample(split, count).pixels
    return pixels


def test_on_photographs_it_beats_every_gaussian_blur() -> None:
    prior = Denoiser(sigma=0.8, width=16, depth=4, crop=16, steps=300, batch=8, lr=5e-3)
    prior = prior.fit(Lesson(photographs("train", 64), photographs("validation", 20)))
    x = photographs("test", 16)
    for level in (0.05, 0.1):
        y = x + level * normal(*x.shape).float()
        blurs = [gaussian_filter(y.numpy(), (0, 0, s, s), mode="reflect") for s in np.arange(0.4, 1.6, 0.1)]
        errors = [np.square(blur - x.numpy()).mean() for blur in [y.numpy(), *blurs]]
        assert (prior.denoise(y) - x).square().mean().item() < 0.9 * min(errors)
        assert (prior(y) > prior(x)).all(), "noise costs energy"


def test_a_training_repeats_itself_and_leaves_the_global_state_alone() -> None:
    state = torch.random.get_rng_state()
    lesson = Lesson(coloured(40), coloured(10, seed=1))
    again, other = SMALL.fit(lesson), SMALL.fit(replace(lesson, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in learned(small()).items():
        assert torch.equal(tensor, learned(again)[name])
        assert not tensor.requires_grad
    assert not torch.equal(learned(small())["weight0"], learned(other)["weight0"])


def test_it_is_validated_on_the_other_maps() -> None:
    """Other validation maps change what is told, and nothing else where there is one validation."""
    fits: list[tuple[dict[str, Tensor], str]] = []
    for validation in (coloured(10, seed=1), 0 * coloured(10) + torch.tensor([3.0, -1.0]).view(2, 1, 1)):
        told: list[str] = []
        lesson = Lesson(coloured(40), validation, 0, lambda done, total, text: told.append(text))  # noqa: B023
        fits.append((learned(SMALL.fit(lesson)), told[-1]))
    (first, one), (second, another) = fits
    assert all(torch.equal(first[name], second[name]) for name in first)
    loss, share = re.findall(r"[\d.]+", one)
    assert another.startswith(f"training: loss {loss}")
    assert share not in another


def test_the_precision_is_that_of_the_lesson_and_may_be_changed(device: torch.device) -> None:
    x = coloured(3, seed=2)
    single = small().to(x.float().to(device))
    assert {(t.dtype, t.device.type) for t in learned(single).values()} == {(torch.float32, device.type)}
    torch.testing.assert_close(single(x.float().to(device)).double().cpu(), small()(x), rtol=1e-4, atol=0)
    there = SMALL.fit(Lesson(coloured(40).to(device), coloured(10, seed=1).to(device)))
    assert {(t.dtype, t.device.type) for t in learned(there).values()} == {(torch.float64, device.type)}
    torch.testing.assert_close(there(x.to(device)).cpu(), small()(x), rtol=1e-4, atol=0)


def test_it_is_found_and_named_by_its_recipe() -> None:
    assert find()["denoiser"] is Denoiser
    assert repr(small()) == repr(SMALL)
    assert not Denoiser.has_prox


def after(train: Tensor, validation: Tensor | None = None) -> Callable[[], Denoiser]:
    return lambda: SMALL.fit(Lesson(train, coloured(4) if validation is None else validation))


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda: Denoiser(sigma=0), "sigma must be > 0, but is 0"),
        (lambda: Denoiser(lr=-1), "lr must be > 0, but is -1"),
        (lambda: Denoiser(least=1.5), r"least must be in \[0, 1\], but is 1.5"),
        (lambda: Denoiser(depth=1), "depth must be >= 2, but is 1"),
        (lambda: Denoiser(depth=6, crop=5), "crop must be >= 6, but is 5"),
        (lambda: Denoiser(width=0), "width must be >= 1, but is 0"),
        (lambda: SMALL(coloured(1)), "has not been trained yet"),
        (
            lambda: small()(normal(1, 3, 8, 8)),
            r"maps of 2 channels, .* the shape \(3, 8, 8\); fit it to such",
        ),
        (lambda: small()(normal(5, 2)), "maps of 2 channels"),
        (lambda: small()(normal(1, 2, 8, 2)), "maps of 8 x 2 are smaller than the 3 elements"),
        (after(coloured(4, side=2)), "maps of 2 x 2 are smaller than the 3 elements"),
        (after(coloured(4), coloured(4, side=2)), "maps of 2 x 2 are smaller than the 3 elements"),
        (after(0.1 + 0 * coloured(4)), "the training maps are constant"),
        (after(coloured(4) / 0), "hold NaN or infinity"),
        (after(coloured(4), coloured(4) * torch.nan), "hold NaN or infinity"),
        (after(coloured(4)[0]), r"learns from maps \(N, C, H, W\), but got the shape \(2, 10, 10\)"),
        (after(coloured(0)), "learns from maps"),
        (lambda: small().prox(coloured(1), 1.0), "has no proximal operator"),
    ],
)
def test_mistakes_are_told(mistake: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^denoiser: .*{sentence}"):
        mistake()
