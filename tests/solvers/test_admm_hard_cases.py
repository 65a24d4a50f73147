"""ADMM where networks, targets and settings are awkward: what it yields stays finite, feasible and useful."""

import math
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from invbench_solvers.admm import ADMM
from torch import Tensor, nn

from invbench import cli
from invbench.domains import Box
from invbench.losses import CrossEntropy, Loss, SquaredError
from invbench.meter import Meter
from invbench.network import Network, parse
from invbench.networks.pretrained import with_stages
from invbench.problem import Problem
from invbench.solver import Randomness
from tests.modules import seeded, sequential
from tests.torchvision_models import narrow

SWEEPS = 60


def one_layer(kernel: int, side: int, padding: int | None = None, **options: Any) -> Network:
    """A convolution with ReLU, then scores of 4 classes."""
    convolution = nn.Conv2d(3, 4, kernel, padding=kernel // 2 if padding is None else padding, **options)
    with torch.no_grad():
        outputs = convolution(torch.zeros(1, 3, side, side)).numel()
    module = sequential(
        conv1=nn.Sequential(convolution, nn.ReLU()),
        fc=nn.Sequential(nn.Flatten(), nn.Linear(outputs, 4)),
    )
    return parse(seeded(module).double(), (3, side, side))


def pose(network: Network, target: Tensor, loss: Loss | None = None) -> Problem:
    return Problem(network, target, loss or SquaredError(), Box(0.0, 1.0), (), Meter(len(target)))


def features_of_images(network: Network, generator: torch.Generator, count: int = 2) -> Problem:
    images = torch.rand(count, *network.input_shape, generator=generator, dtype=network.dtype)
    return pose(network, network(images))


def objectives(problem: Problem, solver: ADMM, sweeps: int = SWEEPS) -> Tensor:
    """The objective at the start and at every iterate, (sweeps + 1, B); each is finite and feasible."""
    assert solver.refuses(problem) is None
    start = torch.full(problem.shape, 0.5, dtype=problem.network.dtype)
    values = [problem.objective(start)]
    for x in islice(solver.iterates(problem, start, Randomness(0, range(len(start)), start)), sweeps):
        assert x.isfinite().all()
        assert torch.equal(x, problem.domain.project(x))
        values.append(problem.objective(x))
    assert torch.stack(values).isfinite().all()
    return torch.stack(values)


def solved(values: Tensor) -> bool:
    """Whether every instance is close to 0, or much closer than its start."""
    return bool((values[-1] < 1e-3 + 0.2 * values[0]).all())


# -- networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_of_any_size(kernel: int, stride: int, generator: torch.Generator) -> None:
    """Even ones, padded by half, enlarge the image."""
    for stage in ("conv1", "fc"):
        network = one_layer(kernel, 6, stride=stride).cut(stage)
        values = objectives(features_of_images(network, generator), ADMM())
        assert solved(values)


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), (2, 1), (4, 2)])
def test_images_of_one_pixel(kernel: int, padding: int, generator: torch.Generator) -> None:
    network = one_layer(kernel, 1, padding)
    values = objectives(features_of_images(network, generator), ADMM())
    assert solved(values)


@pytest.mark.parametrize("many", [1, 4], ids=["one", "all"])
@pytest.mark.parametrize(
    ("parameter", "value"), [("weight", 0), ("bias", -100)], ids=["filters of zeros", "units that never fire"]
)
def test_channels_that_tell_nothing(
    parameter: str, value: float, many: int, generator: torch.Generator
) -> None:
    network = one_layer(3, 6)
    network.module.get_parameter(f"conv1.0.{parameter}")[:many] = value
    for stage in ("conv1", "fc"):
        values = objectives(features_of_images(network.cut(stage), generator), ADMM())
        if many == 1:
            assert solved(values)
        else:
            assert values.max() < 1e-20, "the features of every image are those of the target"


def test_a_class_behind_units_that_never_fire(generator: torch.Generator) -> None:
    network = one_layer(3, 6)
    network.module.get_parameter("conv1.0.bias")[:] = -100
    values = objectives(pose(network, torch.tensor([0, 1]), CrossEntropy()), ADMM(rho=1e-3))
    torch.testing.assert_close(values, values[:1].expand_as(values))


def test_alexnet_of_torchvision_with_its_overlapping_pools(generator: torch.Generator) -> None:
    network = parse(with_stages(narrow("alexnet", share=4)), (3, 224, 224))
    values = objectives(features_of_images(network, generator, count=1), ADMM(), sweeps=2)
    assert len(values) == 3


# -- targets ---------------------------------------------------------------------------------------------


