import math
import sys

import pytest
import torch

from invbench import priors
from invbench.errors import UserError
from invbench.priors import (
    L1,
    AlphaNorm,
    Prior,
    Range,
    SquaredL2,
    Standardised,
    TotalVariation,
    find,
    standardise,
)

COLOUR = (0.4, 0.5, 0.7)
ALL = (
    AlphaNorm(),
    AlphaNorm(alpha=1.5, mean=COLOUR),
    AlphaNorm(alpha=3),
    Range(),
    Range(alpha=2, mean=COLOUR),
    Range(alpha=3.5, scale=80 / 255),
    TotalVariation(),
    TotalVariation(beta=1),
    TotalVariation(beta=1.5),
    TotalVariation(beta=3),
    SquaredL2(),
    SquaredL2(0.5),
    L1(),
    Standardised(TotalVariation(), 0.3),
)


def images(generator, batch=3, dtype=torch.float64):
    return torch.rand(batch, 3, 5, 4, generator=generator, dtype=torch.float64).to(dtype)


def by_pixels(x, energy):
    """Sum an energy over the pixels of every image; energy gets (image as nested lists, i, j)."""
    height, width = x.shape[-2:]
    values = [
        math.fsum(energy(image, i, j) for i in range(height) for j in range(width)) for image in x.tolist()
    ]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [1, 1.5, 2, 3, 6])
@pytest.mark.parametrize("mean", [0.5, COLOUR, list(COLOUR)])
def test_alpha_norm_is_its_formula(alpha, mean, generator, device):
    x = images(generator)
    means = [mean] * 3 if isinstance(mean, float) else mean
    expected = by_pixels(x, lambda p, i, j: sum(abs(p[c][i][j] - means[c]) ** alpha for c in range(3)))
    torch.testing.assert_close(AlphaNorm(alpha, mean)(x.to(device)).cpu(), expected)


@pytest.mark.parametrize("alpha", [2, 3, 6])
def test_range_is_the_published_formula(alpha, generator, device):
    x = images(generator)
    expected = by_pixels(
        x, lambda p, i, j: sum((255 * (p[c][i][j] - COLOUR[c])) ** 2 for c in range(3)) ** (alpha / 2)
    )
    x = x.to(device)
    torch.testing.assert_close(Range(alpha, COLOUR, scale=1 / 255)(x).cpu(), expected)
    torch.testing.assert_close(Range(alpha, COLOUR, scale=80 / 255)(x).cpu(), expected / 80**alpha)
    torch.testing.assert_close(Range(alpha, COLOUR)(x).cpu(), expected / 255**alpha)


def test_range_does_not_overflow_where_a_scale_is_given(generator):
    x = images(generator, dtype=torch.float32)
    assert Range(alpha=20, scale=1 / 255)(x).isinf().all()
    assert Range(alpha=20, scale=80 / 255)(x).isfinite().all()


@pytest.mark.parametrize("beta", [1, 1.5, 2, 3])
def test_total_variation_is_its_formula(beta, generator, device):
    def energy(p, i, j):
        total = 0.0
        for channel in p:
            across = channel[i][j + 1] - channel[i][j] if j + 1 < len(channel[0]) else 0.0
            down = channel[i + 1][j] - channel[i][j] if i + 1 < len(channel) else 0.0
            total += (across**2 + down**2) ** (beta / 2)
        return total

    x = images(generator)
    expected = by_pixels(x, energy)
    corners = 3 * 1e-4**beta if beta < 2 else 0  # what the smoothing adds where there is no difference
    ours = TotalVariation(beta)(x.to(device)).cpu()
    torch.testing.assert_close(ours, expected + corners, rtol=1e-12 if beta >= 2 else 1e-6, atol=0)


