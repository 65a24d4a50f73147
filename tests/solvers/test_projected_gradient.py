from itertools import islice, pairwise

import pytest
import torch
from invbench_solvers.projected_gradient import ProjectedGradient
from torch import Tensor

from invbench.problem import Problem
from invbench.solver import Randomness
from tests.toys import tiny_problems


def take(solver: ProjectedGradient, problem: Problem, x: Tensor, count: int) -> list[Tensor]:
    return [y.clone() for y in islice(solver.iterates(problem, x, Randomness(0, range(len(x)), x)), count)]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.8, False), (0.8, True)])
def test_is_gradient_descent_with_momentum(momentum: float, nesterov: bool) -> None:
    problem, x = tiny_problems()["features without constraint"]
    solver = ProjectedGradient(lr=0.3, direction="gradient", momentum=momentum, nesterov=nesterov)
    leaf = x.clone().requires_grad_()
    reference = torch.optim.SGD([leaf], lr=0.3, momentum=momentum, nesterov=nesterov)
    for mine in take(solver, problem, x, 20):
        leaf.grad = problem.value_and_gradient(leaf.detach())[1]
        reference.step()
        torch.testing.assert_close(mine, leaf.detach(), rtol=1e-9, atol=1e-11)


def test_normalised_steps_have_the_length_of_the_rate() -> None:
    problem, x = tiny_problems()["features without constraint"]
    (y,) = take(ProjectedGradient(lr=0.02), problem, x, 1)
    rms = (y - x).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 0.02))


def test_a_gradient_of_zero_stays_where_it_is() -> None:
    solver, g = ProjectedGradient(), torch.zeros(2, 3)
    assert torch.equal(solver._step(g), g)


def test_sign_steps_stay_in_the_ball() -> None:
    problem, x = tiny_problems()["adversarial linf"]
    for y in take(ProjectedGradient(lr=0.1, direction="sign"), problem, x, 10):
        assert problem.domain.contains(y).all()


def test_decay_is_geometric_over_the_horizon() -> None:
    problem, x = tiny_problems()["features without constraint"]
    solver = ProjectedGradient(lr=0.01, decay=0.01, horizon=10)
    points = [x, *take(solver, problem, x, 12)]
    steps = [float((b - a)[0].square().mean().sqrt()) for a, b in pairwise(points)]
    expected = [0.01 * 0.01 ** min(t / 10, 1) for t in range(12)]
    assert steps == pytest.approx(expected, rel=1e-6)
