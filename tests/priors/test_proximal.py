"""Proximal points by descent, against dense solves, brute force and their guarantees."""

from dataclasses import dataclass
from typing import ClassVar

import cvxpy
import pytest
import torch
from torch import Tensor

from invbench.errors import UserError
from invbench.priors import Standardised, TotalVariation
from invbench.priors.proximal import APPROACH, MOST_STEPS, SmoothPrior, descend, steps

RHO = torch.tensor([0.02, 0.5, 30.0], dtype=torch.float64)
SIZE = 6
SHAPE = (1, 2, 3)


@dataclass(frozen=True)
class Quadratic(SmoothPrior):
    """1/2 x^T A x - b^T x with eigenvalues of A from 0 to 4, on maps of SIZE elements."""

    name: ClassVar[str] = "quadratic"

    @property
    def a(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        q, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
        return q @ torch.linspace(0, 4, SIZE, dtype=torch.float64).diag() @ q.T

    @property
    def b(self) -> Tensor:
        return torch.arange(SIZE, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return 0.5 * (flat @ self.a * flat).sum(1) - flat @ self.b

    def curvature(self, shape: tuple[int, ...]) -> float:
        assert shape == SHAPE
        return 4.0


@dataclass(frozen=True)
class Student(SmoothPrior):
    """The energy sum log(1 + (s x)^2 / 2), convex near 0 alone."""

    name: ClassVar[str] = "student"
    s: float = 3.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.log1p((self.s * x).square() / 2).flatten(1).sum(1)

    def curvature(self, shape: tuple[int, ...]) -> float:
        return self.s**2


@dataclass(frozen=True)
class Smoothed(TotalVariation, SmoothPrior):
    """Smoothed total variation of exponent 1, whose curvature grows as the smoothing shrinks."""

    name: ClassVar[str] = "smoothed"
    beta: float = 1.0
    epsilon: float = 1e-2
    has_prox: ClassVar[bool] = True  # type: ignore[misc]
    prox = SmoothPrior.prox

    def curvature(self, shape: tuple[int, ...]) -> float:
        return 8 / self.epsilon**0.5


def points(generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)


def objective(prior: SmoothPrior, v: Tensor, point: Tensor, rho: Tensor) -> Tensor:
    return prior(v) + rho / 2 * (v - point).flatten(1).square().sum(1)


def minimiser(prior: Quadratic, point: Tensor) -> Tensor:
    """The proximal points for RHO, by dense solves."""
    matrices = prior.a + RHO[:, None, None] * torch.eye(SIZE)
    return torch.linalg.solve(matrices, prior.b + RHO[:, None] * point.flatten(1)).view_as(point)


# -- by descent ------------------------------------------------------------------------------------------


def test_a_quadratic_against_a_dense_solve(generator: torch.Generator) -> None:
    prior, point = Quadratic(), points(generator, *SHAPE)
    found, expected = prior.prox(point, RHO), minimiser(prior, point)
    best, start = objective(prior, expected, point, RHO), objective(prior, point, point, RHO)
    assert (objective(prior, found, point, RHO) - best <= 1e-6 * (start - best)).all()
    furthest = (2 * 1e-6 * (start - best) / RHO).sqrt()
    assert ((found - expected).flatten(1).norm(dim=1) <= furthest).all()


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-8])
def test_the_number_of_steps_is_enough_where_the_energy_is_convex(
    tolerance: float, generator: torch.Generator
) -> None:
    prior, point = Quadratic(), points(generator, *SHAPE)
    found = descend(prior, point, RHO, 4.0, point, steps(4.0, RHO, tolerance, most=10_000))
    best = objective(prior, minimiser(prior, point), point, RHO)
    gap = objective(prior, found, point, RHO) - best
    assert (gap <= tolerance * (objective(prior, point, point, RHO) - best)).all()


def test_steps_grow_with_the_root_of_the_condition() -> None:
    few, many = steps(1.0, torch.tensor([1 / 99.0, 1 / 9999.0]), 1e-3).tolist()
    assert many / few == pytest.approx(10, rel=0.1) or many == MOST_STEPS
    assert steps(0.0, torch.tensor([1.0]), 1e-3).item() == 1
    assert steps(1e9, torch.tensor([1.0]), 1e-3).item() == MOST_STEPS


