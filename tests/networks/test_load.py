"""A network by name: seeds, trainings that repeat, the cache, the package, and mistakes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from invbench import cache
from invbench.errors import UserError
from invbench.images import Images, open_images
from invbench.network import parse
from invbench.networks import check_finite, load, save
from invbench.networks.architectures import Recipe
from invbench.networks.classifier import accuracy


@pytest.mark.parametrize(
    ("name", "size", "parameters", "sentence"),
    [
        ("lenett", 8, {}, "unknown network 'lenett': did you mean 'lenet'?"),
        ("xyz", 8, {}, "unknown network 'xyz': there are .*lenet"),
        ("vgg11", 32, {"widht": 1}, "'vgg11' has no parameter 'widht': did you mean 'width'?"),
        ("lenet", 8, {"zzz": 1}, "'lenet' has no parameter 'zzz': it takes weights, seed"),
        ("vgg11", 32, {"width": "wide"}, "'vgg11' cannot be built with width: 'wide'"),
        ("lenet", 8, {"seed": "abc"}, "seed is 'abc'"),
        ("lenet", 8, {"seed": -1}, "seed is -1"),
        ("lenet", 10, {}, "a multiple of 4 px, at least 8 .got 10.: set images.size"),
        ("vgg11", 16, {}, "a multiple of 32 px, at least 32 .got 16."),
        ("alexnet", 48, {}, "a multiple of 32 px, at least 32 .got 48."),
        ("alexnet", 64, {"norm": "layer"}, "cannot be built with norm: 'layer'"),
    ],
)
def test_mistakes_are_told(
    name: str, size: int, parameters: dict[str, object], sentence: str, photographs: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        load(name, parameters, open_images("folder", size, path=str(photographs)))


def test_an_untrained_network_is_its_seed(images: Images) -> None:
    first, again, other = (load("random_cnn", {"seed": n, "width": 4}, images).network for n in (3, 3, 4))
    assert first.digest == again.digest
    assert first.digest != other.digest


def test_global_randomness_is_left_alone(images: Images, quick: Recipe, own_cache: Path) -> None:
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    load("random_cnn", {"width": 4}, images)
    load("lenet", {}, images)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # type: ignore[index]


def test_a_training_repeats_is_cached_and_is_found(images: Images, quick: Recipe, own_cache: Path) -> None:
    calls: list[int] = []
    first = load("lenet", {}, images, progress=lambda done, *_: calls.append(done))
    assert first.origin == "trained now"
    assert calls
    found = load("lenet", {}, images, progress=lambda *_: pytest.fail("trained again"))
    assert found.origin == "trained before on this machine"
    assert (found.accuracy, found.seconds) == (first.accuracy, first.seconds)
    again = load("lenet", {}, images, refresh=True)
    assert again.origin == "trained now"
    assert first.network.digest == found.network.digest == again.network.digest
    assert len(list((own_cache / "networks").iterdir())) == 1
    assert first.accuracy == accuracy(first.network.module, images.all("test"))
    assert first.plain()["held_out_accuracy"] == first.accuracy


def test_whatever_changes_the_weights_changes_their_key(
    images: Images,
    photographs: Path,
    quick: Recipe,
    teach: Callable[[str, Recipe], None],
    own_cache: Path,
    tmp_path: Path,
) -> None:
    def kept() -> int:
        return len(list((own_cache / "networks").iterdir()))

    load("lenet", {}, images)
    load("lenet", {"seed": 1}, images)
    assert kept() == 2
    load("lenet", {}, open_images("folder", 12, path=str(photographs)))
    assert kept() == 3
    fewer = Path(shutil.copytree(photographs, tmp_path / "fewer"))
    (fewer / "dark" / "0.png").unlink()
    load("lenet", {}, open_images("folder", 8, path=str(fewer)))
    assert kept() == 4
    teach("lenet", replace(quick, epochs=1))
    assert load("lenet", {}, images).origin == "trained now"
    assert kept() == 5
    teach("random_cnn", quick)
    for width in (4, 5):
        load("random_cnn", {"width": width}, images)
    assert kept() == 7


def test_another_seed_trains_other_weights(images: Images, quick: Recipe, own_cache: Path) -> None:
    first, other = (load("lenet", {"seed": n}, images).network for n in (0, 1))
    assert first.digest != other.digest


def test_a_cache_that_cannot_be_written_costs_no_training(
    images: Images, quick: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("INVBENCH_CACHE", str(blocked / "cache"))
    assert not cache.keep("a", {"w": torch.zeros(1)}, {})
    trained = load("lenet", {}, images)
    assert trained.origin == f"trained now (the cache at {blocked / 'cache'} cannot be written)"
    assert trained.accuracy is not None


@pytest.mark.parametrize(("value", "what"), [(torch.nan, "NaN"), (torch.inf, "infinite values")])
def test_outputs_that_are_not_finite_are_told(value: float, what: str) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    good = parse(module, (3, 2, 2), "mine")
    check_finite(good, torch.ones(1, 3, 2, 2))
    module.get_parameter("1.bias").data.fill_(value)
    with pytest.raises(UserError, match=f"network 'mine' returns {what} for the images"):
        check_finite(parse(module, (3, 2, 2), "mine"), torch.ones(1, 3, 2, 2))


def test_shipped_weights_are_as_accurate_as_they_say(own_cache: Path) -> None:
    """Fails when the recipe of lenet, its images or its shipped file change without the others."""
    bundled = open_images("bundled", 32)
    trained = load("lenet", {}, bundled, progress=lambda *_: pytest.fail("no shipped weights match"))
    assert trained.origin == "shipped with the package"
    assert trained.accuracy is not None
    assert trained.accuracy >= 0.8
    measured = accuracy(trained.network.module, bundled.all("test"))
    assert measured == pytest.approx(trained.accuracy, abs=1e-3)
    assert not own_cache.exists()


def test_what_a_user_trained_again_counts_more_than_what_is_shipped(
    images: Images, quick: Recipe, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    monkeypatch.setattr(resources, "files", lambda _: package)
    load("lenet", {}, images)
    package.mkdir()
    (own_cache / "networks").rename(package / "weights")
    assert load("lenet", {}, images).origin == "shipped with the package"
    assert load("lenet", {}, images, refresh=True).origin == "trained now"
    assert load("lenet", {}, images).origin == "trained before on this machine"


def test_what_is_saved_is_loaded(images: Images, quick: Recipe, own_cache: Path, tmp_path: Path) -> None:
    trained = load("lenet", {}, images)
    save(trained, tmp_path / "deep" / "mine.safetensors")
    again = load("lenet", {"weights": str(tmp_path / "deep" / "mine.safetensors")}, images)
    assert trained.network.digest == again.network.digest
    assert again.origin == "file mine.safetensors"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*mine"):
        save(trained, tmp_path / "file" / "mine")
