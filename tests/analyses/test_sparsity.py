"""Sparsity against maps with a known number of zeros, and against cuts of the network."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invbench.analyses import sparsity as module
from invbench.analyses.contract import Refused
from invbench.analyses.sparsity import Sparsity
from invbench.harness import Bench, run_analysis
from invbench.network import parse
from invbench.networks import find
from invbench.trials.contract import Scene
from tests.modules import lenet, sequential
from tests.scenes import scene_of
from tests.studies import of_analyses, planned

STUDY = of_analyses("- sparsity")


def scene(network: nn.Module, pixels: Tensor) -> Scene:
    return scene_of(parse(network, tuple(pixels.shape[1:]), "toy"), pixels)


def rows(network: nn.Module, pixels: Tensor) -> dict[str, Any]:
    return {str(row["layer"]): row for row in Sparsity().measure(scene(network, pixels))}


def pixels(count: int = 5, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def active_regions(features: Tensor, side: int) -> list[float]:
    """Share of the side x side tiles of each instance with an entry that is not 0, tile by tile."""
    return [
        sum(
            bool((channel[top : top + side, left : left + side] != 0).any())
            for channel in one
            for top in range(0, one.shape[1], side)
            for left in range(0, one.shape[2], side)
        )
        / (one.numel() / side**2)
        for one in features
    ]


def test_maps_whose_zeros_are_known() -> None:
    """One image has 3 positive pixels of 16 in 2 of 4 regions, the other 8 in 4 and a negative one."""
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = x[0, 0, 3, 3] = 1
    x[1, 0, ::2] = 0.5
    x[1, 0, 1, 1] = -1
    found = rows(sequential(same=nn.Identity(), relu=nn.ReLU(), pool=nn.MaxPool2d(2)), x)
    assert list(found) == ["same", "relu", "pool"]
    assert found["relu"] | {"active": 0} == {
        "layer": "relu",
        "depth": 2,
        "entries": 16,
        "nonzero": (3 + 8) / 32,
        "low": 3 / 16,
        "high": 8 / 16,
        "active": 0,
    }
    assert found["relu"]["active"] == (2 + 4) / 8
    assert found["pool"]["nonzero"] == (2 + 4) / 8
    assert found["same"]["nonzero"] == (3 + 9) / 32
    assert math.isnan(found["same"]["active"])
    assert math.isnan(found["pool"]["active"])


def test_it_agrees_with_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    x = pixels()
    network = parse(lenet(), (3, 16, 16))
    found = rows(network.module, x)
    assert tuple(found) == network.stages
    for stage in network.stages:
        features = network.cut(stage)(x).flatten(1)
        shares = [float((one != 0).double().mean()) for one in features]
        row = found[stage]
        assert row["nonzero"] == pytest.approx(sum(shares) / len(x), rel=1e-12)
        assert (row["low"], row["high"]) == pytest.approx((min(shares), max(shares)), rel=1e-12)
        assert row["entries"] == features.shape[1]
    assert found["fc3"]["nonzero"] == 1, "logits are no activation"
    assert 0.05 < found["conv1"]["nonzero"] < 0.95
    for stage in ("conv1", "conv2"):
        shares = active_regions(network.cut(stage)(x), 2)
        assert found[stage]["active"] == pytest.approx(sum(shares) / len(x), rel=1e-12)


def test_overlapping_padded_and_negative_regions() -> None:
    """A region of negative entries alone is active, although its maximum may be that of padding."""
    x = -(pixels() > 0.9).float()
    found = rows(sequential(same=nn.Identity(), pool=nn.MaxPool2d(3, 2, 1)), x)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    regions = padded.unfold(2, 3, 2).unfold(3, 3, 2).flatten(4)
    assert found["same"]["active"] == pytest.approx(float((regions != 0).any(4).double().mean()), rel=1e-12)


def test_networks_that_are_no_sequence() -> None:
    torch.manual_seed(0)
    x = pixels()
    network = parse(find()["resnet"].build(5, 16, width=4), (3, 16, 16))
    found = rows(network.module, x)
    assert tuple(found) == network.stages

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.pool, self.relu, self.idle = (
                nn.Conv2d(3, 4, 1),
                nn.MaxPool2d(2),
                nn.ReLU(),
                nn.ReLU(),
            )

        def forward(self, x: Tensor) -> Tensor:
            middle = self.relu(x - 0.5)
            pooled = self.pool(middle)
            return self.relu(self.second(pooled) + 0.3)

    network = parse(Branches(), (3, 16, 16))
    found = rows(network.module, x)
    middle = (x - 0.5).relu()
    assert found["relu"]["nonzero"] == pytest.approx(float((middle != 0).double().mean())), (
        "its first use, as a cut"
    )
    assert found["relu"]["active"] == pytest.approx(sum(active_regions(middle, 2)) / len(x))
    assert math.isnan(found["idle"]["nonzero"])
    assert math.isnan(found["idle"]["entries"])


def test_a_layer_under_two_names_is_two_stages() -> None:
    relu = nn.ReLU()
    network = sequential(one=relu, conv=nn.Conv2d(3, 4, 3), two=relu)
    x = pixels() - 0.3
    cut = parse(network, (3, 16, 16))
    found = rows(network, x)
    for stage in ("one", "conv", "two"):
        expected = float((cut.cut(stage)(x) != 0).double().mean())
        assert found[stage]["nonzero"] == pytest.approx(expected, rel=1e-12)


def test_one_pass_and_nothing_left_behind() -> None:
    passes = []
    network = lenet()
    given = scene(network, pixels())
    given.network.module.register_forward_hook(lambda *_: passes.append(1))
    Sparsity().measure(given)
    assert len(passes) == 1
    assert not any(
        child._forward_hooks or child._forward_pre_hooks
        for child in given.network.module.modules()
        if child is not given.network.module
    )


def test_a_batch_equals_its_members() -> None:
    given = scene(lenet(), pixels())
    alone = []
    for n in range(5):
        one = replace(given.images, pixels=given.images.pixels[n : n + 1])
        alone.append([float(row["nonzero"]) for row in Sparsity().measure(replace(given, images=one))])
    together = [row["nonzero"] for row in Sparsity().measure(given)]
    assert together == pytest.approx([sum(shares) / 5 for shares in zip(*alone, strict=True)], abs=0.02)


def test_refusals_are_sentences() -> None:
    with pytest.raises(Refused, match="network 'toy' has no stages"):
        rows(nn.Flatten(), pixels())

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class First(nn.Module):
        def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
            return x[0]

    with pytest.raises(Refused, match="stage 'two' returns a tuple instead of a tensor"):
        rows(sequential(two=Two(), first=First()), pixels())


def test_a_study_measures_it() -> None:
    study = planned(STUDY)
    record = run_analysis(study.measurements[0], Bench(), "key")
    assert record["status"] == "done", record["reason"]
    assert [row["layer"] for row in record["rows"]] == ["conv1", "pool1", "conv2", "pool2", "fc"]
    assert all(0 < row["nonzero"] <= 1 for row in record["rows"])


def test_devices_agree(device: torch.device) -> None:
    given = scene(lenet().double(), pixels().double())
    there = replace(
        given,
        network=given.network.to(device=device),
        images=replace(given.images, pixels=given.images.pixels.to(device)),
    )
    assert repr(Sparsity().measure(there)) == repr(Sparsity().measure(given))