def test_smoothed_total_variation_against_cvxpy(generator: torch.Generator) -> None:
    """With the smoothing as a third difference: sqrt(a^2 + b^2 + epsilon)."""
    prior, point, rho = Smoothed(), points(generator, 1, 4, 5)[:1], 4.0
    v = cvxpy.Variable((4, 5))
    lengths = []
    for i in range(4):
        for j in range(5):
            across = [v[i, j + 1] - v[i, j]] if j < 4 else []
            down = [v[i + 1, j] - v[i, j]] if i < 3 else []
            lengths.append(cvxpy.norm(cvxpy.hstack([*across, *down, prior.epsilon**0.5])))
    cost = cvxpy.sum(cvxpy.hstack(lengths)) + rho / 2 * cvxpy.sum_squares(v - point[0, 0].numpy())
    best = cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver="CLARABEL")
    found = prior.prox(point, rho)
    assert objective(prior, found, point, torch.tensor([rho])).item() == pytest.approx(best, rel=1e-6)
    torch.testing.assert_close(found[0, 0], torch.from_numpy(v.value), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rho", [0.3, 2.0, 20.0])
def test_a_non_convex_energy_against_a_grid(rho: float) -> None:
    """Where one minimum is left it is found; where there are two, one of them, and lower than the point."""
    prior, grid = Student(), torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    for value in (-2.0, -0.4, 0.0, 0.3, 1.0, 2.5):
        point = torch.full((1, 1), value, dtype=torch.float64)
        costs = objective(prior, grid[:, None], point, torch.tensor(rho))
        found = prior.prox(point, rho)
        cost = objective(prior, found, point, torch.tensor([rho]))
        assert cost <= objective(prior, point, point, torch.tensor([rho]))
        minima = (costs[1:-1] <= costs[:-2]) & (costs[1:-1] <= costs[2:])
        assert (grid[1:-1][minima] - found).abs().min() < 1e-2
        if minima.sum() == 1:
            assert cost.item() == pytest.approx(float(costs.min()), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("prior", [Student(), Student(0.1), Quadratic()], ids=repr)
def test_more_steps_never_end_higher(prior: SmoothPrior, generator: torch.Generator) -> None:
    """What a step is certain to reach: it falls from step to step although the momentum overshoots."""
    point, start = points(generator, *SHAPE), points(generator, *SHAPE)
    rho = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    bound = prior.curvature(SHAPE)
    before = objective(prior, start, point, rho)
    for n in (1, 2, 3, 5, 8, 13, 40):
        found = descend(prior, point, rho, bound, start, torch.full_like(rho, n))
        assert (objective(prior, found, point, rho) < before).all()
    first = descend(prior, point, rho, bound, start, torch.ones_like(rho))
    leaf = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(prior, leaf, point, rho).sum(), leaf)
    torch.testing.assert_close(first, start - slope / (bound + rho).reshape(-1, 1, 1, 1))


def test_an_approach_is_some_steps_from_where_it_starts(generator: torch.Generator) -> None:
    prior, point, v = Quadratic(), points(generator, *SHAPE), points(generator, *SHAPE)
    count = torch.full_like(RHO, APPROACH)
    expected = descend(prior, point, RHO, 4.0, v, count)
    assert torch.equal(prior.approach(v, point, RHO), expected)
    standard = Standardised(prior, 0.3)
    torch.testing.assert_close(standard.approach(v, point, 0.3 * RHO), expected)
    assert standard.has_prox
    assert not standard.elementwise
    for _ in range(100):
        v = prior.approach(v, point, 10 * RHO)
    torch.testing.assert_close(v[1:], prior.prox(point, 10 * RHO)[1:], rtol=0, atol=1e-2)


def test_instances_are_those_alone_and_nothing_is_written_into(generator: torch.Generator) -> None:
    prior, point = Student(), points(generator, *SHAPE)
    given = point.clone()
    together = prior.prox(point, RHO)
    for i in range(3):
        torch.testing.assert_close(prior.prox(point[i : i + 1], float(RHO[i])), together[i : i + 1])
    assert torch.equal(point, given)
    assert not together.requires_grad
    with torch.no_grad():
        assert torch.equal(prior.prox(point, RHO), together)


def test_a_wrong_rho_is_told(generator: torch.Generator) -> None:
    point = points(generator, *SHAPE)
    for rho in (0.0, -1.0, torch.ones(2), torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(UserError, match="quadratic: the prox needs rho > 0"):
            Quadratic().prox(point, rho)


# -- total variation in closed form ----------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 6), (5, 1), (3, 3)])
def test_squared_total_variation_against_a_dense_solve(
    height: int, width: int, generator: torch.Generator, device: torch.device
) -> None:
    prior, point = TotalVariation(), points(generator, 2, height, width)
    found = prior.prox(point.to(device), RHO.to(device)).cpu()
    zero = torch.zeros(1, 2, height, width, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: prior(x).sum(), zero).reshape(2 * [zero.numel()])
    for mine, p, rho in zip(found, point, RHO, strict=True):
        expected = torch.linalg.solve(hessian + rho * torch.eye(len(hessian)), rho * p.flatten())
        torch.testing.assert_close(mine.flatten(), expected)


def test_total_variation_has_a_prox_where_it_is_a_filter(generator: torch.Generator) -> None:
    assert TotalVariation().has_prox
    assert not TotalVariation(1.5).has_prox
    with pytest.raises(UserError, match="tv: has no proximal operator"):
        TotalVariation(1.5).prox(points(generator, 1, 3, 3), 1.0)
    point = points(generator, 3, 4, 4)
    standard = Standardised(TotalVariation(), 0.2)
    torch.testing.assert_close(standard.prox(point, RHO), TotalVariation().prox(point, RHO / 0.2))
    torch.testing.assert_close(standard.approach(point, point, RHO), standard.prox(point, RHO))
