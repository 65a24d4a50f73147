"""Images that excite a neuron or a channel."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from invbench_solvers.adam import Adam
from invbench_solvers.projected_gradient import ProjectedGradient
from torch import Tensor, nn

from invbench import documents, metrics, registry
from invbench.errors import UserError
from invbench.network import Network, parse
from invbench.planning import plan
from invbench.solver import Randomness
from invbench.trials.activation import Activation
from invbench.trials.contract import Posed, Scene
from tests.modules import seeded, sequential
from tests.scenes import scene_of
from tests.toys import SHAPE, tiny_network

NATURAL = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def scene(network: Network | None = None) -> Scene:
    return scene_of(network or tiny_network(), NATURAL)


def activation(x: Tensor, posed: Posed) -> Tensor:
    return metrics.find()["activation"](x, posed.truth, posed.problem)


def test_a_neuron_over_the_largest_response_of_its_channel() -> None:
    maps = tiny_network().cut("conv1")(NATURAL)
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    posed = Activation(layer="conv1", channels=(5, 2, 7), priors={}).pose(scene())
    f = tiny_network().cut("conv1")(x)
    expected = torch.stack([f[i, c, 4, 4] / maps[:, c].max() for i, c in enumerate((5, 2, 7))])
    torch.testing.assert_close(activation(x, posed), expected)
    torch.testing.assert_close(posed.problem.objective(x), -expected)
    assert posed.names == ("channel 5", "channel 2", "channel 7")
    assert posed.truth is None


def test_a_channel_over_its_largest_mean() -> None:
    maps = tiny_network().cut("pool1")(NATURAL)
    posed = Activation(layer="pool1", extent="channel", channels=(3, 3, 1, 0, 6, 4), priors={}).pose(scene())
    expected = torch.stack(
        [maps[i, c].mean() / maps[:, c].mean((1, 2)).max() for i, c in enumerate((3, 3, 1, 0, 6, 4))]
    )
    torch.testing.assert_close(activation(NATURAL, posed), expected)


@pytest.mark.parametrize(("layer", "extent"), [("conv1", "channel"), ("pool1", "channel"), ("fc1", "neuron")])
def test_the_best_natural_image_has_activation_1(layer: str, extent: Any) -> None:
    posed = Activation(layer=layer, extent=extent, start="natural").pose(scene())
    torch.testing.assert_close(activation(posed.start, posed), torch.ones(posed.problem.size).double())
    for one in NATURAL:
        assert (activation(one.expand(posed.problem.shape), posed) <= 1 + 1e-12).all()


def test_natural_starts_are_those_that_excite_the_neuron_most() -> None:
    posed = Activation(layer="conv1", start="natural").pose(scene())
    found = activation(posed.start, posed)
    for one in NATURAL:
        assert (activation(one.expand(posed.problem.shape), posed) <= found + 1e-12).all()


@pytest.mark.parametrize("layer", ["conv1", "fc1"])
def test_the_strongest_channels_come_first(layer: str) -> None:
    maps = tiny_network().cut(layer)(NATURAL).transpose(0, 1).flatten(1)
    by_hand = sorted(range(len(maps)), key=lambda c: -float(maps[c].max()))
    excited = [c for c in by_hand if maps[c].max() > 0]
    posed = Activation(layer=layer).pose(scene())
    assert [int(one.nonzero()[0, 0]) for one in posed.problem.target] == excited[:6]
    ordered = Activation(layer=layer, order="network", units=3).pose(scene())
    assert [int(one.nonzero()[0, 0]) for one in ordered.problem.target] == sorted(excited)[:3]


def linear_network() -> Network:
    layer = nn.Linear(3 * 64, 4).double()
    return parse(seeded(sequential(fc=nn.Sequential(nn.Flatten(), layer))), SHAPE, "linear")


@pytest.mark.parametrize(
    "solver", [ProjectedGradient(direction="gradient", lr=1e6), Adam(lr=0.5)], ids=["pg", "adam"]
)
def test_a_linear_unit_is_most_excited_at_a_corner_of_the_box(solver: Any) -> None:
    """Argmax of w . x over [0, 1]^n is the indicator of w > 0."""
    network = linear_network()
    posed = Activation(layer="fc", priors={}, order="network", units=2).pose(scene(network))
    problem, x = posed.problem, posed.start
    assert network.chain is not None
    rows = network.chain[0].affine.adjoint(problem.target).reshape(problem.shape)
    corner = (rows > 0).double()
    for found in islice(solver.iterates(problem, x, Randomness(0, range(2), x)), 60):
        x = problem.domain.project(found).clone()
    torch.testing.assert_close(x, corner)
    torch.testing.assert_close(problem.objective(corner), -activation(corner, posed))
    flipped = corner.clone()
    flipped[:, 1, 3, 3] = 1 - flipped[:, 1, 3, 3]
    assert (problem.objective(flipped) > problem.objective(corner)).all()


def test_the_gradient_is_that_of_finite_differences() -> None:
    posed = Activation(layer="pool1", extent="channel", units=2, priors={"tv": 1}).pose(scene())
    problem, x, step = posed.problem, posed.start, 1e-6
    _, gradient = problem.value_and_gradient(x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ahead, behind = problem.objective(x + step * direction), problem.objective(x - step * direction)
    expected = (ahead - behind) / (2 * step)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), expected, rtol=1e-5, atol=1e-8)


def dead_network() -> Network:
    """Channel 1 of 3 is off at every image."""
    module = sequential(conv1=nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()), fc1=nn.Flatten())
    network = seeded(module).double()
    with torch.no_grad():
        network.conv1[0].bias.copy_(torch.tensor([5.0, -50.0, 5.0]))
    return parse(network, SHAPE, "dead")


def test_channels_that_nothing_excites_have_no_instance() -> None:
    for order in ("strongest", "network"):
        posed = Activation(layer="conv1", order=order).pose(scene(dead_network()))
        assert set(posed.names) == {"channel 0", "channel 2"}


@pytest.mark.parametrize(
    ("trial", "sentence"),
    [
        ({"units": 3}, "natural images excite 2 of the 3 channels of 'conv1'"),
        ({"channels": (1,)}, "no natural image excites channel 1 of 'conv1'"),
        ({"channels": (3,)}, "'conv1' has 3 channels, and no channel 3"),
        ({"channels": (0,), "units": 1}, "leave one of them out"),
    ],
)
def test_units_that_there_are_not_are_told(trial: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Activation(layer="conv1", **trial).pose(scene(dead_network()))


def test_units_of_the_last_stage_are_classes() -> None:
    classes = ("cat", "dog", "cup", "sea", "sky")
    posed = Activation(layer="fc1", priors={}).pose(replace(scene(), classes=classes))
    assert posed.names == tuple(classes[int(one.argmax())] for one in posed.problem.target)


def test_a_study_names_channels_in_a_list_within_a_list() -> None:
    text = (
        "study: s\nimages: {source: bundled, count: 2, size: 32}\nnetwork: {name: lenet}\n"
        "trials: [activation: {layer: pool1, channels: [[0, 3]], extent: [neuron, channel]}]\n"
        "methods: [adam]\nbudget: {iterations: 3}\n"
    )
    cells = plan(documents.parse(text, "s"), registry.catalogue()).cells
    trials = [cell.trial for cell in cells]
    assert [(trial.channels, trial.extent) for trial in trials if isinstance(trial, Activation)] == [
        ((0, 3), "neuron"),
        ((0, 3), "channel"),
    ]
