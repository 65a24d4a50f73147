"""Priors on patches: energies, gradients, positions, curvature, and what they learn."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invbench.errors import UserError
from invbench.priors import Grid, Lesson, find
from invbench.priors.experts import ICA, Experts, FieldOfExperts, Gaussian, PatchPrior
from invbench.priors.patch_energy import HELD

KINDS = (Gaussian, ICA, FieldOfExperts)
SIZE = 9


def smooth_maps(generator: torch.Generator, count: int = 24, channels: int = 2) -> Tensor:
    """Maps with neighbours alike, (N, C, 9, 9) in [0, 1]."""
    maps = torch.rand(count, channels, SIZE + 2, SIZE + 2, dtype=torch.float64, generator=generator)
    return functional.avg_pool2d(maps, 3, 1)


def small(kind: type[PatchPrior], maps: Tensor, **fields: object) -> PatchPrior:
    """A prior on 3 x 3 patches that learned from maps, in a moment."""
    given: dict[str, object] = {"patch": 3, "patches": 500, **fields}
    if issubclass(kind, Experts):
        given = {"experts": 12, "steps": 5, "batch": 50, **given}
    return kind(**given).fit(Lesson(maps[:20], maps[20:]))  # type: ignore[arg-type]


def by_patches(prior: PatchPrior, x: Tensor, stride: int = 1, down: int = 0, right: int = 0) -> Tensor:
    """R(x) patch by patch, filter by filter; on a grid, the sum times stride^2 over the number of all."""
    learned, side = prior.learned, prior.patch
    assert learned is not None
    rho = {
        "gaussian": lambda s: s.square() / 2,
        "ica": lambda s: s.cosh().log(),
        "foe": lambda s: (1 + s.square() / 2).log(),
    }[prior.name]
    rows, columns = (range(first, SIZE - side + 1, stride) for first in (down, right))
    total = torch.zeros(len(x), dtype=x.dtype)
    for part in ("full", "each"):
        if f"{part}.filters" not in learned:
            continue
        filters, bias = learned[f"{part}.filters"], learned[f"{part}.bias"]
        weights = learned[f"{part}.weights"].flatten()
        group = len(filters) // (x.shape[1] // filters.shape[1])
        for k in range(len(filters)):
            first = k // group * filters.shape[1]
            for i in rows:
                for j in columns:
                    patch = x[:, first : first + filters.shape[1], i : i + side, j : j + side]
                    total = total + weights[k] * rho((patch * filters[k]).flatten(1).sum(1) + bias[k])
    return total * stride**2 / (SIZE - side + 1) ** 2


@pytest.mark.parametrize("channels", ["full", "each", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_energy_and_gradient(kind, channels, generator):
    maps = smooth_maps(generator)
    prior = small(kind, maps, channels=channels)
    for grid in (Grid(), Grid(3, 2, 1)):
        x = maps[:2].clone().requires_grad_()
        expected = by_patches(prior, x, *grid)
        (slope,) = torch.autograd.grad(expected @ torch.tensor([1.0, -3.0]).double(), x)
        y = maps[:2].clone().requires_grad_()
        found = prior.on_grid(grid)(y)
        (gradient,) = torch.autograd.grad(found @ torch.tensor([1.0, -3.0]).double(), y)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradient, slope)
        with torch.no_grad():
            torch.testing.assert_close(prior.on_grid(grid)(y), found)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_offsets_are_unbiased(stride, generator):
    """Also where offsets have different numbers of positions, or none."""
    maps = smooth_maps(generator)
    prior = small(FieldOfExperts, maps)
    x = maps[:3].clone().requires_grad_()
    grids = [Grid(stride, i, j) for i in range(stride) for j in range(stride)]
    mean = torch.stack([prior.on_grid(grid)(x) for grid in grids]).mean(0)
    torch.testing.assert_close(mean, prior(x))
    gradients = [torch.autograd.grad(energy.sum(), x)[0] for energy in (mean, prior(x))]
    torch.testing.assert_close(*gradients)


def test_a_grid_keeps_its_prior(generator):
    prior = small(FieldOfExperts, smooth_maps(generator))
    thin = prior.on_grid(Grid(2, 1, 0))
    assert prior.on_grid(Grid()) is prior
    assert thin.name == "foe" and thin.on_grid(Grid()) is prior
    assert find()["foe"] is FieldOfExperts


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_members(kind, generator, monkeypatch):
    """However many are held at a time."""
    maps = smooth_maps(generator)
    prior = small(kind, maps, channels="both")
    whole = prior(maps)
    torch.testing.assert_close(whole, torch.cat([prior(x[None]) for x in maps]))
    monkeypatch.setitem(HELD, "cpu", 5 * 12 * 49)
    torch.testing.assert_close(prior(maps), whole)


@pytest.mark.parametrize("channels", ["full", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_curvature_bounds_the_hessian(kind, channels, generator):
    maps = smooth_maps(generator)
    prior = small(kind, maps, channels=channels)
    flat = maps[0, :, :5, :6]
    bound = prior.curvature((2, 5, 6))
    # The Hessian of the bound: that of a quadratic potential, dense.
    filters = [prior.learned[f"{part}.filters"] for part in ("full", "each")[: 1 + (channels == "both")]]
    gram = torch.zeros(60, 60).double()
    for part, bank in zip(("full", "each"), filters, strict=False):
        weights = prior.learned[f"{part}.weights"].flatten()
        unit = torch.eye(60).double().reshape(60, 2, 5, 6)
        responses = functional.conv2d(unit, bank, groups=2 // bank.shape[1])
        gram += torch.einsum("nkhw,mkhw,k->nm", responses, responses, weights) / 12
    exact = torch.linalg.eigvalsh(gram)[-1].item()
    assert exact <= bound * (1 + 1e-9) and bound < 4 * exact
    for t in (0.0, 1.0):
        x = (t * flat).flatten()
        hessian = _hessian(prior, x, (1, 2, 5, 6))
        assert torch.linalg.eigvalsh(hessian)[-1].item() <= bound
    assert prior.curvature((2, 5, 6)) == bound


def _hessian(prior: PatchPrior, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """By central differences of the gradient."""
    steps = 1e-5 * torch.eye(len(x)).double()
    y = torch.cat([x + steps, x - steps]).reshape(-1, *shape[1:]).requires_grad_()
    (gradient,) = torch.autograd.grad(prior(y).sum(), y)
    ahead, behind = gradient.flatten(1).chunk(2)
    hessian = (ahead - behind) / 2e-5
    return (hessian + hessian.T) / 2


def test_the_prox_lowers_its_objective(generator):
    maps = smooth_maps(generator)
    prior = small(Gaussian, maps)
    point = maps[:2] + 0.1 * torch.randn(maps[:2].shape, generator=generator)
    x = prior.prox(point, 5.0).requires_grad_()
    (slope,) = torch.autograd.grad(prior(x).sum() + 2.5 * (x - point).square().sum(), x)
    assert slope.norm() < 1e-3 * (5 * (x - point)).norm()


def test_a_known_gaussian_is_found(generator):
    """On maps of one pixel, without noise: 1/2 (x - m)^T cov^-1 (x - m)."""
    mixing = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    x = 7 + torch.randn(100_000, 4, dtype=torch.float64, generator=generator) @ mixing.T
    maps = x[:, :, None, None]
    prior = Gaussian(patch=1, mean="data", noise=0.0, patches=100_000).fit(Lesson(maps, maps[:100]))
    centred = x[:5] - 7
    expected = (centred @ torch.linalg.inv(mixing @ mixing.T) * centred).sum(1) / 2
    torch.testing.assert_close(prior(maps[:5]), expected, rtol=0.03, atol=0.03)
    assert float(prior.learned["full.validation"]) == pytest.approx(-2, abs=0.5)


@pytest.mark.parametrize("kind", [ICA, FieldOfExperts])
def test_known_independent_components_are_found(kind, generator):
    """Up to order, sign and size: every row of W A has one entry, whatever whitening does."""
    mixing = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    uniform = torch.rand(20_000, 4, dtype=torch.float64, generator=generator)
    sources = (2 * uniform - 1).sign() * -(1 - (2 * uniform - 1).abs()).log()
    maps = (sources @ mixing.T)[:, :, None, None]
    recipe = kind(patch=1, mean="data", noise=0.0, experts=4, steps=400, patches=20_000)
    prior = recipe.fit(Lesson(maps[:15_000], maps[15_000:], seed=1))
    gains = (prior.learned["full.filters"].flatten(1) @ mixing).abs()
    gains = gains / gains.norm(dim=1, keepdim=True)
    assert sorted(gains.argmax(1).tolist()) == [0, 1, 2, 3]
    assert gains.amax(1).min().item() > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_is_plausible(kind, generator):
    """A fitted prior tells smooth maps from rough ones, and its training lowers J."""
    maps = smooth_maps(generator, 60)
    fields = {"steps": 60} if issubclass(kind, Experts) else {}
    prior = small(kind, maps, **fields)
    rough = torch.rand(5, 2, SIZE, SIZE, dtype=torch.float64, generator=generator)
    rough = maps[:5].mean() + maps[:5].std() * (rough - 0.5) * 12**0.5
    assert prior(rough).min() > 1.5 * prior(maps[:5]).max()
    if issubclass(kind, Experts):
        start = small(kind, maps, steps=1)
        assert prior.learned["full.validation"] < start.learned["full.validation"] - 1


def test_fits_are_repeatable_and_reported(generator):
    maps, told = smooth_maps(generator), []
    state = torch.get_rng_state()
    lesson = Lesson(maps[:20], maps[20:], progress=lambda done, total, text: told.append((done, total, text)))
    recipe = ICA(patch=3, patches=200, experts=10, steps=3, batch=50, channels="both")
    first, second = recipe.fit(lesson), recipe.fit(lesson)
    for name, tensor in first.learned.items():
        assert torch.equal(tensor, second.learned[name]), name
    assert torch.equal(torch.get_rng_state(), state)
    assert told[0][:2] == (3, 3) and "validation" in told[0][2]
    assert {name: tuple(tensor.shape) for name, tensor in first.learned.items()} == {
        "full.filters": (10, 2, 3, 3),
        "full.bias": (10,),
        "full.weights": (1, 10),
        "full.validation": (),
        "each.filters": (20, 1, 3, 3),
        "each.bias": (20,),
        "each.weights": (2, 10),
        "each.validation": (),
    }
    assert recipe.learned is None and "learned" not in repr(first)


def test_precision_pickles_and_seeds(generator):
    maps = smooth_maps(generator)
    prior = small(FieldOfExperts, maps)
    single = prior.to(maps.float())
    torch.testing.assert_close(single(maps.float()), prior(maps).float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(pickle.loads(pickle.dumps(prior))(maps), prior(maps))
    recipe = replace(prior, learned=None)
    other = recipe.fit(Lesson(maps[:20], maps[20:], seed=1))
    assert not torch.equal(other.learned["full.filters"], prior.learned["full.filters"])


def test_numbers_of_experts(generator):
    three = smooth_maps(generator, channels=3)
    lesson = Lesson(three[:20], three[20:])
    prior = FieldOfExperts(patch=3, patches=100, steps=1, channels="both").fit(lesson)
    assert len(prior.learned["full.filters"]) == 72
    assert prior.learned["each.weights"].shape == (3, 24)
    one = smooth_maps(generator, channels=1)
    for channels in ("full", "each", "both"):
        single = small(ICA, one, channels=channels)
        assert {name.partition(".")[0] for name in single.learned} == {"full"}


@pytest.mark.parametrize("whitening", ["pca", "zca", "none"])
@pytest.mark.parametrize("mean", ["patch", "channel", "data"])
@pytest.mark.parametrize("scale", ["global", "channel", "none"])
def test_every_recipe_is_finite_and_blind_to_its_means(whitening, mean, scale, generator):
    maps = smooth_maps(generator)
    prior = small(ICA, maps, whitening=whitening, mean=mean, scale=scale)
    energy = prior(maps[:2])
    assert energy.isfinite().all()
    brighter = prior(maps[:2] + 10)
    coloured = prior(maps[:2] + torch.tensor([5.0, -5.0]).double().reshape(2, 1, 1))
    assert torch.allclose(brighter, energy) == (mean != "data")
    assert torch.allclose(coloured, energy) == (mean == "channel")


@pytest.mark.cuda
def test_devices_agree(device, generator):
    maps = smooth_maps(generator)
    prior = small(FieldOfExperts, maps, channels="both")
    x = maps.to(device)
    moved = prior.to(x)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(moved(y).cpu(), prior(maps))
    (found,) = torch.autograd.grad(moved.on_grid(Grid(2, 1, 0))(y).sum(), y)
    z = maps.clone().requires_grad_()
    (expected,) = torch.autograd.grad(prior.on_grid(Grid(2, 1, 0))(z).sum(), z)
    torch.testing.assert_close(found.cpu(), expected)
    learned = small(FieldOfExperts, x, channels="both").learned
    for name, tensor in prior.learned.items():
        torch.testing.assert_close(learned[name].cpu().abs(), tensor.abs(), rtol=1e-5, atol=1e-7, msg=name)


def test_mistakes_are_told(generator):
    maps = smooth_maps(generator)
    prior = small(FieldOfExperts, maps)
    holed = maps.clone()
    holed[3, 0, 2, 2] = torch.nan
    lesson = Lesson(maps[:20], maps[20:])
    for make, sentence in (
        (lambda: FieldOfExperts()(maps), "foe: the prior has not been trained yet"),
        (lambda: FieldOfExperts(patch=10).fit(lesson), "patches of 10 x 10 do not fit maps of 9 x 9"),
        (lambda: prior(maps[:, :, :2]), "patches of 3 x 3 do not fit maps of 2 x 9"),
        (
            lambda: prior(maps[:, :1]),
            r"fitted to maps of 2 channels, but is applied to the shape \(1, 9, 9\)",
        ),
        (lambda: prior.curvature((3, 9, 9)), "fitted to maps of 2 channels"),
        (lambda: Gaussian(patch=3).fit(Lesson(0 * maps + 0.1, maps)), "gaussian: .* constant"),
        (lambda: Gaussian(patch=1).fit(Lesson(maps[:, :1], maps[:, :1])), "nothing without their mean"),
        (lambda: Gaussian(patch=3).fit(Lesson(holed, maps)), "NaN or infinity"),
        (lambda: Gaussian(patch=3).fit(Lesson(maps, holed)), "NaN or infinity"),
        (lambda: Gaussian(patch=3).fit(Lesson(maps[0], maps[0])), r"maps \(N, C, H, W\)"),
        (lambda: Gaussian(patch=0), "gaussian: patch must be a whole number >= 1, but is 0"),
        (lambda: Gaussian(patch="8"), "patch must be a whole number >= 1, but is '8'"),
        (lambda: Gaussian(noise=-1), "noise must be >= 0"),
        (lambda: Gaussian(mean="image"), "mean must be one of patch, channel, data, but is 'image'"),
        (lambda: ICA(whitening="lda"), "ica: whitening must be one of pca, zca, none"),
        (lambda: ICA(experts=0), "experts must be a whole number"),
        (lambda: ICA(lr=0), "lr must be > 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            make()
