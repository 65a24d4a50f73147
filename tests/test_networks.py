"""The networks that come along: catalogue, stages, chains, trainings that repeat, the user's cache."""

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from invbench import cache
from invbench.errors import UserError
from invbench.images import ImageBatch, Images, open_images
from invbench.network import Network, parse
from invbench.networks import architectures, check_finite, find, load, save
from invbench.networks.architectures import Recipe, ResidualBlock, architecture
from invbench.networks.classifier import CHUNK, accuracy, augment, train_classifier

#: Architectures of our own at small sizes: name, pixels, parameters, stages.
SMALL: list[tuple[str, int, dict[str, float | str], str]] = [
    ("lenet", 32, {}, "conv1 pool1 conv2 pool2 fc1 fc2 fc3"),
    (
        "vgg11",
        32,
        {"width": 0.05},
        "conv1 pool1 conv2 pool2 conv3 conv4 pool3 conv5 conv6 pool4 conv7 conv8 pool5 fc",
    ),
    (
        "alexnet",
        64,
        {"width": 0.05},
        "conv1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8",
    ),
    (
        "alexnet",
        32,
        {"width": 0.05, "norm": "batch"},
        "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8",
    ),
    ("random_cnn", 16, {"width": 4, "layers": 3}, "conv1 pool1 conv2 pool2 conv3 pool3 fc"),
    ("resnet", 16, {"width": 4}, "stem block1 block2 block3 head"),
]


@pytest.fixture(scope="module")
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


