"""Inverting networks: what each regime minimises, what is learned, and what is refused."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
import torch
from invbench_solvers.inverting_network import InvertingNetwork
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from invbench import metrics, networks
from invbench.domains import Box
from invbench.errors import UserError
from invbench.images import open_images
from invbench.inverse_modules import Kind
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import Network, parse
from invbench.problem import Problem
from invbench.solver import Randomness, Setting
from invbench.trials import offline
from invbench.trials.contract import Scene
from invbench.trials.preimage import Preimage
from tests.modules import normalise, seeded, sequential
from tests.toys import check_training_repeats, tiny_problems, tiny_setting

REGIMES = ["solo", "stacked", "joint", "end-to-end"]
CHAINED = REGIMES[1:]


def decoded(solver: InvertingNetwork, problem: Problem) -> Tensor:
    start = torch.zeros(problem.shape, dtype=problem.network.dtype)
    (x,) = solver.iterates(problem, start, Randomness(0, range(problem.size), start))
    return x


def posed(layers: nn.Module, shape: tuple[int, ...] = (3, 8, 8)) -> Problem:
    network = parse(seeded(layers).double(), shape, "tiny")
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Problem(network, network(x), SquaredError(), Box(0.0, 1.0), (), Meter(2))


def three_operations() -> Problem:
    """A convolution with ReLU, a pool, and a convolution with stride 2."""
    return posed(
        sequential(
            conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 5, 3, 2, 1),
        )
    )


@dataclass(frozen=True)
class Watched(Setting):
    """Keeps what is to be trained and by which loss, and trains nothing."""

    seen: list[Any] = field(default_factory=list)

    def fit(self, parameters: Any, loss: Any, *_: Any, **__: Any) -> None:  # type: ignore[override]
        self.seen.append((list(parameters), loss))


def watched(
    problem: Problem, regime: str
) -> tuple[InvertingNetwork, list[Tensor], Callable[[Tensor], Tensor]]:
    """A solver before its training, the tensors that are trained, and the loss."""
    setting = tiny_setting(problem)
    watch = Watched(setting.pose, setting.train, setting.validation, 0, setting.progress)
    solver = InvertingNetwork(regime=regime, width=4).prepare(watch)  # type: ignore[arg-type]
    ((parameters, loss),) = watch.seen
    return solver, parameters, loss


def steps_by_hand(network: Network) -> Any:
    """g_1, g_2, g_3 and M_1, M_2, M_3 of `three_operations`, in torch's own terms."""
    conv1, conv2 = network.module.conv1[0], network.module.conv2
    forward = [lambda z: conv1(z).relu(), lambda z: functional.max_pool2d(z, 2), conv2]

    def undo(learned: Any, cut: Any = torch.relu) -> list[Callable[[Tensor], Tensor]]:
        def module(n: int, stride: int, padding: int, more: int, last: Any) -> Callable[[Tensor], Tensor]:
            first_weight, first_bias, weight, bias = (
                learned[f"{k}.{what}"] for k in (n, n + 1) for what in ("weight", "bias")
            )

            def apply(z: Tensor) -> Tensor:
                z = functional.conv_transpose2d(z, first_weight, first_bias, stride, padding, more).relu()
                found: Tensor = last(functional.conv2d(z, weight, bias, padding=1))
                return found

            return apply

        return [
            module(4, 1, 1, 0, lambda z: z),
            module(2, 2, 0, 0, cut),
            module(0, 2, 1, 1, cut),
        ]

    return forward, undo


def share(found: Tensor, wanted: Tensor) -> Tensor:
    return ((found - wanted) ** 2).sum() / (wanted**2).sum()


def by_definition(regime: str, network: Network, learned: Any, x: Tensor) -> Tensor:
    (g1, g2, g3), undo = steps_by_hand(network)
    M1, M2, M3 = undo(learned)
    z1 = g1(x)
    z2 = g2(z1)
    z3 = g3(z2)
    torch.testing.assert_close(z3, network(x))
    if regime == "stacked":
        return share(M3(z3), z2) + share(M2(z2), z1) + share(M1(z1), x)
    if regime == "joint":
        return share(M3(z3), z2) + share(M2(M3(z3)), z1) + share(M1(M2(M3(z3))), x)
    M1, M2, M3 = undo(learned, cut=lambda z: z)
    return share(M1(M2(M3(z3))), x)


@pytest.mark.parametrize("regime", CHAINED)
def test_the_loss_of_a_regime_is_its_definition(regime: str) -> None:
    problem = three_operations()
    solver, parameters, loss = watched(problem, regime)
    x = tiny_setting(problem).train[3:8]
    assert len(parameters) == 2 * 2 * 3
    torch.testing.assert_close(
        loss(x).detach(), by_definition(regime, problem.network, solver.learned, x), rtol=1e-10, atol=0
    )


def gradients(parameters: list[Tensor], value: Tensor) -> list[Tensor]:
    return [g.clone() for g in torch.autograd.grad(value, parameters)]


@pytest.mark.parametrize("regime", CHAINED)
def test_which_modules_a_gradient_depends_on(regime: str) -> None:
    """Stacked modules learn alone; joint ones see those before them, end-to-end all of them see all."""
    problem = three_operations()
    _, parameters, loss = watched(problem, regime)
    x = tiny_setting(problem).train[:6]
    first = gradients(parameters, loss(x))
    assert all(bool(gradient.any()) for gradient in first), "all modules learn"
    changed = {}
    for m in range(3):  # in the order of the decoder: what undoes the last operation first
        with torch.no_grad():
            for tensor in parameters[4 * m : 4 * m + 4]:
                tensor *= 1.1
        again = gradients(parameters, loss(x))
        with torch.no_grad():
            for tensor in parameters[4 * m : 4 * m + 4]:
                tensor /= 1.1
        changed[m] = [
            any(not torch.allclose(first[i], again[i], rtol=1e-9) for i in range(4 * k, 4 * k + 4))
            for k in range(3)
        ]
    alone = {0: [True, False, False], 1: [False, True, False], 2: [False, False, True]}
    assert changed == (alone if regime == "stacked" else {m: [True] * 3 for m in range(3)})


