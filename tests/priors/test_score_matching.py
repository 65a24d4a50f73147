"""Score matching against its definition, and against densities that it must find."""

import pytest
import torch
from torch import Tensor

from invbench.priors.potentials import Logistic, Potential, Quadratic, Student
from invbench.priors.score_matching import score_matching

POTENTIALS = (Logistic(), Student(), Quadratic())


def energy(potential: Potential, s: Tensor) -> Tensor:
    """rho(s) as it is defined, float64."""
    if isinstance(potential, Logistic):
        return s.abs() + torch.log1p(torch.exp(-2 * s.abs())) - torch.log(torch.tensor(2.0, dtype=s.dtype))
    return (s.square() / 2).log1p() if isinstance(potential, Student) else s.square() / 2


def by_definition(z: Tensor, filters: Tensor, weights: Tensor, potential: Potential) -> Tensor:
    """E[laplacian log p + 1/2 |grad log p|^2] by automatic differentiation, of one set (b, d)."""

    point = z.clone().requires_grad_()
    log_density = -(weights * energy(potential, point @ filters.T)).sum()
    (score,) = torch.autograd.grad(log_density, point, create_graph=True)
    columns = range(z.shape[1])
    laplacian = sum(
        torch.autograd.grad(score[:, i].sum(), point, retain_graph=True)[0][:, i] for i in columns
    )
    return (laplacian + score.square().sum(1) / 2).mean().detach()


@pytest.mark.parametrize("potential", POTENTIALS, ids=lambda p: type(p).__name__)
def test_it_is_its_definition(potential, generator):
    z = 3 * torch.randn(2, 7, 4, dtype=torch.float64, generator=generator)
    filters = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    weights = torch.rand(2, 6, dtype=torch.float64, generator=generator)
    expected = sum(by_definition(z[g], filters[g], weights[g], potential) for g in range(2))
    torch.testing.assert_close(score_matching(z, filters, weights, potential), expected)


@pytest.mark.parametrize("potential", POTENTIALS, ids=lambda p: type(p).__name__)
def test_derivatives_of_potentials(potential):
    s = (0.4 * torch.arange(-20, 21, dtype=torch.float64)).requires_grad_()
    value = energy(potential, s)
    (first,) = torch.autograd.grad(value.sum(), s, create_graph=True)
    second = torch.autograd.grad(first.sum(), s)[0] if first.requires_grad else torch.zeros_like(s)
    slope, bend = potential.derivatives(s)
    torch.testing.assert_close(slope[s != 0], first[s != 0])
    torch.testing.assert_close(bend[s != 0], second[s != 0])
    assert bend[s == 0].item() == 1 and bend.max() <= 1
    consumed, again = potential.consume(s.detach().clone())
    torch.testing.assert_close(consumed, value.detach())
    torch.testing.assert_close(again, slope.detach())


@pytest.mark.parametrize("potential", POTENTIALS, ids=lambda p: type(p).__name__)
def test_potentials_in_single_precision(potential):
    sizes = torch.logspace(-6, 4, 200)
    s = torch.cat([-sizes, torch.zeros(1), sizes])
    exact = s.double()
    value, slope = potential.consume(s.clone())
    torch.testing.assert_close(value.double(), energy(potential, exact), rtol=1e-6, atol=2e-7)
    torch.testing.assert_close(slope.double(), potential.derivatives(exact)[0], rtol=1e-6, atol=2e-7)
    for found, expected in zip(potential.derivatives(s), potential.derivatives(exact), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("potential", POTENTIALS[:2], ids=lambda p: type(p).__name__)
def test_the_weight_of_a_known_density_is_its_minimum(potential, generator):
    """Of exp(-a rho(s)), a = 2: the logistic distribution, and Student's with 3 degrees of freedom."""
    u = torch.rand(1, 200_000, 1, dtype=torch.float64, generator=generator)
    if isinstance(potential, Logistic):
        z = u.logit() / 2
    else:
        normal = torch.randn(200_000, 4, dtype=torch.float64, generator=generator)
        z = (normal[:, 0] / normal[:, 1:].square().sum(1).sqrt()).reshape(1, -1, 1) * 2**0.5
    weights = torch.linspace(1.5, 2.5, 101, dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    values = torch.stack([score_matching(z, one, a.reshape(1, 1), potential) for a in weights])
    assert weights[values.argmin()].item() == pytest.approx(2, abs=0.03)
