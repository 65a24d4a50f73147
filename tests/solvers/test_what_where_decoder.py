"""The trained decoder: its layers, its training, what it knows and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from invbench_solvers.tied_decoder import TiedDecoder
from invbench_solvers.what_where_decoder import WhatWhereDecoder
from torch import Tensor, nn
from torch.nn import functional

from invbench import metrics, networks
from invbench.domains import Reals
from invbench.errors import UserError
from invbench.images import ImageBatch, open_images
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.problem import Problem
from invbench.solver import Randomness, Setting, Solver
from invbench.trials.contract import Posed, Scene
from invbench.trials.unpool import Unpool
from invbench.unpooling import cornered
from tests.modules import seeded, sequential
from tests.toys import check_training_repeats, tiny_problems, tiny_setting


def decoded(solver: Solver, problem: Problem) -> Tensor:
    start = torch.zeros(problem.shape, dtype=problem.network.dtype)
    (x,) = solver.iterates(problem, start, Randomness(0, range(problem.size), start))
    return x


def problem_of(stride: int, padding: int, side: int, generator: torch.Generator) -> Problem:
    """A macro layer with 2 x 2 windows of some geometry, and random images."""
    convolution = nn.Conv2d(3, 4, 3, stride=stride, padding=padding)
    module = seeded(sequential(conv=nn.Sequential(convolution, nn.ReLU()), pool=nn.MaxPool2d(2)))
    network = parse(module.double(), (3, side, side))
    images = torch.rand(2, *network.input_shape, generator=generator, dtype=torch.float64)
    return Problem(network, network(images), SquaredError(), Reals(), (), Meter(2))


def random_decoder(inputs: int, generator: torch.Generator, kernel: int = 3) -> dict[str, Tensor]:
    shapes = {
        "first": (inputs, 5, kernel, kernel),
        "first_bias": (5,),
        "second": (3, 5, 3, 3),
        "second_bias": (3,),
    }
    return {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}


@pytest.mark.parametrize(
    ("stride", "padding", "side"), [(1, 1, 8), (1, 0, 8), (2, 1, 8), (2, 0, 9), (2, 0, 10)]
)
def test_is_a_transposed_convolution_a_relu_and_a_convolution(
    stride: int, padding: int, side: int, generator: torch.Generator
) -> None:
    problem = problem_of(stride, padding, side, generator)
    w = random_decoder(4, generator)
    u = cornered(problem.target, (2, 2))
    hidden = functional.conv_transpose2d(u, w["first"], None, stride, padding)
    missing = side - hidden.shape[-1]  # rows and columns that the stride leaves unread
    hidden = functional.pad(hidden, (0, missing, 0, missing)) + w["first_bias"][:, None, None]
    expected = functional.conv2d(hidden.relu(), w["second"], w["second_bias"], padding=1)
    torch.testing.assert_close(decoded(WhatWhereDecoder(learned=w), problem), expected)


def test_both_layers_are_paid_for(generator: torch.Generator) -> None:
    problem = problem_of(1, 1, 8, generator)
    decoded(WhatWhereDecoder(learned=random_decoder(4, generator)), problem)
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("applications").tolist() == [2, 2]
    assert problem.meter.multiply_adds.tolist() == [64 * (4 * 5 * 9 + 5 * 3 * 9)] * 2


def test_known_switches_are_seen_beside_the_pooled_values(generator: torch.Generator) -> None:
    problem, _ = tiny_problems()["pooled values and switches"]
    w = random_decoder(16, generator)
    values, switches = problem.target.unbind(1)
    u = torch.cat([values * switches, values], 1)
    hidden = functional.conv_transpose2d(u, w["first"], w["first_bias"], 1, 1).relu()
    expected = functional.conv2d(hidden, w["second"], w["second_bias"], padding=1)
    torch.testing.assert_close(decoded(WhatWhereDecoder(learned=w), problem), expected.clamp(0, 1))


def test_the_training_repeats_itself_and_leaves_the_world_as_it_was() -> None:
    problem, _ = tiny_problems()["pooled values and switches"]
    check_training_repeats(WhatWhereDecoder.tiny(), problem)


def photographs() -> tuple[Scene, Setting, Any]:
    images = open_images("bundled", 32)
    network = networks.load("lenet", {}, images).network
    test = images.draw("test", 32)
    scene = Scene(network, test, images.classes, test.pixels, 0)
    train, validation = images.draw("train", 512).pixels, images.draw("validation", 64).pixels

    def setting(trial: Unpool) -> Setting:
        def pose(pixels: Tensor) -> Posed:
            labels, names = torch.zeros(len(pixels), dtype=torch.int64), ("",) * len(pixels)
            return trial.pose(replace(scene, images=ImageBatch(pixels, labels, names)))

        return Setting(pose, train, validation, 0, lambda *_: None)

    return scene, setting, metrics.find()["relative_l2"]  # type: ignore[return-value]


def test_on_photographs_it_beats_tied_weights_and_known_switches_help() -> None:
    scene, setting, error = photographs()
    errors = {}
    for switches in ("naive", "known"):
        trial = Unpool(layer="pool1", switches=switches)  # type: ignore[arg-type]
        posed = trial.pose(scene)
        trained = WhatWhereDecoder(width=16, steps=60, lr=3e-3).prepare(setting(trial))  # type: ignore[operator]
        for solver in (trained, TiedDecoder()):
            x = decoded(solver, posed.problem)
            errors[type(solver).__name__, switches] = float(error(x, posed.truth, posed.problem).mean())
    assert errors["WhatWhereDecoder", "naive"] < 0.6 * errors["TiedDecoder", "naive"]
    assert errors["WhatWhereDecoder", "known"] < 0.95 * errors["WhatWhereDecoder", "naive"]


def test_refusals_and_mistakes_are_told() -> None:
    problem, _ = tiny_problems()["pooled values and switches"]
    with pytest.raises(UserError, match="prepare it first"):
        decoded(WhatWhereDecoder(), problem)

    setting = tiny_setting(problem)
    blind = replace(setting, pose=lambda pixels: replace(setting.pose(pixels), truth=None))  # type: ignore[type-var]
    with pytest.raises(UserError, match="learns from solutions cannot be trained here: the trial has none"):
        WhatWhereDecoder.tiny().prepare(blind)

    module = seeded(sequential(pool=nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))))
    network = parse(module.double(), (3, 4, 4))
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    pooling = Problem(network, network(x), SquaredError(), Reals(), (), Meter(1))
    assert "mirrors a convolution" in str(WhatWhereDecoder().refuses(pooling))
    boxed, _ = tiny_problems()["features in a box"]
    assert "what_where_decoder takes no priors" in str(WhatWhereDecoder().refuses(boxed))
