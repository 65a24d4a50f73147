"""Image sources: splits that share no pixel, draws that repeat, bad files named."""

import pickle
from hashlib import md5
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import maximum_filter

from invbench import images
from invbench.errors import UserError
from invbench.images import SPLITS, Images, open_images
from invbench.images import bundled as bundled_module
from invbench.images.source import Member, divide


@pytest.fixture(scope="module")
def crops() -> Images:
    return open_images("bundled", 32)


def picture(seed: int, width: int = 20, height: int = 16, kind: str = "JPEG") -> bytes:
    """A small random image file."""
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def plant(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def class_folders(per_class: int = 10) -> dict[str, bytes]:
    seeds = iter(range(1000))
    return {f"{c}/{n}.jpg": picture(next(seeds)) for c in ("cat", "dog") for n in range(per_class)}


def every_name(source: Images) -> dict[str, set[str]]:
    return {split: {m.name for group in source.members(split) for m in group} for split in SPLITS}


# ------------------------------------------------------------------------------------------ all sources


def test_finds_the_sources() -> None:
    assert {"bundled", "cifar10", "folder"} <= set(images.find())
    assert all(source.__doc__ for source in images.find().values())


@pytest.mark.parametrize(
    ("source", "size", "parameters", "sentence"),
    [
        ("bundeld", 32, {}, "unknown images 'bundeld': did you mean 'bundled'"),
        ("xyz", 32, {}, "there are bundled, cifar10, folder"),
        ("bundled", 0, {}, "size is 0"),
        ("bundled", 32.5, {}, "size is 32.5"),
        ("bundled", 32, {"path": "x"}, "no parameter 'path'"),
        ("folder", 32, {}, "need the parameter 'path'"),
        ("bundled", 224, {}, "at most 64"),
        ("cifar10", 64, {"root": "x"}, "set size: 32"),
        ("cifar10", 32, {"root": "/nowhere"}, "CIFAR-10 is not in /nowhere"),
        ("folder", 32, {"path": "/nowhere"}, "no folder or zip file /nowhere"),
    ],
)
def test_mistakes_are_told(source: str, size: int, parameters: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_images(source, size, **parameters)  # type: ignore[arg-type]


def test_divide_serves_the_first_split_first() -> None:
    for count in range(1, 40):
        parts = divide(
            [Member(str(n), 0) for n in range(count)], {"test": 0.2, "tuning": 0.1, "validation": 0.1}
        )
        assert [m.name for part in parts.values() for m in part] == [str(n) for n in range(count)]
        assert len(parts["test"]) == -(-count // 5)
    assert [len(part) for part in parts.values()] == [8, 4, 4, 23]


# ---------------------------------------------------------------------------------------------- bundled


def test_draws_what_is_asked_for(crops: Images) -> None:
    batch = crops.draw("test", 30)
    assert batch.pixels.shape == (30, *crops.shape) == (30, 3, 32, 32)
    assert batch.pixels.dtype == torch.float32
    assert batch.pixels.min() >= 0
    assert batch.pixels.max() <= 1
    assert batch.labels.dtype == torch.int64
    assert len(set(batch.names)) == 30
    assert sorted(batch.labels.bincount(minlength=12).tolist()) == [2] * 6 + [3] * 6
    assert all(
        name.startswith(crops.classes[label]) for name, label in zip(batch.names, batch.labels, strict=True)
    )


def test_draws_repeat(crops: Images) -> None:
    batch = crops.draw("test", 8, seed=1)
    again = open_images("bundled", 32).draw("test", 8, seed=1)
    assert batch.names == again.names
    assert torch.equal(batch.pixels, again.pixels)
    assert batch.names != crops.draw("test", 8, seed=2).names
    assert batch.names == crops.draw("test", 20, seed=1).names[:8]


def test_draws_leave_global_randomness_alone(crops: Images) -> None:
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index, union-attr]
    crops.draw("test", 3)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]
    assert torch.equal(torch_before, torch.get_rng_state())


def test_the_first_crops_do_not_overlap(crops: Images) -> None:
    batch = crops.draw("test", 24)
    places = np.array([[int(n) for n in name.split()[1].split(",")] for name in batch.names])
    for label in range(12):
        first, second = places[batch.labels.numpy() == label]
        assert np.abs(first - second).max() >= 32


def painted(places: list[tuple[int, int]], size: int, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels crops at these places cover: corners are counted, then summed up."""
    corners = np.zeros((shape[0] + 1, shape[1] + 1), dtype=int)
    top, left = np.array(places).T
    for sign, rows, columns in ((1, 0, 0), (-1, size, 0), (-1, 0, size), (1, size, size)):
        np.add.at(corners, (top + rows, left + columns), sign)
    return corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0


@pytest.mark.parametrize("size", [16, 32, 64])
def test_bundled_splits_share_no_pixel(size: int) -> None:
    """Rasterised: no pixel is painted by two splits, and training keeps a crop size away from the others."""
    source = open_images("bundled", size)
    members = {split: source.members(split) for split in SPLITS}
    for label, photograph in enumerate(source._photographs):  # type: ignore[attr-defined]
        shape = photograph.shape[:2]
        coats = {split: painted([m.key for m in members[split][label]], size, shape) for split in SPLITS}
        assert all(coat.any() for coat in coats.values())
        assert sum(coat.astype(int) for coat in coats.values()).max() == 1  # type: ignore[union-attr]
        others = coats["validation"] | coats["tuning"] | coats["test"]
        assert not (maximum_filter(others, 2 * size + 1) & coats["train"]).any()


def test_rasterising_sees_an_overlap() -> None:
    first, second = painted([(0, 0), (5, 5)], 4, (12, 12)), painted([(8, 8)], 4, (12, 12))
    assert first.sum() == 32
    assert (first & second).sum() == 1


def test_a_crop_is_where_its_name_says(crops: Images) -> None:
    batch = crops.draw("validation", 12)
    for pixels, label, name in zip(batch.pixels, batch.labels, batch.names, strict=True):
        top, left = (int(number) for number in name.split()[1].split(","))
        expected = crops._photographs[label][top : top + 32, left : left + 32]  # type: ignore[attr-defined]
        assert np.array_equal((255 * pixels).round().numpy().transpose(1, 2, 0), expected)


def test_crops_are_not_flat(crops: Images) -> None:
    deviations = crops.all("test").pixels.mean(dim=1).flatten(1).std(dim=1)
    assert deviations.min() > 0.01


def test_all_takes_a_fixed_number(crops: Images) -> None:
    batch = crops.all("validation")
    assert batch.labels.bincount().tolist() == [100] * 12
    assert batch.names == open_images("bundled", 32).all("validation").names


def test_more_than_there_are(crops: Images) -> None:
    with pytest.raises(UserError, match="1000000 test images asked for, but"):
        crops.draw("test", 1_000_000)
    with pytest.raises(UserError, match="unknown split 'holdout'"):
        crops.draw("holdout", 1)  # type: ignore[arg-type]


def test_the_digest_knows_the_size(crops: Images) -> None:
    assert crops.digest == open_images("bundled", 32).digest != open_images("bundled", 16).digest


@pytest.mark.parametrize("content", [None, b"something else"])
def test_a_photograph_that_is_not_the_one(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled_module, "_folder", lambda: tmp_path)
    if content:
        (tmp_path / "astronaut.png").write_bytes(content)
    with pytest.raises(UserError, match=r"astronaut\.png is .*scikit-image>=0\.22"):
        open_images("bundled", 32).draw("test", 1)


def test_bundled_needs_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="need scikit-image"):
        open_images("bundled", 32).draw("test", 1)


# ----------------------------------------------------------------------------------------------- folder


def test_class_folders_are_divided(tmp_path: Path) -> None:
    source = open_images("folder", 16, path=str(plant(tmp_path, class_folders())))
    names = every_name(source)
    assert source.classes == ("cat", "dog")
    assert {split: len(part) for split, part in names.items()} == {
        "train": 12,
        "validation": 2,
        "tuning": 2,
        "test": 4,
    }
    assert len(set().union(*names.values())) == 20
    batch = source.all("train")
    assert batch.labels.bincount().tolist() == [6, 6]
    assert all(
        name.startswith(source.classes[label]) for name, label in zip(batch.names, batch.labels, strict=True)
    )


def test_a_zip_file_is_the_folder_it_holds(tmp_path: Path) -> None:
    files = class_folders(5)
    folder = open_images("folder", 16, path=str(plant(tmp_path / "photos", files)))
    wrapped = {f"some/photos/{name}": content for name, content in reversed(files.items())}
    archive = open_images("folder", 16, path=str(packed(tmp_path / "photos.zip", wrapped)))
    assert folder.digest == archive.digest
    first, second = folder.draw("train", 4), archive.draw("train", 4)
    assert ["some/photos/" + name for name in first.names] == list(second.names)
    assert torch.equal(first.pixels, second.pixels)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    files = class_folders(2)
    first = open_images("folder", 16, path=str(plant(tmp_path / "a", files))).digest
    assert first == open_images("folder", 16, path=str(plant(tmp_path / "b", files))).digest
    assert first != open_images("folder", 8, path=str(tmp_path / "a")).digest
    files["cat/0.jpg"] = picture(77)
    assert first != open_images("folder", 16, path=str(plant(tmp_path / "c", files))).digest


@pytest.mark.parametrize("top", ["", "cifar10/"])
def test_official_test_folder_is_honoured(top: str, tmp_path: Path) -> None:
    files = {f"{top}train/{name}": content for name, content in class_folders(20).items()}
    files |= {
        f"{top}test/{c}/{n}.jpg": picture(2000 + 10 * i + n) for i, c in enumerate("ab") for n in range(2)
    }
    files[f"{top}test/cat/copy.jpg"] = files[f"{top}train/cat/3.jpg"]
    files[f"{top}samples/cat/0.jpg"] = picture(3000)
    source = open_images("folder", 16, path=str(packed(tmp_path / "x.zip", files)))
    names = every_name(source)
    assert source.classes == ("a", "b", "cat", "dog")
    assert names["test"] == {f"{top}test/{n}.jpg" for n in ("a/0", "a/1", "b/0", "b/1", "cat/copy")}
    assert len(names["validation"]) + len(names["tuning"]) == 4
    assert len(names["train"]) == 35
    skipped = dict(source.skipped)
    assert "has the content of" in skipped[f"{top}train/cat/3.jpg"]
    assert "outside the folders train and test" in skipped[f"{top}samples/cat/0.jpg"]


def test_flat_folder_is_one_class(tmp_path: Path) -> None:
    plant(tmp_path / "holiday", {f"{n}.png": picture(n, kind="PNG") for n in range(8)})
    source = open_images("folder", 16, path=str(tmp_path / "holiday"))
    assert source.classes == ("holiday",)
    assert [len(part) for part in every_name(source).values()] == [4, 1, 1, 2]


@pytest.mark.parametrize(
    ("share", "counts"), [(0.2, [24, 4, 4, 8]), (0.6, [8, 4, 4, 24]), (0.975, [0, 0, 1, 39])]
)
def test_a_share_for_test_may_be_asked_for(share: float, counts: list[int], tmp_path: Path) -> None:
    plant(tmp_path / "p", {f"{n}.png": picture(n, kind="PNG") for n in range(40)})
    source = open_images("folder", 16, path=str(tmp_path / "p"), test=share)
    names = every_name(source)
    assert [len(part) for part in names.values()] == counts
    assert len(set().union(*names.values())) == 40
    default = open_images("folder", 16, path=str(tmp_path / "p"))
    assert (source.digest == default.digest) == (share == 0.2)
    assert every_name(default)["test"] <= names["test"]


def test_the_default_digest_of_a_folder_stays(tmp_path: Path) -> None:
    """What is cached was named by it."""
    plant(tmp_path / "p", {f"{n}.bin.png": bytes([n]) for n in range(3)})
    source = open_images("folder", 16, path=str(tmp_path / "p"))
    assert source.digest == "87da0585e831508aa6ba018c00dafa18cda479848f5cc61fc835ac60c0ff2340"


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, True, "half", float("nan")])
def test_a_share_that_is_none_is_told(share: object, tmp_path: Path) -> None:
    plant(tmp_path, class_folders(2))
    with pytest.raises(UserError, match=r"images 'folder': test is .*, but a share between 0 and 1"):
        open_images("folder", 16, path=str(tmp_path), test=share)


def test_a_share_beside_folders_that_say_it_is_told(tmp_path: Path) -> None:
    plant(tmp_path, {f"{part}/{n}.jpg": picture(n) for part, n in (("train", 0), ("test", 1))})
    with pytest.raises(UserError, match="says what is for test by its folders: leave out 'test'"):
        open_images("folder", 16, path=str(tmp_path), test=0.2)


def test_bad_files_are_skipped_and_named(tmp_path: Path) -> None:
    files = {f"{n}.jpg": picture(n) for n in range(40)}
    files |= {"cut.jpg": picture(90)[:-200], "small.jpg": picture(91, 10, 10), "fake.png": b"no image"}
    deep = BytesIO()
    Image.fromarray(np.arange(400, dtype=np.int32).reshape(20, 20)).save(deep, "TIFF")
    files |= {"deep.tif": deep.getvalue(), "notes.txt": b"hello", ".hidden.jpg": picture(92)}
    source = open_images("folder", 16, path=str(plant(tmp_path, files)))
    assert source.skipped == ()
    usable = sum(len(source.all(split)) for split in SPLITS)
    reasons = dict(source.skipped)
    assert usable == 40
    assert set(reasons) == {"cut.jpg", "small.jpg", "fake.png", "deep.tif"}
    assert "truncated" in reasons["cut.jpg"]
    assert reasons["small.jpg"] == "10 x 10 px is smaller than 16"
    assert "8 bits" in reasons["deep.tif"]


def test_a_draw_goes_on_behind_a_bad_file(tmp_path: Path) -> None:
    files = {f"{n}.jpg": picture(n)[: -200 if n % 2 else None] for n in range(30)}
    source = open_images("folder", 16, path=str(plant(tmp_path, files)))
    usable = len(source.all("test"))
    assert 0 < usable < 6
    assert len(source.draw("test", usable)) == usable
    with pytest.raises(
        UserError, match=rf"hold {usable} usable ones .* skipped, such as .*\.jpg: cannot be read"
    ):
        source.draw("test", usable + 1)


def test_damaged_member_of_a_zip_file(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", {f"{n}.jpg": picture(n) for n in range(5)})
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    source = open_images("folder", 16, path=str(path))
    total = 0
    for split in SPLITS:
        for group in source.members(split):
            for member in group:
                total += len(source._collect(iter([member]), 1))
    assert total == 4
    assert [name for name, _ in source.skipped] == ["0.jpg"]


def test_all_too_small(tmp_path: Path) -> None:
    source = open_images("folder", 32, path=str(plant(tmp_path, class_folders())))
    with pytest.raises(UserError, match=r"no train images: .* 20 x 16 px is smaller than 32"):
        source.all("train")


def test_folders_without_images(tmp_path: Path) -> None:
    plant(tmp_path, {"notes.txt": b"hello"})
    with pytest.raises(UserError, match=f"{tmp_path} holds no images"):
        open_images("folder", 16, path=str(tmp_path))
    with pytest.raises(UserError, match="neither a folder nor a whole zip file"):
        open_images("folder", 16, path=str(tmp_path / "notes.txt"))


def test_images_are_resized_about_the_centre(tmp_path: Path) -> None:
    """Halves of a wide image: what is left is centred, and upright whatever the camera noted."""
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 40:] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright, turned = BytesIO(), BytesIO()
    Image.fromarray(pixels).save(upright, "PNG")
    Image.fromarray(pixels).save(turned, "PNG", exif=exif)
    files = {"upright.png": upright.getvalue(), "turned.png": turned.getvalue()}
    source = open_images("folder", 20, path=str(plant(tmp_path, files)))
    batches = [source.all(split) for split in ("test", "train") if any(map(len, source.members(split)))]
    found = {name: image for batch in batches for name, image in zip(batch.names, batch.pixels, strict=True)}
    for name, (left, right) in {"upright.png": (0.0, 1.0), "turned.png": (1.0, 0.0)}.items():
        assert torch.allclose(found[name][:, :, :7], torch.tensor(left), atol=0.05)
        assert torch.allclose(found[name][:, :, 13:], torch.tensor(right), atol=0.05)


# ---------------------------------------------------------------------------------------------- CIFAR-10


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as the official ones, with 10 images each."""
    from torchvision.datasets import CIFAR10

    def batch(seed: int) -> bytes:
        pixels = np.random.RandomState(seed).randint(0, 256, (20, 3072), dtype=np.uint8)
        return pickle.dumps({"data": pixels, "labels": [n % 2 for n in range(20)]})

    files = {"train": batch(0), "test": batch(1), "meta": pickle.dumps({"label_names": ["cat", "dog"]})}
    plant(tmp_path / CIFAR10.base_folder, files)
    sums = {name: md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": sums["meta"]})
    return tmp_path


def test_cifar10_reports_the_official_test_set(tiny_cifar: Path) -> None:
    source = open_images("cifar10", 32, root=str(tiny_cifar))
    raw = np.random.RandomState(1).randint(0, 256, (20, 3072), dtype=np.uint8).reshape(20, 3, 32, 32)
    batch = source.all("test")
    assert source.classes == ("cat", "dog")
    assert batch.labels.bincount().tolist() == [10, 10]
    for name, image in zip(batch.names, batch.pixels, strict=True):
        assert np.array_equal((255 * image).round().numpy(), raw[int(name.split()[1])])
    names = every_name(source)
    assert {split: len(part) for split, part in names.items()} == {
        "train": 18,
        "validation": 0,
        "tuning": 2,
        "test": 20,
    }
    assert len(set().union(*names.values())) == 40
    assert source.digest == open_images("cifar10", 32, root=str(tiny_cifar)).digest


def test_damaged_cifar10(tiny_cifar: Path) -> None:
    (tiny_cifar / "cifar-10-batches-py" / "train").write_bytes(b"")
    with pytest.raises(UserError, match=r"or damaged: unpack https://.*\.tar\.gz there"):
        open_images("cifar10", 32, root=str(tiny_cifar))