@pytest.mark.parametrize("beta", [0.5, 1, 1.5, 2, 3])
def test_total_variation_has_a_zero_gradient_on_a_flat_image(beta):
    x = torch.full((2, 3, 4, 4), 0.3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(TotalVariation(beta)(x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("beta", [1, 1.5, 2])
def test_total_variation_gradient_on_and_beside_flat_pixels(beta, generator):
    x = torch.full((2, 1, 4, 4), 0.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(TotalVariation(beta), x.requires_grad_())
    half_flat = x.detach().clone()
    half_flat[..., 2:] = torch.rand(2, 1, 4, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(TotalVariation(beta), half_flat.requires_grad_())


def test_norms_are_their_formulas(generator, device):
    x, centre = images(generator), images(generator)
    numpy = x.numpy()
    for prior, expected in (
        (SquaredL2(), 0.5 * (numpy**2).sum((1, 2, 3))),
        (SquaredL2(0.5), 0.5 * ((numpy - 0.5) ** 2).sum((1, 2, 3))),
        (SquaredL2(centre.to(device)), 0.5 * ((numpy - centre.numpy()) ** 2).sum((1, 2, 3))),
        (L1(), abs(numpy).sum((1, 2, 3))),
    ):
        torch.testing.assert_close(prior(x.to(device)).cpu(), torch.from_numpy(expected))
    negative = torch.tensor([[-1.0, 0.0, 2.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(L1()(negative).sum(), negative)
    assert gradient.tolist() == [[-1, 0, 1]]


@pytest.mark.parametrize("prior", ALL, ids=repr)
def test_gradients_members_and_float32(prior, generator):
    x = images(generator)
    together = prior(x)
    assert together.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(prior(x[i : i + 1]), together[i : i + 1], rtol=1e-14, atol=0)
    single = prior(x.float()).double()
    torch.testing.assert_close(single, prior(x.float().double()), rtol=3e-6, atol=0)
    assert torch.autograd.gradcheck(prior, x[:2, :, :3, :3].contiguous().requires_grad_())


@pytest.mark.parametrize("prior", ALL, ids=repr)
def test_gradient_where_the_power_begins(prior):
    x = torch.full((1, 3, 3, 3), 0.5, dtype=torch.float32, requires_grad=True)
    (gradient,) = torch.autograd.grad(prior(x).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "prior",
    [AlphaNorm(mean=0.0), Range(mean=0.0), TotalVariation(1), TotalVariation(2), SquaredL2(), L1()],
    ids=repr,
)
def test_degree_of_homogeneity(prior, generator):
    x = images(generator)
    torch.testing.assert_close(prior(255 * x), 255**prior.degree * prior(x), rtol=1e-4, atol=0)
    assert Standardised(prior, 0.2).degree == prior.degree


def test_select_slices_what_belongs_to_instances(generator):
    x, centre = images(generator), images(generator)
    indices = torch.tensor([2, 0, 0])
    for prior in (SquaredL2(centre), SquaredL2(centre[:1]), SquaredL2(0.5), TotalVariation()):
        for wrapped in (prior, Standardised(prior, 2.0)):
            chosen = wrapped.select(indices)
            torch.testing.assert_close(chosen(x[indices]), wrapped(x)[indices], rtol=1e-14, atol=0)
    assert SquaredL2(centre).select(indices).select(torch.tensor([1]))(centre[:1]).item() == 0


def test_standardise_sets_the_mean_energy(generator):
    natural = images(generator, batch=10, dtype=torch.float32)
    for prior in ALL[:-1]:
        standard = standardise(prior, natural)
        assert standard(natural).mean().item() == pytest.approx(0.09, rel=1e-5)
        assert standard.name == prior.name
        assert standard.prior is prior
    assert standardise(L1(), natural, level=2.0)(natural).mean().item() == pytest.approx(2, rel=1e-5)


def test_standardise_needs_a_unit():
    with pytest.raises(UserError, match="tv: its mean energy on the natural images is 0"):
        standardise(TotalVariation(), torch.full((2, 3, 4, 4), 0.5))
    with pytest.raises(UserError, match="nan"):
        standardise(L1(), torch.full((2, 3, 4, 4), torch.nan))


def test_priors_are_found_by_name():
    found = find()
    expected = {"alpha_norm": AlphaNorm, "range": Range, "tv": TotalVariation, "l2": SquaredL2, "l1": L1}
    assert expected.items() <= found.items()
    assert all(issubclass(cls, Prior) and cls.name == name for name, cls in found.items())


SOURCE = """
from dataclasses import dataclass
from typing import ClassVar
from invbench.priors.prior import Prior
from invbench.priors.handcrafted import L1

@dataclass(frozen=True)
class Ours(Prior):
    name: ClassVar[str] = "{name}"
    def __call__(self, x):
        return x.flatten(1).sum(1)
"""


@pytest.fixture
def further_module(tmp_path, monkeypatch):
    monkeypatch.setattr(priors, "__path__", [*priors.__path__, str(tmp_path)])
    priors._found.cache_clear()
    yield tmp_path / "further_module.py"
    priors._found.cache_clear()
    sys.modules.pop("invbench.priors.further_module", None)
    vars(priors).pop("further_module", None)


def test_a_further_module_needs_no_list(further_module):
    further_module.write_text(SOURCE.format(name="ours"))
    ours = find()["ours"]
    assert ours()(torch.ones(2, 3)).tolist() == [3, 3]
    with pytest.raises(UserError, match="ours: not homogeneous"):
        _ = ours().degree
    assert find().keys() - {"ours"} >= {"tv", "l1"}


def test_two_priors_of_one_name_are_an_error(further_module):
    further_module.write_text(SOURCE.format(name="tv"))
    with pytest.raises(ImportError, match="Two priors are named 'tv'"):
        find()


def test_mistakes_are_told():
    for make, sentence in (
        (lambda: AlphaNorm(0.5), "alpha_norm: alpha must be >= 1"),
        (lambda: Range(1.5), "range: alpha must be >= 2"),
        (lambda: Range(scale=0), "range: scale must be > 0"),
        (lambda: TotalVariation(0), "tv: beta must be > 0"),
        (lambda: TotalVariation(1, epsilon=0), "tv: epsilon must be > 0"),
        (lambda: AlphaNorm(mean=COLOUR)(torch.zeros(1, 1, 2, 2)), "mean has 3 channels, but the image 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            make()
