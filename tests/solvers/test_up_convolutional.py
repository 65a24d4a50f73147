"""The network of up-convolutions: its layers, its loss, its training, and what it refuses."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from invbench_solvers.up_convolutional import UpConvolutional
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from invbench import metrics, networks
from invbench.domains import Box, Reals
from invbench.errors import UserError
from invbench.images import open_images
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.problem import Problem
from invbench.solver import Randomness, Setting
from invbench.trials import offline
from invbench.trials.contract import Scene
from invbench.trials.preimage import Preimage
from tests.modules import seeded, sequential
from tests.toys import black_box, check_training_repeats, tiny_problems, tiny_setting


def decoded(solver: UpConvolutional, problem: Problem) -> Tensor:
    start = torch.zeros(problem.shape, dtype=problem.network.dtype)
    (x,) = solver.iterates(problem, start, Randomness(0, range(problem.size), start))
    return x


def posed(layers: nn.Module, shape: tuple[int, ...]) -> Problem:
    network = parse(seeded(layers).double(), shape, "tiny")
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Problem(network, network(x), SquaredError(), Box(0.0, 1.0), (), Meter(2))


def pooled(side: int, window: int, channels: int = 3) -> Problem:
    layers = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.MaxPool2d(window))
    return posed(sequential(layer=layers), (channels, side, side))


def vector(side: int, channels: int = 3) -> Problem:
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 7))
    return posed(sequential(layer=flat), (channels, side, side))


def untrained(problem: Problem, **parameters: Any) -> UpConvolutional:
    setting = replace(tiny_setting(problem), progress=lambda *_: None)
    return UpConvolutional(**{"steps": 1, "batch": 2, "width": 6, **parameters}).prepare(setting)


#: Features and images: sides that doubling reaches or not, vectors, images of one channel, images not square.
PROBLEMS = {
    "as large as the image": lambda: pooled(8, 1),
    "2 to 16": lambda: pooled(16, 8),
    "3 to 64": lambda: pooled(64, 21),
    "5 to 64": lambda: pooled(64, 12),
    "7 to 15": lambda: pooled(15, 2),
    "larger than the image": lambda: posed(sequential(layer=nn.Conv2d(3, 4, 1, padding=3)), (3, 8, 8)),
    "not square": lambda: posed(sequential(layer=nn.Conv2d(3, 4, 3, (2, 1))), (3, 9, 14)),
    "one channel": lambda: pooled(16, 4, 1),
    "vector to 8": lambda: vector(8),
    "vector to 27": lambda: vector(27),
    "vector to 3": lambda: vector(3),
    "vector to one channel": lambda: vector(16, 1),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_gives_images_of_the_right_size_and_its_meter_counts_all_layers(name: str) -> None:
    problem = PROBLEMS[name]()
    assert UpConvolutional().refuses(problem) is None
    solver = untrained(problem)
    assert solver.learned is not None
    layers = len(solver.learned) // 2
    with FlopCounterMode(display=False) as counter:
        x = decoded(solver, problem)
    assert x.shape == problem.shape
    assert x.isfinite().all()
    assert problem.domain.contains(x, 0).all()
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("applications").tolist() == [layers, layers]
    assert 2 * int(problem.meter.multiply_adds.sum()) == counter.get_total_flops() > 0


def test_three_to_sixty_four_by_hand() -> None:
    """3 - 6 - 12 - 24 - 48 rows, and then 64, of which every third is one twice."""
    problem = replace(pooled(64, 21), domain=Reals())
    solver = untrained(problem, width=64)
    assert solver.learned is not None
    w = solver.learned
    shapes = [tuple(w[f"{n}.weight"].shape) for n in range(len(w) // 2)]
    assert shapes == [
        (64, 4, 3, 3), (64, 64, 3, 3), (64, 32, 5, 5), (32, 16, 5, 5), (16, 16, 5, 5), (16, 16, 5, 5),
        (3, 16, 3, 3),
    ]  # fmt: skip
    z = problem.target
    for n in range(2):
        z = functional.leaky_relu(functional.conv2d(z, w[f"{n}.weight"], w[f"{n}.bias"], padding=1), 0.2)
    for n in range(2, 6):
        z = functional.conv_transpose2d(z, w[f"{n}.weight"], w[f"{n}.bias"], 2, 2, 1)
        z = functional.leaky_relu(z, 0.2)
    assert z.shape[2:] == (48, 48)
    z = functional.interpolate(z, (64, 64), mode="nearest")
    expected = functional.conv2d(z, w["6.weight"], w["6.bias"], padding=1)
    torch.testing.assert_close(decoded(solver, problem), expected)


def test_a_vector_is_unfolded_by_two_dense_layers() -> None:
    problem = replace(vector(16), domain=Reals())
    solver = untrained(problem)
    assert solver.learned is not None
    w = solver.learned
    z = functional.leaky_relu(problem.target @ w["0.weight"].T + w["0.bias"], 0.2)
    z = functional.leaky_relu(z @ w["1.weight"].T + w["1.bias"], 0.2).view(2, 6, 4, 4)
    for n in (2, 3):
        z = functional.conv_transpose2d(z, w[f"{n}.weight"], w[f"{n}.bias"], 2, 2, 1)
        z = functional.leaky_relu(z, 0.2)
    expected = functional.conv2d(z, w["4.weight"], w["4.bias"], padding=1)
    torch.testing.assert_close(decoded(solver, problem), expected)


@dataclass(frozen=True)
class Watched(Setting):
    """Keeps what is to be trained and by which loss, and trains nothing."""

    seen: list[Any] = field(default_factory=list)

    def fit(self, parameters: Any, loss: Any, *_: Any, **__: Any) -> None:  # type: ignore[override]
        self.seen.append((list(parameters), loss))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_loss_is_its_definition(weight: float) -> None:
    problem = replace(pooled(8, 2), domain=Reals())
    setting = tiny_setting(problem)
    watch = Watched(setting.pose, setting.train, setting.validation, 0, setting.progress)
    solver = UpConvolutional(feature_weight=weight, width=6).prepare(watch)
    ((parameters, loss),) = watch.seen
    images, network = setting.train[2:7], problem.network
    made = decoded(solver, replace(problem, target=network(images), meter=Meter(5)))
    expected = ((made - images) ** 2).sum() / (images**2).sum()
    y, z = network(images), network(made)
    expected = expected + weight * ((z - y) ** 2).sum() / (y**2).sum()
    value = loss(images)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-10, atol=0)
    value.backward()
    assert all(tensor.grad is not None and bool(tensor.grad.any()) for tensor in parameters)
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_it_repeats_itself_and_leaves_the_world_as_it_was() -> None:
    problem = pooled(8, 2)
    check_training_repeats(replace(UpConvolutional.tiny(), steps=3), problem)


def test_a_black_box_is_taken_and_what_is_refused() -> None:
    problems = tiny_problems()
    assert UpConvolutional().refuses(problems["features of a black box"][0]) is None
    for name in ("class in a box", "adversarial linf", "pooled values and switches"):
        assert "takes features as its target" in str(UpConvolutional().refuses(problems[name][0]))
    assert "gives images" in str(UpConvolutional().refuses(problems["sparse code"][0]))
    with pytest.raises(UserError, match="prepare it first"):
        decoded(UpConvolutional(), pooled(8, 2))


def test_it_learns_from_a_black_box() -> None:
    network = black_box()
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    problem = Problem(network, network(x), SquaredError(), Box(0.0, 1.0), (), Meter(3))
    error = metrics.find()["relative_l2"]
    first, last = (
        float(error(decoded(untrained(problem, steps=s, lr=1e-2), problem), x, problem).mean())
        for s in (1, 80)
    )
    assert last < 0.8 * first


def test_on_photographs_it_beats_the_mean_image_and_gets_better(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images("bundled", 32)
    network = networks.load("lenet", {}, images).network
    test = images.draw("test", 32)
    scene = Scene(network, test, images.classes, test.pixels, 0, source=images)
    trial = Preimage(layer="pool1", priors={})
    monkeypatch.setattr(offline, "IMAGES", {"train": 512, "validation": 64})
    setting = offline.setting_for(trial, scene, lambda *_: None)
    what = trial.pose(scene)

    mse = metrics.find()["mse"]

    def error(x: Tensor) -> float:
        return float(mse(x, what.truth, what.problem).mean())

    mean = error(setting.train.mean(0).expand_as(test.pixels))
    solvers = (UpConvolutional(width=16, steps=steps, batch=16, lr=5e-3) for steps in (5, 40))
    few, many = (error(decoded(solver.prepare(setting), what.problem)) for solver in solvers)
    assert many < 0.5 * few
    assert many < 0.25 * mean
