from itertools import islice

import pytest
import torch
from invbench_solvers.momentum import Momentum

from invbench.solver import Randomness
from tests.toys import tiny_problems


def test_equals_the_iteration_of_the_paper_on_its_own_variable() -> None:
    """u = (x - 1/2) / s descends by p <- mu p - lr grad_u E, u <- u + p, without constraint."""
    problem, x = tiny_problems()["features without constraint"]
    solver = Momentum(lr=0.01, momentum=0.8, rms=0.2)
    s = 0.2 * x[0].numel() ** 0.5
    u, p = (x - 0.5) / s, torch.zeros_like(x)
    for mine in islice(solver.iterates(problem, x, Randomness(0, range(len(x)), x)), 15):
        p = 0.8 * p - 0.01 * s * problem.value_and_gradient(0.5 + s * u)[1]
        u = u + p
        torch.testing.assert_close(mine, 0.5 + s * u, rtol=1e-9, atol=1e-11)


def test_the_rate_falls_as_in_the_paper() -> None:
    solver = Momentum(lr=0.004, horizon=400)
    assert [solver._rate(t) for t in (0, 99, 100, 299, 300, 1000)] == pytest.approx(
        [4e-3, 4e-3, 4e-4, 4e-4, 4e-5, 4e-5]
    )


def test_the_unit_is_the_published_norm() -> None:
    assert Momentum().rms * 255 * (3 * 227 * 227) ** 0.5 == pytest.approx(27098.12)