def test_negative_targets_behind_a_relu_give_the_nearest_features(generator: torch.Generator) -> None:
    """The nearest features to -1 are zeros, which a bias of -0.5 makes attainable: at a black image."""
    network = one_layer(3, 6).cut("conv1")
    network.module.get_parameter("conv1.0.weight").abs_()
    network.module.get_parameter("conv1.0.bias").fill_(-0.5)
    target = torch.full((2, *network.output_shape), -1.0, dtype=torch.float64)
    values = objectives(pose(network, target), ADMM())
    torch.testing.assert_close(values.amin(0), torch.ones(2, dtype=torch.float64))


def test_a_target_beyond_the_box_gives_the_nearest_image(generator: torch.Generator) -> None:
    """The scores of an image of values up to 3 are not attainable; cvxpy knows how near one comes."""
    import cvxpy as cp

    module = sequential(fc=nn.Sequential(nn.Flatten(), nn.Linear(12, 7)))
    network = parse(seeded(module).double(), (3, 2, 2))
    target = network(3 * torch.rand(2, 3, 2, 2, generator=generator, dtype=torch.float64))
    values = objectives(pose(network, target), ADMM(rho=0.1), sweeps=250)
    W, b = (network.module.get_parameter(f"fc.1.{name}").numpy() for name in ("weight", "bias"))
    for wanted, found in zip(target.numpy(), values[-1], strict=True):
        v = cp.Variable(12)
        nearest = cp.sum_squares(W @ v + b - wanted) / float((wanted**2).sum())
        best = cp.Problem(cp.Minimize(nearest), [v >= 0, v <= 1]).solve()
        assert best > 1e-3, "out of reach"
        assert float(found) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("size", [1e-8, 1e8])
@pytest.mark.parametrize("stage", ["conv1", "fc"])
def test_targets_of_another_size_leave_nothing_worse(
    size: float, stage: str, generator: torch.Generator
) -> None:
    network = one_layer(3, 6).cut(stage)
    target = size * torch.randn(2, *network.output_shape, generator=generator, dtype=torch.float64)
    values = objectives(pose(network, target), ADMM())
    assert (values.amin(0) <= values[0]).all()
    assert (values[-1] <= values[0] * (1 + 1e-6)).all()


def test_a_target_of_zeros(generator: torch.Generator) -> None:
    """Its loss has no scale of its own: the normaliser is 1."""
    network = one_layer(3, 6).cut("conv1")
    values = objectives(pose(network, torch.zeros(2, *network.output_shape, dtype=torch.float64)), ADMM())
    assert (values[-1] < values[0]).all()


def test_targets_that_are_attained_at_the_start_stay_attained() -> None:
    network = one_layer(3, 6)
    start = torch.full((2, *network.input_shape), 0.5, dtype=torch.float64)
    assert objectives(pose(network, network(start)), ADMM()).max() < 1e-20


# -- settings and refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [1e-12, 1e12])
def test_penalties_far_from_any_good_one(rho: float, generator: torch.Generator) -> None:
    network = one_layer(3, 6)
    problem = features_of_images(network, generator)
    values = objectives(problem, ADMM(rho=rho))
    assert (values.amin(0) <= values[0]).all()
    assert math.isfinite(float(values.max()))


@pytest.mark.parametrize(
    ("setting", "mistake"),
    [
        ("rho: 0", "rho: must be > 0"),
        ("rho: -1", "rho: must be > 0"),
        ("rho: .nan", "rho: must be > 0"),
        ("strength: 0", "strength: must be > 0"),
        ("growth: 0", "growth: must be > 0"),
        ("dual_step: 0", "dual_step: must be > 0"),
        ("dual_step: 1.1", "dual_step: must be <= 1"),
        ("order: sideways", "order: "),
    ],
)
def test_settings_out_of_range_are_told_before_anything_runs(
    setting: str,
    mistake: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "study: penalties\n"
        "images: {source: bundled, count: 2}\n"
        "trials: [{preimage: {layer: pool1}}]\n"
        f"methods: [{{admm: {{{setting}}}}}]\n"
        "budget: {iterations: 3}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["invbench", "run", str(study)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert f"study.yaml:4:19: methods[0].admm.{mistake}" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            nn.GELU(),
            "admm needs a chain .*'act1' is a GELU, which is neither an affine map nor an activation",
        ),
        (nn.Sigmoid(), "admm needs a chain .*'act1' is a Sigmoid"),
        (nn.LocalResponseNorm(3), "admm needs projections .*local response normalisation"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_activations_without_a_projection_are_refused(layer: nn.Module, reason: str) -> None:
    module = sequential(
        conv1=nn.Conv2d(3, 4, 3), act1=layer, fc=nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    )
    network = parse(seeded(module).double(), (3, 6, 6))
    refusal = ADMM().refuses(pose(network, torch.ones(2, 4, dtype=torch.float64)))
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refusal)
