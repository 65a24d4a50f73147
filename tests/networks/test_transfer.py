"""Networks that are trained on other images than those they are applied to, perhaps of another size."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from invbench.errors import UserError
from invbench.harness import Bench
from invbench.images import Images, open_images
from invbench.network import parse
from invbench.networks import _resized, load
from invbench.networks.architectures import Recipe
from tests.studies import planned

BUNDLED = {"source": "bundled", "size": 32}
STUDY = """
study: transfer
images: {source: bundled, count: 2, size: 48}
network: {name: NAME, images: {source: bundled, size: 32}}
trials: [TRIAL]
methods: [adam]
budget: {iterations: 2}
"""


@pytest.fixture(scope="module")
def larger() -> Images:
    return open_images("bundled", 48)


def test_it_ends_before_the_first_dense_layer_where_sizes_differ(larger: Images) -> None:
    whole = load("lenet", {}, open_images("bundled", 32))
    found = load("lenet", {"images": BUNDLED}, larger, progress=lambda *_: pytest.fail("trained"))
    assert found.network.stages == ("conv1", "pool1", "conv2", "pool2")
    assert (found.network.input_shape, found.network.output_shape) == ((3, 48, 48), (32, 12, 12))
    assert found.network.reason is None
    assert found.origin == "shipped with the package, for bundled images of 32 px, up to pool2"
    assert (found.accuracy, found.held_out) == (whole.accuracy, whole.held_out)
    assert found.classes == ()
    # where no border is near, the features are those of a crop
    pixels = larger.draw("test", 2).pixels
    crop = whole.network.cut("pool2")(pixels[..., 8:40, 8:40])
    torch.testing.assert_close(found.network(pixels)[..., 4:8, 4:8], crop[..., 2:6, 2:6])


def test_images_of_one_size_leave_it_whole(photographs: Path) -> None:
    other = open_images("folder", 32, path=str(photographs))
    whole, found = load("lenet", {}, open_images("bundled", 32)), load("lenet", {"images": BUNDLED}, other)
    assert found.network.digest == whole.network.digest
    assert found.classes == whole.classes == open_images("bundled", 32).classes
    assert found.origin == "shipped with the package, for bundled images of 32 px"


def test_its_training_is_the_one_on_those_images(
    images: Images, photographs: Path, quick: Recipe, own_cache: Path
) -> None:
    """One key, whichever images it is applied to, and their size where none is given."""
    spec = {"source": "folder", "path": str(photographs)}
    bundled = open_images("bundled", 8)
    assert load("lenet", {"images": spec}, bundled).origin.startswith("trained now, for folder images of 8")
    found = load("lenet", {}, images, progress=lambda *_: pytest.fail("trained again"))
    assert found.origin == "trained before on this machine"
    other = open_images("bundled", 12)
    again = load("lenet", {"images": spec | {"size": 8}}, other, progress=lambda *_: pytest.fail("trained"))
    assert again.network.digest == found.network.cut("pool2").digest
    assert (again.accuracy, again.held_out) == (found.accuracy, len(images.all("test")))
    assert len(list((own_cache / "networks").iterdir())) == 1


@pytest.mark.parametrize(("name", "width"), [("resnet", 4), ("inception", 8)])
def test_a_network_that_averages_over_positions_stays_whole(
    name: str, width: int, photographs: Path, own_cache: Path, teach: Callable[[str, Recipe], None]
) -> None:
    teach(name, Recipe(epochs=1, batch=8))
    spec = {"source": "folder", "path": str(photographs), "size": 8}
    found = load(name, {"width": width, "images": spec}, open_images("bundled", 16))
    assert found.network.stages[-1] == "head"
    assert found.network.input_shape == (3, 16, 16)
    assert found.classes == ("dark", "light")


def test_what_fits_by_its_shapes_alone_is_not_taken() -> None:
    """A flattened map runs at any size, but is another vector; what follows a dense layer is no matter."""
    layers = OrderedDict(conv=nn.Conv2d(3, 4, 3), flat=nn.Flatten(), out=nn.Linear(4 * 36, 2))
    network, larger = parse(nn.Sequential(layers), (3, 8, 8)), open_images("bundled", 16)
    found = _resized(network, larger)
    assert (found.stages, found.output_shape) == (("conv",), (4, 14, 14))


def test_no_stage_left_is_a_sentence() -> None:
    network = parse(nn.Sequential(OrderedDict(flat=nn.Flatten(), out=nn.Linear(192, 2))), (3, 8, 8), "mine")
    with pytest.raises(UserError, match=r"network 'mine', made for images of 8 px, has no stage .* of 16 px"):
        _resized(network, open_images("bundled", 16))


@pytest.mark.parametrize("spec", ["bundled", {"size": 32}, ["bundled"]])
def test_images_that_are_none_are_told(spec: object, larger: Images) -> None:
    with pytest.raises(UserError, match="network 'lenet': images are what it is trained on, such as"):
        load("lenet", {"images": spec}, larger)


def test_mistakes_in_images_are_told(larger: Images) -> None:
    with pytest.raises(UserError, match="unknown images 'bundeld'"):
        load("lenet", {"images": {"source": "bundeld"}}, larger)
    with pytest.raises(UserError, match="'vgg11' takes images of a multiple of 32 px"):
        load("vgg11", {"images": {"source": "bundled", "size": 16}}, larger)


def test_weights_of_a_file_are_for_those_images(larger: Images, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = load("random_cnn", {"seed": 1, "width": 4}, open_images("bundled", 32))
    torch.save(first.network.module.state_dict(), tmp_path / "mine.pt")
    own = {"width": 4, "weights": str(tmp_path / "mine.pt"), "images": BUNDLED}
    found = load("random_cnn", own, larger)
    assert found.network.digest == first.network.cut("pool2").digest
    assert found.origin == "file mine.pt, for bundled images of 32 px, up to pool2"


@pytest.mark.parametrize("trial", ["class_inversion", "adversarial"])
def test_trials_of_classes_say_that_there_are_none(trial: str) -> None:
    study = planned(STUDY.replace("NAME", "lenet").replace("TRIAL", trial))
    with pytest.raises(UserError, match=r"'lenet' names no classes here, as its output is .*\(32, 12, 12\)"):
        Bench().check(study.cells)


def test_a_study_inverts_its_features() -> None:
    (cell,) = planned(STUDY.replace("NAME", "lenet").replace("TRIAL", "preimage: {layer: pool2}")).cells
    bench = Bench()
    posed = bench.pose(cell, cell.trial)
    assert posed.problem.network.output_shape == (32, 12, 12)
    scene = bench.scene(cell, bench.batch(cell, "test"))
    assert (scene.classes, scene.natural.shape[1:]) == ((), (3, 48, 48))
    assert scene.source is not None
    assert scene.source.size == 48
