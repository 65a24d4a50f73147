"""Langevin dynamics against the distributions that it must draw from, and the descents that it turns into."""

import math
from itertools import islice
from typing import Any

import pytest
import torch
from invbench_solvers.langevin import Langevin
from torch import Tensor, nn

from invbench.domains import Box, Reals
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.priors import ALL, Grid, SquaredL2
from invbench.problem import Problem, WeightedPrior
from invbench.registry import catalogue
from invbench.solver import Randomness
from tests.modules import sequential
from tests.toys import tiny_problems

#: Mixes three channels: every pixel is a Gaussian of its own, so that an image is a thousand chains.
SIDE = 24
MIX = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.8, -0.4], [0.2, 0.0, 0.7]], dtype=torch.float64)
MEAN = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)


def gaussian(mix: Tensor = MIX, batch: int = 2, *priors: WeightedPrior, domain: Any = None) -> Problem:
    """E = sum over pixels of |M (x - mean)|^2, the Gaussian of precision 2 M^T M / T in each pixel."""
    convolution = nn.Conv2d(3, 3, 1, bias=False).double()
    convolution.weight.data = mix[:, :, None, None].clone()
    network = parse(sequential(mix=convolution), (3, SIDE, SIDE), "gaussian")
    target = network(MEAN.view(1, 3, 1, 1).expand(batch, 3, SIDE, SIDE).contiguous())
    return Problem(network, target, SquaredError("none"), domain or Reals(), priors, Meter(batch))


def run(
    solver: Langevin, problem: Problem, count: int, x: Tensor | None = None, seed: int = 0
) -> list[Tensor]:
    x = torch.zeros(problem.shape, dtype=torch.float64) if x is None else x
    source = solver.iterates(problem, x, Randomness(seed, range(len(x)), x))
    return [y.clone() for y in islice(source, count)]


