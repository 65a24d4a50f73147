from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pytest
import torch
from invbench_solvers.lbfgs import LBFGS, _Pairs
from scipy.optimize import minimize
from torch import Tensor

from invbench.domains import Box, Domain, Reals
from invbench.meter import Meter
from invbench.solver import Randomness
from tests.toys import tiny_problems


@dataclass
class Function:
    """A function of R^n as a problem: only what L-BFGS asks for."""

    domain: Domain
    curvatures: Tensor
    centre: Tensor
    quartic: float = 0.0
    passes: list[int] = field(default_factory=list)

    def value(self, x: Tensor) -> Tensor:
        r = x - self.centre
        coupled = (r[:, 1:] * r[:, :-1]).sum(1)
        return 0.5 * (self.curvatures * r**2).sum(1) + 0.3 * coupled + self.quartic * (r**4).sum(1)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.passes.append(len(x))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = self.value(leaf)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient


def last(solver: LBFGS, problem: object, x: Tensor, count: int) -> Tensor:
    rng = Randomness(0, range(len(x)), x)
    return [y.clone() for y in islice(solver.iterates(problem, x, rng), count)][-1]  # type: ignore[arg-type]


@pytest.mark.parametrize("domain", [Reals(), Box(0.0, 1.0)], ids=["free", "box"])
@pytest.mark.parametrize("quartic", [0.0, 5.0])
def test_finds_the_minimum_that_scipy_finds(domain: Domain, quartic: float) -> None:
    generator = torch.Generator().manual_seed(0)
    curvatures = torch.logspace(0, 3, 30, dtype=torch.float64)
    centre = 3 * torch.rand(4, 30, generator=generator, dtype=torch.float64) - 1
    function = Function(domain, curvatures, centre, quartic)
    x = last(LBFGS(), function, torch.full((4, 30), 0.5, dtype=torch.float64), 400)
    for i in range(4):
        alone = replace(function, centre=centre[i : i + 1])

        def objective(v: np.ndarray, alone: Function = alone) -> tuple[float, np.ndarray]:
            value, gradient = alone.value_and_gradient(torch.from_numpy(v)[None])
            return float(value), gradient[0].numpy()

        bounds = None if isinstance(domain, Reals) else [(0, 1)] * 30
        options = {"maxiter": 1000, "ftol": 0, "gtol": 1e-10}
        best = minimize(
            objective, np.full(30, 0.5), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        assert float(alone.value(x[i : i + 1])) == pytest.approx(best.fun, rel=1e-8, abs=1e-12)


def test_returns_when_every_instance_rests() -> None:
    function = Function(Reals(), torch.ones(5, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.float64))
    x = torch.ones(2, 5, dtype=torch.float64)
    iterates = list(islice(LBFGS().iterates(function, x, Randomness(0, range(2), x)), 500))  # type: ignore[arg-type]
    assert len(iterates) < 300
    assert iterates[-1].abs().max() < 1e-7


def test_every_pass_evaluates_the_whole_batch_and_yields_once() -> None:
    problem, x = tiny_problems()["features in a box"]
    meter = Meter(problem.size)
    iterates = list(
        islice(LBFGS().iterates(replace(problem, meter=meter), x, Randomness(0, range(3), x)), 20)
    )
    assert len(iterates) == 20
    assert meter.total("applications").tolist() == [20, 20, 20]


def test_the_objective_never_rises() -> None:
    problem, x = tiny_problems()["features in a box"]
    values = torch.stack(
        [problem.objective(y) for y in islice(LBFGS().iterates(problem, x, Randomness(0, range(3), x)), 60)]
    )
    assert (values.diff(dim=0) <= 1e-12).all()
    assert (values[-1] < 0.3 * values[0]).all()


def test_every_instance_keeps_its_own_last_pairs() -> None:
    """Against lists: random instances take part, a third of the pairs has no positive curvature."""
    generator = torch.Generator().manual_seed(0)
    pairs = _Pairs(3, torch.zeros(4, 6))
    kept: list[list[Tensor]] = [[torch.zeros(2, 6)] * 3 for _ in range(4)]
    for _ in range(12):
        s = torch.randn(4, 6, generator=generator)
        y = s * torch.tensor([-1.0, 0.5, 2.0])[torch.randint(3, (4, 1), generator=generator)]
        which = torch.rand(4, generator=generator) < 0.7
        y[~which] = torch.nan  # what a rejected step finds leaves no trace
        pairs.add(s, y, which)
        for i in range(4):
            if which[i] and s[i] @ y[i] > 0:
                kept[i] = [*kept[i][1:], torch.stack((s[i], y[i]))]
    for i in range(4):
        assert torch.equal(torch.stack((pairs.s[:, i], pairs.y[:, i]), 1), torch.stack(kept[i]))


def test_refuses_a_ball() -> None:
    problem, _ = tiny_problems()["adversarial l2"]
    assert "needs a box" in str(LBFGS().refuses(problem))
