"""The loss of known switches: its definition, slope, prox, and what zero means."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invbench.errors import UserError
from invbench.losses import SwitchedError
from invbench.unpooling import cornered, spread, switched

WINDOW = (2, 3)


def maps(generator: torch.Generator, count: int = 3, shift: float = -0.3) -> Tensor:
    """Values before the ReLU, some of whose windows are off."""
    return torch.randn(count, 2, 4, 6, generator=generator, dtype=torch.float64) + shift


def by_loops(y: Tensor, pooled: Tensor) -> Tensor:
    """The loss against the map that was pooled, from the definition of a window."""
    values = []
    for f, t in zip(y, pooled, strict=True):
        total = scale = 0.0
        for k in range(2):
            for i in range(0, 4, 2):
                for j in range(0, 6, 3):
                    places = [(a, b) for a in (i, i + 1) for b in (j, j + 1, j + 2)]
                    first = max(places, key=lambda place: float(t[k][place]))
                    p = max(float(t[k][first]), 0.0)
                    scale += p * p
                    for place in places:
                        gap = float(f[k][place]) - p
                        total += gap**2 if place == first and p > 0 else max(gap, 0.0) ** 2
        values.append(total / scale)
    return torch.tensor(values, dtype=torch.float64)


def test_is_its_definition(generator: torch.Generator) -> None:
    y, pooled = maps(generator), maps(generator)
    torch.testing.assert_close(SwitchedError()(y, switched(pooled, WINDOW)), by_loops(y, pooled))


def test_the_target_holds_the_value_of_its_window_and_one_switch_an_active_window(
    generator: torch.Generator,
) -> None:
    y = maps(generator)
    values, switches = switched(y, WINDOW).unbind(1)
    pooled = functional.max_pool2d(y.relu(), WINDOW)
    assert torch.equal(values, spread(pooled, WINDOW))
    counts = functional.avg_pool2d(switches, WINDOW) * 6
    torch.testing.assert_close(counts, (pooled > 0).double())
    assert 0 < float((pooled > 0).double().mean()) < 1, "windows of both kinds"
    assert torch.equal(values * switches, y.relu() * switches), "the value stands where it came from"


def test_of_equal_entries_exactly_one_is_the_switch() -> None:
    y = torch.ones(1, 1, 2, 3)
    _, switches = switched(y, WINDOW).unbind(1)
    assert switches.flatten().tolist() == [1, 0, 0, 0, 0, 0]


def test_unpooling_without_switches_by_its_definition(generator: torch.Generator) -> None:
    pooled = torch.rand(2, 3, 2, 2, generator=generator)
    corners, everywhere = cornered(pooled, WINDOW), spread(pooled, WINDOW)
    assert corners.shape == everywhere.shape == (2, 3, 4, 6)
    for i in range(4):
        for j in range(6):
            value = pooled[:, :, i // 2, j // 3]
            assert torch.equal(everywhere[:, :, i, j], value)
            assert torch.equal(corners[:, :, i, j], value * (i % 2 == 0 and j % 3 == 0))


def test_zero_means_the_same_pooled_values_and_switches(generator: torch.Generator) -> None:
    """So every solution with known switches is one of the pooled values alone."""
    y = maps(generator)
    target = switched(y, WINDOW)
    lower = y - torch.rand(y.shape, generator=generator, dtype=torch.float64)
    other = torch.where(target[:, 1] > 0, y, lower)
    assert SwitchedError()(other, target).tolist() == [0, 0, 0]
    assert torch.equal(switched(other, WINDOW), target)
    higher = torch.where(target[:, 1] > 0, y, target[:, 0] + 1)
    assert (SwitchedError()(higher, target) > 0.1).all(), "the other places are bounded"


def test_is_convex_and_has_the_slope_of_finite_differences(generator: torch.Generator) -> None:
    a, b, pooled = maps(generator), maps(generator), maps(generator)
    loss, target = SwitchedError(), switched(pooled, WINDOW)
    for t in (0.25, 0.5, 0.9):
        chord = (1 - t) * loss(a, target) + t * loss(b, target)
        assert (loss((1 - t) * a + t * b, target) <= chord + 1e-12).all()
    leaf = a.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: loss(y, target), leaf)


@pytest.mark.parametrize("rho", [1e-3, 0.1, 10.0])
def test_the_prox_is_the_minimum_in_every_place(rho: float, generator: torch.Generator) -> None:
    """Places do not see each other: a fine grid around the answer, and far from it, finds nothing lower."""
    loss, point, target = SwitchedError(), maps(generator), switched(maps(generator), WINDOW)
    found = loss.prox(point, target, rho)
    scale = loss.weights(target).view(-1, 1, 1, 1)

    def cost(v: Tensor) -> Tensor:
        gap = v - target[:, 0]
        return scale * torch.where(target[:, 1] > 0, gap, gap.relu()) ** 2 + rho / 2 * (v - point) ** 2

    torch.testing.assert_close(
        cost(found).flatten(1).sum(1),
        loss(found, target) + rho / 2 * (found - point).square().flatten(1).sum(1),
    )
    for step in [*torch.linspace(-4, 4, 81).tolist(), 1e-3, -1e-3]:
        assert (cost(found) <= cost(found + step) + 1e-12).all()


def test_a_rho_an_instance_and_a_target_of_zeros(generator: torch.Generator) -> None:
    loss, point, target = SwitchedError(), maps(generator), switched(maps(generator), WINDOW)
    rho = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    together = loss.prox(point, target, rho)
    for i in range(3):
        alone = loss.prox(point[i : i + 1], target[i : i + 1], float(rho[i]))
        torch.testing.assert_close(together[i : i + 1], alone)
    off = torch.zeros_like(target)
    torch.testing.assert_close(loss(point, off), point.relu().square().flatten(1).sum(1))


def test_a_target_without_switches_is_told() -> None:
    with pytest.raises(UserError, match=r"\(B, 2, \.\.\.\), but has the shape \(1, 4\)"):
        SwitchedError()(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(UserError, match="switched_error: the target has the shape"):
        SwitchedError()(torch.zeros(1, 4), torch.zeros(1, 2, 5))
