"""The trial of a macro layer and its pooled output: the problem, its truth, and what is refused."""

from typing import Any

import pytest
import torch
from torch import nn

from invbench import documents, networks
from invbench.domains import Box, Reals
from invbench.errors import UserError
from invbench.images import ImageBatch
from invbench.network import Network, parse
from invbench.planning import plan
from invbench.registry import catalogue
from invbench.trials.contract import Scene
from invbench.trials.unpool import Unpool
from tests.modules import alexnet, lenet, seeded, sequential, vgg
from tests.toys import black_box


def scene(network: Network, count: int = 3) -> Scene:
    pixels = torch.rand(count, *network.input_shape, generator=torch.Generator().manual_seed(3)).to(
        network.dtype
    )
    batch = ImageBatch(pixels, torch.zeros(count, dtype=torch.int64), tuple("abcdefgh"[:count]))
    return Scene(network, batch, (), pixels, 0)


def parsed(module: nn.Module, side: int = 16) -> Network:
    return parse(module.double(), (3, side, side))


CASES = [
    (lenet, "pool1", None),
    (lenet, "pool2", "pool1"),
    (vgg, "features.3", None),
    (vgg, "features", "features.4.2"),
]


@pytest.mark.parametrize("switches", ["naive", "known"])
@pytest.mark.parametrize(
    ("make", "layer", "previous"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_the_truth_is_the_input_of_the_layer_and_solves_the_problem(
    make: Any, layer: str, previous: str | None, switches: Any
) -> None:
    s = scene(parsed(make()))
    posed = Unpool(layer=layer, switches=switches).pose(s)
    problem, truth = posed.problem, posed.truth
    assert truth is not None
    expected = s.images.pixels if previous is None else s.network.cut(previous)(s.images.pixels)
    assert torch.equal(truth, expected)
    assert problem.objective(truth).abs().max() < 1e-20
    assert problem.shape == tuple(posed.start.shape) == tuple(truth.shape)
    assert problem.domain.contains(truth).all()
    assert problem.domain.contains(posed.start).all()
    assert problem.domain == (Box(0.0, 1.0) if previous is None else Box(0.0, torch.inf))
    assert problem.network.chain is not None
    assert len(problem.network.chain) == 1
    value, gradient = problem.value_and_gradient(posed.start)
    assert value.shape == (3,)
    assert gradient.isfinite().all()
    assert posed.names == s.images.names


@pytest.mark.parametrize(
    ("make", "layer", "previous"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_only_pooled_values_and_switches_are_told(make: Any, layer: str, previous: str | None) -> None:
    """Brute force: windows of 2 x 2, one after the other."""
    s = scene(parsed(make()), 2)
    naive, known = (Unpool(layer=layer, switches=w).pose(s).problem for w in ("naive", "known"))  # type: ignore[arg-type]
    assert torch.equal(naive.target, s.network.cut(layer)(s.images.pixels))
    truth = Unpool(layer=layer).pose(s).truth
    assert truth is not None
    y = known.network(truth)
    for b, k, i, j in torch.cartesian_prod(*(torch.arange(n) for n in naive.target.shape)).tolist():
        window = (b, k, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        pooled = float(naive.target[b, k, i, j])
        values, switches = known.target[:, 0][window], known.target[:, 1][window]
        assert (values - pooled).abs().max() < 1e-12
        assert switches.sum() == (pooled > 0)
        if pooled > 0:
            assert y[window].flatten().argmax() == switches.flatten().argmax()


def test_an_instance_does_not_depend_on_the_others() -> None:
    network = parsed(lenet())
    for trial in (Unpool(layer="pool2"), Unpool(layer="pool2", switches="known")):
        whole, part = trial.pose(scene(network, 4)), trial.pose(scene(network, 4))
        chosen = part.problem.select(torch.tensor([2]))
        torch.testing.assert_close(whole.problem.target[2:3], chosen.target)
        x = torch.ones_like(whole.start)
        torch.testing.assert_close(whole.problem.objective(x)[2:3], chosen.objective(x[:1]))


def test_a_stage_behind_one_without_a_bound_has_all_reals() -> None:
    layers = sequential(
        first=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.1)),
        conv=nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()),
        pool=nn.MaxPool2d(2),
    )
    assert Unpool(layer="pool").pose(scene(parsed(seeded(layers)))).problem.domain == Reals()


@pytest.mark.parametrize("layer", ["pool1", "pool3", "pool4"])
def test_networks_that_ship_are_taken(layer: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = networks.find()["vgg11"].build(10, 32, width=0.1)
    for switches in ("naive", "known"):
        posed = Unpool(layer=layer, switches=switches).pose(scene(parsed(module, 32)))  # type: ignore[arg-type]
        assert posed.problem.objective(posed.truth).max() < 1e-12  # type: ignore[arg-type]


def test_known_switches_are_flagged_as_an_oracle() -> None:
    text = """
study: s
images: {count: 2}
trials: [unpool: {layer: pool1, switches: [naive, known]}]
methods: [adam]
budget: {iterations: 2}
"""
    naive, known = (cell.labels() for cell in plan(documents.parse(text, "s"), catalogue()).cells)
    assert (naive["oracle"], known["oracle"]) == ("", "pooling switches")
    assert known["layer"] == "pool1"
    assert "known" in known["trial_parameters"]


def pooled(pool: nn.Module, *between: nn.Module) -> Network:
    conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *between)
    return parsed(seeded(sequential(conv=conv, pool=pool)), 15)


@pytest.mark.parametrize(
    ("network", "layer", "sentence"),
    [
        (parsed(alexnet(), 23), "pool1", "overlap, are padded or do not tile"),
        (parsed(alexnet(), 23), "pool2", "overlap, are padded or do not tile"),
        (pooled(nn.MaxPool2d(2), nn.ReLU()), "pool", "overlap, are padded or do not tile"),
        (pooled(nn.MaxPool2d(3, 3, 1), nn.ReLU()), "pool", "overlap, are padded or do not tile"),
        (pooled(nn.MaxPool2d(3)), "pool", "does not end in a max-pool behind a ReLU"),
        (pooled(nn.MaxPool2d(3), nn.ReLU()), "conv", "does not end in a max-pool behind a ReLU"),
        (black_box(), "block1", "needs a chain"),
        (pooled(nn.MaxPool2d(3), nn.ReLU()), "pool7", "has no stage 'pool7'"),
    ],
)
def test_layers_that_cannot_be_unpooled_are_told(network: Network, layer: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Unpool(layer=layer).pose(scene(network))
