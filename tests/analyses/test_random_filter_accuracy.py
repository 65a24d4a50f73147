"""The accuracy of trained networks: what the bench hands on, the interval, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invbench import documents, executors, registry
from invbench.analyses.contract import Refused
from invbench.analyses.random_filter_accuracy import RandomFilterAccuracy, half_width
from invbench.claims import evaluate, of_study
from invbench.harness import Bench
from invbench.images import ImageBatch, open_images
from invbench.networks import find, load
from invbench.networks.architectures import Recipe, _found
from invbench.networks.classifier import accuracy
from invbench.planning import plan
from invbench.store import Store
from invbench.store import load as load_results
from invbench.study import Measurement
from invbench.trials.contract import Scene
from tests.toys import tiny_network

#: Claims address networks as tables name them.
RANDOM = "shallow_cnn (layers=1, width=3, kernel=3, filters=random)"
LEARNED = "shallow_cnn (layers=1, width=3, kernel=3, filters=learned)"
STUDY = f"""
study: table
images: {{source: folder, path: PATH, count: 2, size: 8}}
network:
- {{name: shallow_cnn, layers: 1, width: [2, 3], kernel: 3, filters: [random, learned]}}
- {{name: random_cnn, width: 2, layers: 1}}
trials:
- preimage: {{layer: pool1, priors: {{}}, networks: [random_cnn]}}
methods: [adam]
budget: {{iterations: 1}}
analyses: [random_filter_accuracy]
claims:
- id: table-1-random
  source: Gilbert et al. 2017, table 1
  paper: 0.665
  ours:
    analysis: random_filter_accuracy
    where: {{network: ["{RANDOM}", "{RANDOM.replace("width=3", "width=2")}"]}}
    column: accuracy
    reduce: max
  agree: {{at_least: 0}}
- id: table-1-learned
  source: Gilbert et al. 2017, table 1
  ours: {{analysis: random_filter_accuracy, where: {{network: "{LEARNED}"}}, column: accuracy}}
  agree: {{at_least: 0}}
"""


def scene(**known: Any) -> Scene:
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.float64)
    images = ImageBatch(pixels, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    return Scene(network=tiny_network(), images=images, classes=(), natural=pixels, seed=0, **known)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of two brightnesses that overlap, so that accuracies are neither 0 nor 1."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.RandomState(0)
    for label, low in (("dark", 0), ("light", 4)):
        (root / label).mkdir()
        for n in range(40):
            pixels = rng.randint(low, low + 196, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{n}.png")
    return root


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A recipe that takes a moment, and a cache of one's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        recipe = Recipe(epochs=2, batch=8, lr=0.02)
        patch.setitem(_found, "shallow_cnn", replace(find()["shallow_cnn"], recipe=recipe))
        yield


def test_a_row_says_what_the_scene_knows() -> None:
    (row,) = RandomFilterAccuracy().measure(scene(accuracy=0.745, held_out=10000))
    assert row == {"accuracy": 0.745, "half_width": half_width(0.745, 10000), "held_out": 10000}


def test_without_a_number_of_images_there_is_no_interval() -> None:
    (row,) = RandomFilterAccuracy().measure(scene(accuracy=0.745))
    assert row["accuracy"] == 0.745
    assert math.isnan(float(row["half_width"]))
    assert math.isnan(float(row["held_out"]))


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(
        Refused, match=r"the accuracy of .* was not measured: it needs a network that invbench trained"
    ):
        RandomFilterAccuracy().measure(scene())


@pytest.mark.parametrize(("share", "count"), [(0.5, 10000), (0.745, 10000), (0.9, 40), (1.0, 16), (0.0, 16)])
def test_the_interval_is_wilsons(share: float, count: int) -> None:
    """Its ends are the shares q that p is 1.96 standard deviations sqrt(q (1 - q) / n) away from."""
    q = np.linspace(0, 1, 2_000_001)
    inside = q[np.abs(share - q) <= 1.96 * np.sqrt(q * (1 - q) / count) + 1e-12]
    assert half_width(share, count) == pytest.approx((inside.max() - inside.min()) / 2, abs=2e-6)


def test_a_study_makes_the_table(photographs: Path, tmp_path: Path) -> None:
    text = STUDY.replace("PATH", str(photographs))
    study, bench = plan(documents.parse(text, "study.yaml"), registry.catalogue()), Bench()
    executors.run(study, Store(tmp_path), bench)
    records = load_results(tmp_path).analyses
    assert [record["status"] for record in records] == ["done"] * 4 + ["refused"]
    assert "random_cnn was not measured" in records[-1]["reason"]
    images = open_images("folder", 8, path=str(photographs))
    test = images.all("test")
    for record, measurement in zip(records[:4], study.measurements, strict=False):
        assert isinstance(measurement, Measurement)
        own = {key: value for key, value in measurement.network.items() if key != "name"}
        network = load("shallow_cnn", own, images).network
        (row,) = record["rows"]
        assert row["held_out"] == len(test) == 16
        assert row["accuracy"] == accuracy(network.module, test)
        assert 0 < row["accuracy"] < 1
    found = {record["parameters"]["network"]: record["rows"][0]["accuracy"] for record in records[:4]}
    assert len(found) == 4
    best, learned = evaluate(of_study(text), load_results(tmp_path).table, records)
    assert best.ours == max(share for name, share in found.items() if "random" in name)
    assert learned.ours == found[LEARNED]