def pixels(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B H W, 3)."""
    return x.movedim(1, -1).reshape(-1, 3)


def stationary(curvature: Tensor, solver: Langevin) -> Tensor:
    """The variance T / (c (1 - (1 - b) lr c / (2 (1 + b)))) of finite steps, n = 3 SIDE^2 elements, G = 1."""
    return solver.temperature / (3 * SIDE**2) / (curvature * (1 - bias(solver) * curvature))


def bias(solver: Langevin) -> float:
    """The factor (1 - b) lr / (2 (1 + b))."""
    return (1 - solver.momentum) * solver.lr / (2 * (1 + solver.momentum))


@pytest.mark.parametrize(("momentum", "lr"), [(0.0, 0.45), (0.5, 1.2)])
def test_draws_from_a_gaussian_with_the_bias_of_finite_steps(momentum: float, lr: float) -> None:
    """Mean and covariance; steps so long that the bias is far above the error of the estimate."""
    solver = Langevin(lr=lr, temperature=3.0 * SIDE**2, final=1.0, momentum=momentum, preconditioner="none")
    curvatures, axes = torch.linalg.eigh(2 * MIX.T @ MIX)
    # The slowest mode loses a share of at least lr c a step: 20 steps apart, draws are independent
    # but for a correlation below .02.
    assert (1 - lr * float(curvatures[0])) ** 20 < 0.02
    draws = pixels(torch.cat(run(solver, gaussian(), 220)[60::20]))
    along = (draws - MEAN) @ axes
    variances = stationary(curvatures, solver)
    scale = variances.sqrt()
    assert ((along.mean(0) / scale).abs() < 4.1 / len(draws) ** 0.5).all()
    error = (along.T @ along / len(draws) - variances.diag()) / (scale[:, None] * scale)
    tolerance = 4.1 * (2 / len(draws)) ** 0.5
    assert error.abs().max() < tolerance
    assert (variances * curvatures - 1).max() > 3 * tolerance, "the limit of short steps would pass, too"


def test_spread_grows_as_the_root_of_the_temperature() -> None:
    """On a quadratic, exactly: with the same noise, deviations from the run without noise double at 4 T."""
    problem = gaussian(batch=1)
    cold, warm, hot = (
        run(Langevin(lr=0.2, temperature=t, preconditioner="none", horizon=30), problem, 30)
        for t in (0.0, 1.0, 4.0)
    )
    for none, one, four in zip(cold, warm, hot, strict=True):
        assert (one - none).abs().max() > 0
        torch.testing.assert_close(four - none, 2 * (one - none))


def test_the_temperature_is_that_of_a_whole_image() -> None:
    """A quadratic of all n elements is above its minimum by temperature / 2, whatever n."""
    solver = Langevin(lr=0.2, temperature=0.4, final=1.0, momentum=0.5, preconditioner="none")
    problem = gaussian()
    curvatures = torch.linalg.eigvalsh(2 * MIX.T @ MIX)
    inflation = stationary(curvatures, solver) / stationary(curvatures, Langevin(lr=1e-9, temperature=0.4))
    iterates = run(solver, problem, 160, MEAN.view(3, 1, 1).expand(problem.shape))[60::20]
    energies = torch.stack([problem.objective(x) for x in iterates])
    assert float(energies.mean()) == pytest.approx(0.2 * float(inflation.mean()), rel=0.04)


def test_preconditioning_evens_out_the_curvatures_and_keeps_the_distribution() -> None:
    """G settles at 1 / sqrt(E g^2) = 1 / (c s), s^2 the variance, which then is T / c + factor s.

    The smallest curvature is 1/400 of the largest, and its mode forgets as fast as the others.
    """
    mix = torch.diag(torch.tensor([10.0, 2.0, 0.5], dtype=torch.float64))
    solver = Langevin(lr=0.1, temperature=3.0 * SIDE**2, final=1.0, momentum=0.5, decay=0.998)
    short = (2 * mix.diag() ** 2).reciprocal()
    expected = (bias(solver) + (bias(solver) ** 2 + 4 * short).sqrt()) / 2
    noise = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = MEAN.view(3, 1, 1) + expected.view(3, 1, 1) * noise
    draws = pixels(torch.cat(run(solver, gaussian(mix), 400, start)[200::40]))
    assert draws.std(0).tolist() == pytest.approx(expected.tolist(), rel=0.04)


@pytest.mark.parametrize("decay", [0.99, 0.9])
def test_without_temperature_and_momentum_it_is_rmsprop_with_the_bias_correction_of_adam(
    decay: float,
) -> None:
    problem, x = tiny_problems()["features without constraint"]
    ours = run(Langevin(lr=0.05, temperature=0.0, momentum=0.0, decay=decay), problem, 25, x)
    leaf = x.clone().requires_grad_()
    reference = torch.optim.Adam([leaf], lr=0.05, betas=(0.0, decay))
    for mine in ours:
        leaf.grad = problem.value_and_gradient(leaf.detach())[1]
        reference.step()
        torch.testing.assert_close(mine, leaf.detach(), rtol=1e-9, atol=1e-11)


def test_without_temperature_and_preconditioner_it_is_heavy_ball_descent() -> None:
    problem, x = tiny_problems()["features without constraint"]
    ours = run(Langevin(lr=0.5, temperature=0.0, momentum=0.8, preconditioner="none"), problem, 25, x)
    leaf = x.clone().requires_grad_()
    reference = torch.optim.SGD([leaf], lr=0.5, momentum=0.8, dampening=0.0)
    for mine in ours:
        leaf.grad = (1 - 0.8) * problem.value_and_gradient(leaf.detach())[1]
        reference.step()
        torch.testing.assert_close(mine, leaf.detach(), rtol=1e-9, atol=1e-11)


def test_temperature_and_step_fall_over_the_horizon() -> None:
    """Without gradient and momentum a step is sqrt(2 lr T) xi; T falls by `final`, lr by its root."""
    problem = gaussian(torch.zeros(3, 3, dtype=torch.float64), 1)
    n, horizon, final = 3 * SIDE**2, 10, 1e-4
    solver = Langevin(
        lr=0.3, temperature=2.0, final=final, momentum=0.0, preconditioner="none", horizon=horizon
    )
    iterates = [torch.zeros(problem.shape, dtype=torch.float64), *run(solver, problem, 15)]
    rng = Randomness(0, range(1), iterates[0])
    for t in range(15):
        share = min(t / horizon, 1)
        size = math.sqrt(2 * 0.3 * final ** (share / 2) * 2.0 / n * final**share)
        torch.testing.assert_close(iterates[t + 1] - iterates[t], size * rng.each((3, SIDE, SIDE)))


def test_noise_stays_in_the_domain_and_differs_between_instances() -> None:
    problem = gaussian(domain=Box(0.0, 1.0))
    for x in run(Langevin(temperature=100.0), problem, 10):
        assert problem.domain.contains(x, 0.0).all()
        assert not torch.equal(x[0], x[1]), "starts are equal, draws are not"


def test_priors_that_fall_with_the_temperature_stay_at_the_first_one() -> None:
    """The loss alone is cooled: exp(-loss / T_t - prior / T_0), here a Gaussian of known variance."""
    prior = WeightedPrior("l2", 4.0, SquaredL2(0.0))
    mix = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))  # the loss leaves one channel open
    kwargs: dict[str, Any] = {"temperature": 3.0 * SIDE**2, "momentum": 0.5, "preconditioner": "none"}
    final = 1e-2
    solver = Langevin(lr=20.0, final=final, prior_scale=(1.0, final), horizon=1, **kwargs)
    # After a horizon of one iteration the last values hold: T = .01, prior weight .04, lr 2.
    draws = pixels(run(solver, gaussian(mix, 8, prior), 200)[-1])
    variances = draws.var(0)
    curvature = torch.tensor([2.04, 2.04, 0.04])
    eta = (1 - 0.5) * 2
    expected = 0.01 / (curvature * (1 - eta * curvature / (2 * 1.5)))
    assert variances.tolist() == pytest.approx(expected.tolist(), rel=4 * (2 / len(draws)) ** 0.5)
    assert float(variances[2]) == pytest.approx(1 / 4, rel=0.1), "as of the prior at the first temperature"


def test_priors_fall_and_patches_are_drawn_anew_each_pass() -> None:
    problem, x = tiny_problems()["features in a box"]
    seen: list[tuple[float, Grid]] = []

    class Spy(Problem):
        def value_and_gradient(
            self, x: Tensor, shift: Any = (0, 0), prior_scale: float = 1.0, grid: Grid = ALL
        ) -> Any:
            seen.append((prior_scale, grid))
            return super().value_and_gradient(x, shift, prior_scale, grid)

    spy = Spy(**{name: getattr(problem, name) for name in problem.__dataclass_fields__})
    run(Langevin(patch_stride=3, prior_scale=(4.0, 0.25), horizon=8), spy, 12, x)
    assert [scale for scale, _ in seen] == pytest.approx([4 * 2 ** (-min(t, 8) / 2) for t in range(12)])
    rng = Randomness(0, range(len(x)), x)
    assert [grid for _, grid in seen] == [Grid(3, *rng.integers(0, 2, 2)) for _ in range(12)]


def test_a_scale_that_cannot_fall_geometrically_is_refused() -> None:
    problem, _ = tiny_problems()["features in a box"]
    assert "no geometric decay" in str(Langevin(prior_scale=(1.0, 0.0)).refuses(problem))
    assert Langevin(prior_scale=(0.0, 0.0)).refuses(problem) is None


def test_the_preset_cools_the_loss_alone() -> None:
    (stage,) = catalogue().presets["posterior_sampling"]["stages"]
    assert stage["langevin"]["prior_scale"] == [1, stage["langevin"]["final"]]
