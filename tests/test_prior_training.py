"""Learned priors: fitted once, kept by content, saved and loaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from invbench import cache, prior_training
from invbench.errors import UserError
from invbench.images import ImageBatch, Images, Split, open_images
from invbench.images.source import Member, Pixels
from invbench.prior_training import Subject, Teacher
from invbench.priors import LearnedPrior, Lesson
from tests.toys import tiny_network


@dataclass(frozen=True)
class MeanColour(LearnedPrior):
    """The squared distance from the mean colour of the images that it has learned from."""

    name: ClassVar[str] = "mean_colour"
    fits: ClassVar[list[Lesson]] = []
    strength: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.strength * (x - self._tensors["mean"]).square().flatten(1).sum(1)

    def fit(self, lesson: Lesson) -> "MeanColour":
        self.fits.append(lesson)
        lesson.progress(1, 1, "training")
        return replace(self, learned={"mean": lesson.train.mean((0, 2, 3), keepdim=True)})


@pytest.fixture(autouse=True)
def _forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("INVBENCH_CACHE", str(tmp_path / "cache"))
    MeanColour.fits.clear()
    return


@pytest.fixture(scope="module")
def images() -> Images:
    return open_images(source="bundled", size=8)


LIKE = torch.empty(0)


def test_it_learns_from_train_and_is_validated_on_validation(images: Images) -> None:
    Teacher().teach(MeanColour(), Subject(images), LIKE)
    (lesson,) = MeanColour.fits
    for maps, split in ((lesson.train, "train"), (lesson.validation, "validation")):
        assert torch.equal(maps, images.sample(split, prior_training.IMAGES[split]).pixels)  # type: ignore[index, arg-type]


def test_a_training_is_done_once_and_kept(images: Images) -> None:
    teacher = Teacher()
    first = teacher.teach(MeanColour(), Subject(images), LIKE)
    again = teacher.teach(MeanColour(), Subject(images), LIKE)
    other = Teacher().teach(MeanColour(), Subject(images), LIKE)
    assert len(MeanColour.fits) == 1
    assert (first.origin, other.origin) == ("trained now", "trained before on this machine")
    assert first.prior.digest == again.prior.digest == other.prior.digest != ""
    assert [trained.plain()["recipe"] for trained in teacher.trained] == [repr(MeanColour())]


@pytest.mark.parametrize("change", ["recipe", "images", "layer"])
def test_another_recipe_or_subject_is_another_training(images: Images, change: str) -> None:
    teacher, prior, subject = Teacher(), MeanColour(), Subject(images)
    teacher.teach(prior, subject, LIKE)
    match change:
        case "recipe":
            prior = MeanColour(2.0)
        case "images":
            subject = Subject(open_images(source="bundled", size=9))
        case "layer":
            subject = Subject(images, tiny_network(torch.float32).cut("pool1"), "pool1")
    teacher.teach(prior, subject, LIKE)
    assert len(MeanColour.fits) == len(teacher.trained) == 2


def test_features_are_what_the_network_makes_of_the_images(images: Images) -> None:
    network = tiny_network(torch.float32).cut("pool1")
    trained = Teacher().teach(MeanColour(), Subject(images, network, "pool1"), LIKE)
    (lesson,) = MeanColour.fits
    torch.testing.assert_close(lesson.validation, network(images.sample("validation", 200).pixels))
    assert trained.plain()["layer"] == "pool1"


def test_refresh_trains_again(images: Images) -> None:
    teacher = Teacher()
    for refresh in (False, True):
        teacher.teach(MeanColour(), Subject(images), LIKE, refresh)
    assert len(MeanColour.fits) == 2


def test_it_comes_on_the_device_and_in_the_precision_of_the_maps(images: Images) -> None:
    double = torch.empty(0, dtype=torch.float64)
    for like in (LIKE, double):
        prior = Teacher().teach(MeanColour(), Subject(images), like).prior
        assert prior.learned is not None
        assert prior.learned["mean"].dtype == like.dtype


def test_progress_is_passed_on(images: Images) -> None:
    told: list[str] = []
    Teacher(lambda done, total, text: told.append(text)).teach(MeanColour(), Subject(images), LIKE)
    assert told == ["training"]


def test_a_cache_that_cannot_be_written_loses_nothing(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INVBENCH_CACHE", str(tmp_path / "file"))
    trained = Teacher().teach(MeanColour(), Subject(images), LIKE)
    assert "cannot be written" in trained.origin
    assert trained.prior(torch.rand(2, 3, 8, 8)).shape == (2,)


class Spoilt(Images, source="spoilt"):
    """Images one of which the network turns into NaN."""

    digest = "spoilt"

    def __init__(self, size: int) -> None:
        super().__init__(size, ["class"])

    def members(self, split: Split) -> list[list[Member]]:  # type: ignore[override]
        return [[Member(f"{split} {n}.png", 0) for n in range(3)]] if split == "train" else [[]]

    def read(self, member: Member) -> Pixels:
        raise NotImplementedError

    def sample(self, split: Split, count: int, seed: int = 0) -> ImageBatch:
        names = tuple(member.name for member in self.members(split)[0])
        pixels = torch.rand(len(names), *self.shape, generator=torch.Generator().manual_seed(0))
        pixels[1:2] = torch.nan
        return ImageBatch(pixels, torch.zeros(len(names), dtype=torch.int64), names)


def test_the_image_whose_features_are_not_finite_is_named() -> None:
    with pytest.raises(UserError, match=r"pixels of image train 1\.png hold NaN"):
        Subject(Spoilt(8)).maps("train", LIKE)


def test_no_images_are_told() -> None:
    with pytest.raises(UserError, match="no validation images 'spoilt' to fit a prior to"):
        Subject(Spoilt(8)).maps("validation", LIKE)


def test_what_was_saved_is_loaded(images: Images, tmp_path: Path) -> None:
    trained = Teacher().teach(MeanColour(), Subject(images), LIKE)
    prior_training.save(trained, tmp_path / "prior.safetensors")
    loaded = prior_training.load(MeanColour(), tmp_path / "prior.safetensors")
    assert loaded.digest == trained.prior.digest


def test_files_that_do_not_fit_are_told(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    with pytest.raises(UserError, match="there is no file"):
        prior_training.load(MeanColour(), path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        prior_training.load(MeanColour(), path)
    cache.write(path, {"mean": torch.zeros(1)}, {"recipe": "MeanColour(strength=7.0)"})
    with pytest.raises(UserError, match=r"holds MeanColour\(strength=7\.0\), but the study asks for"):
        prior_training.load(MeanColour(), path)
    with pytest.raises(UserError, match="cannot write"):
        trained = Teacher().teach(MeanColour(), Subject(images), LIKE)
        prior_training.save(trained, path / "below" / "prior.safetensors")


def test_an_untrained_prior_says_so() -> None:
    with pytest.raises(UserError, match="has not been trained yet"):
        MeanColour()(torch.rand(1, 3, 4, 4))


def test_a_source_of_images_is_opened_once() -> None:
    teacher = Teacher()
    first = teacher.images({"source": "bundled", "size": 8})
    assert teacher.images({"size": 8, "source": "bundled"}) is first
    assert teacher.images({"source": "bundled", "size": 9}) is not first
