"""A folder of photographs to train on in a moment, and a cache of one's own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invbench.images import Images, open_images
from invbench.networks import architectures, find
from invbench.networks.architectures import Recipe


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random images, 64 px, 15 in each of two classes, of which one is brighter."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.RandomState(0)
    for label, low in (("dark", 0), ("light", 60)):
        (root / label).mkdir()
        for n in range(15):
            pixels = rng.randint(low, low + 196, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{n}.png")
    return root


@pytest.fixture
def images(photographs: Path) -> Images:
    return open_images("folder", 8, path=str(photographs))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("INVBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def teach(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Recipe], None]:
    """Offers a network with another recipe."""
    return lambda name, recipe: monkeypatch.setitem(
        architectures._found, name, replace(find()[name], recipe=recipe)
    )


@pytest.fixture
def quick(teach: Callable[[str, Recipe], None]) -> Recipe:
    """A recipe for lenet that takes a moment."""
    recipe = Recipe(epochs=2, batch=8, shift=1)
    teach("lenet", recipe)
    return recipe
