from dataclasses import replace

import pytest
import torch

from invbench.meter import Meter
from invbench.problem import Problem
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
