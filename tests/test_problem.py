from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from invbench.meter import Meter
from invbench.priors import ALL, Grid, Prior, Standardised, TotalVariation
from invbench.problem import Problem, WeightedPrior
from tests.toys import tiny_problems

PROBLEMS = tiny_problems()


@pytest.mark.parametrize("which", sorted(PROBLEMS))
def test_the_gradient_is_that_of_finite_differences(which: str, generator: torch.Generator) -> None:
    problem, x = PROBLEMS[which]
    x = x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)  # off the kinks
    _, gradient = problem.value_and_gradient(x)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    step = 1e-6
    ahead, behind = problem.objective(x + step * direction), problem.objective(x - step * direction)
    difference = (ahead - behind) / (2 * step)
    slope = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("which", sorted(PROBLEMS))
def test_value_objective_and_terms_agree(which: str) -> None:
    problem, x = PROBLEMS[which]
    problem = replace(problem, loss_weight=3.0)
    value, _ = problem.value_and_gradient(x)
    terms = problem.terms(x)
    torch.testing.assert_close(value, problem.objective(x))
    torch.testing.assert_close(value, terms["objective"])
    priors = sum(term.weight * terms[f"prior:{term.name}"] for term in problem.priors)
    torch.testing.assert_close(terms["objective"], 3.0 * terms["loss"] + priors)


def test_jitter_is_a_translation_that_priors_do_not_see() -> None:
    """The loss under a shift is that of the shifted x; nothing is blanked, so shifting back undoes it."""
    problem, x = PROBLEMS["features in a box"]
    bare = replace(problem, priors=())
    value, gradient = bare.value_and_gradient(x, shift=(2, -3))
    moved = torch.roll(x, (2, -3), (2, 3))
    plain, plain_gradient = bare.value_and_gradient(moved)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(torch.roll(gradient, (2, -3), (2, 3)), plain_gradient)
    assert torch.equal(torch.roll(moved, (-2, 3), (2, 3)), x)
    with_prior, _ = problem.value_and_gradient(x, shift=(2, -3))
    prior = problem.terms(x)["prior:tv"]
    torch.testing.assert_close(with_prior - value, problem.priors[0].weight * prior)


def test_prior_scale_scales_the_priors_alone() -> None:
    problem, x = PROBLEMS["features in a box"]
    half, _ = problem.value_and_gradient(x, prior_scale=0.5)
    none, _ = problem.value_and_gradient(x, prior_scale=0.0)
    full, _ = problem.value_and_gradient(x)
    torch.testing.assert_close(half, (none + full) / 2)
    torch.testing.assert_close(none, problem.terms(x)["loss"])


@pytest.mark.parametrize("which", sorted(PROBLEMS))
def test_a_selection_with_repeats_is_its_instances(which: str) -> None:
    problem, x = PROBLEMS[which]
    indices = torch.tensor([2, 0, 2])
    value, gradient = problem.value_and_gradient(x)
    part, part_gradient = problem.select(indices).value_and_gradient(x[indices])
    torch.testing.assert_close(part, value[indices])
    torch.testing.assert_close(part_gradient, gradient[indices])
    projected = problem.domain.project(x * 2 - 0.5)
    torch.testing.assert_close(
        problem.select(indices).domain.project(x[indices] * 2 - 0.5), projected[indices]
    )


def test_work_is_charged_to_who_caused_it() -> None:
    problem, x = PROBLEMS["features in a box"]
    meter = Meter(3)
    problem: Problem = replace(problem, meter=meter)
    price = problem.network.multiply_adds
    problem.value_and_gradient(x)
    problem.objective(x)
    chosen = problem.select(torch.tensor([1, 1]))
    chosen.value_and_gradient(x[:2])
    problem.terms(x)
    assert meter.multiply_adds.tolist() == [3 * price, 7 * price, 3 * price]


def test_evaluating_leaves_x_and_grad_mode_alone() -> None:
    problem, x = PROBLEMS["features in a box"]
    before = x.clone()
    with torch.no_grad():
        value, gradient = problem.value_and_gradient(x)
        assert not torch.is_grad_enabled()
    assert torch.equal(x, before)
    assert not (x.requires_grad or value.requires_grad or gradient.requires_grad)


def test_a_prior_of_a_stage_acts_on_its_output(generator: torch.Generator) -> None:
    problem, x = PROBLEMS["features in a box"]
    layer = problem.network.stages[0]
    term = WeightedPrior(f"tv@{layer}", 0.3, TotalVariation(), layer)
    with_prior = replace(problem, priors=(*problem.priors, term))
    energy = TotalVariation()(problem.network.cut(layer)(x))
    torch.testing.assert_close(with_prior.objective(x), problem.objective(x) + 0.3 * energy)
    torch.testing.assert_close(with_prior.terms(x)[f"prior:tv@{layer}"], energy)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    _, gradient = with_prior.value_and_gradient(x)
    ahead, behind = (with_prior.objective(x + step * direction) for step in (1e-6, -1e-6))
    slope = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)


def test_stages_with_priors_cost_no_further_pass() -> None:
    problem, x = PROBLEMS["features in a box"]
    layer = problem.network.stages[0]
    calls = []
    handle = problem.network.module.register_forward_hook(lambda *_: calls.append(1))
    try:
        term = WeightedPrior("tv", 1.0, TotalVariation(), layer)
        replace(problem, priors=(term,)).value_and_gradient(x)
    finally:
        handle.remove()
    assert len(calls) == 1
    assert not problem.network.module.get_submodule(layer)._forward_hooks, "the hook is gone"


def test_only_priors_over_patches_see_the_grid() -> None:
    """A stand-in that tells which positions it was evaluated at."""

    @dataclass(frozen=True)
    class Positions(Prior):
        grid: Grid = ALL

        def __call__(self, x: Tensor) -> Tensor:
            stride, down, right = self.grid
            return x[:, :, down::stride, right::stride].flatten(1).sum(1)

        def on_grid(self, grid: Grid) -> "Positions":
            return replace(self, grid=grid)

    problem, x = PROBLEMS["features in a box"]
    patches = Standardised(Positions(), 2.0)
    problem = replace(problem, priors=(*problem.priors, WeightedPrior("positions", 0.5, patches)))
    bare = replace(problem, priors=problem.priors[:-1])
    value, _ = problem.value_and_gradient(x, grid=Grid(3, 1, 2))
    seen = x[:, :, 1::3, 2::3].flatten(1).sum(1)
    torch.testing.assert_close(value, bare.objective(x) + seen)
