"""Codes of real activations: Algorithm 2 against dense least squares, and the activations before a ReLU."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invbench.analyses.contract import Refused
from invbench.analyses.isometry import Found, Isometry
from invbench.analyses.model_rip_activations import ModelRIPActivations, before_relu
from invbench.errors import UserError
from invbench.network import Network, parse
from invbench.problem import Problem
from invbench.recovery import LinearModel
from invbench.solver import Randomness, Solver
from invbench.trials.contract import Scene
from tests.modules import sequential
from tests.scenes import scene_of
from tests.studies import mistakes, of_analyses

STUDY = of_analyses("- model_rip_activations: {layer: conv2, solver: adam}")


@dataclass(frozen=True)
class Shrinking(Solver):
    """Proximal gradient steps for the l1 form, in place of a solver that is not ours."""

    refusal: str | None = None

    def refuses(self, problem: Problem) -> str | None:
        """What a test says."""
        return self.refusal

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """One pass an iterate."""
        model, weight = LinearModel.of(problem), problem.priors[0].weight
        z = x.clone()
        while True:
            z = z + 0.1 * model.adjoint(model.y - model.apply(z))
            z = z.sign() * (z.abs() - 0.05 * weight).clamp(min=0)
            yield z


def network() -> Network:
    """Behind conv1 a ReLU stands before conv2, behind conv2 a pool before conv3."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = sequential(
            conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
            conv2=nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU()),
        )
    return parse(module.double(), (3, 8, 8), "three")


def scene(images: int = 3) -> Scene:
    pixels = torch.rand(images, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return scene_of(network(), pixels)


def summary(scene_: Scene, **parameters: Any) -> dict[str, dict[str, Any]]:
    analysis = ModelRIPActivations(**{"layer": "conv2", "solver": Shrinking()} | parameters)
    return {str(row["quantity"]): dict(row) for row in analysis.measure(scene_) if "quantity" in row}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Isometry, Tensor]]:
    """Every chunk that is measured."""
    found: list[tuple[Isometry, Tensor]] = []
    measure = Isometry.measure

    def spy(self: Isometry, z: Tensor, bounded: int) -> Found:
        found.append((self, z))
        return measure(self, z, bounded)

    monkeypatch.setattr(Isometry, "measure", spy)
    return found


def inputs(when: str, x: Tensor) -> Tensor:
    """What conv2 is given, by the layers themselves."""
    convolution, norm, relu = network().module.get_submodule("conv1").children()
    found: Tensor = norm(convolution(x))
    return relu(found) if when == "after" else found


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("filters", ["learned", "random"])
def test_codes_are_least_squares_with_one_entry_a_region(
    when: str, filters: str, seen: list[tuple[Isometry, Tensor]]
) -> None:
    rows = summary(scene(), activations=when, filters=filters, iterations=30)
    ((one, z),) = seen
    x = inputs(when, scene().images.pixels)
    tiles = (z != 0).double().unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5))
    assert tiles.max() == 1
    size = z[0].numel()
    w = one.affine.linear(torch.eye(size, dtype=torch.float64).view(size, *z.shape[1:])).flatten(1)
    torch.testing.assert_close(w.norm(dim=1), torch.ones(size, dtype=torch.float64))
    lost = []
    for code, signal in zip(z.flatten(1), x.flatten(1), strict=True):
        active = code != 0
        best = torch.linalg.lstsq(w[active].T, signal[:, None]).solution[:, 0]
        torch.testing.assert_close(code[active], best, rtol=1e-6, atol=1e-8)
        lost.append(float((w[active].T @ best - signal).norm() / signal.norm()))
    assert rows["misfit of z"]["mean"] == pytest.approx(sum(lost) / 3)
    assert rows["|W^T z|/|z|"]["number"] == 3
    assert all(math.isnan(row["predicted"]) for row in rows.values())


def test_the_filters_are_those_of_the_layer(seen: list[tuple[Isometry, Tensor]]) -> None:
    summary(scene(), iterations=3)
    ((one, z),) = seen
    weight = network().module.get_submodule("conv2.0").weight
    delta = torch.zeros_like(z[:1])
    delta[0, 5, 3, 4] = 1
    image = one.affine.linear(delta)[0, :, 2:5, 3:6]
    torch.testing.assert_close(image, weight[5] / weight[5].norm())


def test_lambda_is_a_share_of_the_one_that_leaves_nothing() -> None:
    nothing = summary(scene(1), penalty=1.0)
    assert nothing["|W^T z|/|z|"]["number"] == 0
    some = summary(scene(1), penalty=0.99)
    assert some["|W^T z|/|z|"]["number"] == 1
    assert some["misfit of z"]["mean"] > summary(scene(1), penalty=0.1)["misfit of z"]["mean"]


def test_before_a_relu() -> None:
    net, x = network(), scene().images.pixels
    found = before_relu(net, net.module.get_submodule("conv2.0"), x)
    assert found is not None
    torch.testing.assert_close(found, inputs("before", x))
    assert float(found.min()) < 0
    assert before_relu(net, net.module.get_submodule("conv3.0"), x) is None
    assert before_relu(net, net.module.get_submodule("conv1.0"), x) is None
    assert not net.module.get_submodule("conv1.2")._forward_hooks


def test_what_does_not_apply_is_refused() -> None:
    with pytest.raises(Refused, match="layer 'conv3' is not what a ReLU gives, so nothing is before it"):
        summary(scene(), layer="conv3", activations="before")
    with pytest.raises(Refused, match="not today"):
        summary(scene(), solver=Shrinking("not today"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"layer": "conv9"},
            "network 'three' has no convolution 'conv9'; there are: conv1.0, conv2.0, conv3.0",
        ),
        ({"region": 3}, "regions of 3 x 3 do not tile a map of 8 x 8"),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    analysis = ModelRIPActivations(layer="conv2", solver=Shrinking())
    with pytest.raises(UserError) as caught:
        replace(analysis, **changes).check(scene())
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("layer: conv2, ", "", "model_rip_activations.layer: is required"),
        (", solver: adam", "", "model_rip_activations.solver: is required"),
        ("solver: adam", "solver: adam, penalty: 2", "model_rip_activations.penalty: must be <= 1 (got 2)"),
        ("solver: adam", "solver: adam, region: 0", "model_rip_activations.region: must be >= 1 (got 0)"),
    ],
)
def test_mistakes_in_a_study(old: str, new: str, sentence: str) -> None:
    (line,) = mistakes(STUDY.replace(old, new))
    assert sentence in line