def teach(monkeypatch: pytest.MonkeyPatch, name: str, recipe: Recipe) -> None:
    """Offer a network with another recipe."""
    monkeypatch.setitem(architectures._found, name, replace(find()[name], recipe=recipe))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe for lenet that takes a moment."""
    recipe = Recipe(epochs=2, batch=8, shift=1)
    teach(monkeypatch, "lenet", recipe)
    return recipe


def same_weights(first: Network, second: Network) -> bool:
    return first.digest == second.digest


# ------------------------------------------------------------------------------------------- catalogue


def test_the_catalogue_has_a_line_about_each() -> None:
    ours = {"lenet", "vgg11", "alexnet", "random_cnn", "resnet"}
    theirs = {f"torchvision_{name}" for name in ("alexnet", "vgg11", "vgg16", "resnet18")}
    assert ours | theirs <= set(find())
    assert all(found.summary for found in find().values())
    assert find()["vgg11"].parameters == {"width": 1.0, "batch_norm": True}


def test_a_decorator_is_all_it_takes_to_add_one(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_found", dict(architectures._found))

    @architecture()
    def linear(classes: int, size: int, scale: float = 1.0) -> nn.Module:
        """A matrix."""
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, classes, bias=False))
        module.get_parameter("1.weight").data.fill_(scale)
        return module

    assert find()["linear"].summary == "A matrix."
    trained = load("linear", {"scale": 2.0}, images)
    assert torch.equal(trained.network(torch.ones(1, 3, 8, 8)), torch.full((1, 2), 2.0 * 3 * 64))
    assert (trained.origin, trained.accuracy, trained.seconds) == ("untrained, seed 0", None, None)


@pytest.mark.parametrize(("name", "size", "own", "stages"), SMALL)
def test_every_architecture_runs_and_is_cut_at_every_stage(
    name: str, size: int, own: dict[str, float], stages: str
) -> None:
    network = parse(find()[name].build(5, size, **own), (3, size, size), name)
    assert network.stages == tuple(stages.split())
    x = torch.rand(2, 3, size, size)
    y = network(x)
    assert y.shape == (2, 5)
    for stage in network.stages:
        part = network.cut(stage)
        assert part.stages[-1] == stage
        assert part(x).shape[1:] == part.output_shape
    assert torch.equal(network.cut(network.stages[-1])(x), y)


@pytest.mark.parametrize(
    ("name", "size", "own"),
    [(name, size, own) for name, size, own, _ in SMALL if name != "resnet"]
    + [("vgg11", 32, {"width": 0.05, "batch_norm": False})],
)
def test_chains_agree_with_their_networks(name: str, size: int, own: dict[str, float]) -> None:
    module = find()[name].build(5, size, **own).double()
    for layer in module.modules():  # statistics that folding could not get right by chance
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.get_buffer("running_mean"), -1, 1)
            nn.init.uniform_(layer.get_buffer("running_var"), 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    network = parse(module, (3, size, size), name)
    assert network.reason is None
    assert network.chain is not None
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    y = x
    for stage in network.chain:
        y = stage(y)
    torch.testing.assert_close(y, network(x), rtol=1e-9, atol=1e-9)


def test_batch_norm_folds_into_the_convolution_before_it() -> None:
    plain, normed = (
        parse(find()["vgg11"].build(5, 32, width=0.05, batch_norm=norm), (3, 32, 32))
        for norm in (False, True)
    )
    assert plain.chain is not None
    assert normed.chain is not None
    assert [s.name for s in normed.chain] == [s.name for s in plain.chain]
    assert normed.multiply_adds == plain.multiply_adds


def test_a_residual_network_says_why_it_is_no_chain() -> None:
    network = parse(find()["resnet"].build(5, 16, width=4), (3, 16, 16))
    assert network.chain is None
    assert "'block1' is a ResidualBlock" in str(network.reason)


def test_a_residual_block_adds_its_input() -> None:
    torch.manual_seed(0)
    for channels, wide, stride in ((3, 3, 1), (3, 6, 2), (3, 4, 1)):
        block = ResidualBlock(channels, wide, stride)
        nn.init.zeros_(block.get_parameter("residual.3.weight"))  # leaves the shortcut alone
        x = torch.randn(2, 3, 8, 8)
        shortcut = x
        if (wide, stride) != (3, 1):
            weight = block.get_parameter("shortcut.weight")[:, :, 0, 0]
            shortcut = torch.einsum("oc,bchw->bohw", weight, x[:, :, ::stride, ::stride])
        torch.testing.assert_close(block.eval()(x), shortcut.clamp(min=0))


def test_random_filters_keep_the_scale_of_activations() -> None:
    torch.manual_seed(0)
    network = parse(find()["random_cnn"].build(5, 32, layers=1, width=256, kernel=5), (3, 32, 32))
    weight = network.module.get_parameter("conv1.0.weight")
    assert float(weight.var()) == pytest.approx(2 / 75, rel=0.05)


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


# ------------------------------------------------------------------------------------- seeds, trainings


def test_an_untrained_network_is_its_seed(images: Images) -> None:
    first, again, other = (load("random_cnn", {"seed": n, "width": 4}, images).network for n in (3, 3, 4))
    assert same_weights(first, again)
    assert not same_weights(first, other)


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
    assert same_weights(first.network, found.network)
    assert same_weights(first.network, again.network)
    assert len(list((own_cache / "networks").iterdir())) == 1
    assert first.accuracy == accuracy(first.network.module, images.all("test"))
    assert first.plain()["held_out_accuracy"] == first.accuracy


def test_whatever_changes_the_weights_changes_their_key(
    images: Images,
    photographs: Path,
    quick: Recipe,
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
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
    teach(monkeypatch, "lenet", replace(quick, epochs=1))
    assert load("lenet", {}, images).origin == "trained now"
    assert kept() == 5
    teach(monkeypatch, "random_cnn", quick)
    for width in (4, 5):
        load("random_cnn", {"width": width}, images)
    assert kept() == 7


def test_a_training_with_dropout_repeats(images: Images) -> None:
    trained = []
    for state in (1, 2):
        module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 2))
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        torch.manual_seed(state)  # of no account
        train_classifier(module, images, Recipe(epochs=2, batch=8), 0)
        trained.append(module.get_parameter("2.weight"))
    assert torch.equal(*trained)


def test_another_seed_trains_other_weights(images: Images, quick: Recipe, own_cache: Path) -> None:
    first, other = (load("lenet", {"seed": n}, images).network for n in (0, 1))
    assert not same_weights(first, other)


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


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").mkdir()
    (tmp_path / "w.safetensors" / "content").touch()
    with pytest.raises(OSError, match=r"w\.safetensors"):
        cache.write(tmp_path / "w.safetensors", {"w": torch.zeros(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_tensors_that_share_memory_are_kept(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    cache.write(tmp_path / "w", {"all": whole, "also": whole, "part": whole[2:4]}, {})
    found = cache.read(tmp_path / "w")
    assert found is not None
    assert torch.equal(found[0]["part"], whole[2:4])


def test_the_best_state_is_kept_with_its_batch_statistics(images: Images) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        module = find()["resnet"].build(2, 8, width=4, blocks=2)
        history = train_classifier(module, images, Recipe(epochs=6, batch=8, lr=0.05), seed)
        best = min(value for _, value in history.validations)
        assert accuracy(module, images.all("validation")) == 1 - best


def test_a_training_learns(images: Images) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    train_classifier(module, images, Recipe(epochs=40, batch=8, lr=0.02), 0)
    assert accuracy(module, images.all("test")) == 1.0


# --------------------------------------------------------------------------------- parts of a training


def test_augmentation_mirrors_and_shifts_each_image_by_itself(generator: torch.Generator) -> None:
    shift, pixels = 2, torch.rand(300, 3, 7, 8, generator=generator)
    found = augment(pixels, Recipe(1, shift=shift), generator).numpy()
    seen = []
    for before, after in zip(pixels.numpy(), found, strict=True):
        around = ((0, 0), (shift, shift), (shift, shift))
        padded = {step: np.pad(before[:, :, ::step], around, mode="reflect") for step in (1, -1)}
        matches = [
            (step, down, right)
            for step, down, right in product((1, -1), range(5), range(5))
            if np.array_equal(padded[step][:, down : down + 7, right : right + 8], after)
        ]
        assert len(matches) == 1
        seen += matches
    assert 120 < sum(step == -1 for step, _, _ in seen) < 180
    assert len({(down, right) for _, down, right in seen}) == 25


def test_augmentation_does_only_what_the_recipe_says(generator: torch.Generator) -> None:
    pixels = torch.rand(50, 3, 4, 4, generator=generator)
    assert torch.equal(augment(pixels, Recipe(1, flip=False), generator), pixels)
    mirrored = augment(pixels, Recipe(1), generator)
    same = (mirrored == pixels).flatten(1).all(1)
    assert torch.equal(mirrored[~same], pixels[~same].flip(3))
    assert 10 < int(same.sum()) < 40
    again = [augment(pixels, Recipe(1, shift=1), torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*again)


def test_accuracy_is_a_count_in_evaluation_mode(generator: torch.Generator) -> None:
    count = CHUNK + 44
    pixels = torch.rand(count, 3, 2, 2, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Dropout(0.9)).train()
    weight, bias = (tensor.detach().numpy() for tensor in module.parameters())
    scores = pixels.flatten(1).numpy() @ weight.T + bias
    hits = sum(row.tolist().index(max(row)) == int(label) for row, label in zip(scores, labels, strict=True))
    batch = ImageBatch(pixels, labels, tuple(map(str, range(count))))
    assert accuracy(module, batch) == hits / count


@pytest.mark.parametrize(("value", "what"), [(torch.nan, "NaN"), (torch.inf, "infinite values")])
def test_outputs_that_are_not_finite_are_told(value: float, what: str) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    good = parse(module, (3, 2, 2), "mine")
    check_finite(good, torch.ones(1, 3, 2, 2))
    module.get_parameter("1.bias").data.fill_(value)
    with pytest.raises(UserError, match=f"network 'mine' returns {what} for the images"):
        check_finite(parse(module, (3, 2, 2), "mine"), torch.ones(1, 3, 2, 2))


# --------------------------------------------------------------------------- the weights in the wheel


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


# ------------------------------------------------------------------------------- networks of one's own


@pytest.fixture
def study_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module into the current directory; gives its name, which no other test has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    name = "networks_of_" + re.sub(r"\W", "_", tmp_path.name)

    def write(content: str) -> str:
        (tmp_path / f"{name}.py").write_text(content)
        return name

    yield write
    sys.modules.pop(name, None)


FACTORIES = """
from torch import nn