def test_intermediate_results_are_of_no_account_end_to_end() -> None:
    """A module whose channels are scaled and scaled back by the next one costs nothing there."""
    problem = three_operations()
    x = tiny_setting(problem).train[:6]
    for regime, indifferent in (("end-to-end", True), ("joint", False), ("stacked", False)):
        _, parameters, loss = watched(problem, regime)
        before = loss(x).detach()
        with torch.no_grad():
            parameters[2].mul_(3), parameters[3].mul_(3)  # the second layer of M_3, cut at 0
            parameters[4].div_(3)  # the first layer of M_2, but for its bias
        assert torch.allclose(loss(x).detach(), before) == indifferent


ONE = sequential(conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()))


def test_of_one_operation_all_regimes_learn_the_same() -> None:
    problem = posed(ONE)
    learned = []
    for regime in REGIMES:
        solver = replace(InvertingNetwork.tiny(), regime=regime, steps=5)  # type: ignore[arg-type]
        assert solver.refuses(problem) is None
        learned.append(solver.prepare(tiny_setting(problem)).learned)
    for other in learned[1:]:
        assert set(other) == set(learned[0])  # type: ignore[arg-type]
        assert all(torch.equal(other[name], learned[0][name]) for name in other)  # type: ignore[index, union-attr]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_its_meter_counts_all_layers(kind: Any) -> None:
    problem = three_operations()
    solver = InvertingNetwork(width=4, module=kind, steps=1).prepare(tiny_setting(problem))
    with FlopCounterMode(display=False) as counter:
        x = decoded(solver, problem)
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("applications").tolist() == [6, 6]
    assert 2 * int(problem.meter.multiply_adds.sum()) == counter.get_total_flops() > 0
    assert x.shape == problem.shape
    assert problem.domain.contains(x, 0).all()


def test_it_repeats_itself_and_leaves_the_world_as_it_was() -> None:
    problem = three_operations()
    check_training_repeats(replace(InvertingNetwork.tiny(), steps=3), problem)
    assert all(parameter.grad is None for parameter in problem.network.module.parameters())


def test_what_it_refuses() -> None:
    problems = tiny_problems()
    for name, reason in {
        "features of a black box": "needs a chain of known layers: stage 'block1' is a Residual",
        "class in a box": "takes features as its target",
        "adversarial linf": "takes features as its target",
        "pooled values and switches": "takes features as its target",
    }.items():
        assert reason in str(InvertingNetwork().refuses(problems[name][0]))
    nothing = "nothing to invert"
    assert nothing in str(InvertingNetwork().refuses(posed(sequential(n=normalise()))))
    assert nothing in str(InvertingNetwork().refuses(posed(sequential(flat=nn.Flatten()))))
    upwards = posed(sequential(up=nn.ConvTranspose2d(3, 4, 2, 2)))
    assert "no module that undoes stage 'up'" in str(InvertingNetwork().refuses(upwards))


def test_solo_modules_are_for_one_operation() -> None:
    solo = InvertingNetwork(regime="solo")
    assert solo.refuses(posed(ONE)) is None
    reason = str(solo.refuses(three_operations()))
    assert "one operation each, and there are 3" in reason
    assert "regime stacked" in reason
    assert InvertingNetwork(regime="stacked").refuses(three_operations()) is None


def test_mistakes_are_told() -> None:
    problem = three_operations()
    with pytest.raises(UserError, match="prepare it first"):
        decoded(InvertingNetwork(), problem)
    setting = tiny_setting(problem)
    blind = replace(setting, pose=lambda pixels: replace(setting.pose(pixels), truth=None))  # type: ignore[type-var]
    with pytest.raises(UserError, match="the trial has none"):
        InvertingNetwork.tiny().prepare(blind)


def test_on_photographs_it_beats_the_mean_image_and_gets_better(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images("bundled", 32)
    network = networks.load("lenet", {}, images).network
    test = images.draw("test", 32)
    scene = Scene(network, test, images.classes, test.pixels, 0, source=images)
    trial = Preimage(layer="pool1", priors={})
    monkeypatch.setattr(offline, "IMAGES", {"train": 512, "validation": 64})
    setting = offline.setting_for(trial, scene, lambda *_: None)
    what, mse = trial.pose(scene), metrics.find()["mse"]

    def error(x: Tensor) -> float:
        return float(mse(x, what.truth, what.problem).mean())

    mean = error(setting.train.mean(0).expand_as(test.pixels))
    few, many = (
        error(decoded(InvertingNetwork(width=12, steps=steps, batch=16).prepare(setting), what.problem))
        for steps in (5, 60)
    )
    assert many < 0.5 * few
    assert many < 0.25 * mean


def test_what_modules_trained_end_to_end_say_at_first_depends_on_what_they_are_given() -> None:
    """Timid weights, as where outputs are known, would let the gradient of a deep chain vanish."""
    problem = three_operations()
    x = tiny_setting(problem).train[:8]
    solver, _, _ = watched(problem, "end-to-end")
    z = problem.network(x)
    strengths = []
    for n, stage in enumerate(solver.decoder(replace(problem, target=z))):
        z = stage(z)
        if n % 2:
            strengths.append(float(z.std(0).square().mean().sqrt()))
    assert len(strengths) == 3
    assert all(0.15 < strength < 3 for strength in strengths[:-1])