def small(classes=2, scale=1.0):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    network[1].weight.data.mul_(scale)
    return network

def text():
    return "no network"

def broken():
    raise TypeError("a mistake of its own")

constant = 3
"""


def test_a_factory_beside_the_study_is_found(images: Images, study_folder: Callable[[str], str]) -> None:
    name = study_folder(FACTORIES) + ":small"
    trained = load(name, {"classes": 4, "seed": 1}, images)
    assert trained.network.output_shape == (4,)
    assert trained.network.name == name
    assert trained.origin == "as its factory makes it"
    assert trained.accuracy is None
    assert same_weights(trained.network, load(name, {"classes": 4, "seed": 1}, images).network)
    assert not same_weights(trained.network, load(name, {"classes": 4, "seed": 2}, images).network)


def test_a_factory_takes_weights_from_a_file(
    images: Images, study_folder: Callable[[str], str], tmp_path: Path
) -> None:
    name = study_folder(FACTORIES) + ":small"
    state = {"1.weight": torch.rand(2, 192), "1.bias": torch.rand(2)}
    torch.save(state, tmp_path / "mine.pt")
    trained = load(name, {"weights": "mine.pt"}, images)
    assert trained.origin == "file mine.pt"
    torch.testing.assert_close(
        trained.network(torch.ones(1, 3, 8, 8))[0], state["1.weight"].sum(1) + state["1.bias"]
    )


@pytest.mark.parametrize(
    ("function", "parameters", "sentence"),
    [
        ("smal", {}, "the module '.*' has no function 'smal'"),
        ("constant", {}, "has no function 'constant'"),
        ("", {}, "has no function ''"),
        ("text", {}, "the factory returned str, not an nn.Module"),
        ("small", {"depth": 3}, "the factory takes other parameters .*'depth'"),
    ],
)
def test_mistakes_with_a_factory_are_told(
    function: str,
    parameters: dict[str, object],
    sentence: str,
    images: Images,
    study_folder: Callable[[str], str],
) -> None:
    with pytest.raises(UserError, match=sentence):
        load(f"{study_folder(FACTORIES)}:{function}", parameters, images)


@pytest.mark.parametrize("name", ["no_such_module:f", ":f", ".relative:f"])
def test_a_module_that_is_not_there_is_told(name: str, images: Images) -> None:
    with pytest.raises(UserError, match=f"network '{re.escape(name)}' cannot be imported: "):
        load(name, {}, images)


def test_mistakes_within_a_factory_keep_their_traceback(
    images: Images, study_folder: Callable[[str], str]
) -> None:
    with pytest.raises(TypeError, match="a mistake of its own"):
        load(f"{study_folder(FACTORIES)}:broken", {}, images)


# ----------------------------------------------------------------------------------------------- saving


def test_what_is_saved_is_loaded(images: Images, quick: Recipe, own_cache: Path, tmp_path: Path) -> None:
    trained = load("lenet", {}, images)
    save(trained, tmp_path / "deep" / "mine.safetensors")
    again = load("lenet", {"weights": str(tmp_path / "deep" / "mine.safetensors")}, images)
    assert same_weights(trained.network, again.network)
    assert again.origin == "file mine.safetensors"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*mine"):
        save(trained, tmp_path / "file" / "mine")
