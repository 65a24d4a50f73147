"""Offline work is done once, cached by content, timed apart, and sees no reported image."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from invbench_solvers.inverting_network import InvertingNetwork
from invbench_solvers.up_convolutional import UpConvolutional
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from invbench import cache as storage
from invbench import documents
from invbench.errors import UserError
from invbench.harness import Bench
from invbench.harness.learning import Cost, prepare
from invbench.images import ImageBatch
from invbench.method import Method
from invbench.network import Network, parse
from invbench.networks import architectures
from invbench.planning import plan
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Setting, Solver
from invbench.trials import offline
from invbench.trials.contract import Scene, Trial
from invbench.trials.preimage import Preimage
from tests.modules import seeded

STUDY = """
study: s
images: {count: 2}
trials: [preimage: {layer: pool1}]
methods: [adam]
budget: {iterations: 2}
"""


@dataclass(frozen=True)
class MeanImage(Solver):
    """Learns the mean image and yields it."""

    calls: ClassVar[list[Setting]] = []
    scale: float = 1.0

    def prepare(self, setting: Setting) -> "MeanImage":
        """The mean over the training images."""
        self.calls.append(setting)
        return replace(self, learned={"mean": setting.train.mean(0)})

    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """Once."""
        assert self.learned is not None
        yield self.learned["mean"].expand_as(x)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is learned yet, and there is little to learn from."""
    monkeypatch.setenv("INVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(offline, "IMAGES", {"train": 16, "validation": 8})
    MeanImage.calls.clear()
    return tmp_path / "cache" / "solvers"


def test_it_is_done_once_and_fetched_afterwards() -> None:
    (cell,) = plan(documents.parse(STUDY, "s"), catalogue()).cells
    bench = Bench()
    method = Method("mean", (("mean_image", MeanImage()),), (1.0,))
    first, cost = prepare(cell, bench, method)
    again, remembered = prepare(cell, bench, method)
    assert len(MeanImage.calls) == 1
    assert isinstance(cost, Cost)
    assert cost == remembered
    assert cost.multiply_adds == 0, "a mean is no matrix product"
    learned, kept = first.stages[0][1].learned, again.stages[0][1].learned
    assert learned is not None
    assert kept is not None
    assert torch.equal(learned["mean"], kept["mean"])
    prepare(cell, bench, replace(method, stages=(("mean_image", MeanImage(scale=2.0)),)))
    assert len(MeanImage.calls) == 2, "other hyper-parameters, other offline work"


def test_the_setting_poses_the_trial_on_training_images() -> None:
    (cell,) = plan(documents.parse(STUDY, "s"), catalogue()).cells
    prepare(cell, Bench(), Method("mean", (("mean_image", MeanImage(scale=3.0)),), (1.0,)))
    (setting,) = MeanImage.calls
    sample = setting.pose(setting.train[:3])
    problem = sample.problem
    assert sample.truth is not None
    assert torch.equal(sample.truth, setting.train[:3])
    torch.testing.assert_close(problem.target, problem.network(setting.train[:3]))
    assert problem.size == 3


def test_a_method_without_offline_work_has_no_seconds() -> None:
    (cell,) = plan(documents.parse(STUDY, "s"), catalogue()).cells
    assert prepare(cell, Bench(), cell.method) == (cell.method, None)


@dataclass(frozen=True)
class FewImages:
    """A source of images, as far as offline work asks for them: nothing but noise, and quickly."""

    digest: str = "few"

    def sample(self, split: str, count: int) -> ImageBatch:
        """Other images for every split."""
        assert split in ("train", "validation"), "these images are reported, or tuned on"
        generator = torch.Generator().manual_seed(len(split))
        pixels = torch.rand(count, 3, 32, 32, generator=generator)
        return ImageBatch(pixels, torch.zeros(count, dtype=torch.int64), ("",) * count)


def scene(seed: int = 0) -> Scene:
    network, source = random_lenet(0), FewImages()
    test = ImageBatch(torch.full((2, 3, 32, 32), 0.5), torch.zeros(2, dtype=torch.int64), ("a", "b"))
    return Scene(network, test, (), test.pixels, seed, source=source)  # type: ignore[arg-type]


@cache
def random_lenet(seed: int) -> Network:
    return parse(seeded(architectures.lenet(6, 32), seed), (3, 32, 32), "lenet")  # type: ignore[no-untyped-call]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


TRIAL = Preimage(layer="pool1")


def test_what_was_learned_is_found_by_content(own_cache: Path) -> None:
    first = offline.prepare(MeanImage(), TRIAL, scene())
    again = offline.prepare(MeanImage(), TRIAL, scene())
    assert (first.origin, again.origin) == ("trained now", "trained before on this machine")
    assert (first.seconds, first.multiply_adds) == (again.seconds, again.multiply_adds)
    assert first.plain() == {**again.plain(), "origin": "trained now"}
    assert again.plain()["numbers_learned"] == 3 * 32 * 32
    assert first.solver.learned is not None and again.solver.learned is not None
    assert torch.equal(first.solver.learned["mean"], again.solver.learned["mean"])
    (file,) = files(own_cache)
    assert file.name.startswith("test_learning-"), "it bears the name of the solver's file"
    assert len(MeanImage.calls) == 1


OTHERS: dict[str, tuple[Solver, Trial, Callable[[], Scene]]] = {
    "recipe": (MeanImage(scale=2.0), TRIAL, scene),
    "layer": (MeanImage(), replace(TRIAL, layer="pool2"), scene),
    "mask": (MeanImage(), replace(TRIAL, mask={"channels": "first_half"}), scene),
    "domain": (MeanImage(), replace(TRIAL, domain="reals"), scene),
    "seed": (MeanImage(), TRIAL, lambda: scene(seed=1)),
    "network": (MeanImage(), TRIAL, lambda: replace(scene(), network=random_lenet(1))),
    "images": (MeanImage(), TRIAL, lambda: replace(scene(), source=FewImages("others"))),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_else_it_depends_on_makes_another_training(what: str, own_cache: Path) -> None:
    offline.prepare(MeanImage(), TRIAL, scene())
    solver, trial, other = OTHERS[what]
    found = offline.prepare(solver, trial, other())
    assert found.origin == "trained now"
    assert len(MeanImage.calls) == len(files(own_cache)) == 2


def test_what_is_not_learned_from_makes_no_other_training(own_cache: Path) -> None:
    """Priors, their weights, and where a run starts: a method learns without them."""
    offline.prepare(MeanImage(), TRIAL, scene())
    for changes in (
        {"priors": {"tv": 3.0, "alpha": 1.0}},
        {"priors": {}},
        {"loss_weight": 7.0},
        {"start": "grey"},
        {"starts": 3},
    ):
        found = offline.prepare(MeanImage(), replace(TRIAL, **changes), scene())  # type: ignore[arg-type]
        assert found.origin == "trained before on this machine"
    (setting,) = MeanImage.calls
    problem, truth = setting.solved(setting.train[:3])
    assert problem.priors == ()
    assert (problem.size, problem.loss_weight) == (3, 1.0)
    assert torch.equal(truth, setting.train[:3])


def test_it_sees_no_image_that_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    offline.prepare(MeanImage(), TRIAL, scene())
    (setting,) = MeanImage.calls
    source = scene().source
    assert source is not None
    for split, pixels, count in (("train", setting.train, 16), ("validation", setting.validation, 8)):
        assert torch.equal(pixels, source.sample(split, count).pixels)  # type: ignore[arg-type]
    monkeypatch.setattr(offline, "IMAGES", {"train": 17, "validation": 8})
    assert offline.prepare(MeanImage(), TRIAL, scene()).origin == "trained now", "more to learn from"


def forge(file: Path, **changes: str) -> None:
    """Other tensors and other text, well formed, under a key that is asked for."""
    kept = storage.read(file)
    assert kept is not None
    tensors, about = kept
    storage.write(file, {name: tensor + 1 for name, tensor in tensors.items()}, {**about, **changes})


def test_what_another_recipe_has_left_behind_is_never_taken(own_cache: Path) -> None:
    first = offline.prepare(MeanImage(), TRIAL, scene())
    (file,) = files(own_cache)
    forge(file)
    assert offline.prepare(MeanImage(), TRIAL, scene()).origin == "trained before on this machine"
    forge(file, recipe=repr(MeanImage(scale=3.0)))
    again = offline.prepare(MeanImage(), TRIAL, scene())
    assert again.origin == "trained now"
    assert first.solver.learned is not None and again.solver.learned is not None
    assert torch.equal(first.solver.learned["mean"], again.solver.learned["mean"])
    assert offline.prepare(MeanImage(), TRIAL, scene()).origin == "trained before on this machine"
    assert len(MeanImage.calls) == 2


@pytest.mark.parametrize("damage", ["shorter", "bits", "empty", "text"])
def test_what_is_damaged_is_trained_again(damage: str, own_cache: Path) -> None:
    offline.prepare(MeanImage(), TRIAL, scene())
    (file,) = files(own_cache)
    content = file.read_bytes()
    file.write_bytes({
        "shorter": content[: len(content) // 2],
        "bits": content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        "empty": b"",
        "text": b"no tensors at all",
    }[damage])  # fmt: skip
    assert offline.prepare(MeanImage(), TRIAL, scene()).origin == "trained now"
    assert file.read_bytes()[-5:] == content[-5:]
    assert len(MeanImage.calls) == 2


def test_refresh_trains_again(own_cache: Path) -> None:
    for refresh in (False, True):
        assert offline.prepare(MeanImage(), TRIAL, scene(), refresh=refresh).origin == "trained now"
    assert len(MeanImage.calls) == 2
    assert len(files(own_cache)) == 1


SHORT = InvertingNetwork(width=4, steps=2, batch=4)


def test_an_interrupted_training_leaves_nothing(own_cache: Path) -> None:
    def interrupt(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offline.prepare(SHORT, TRIAL, scene(), interrupt)
    assert files(own_cache) == []
    told: list[int] = []
    found = offline.prepare(SHORT, TRIAL, scene(), lambda done, *_: told.append(done))
    assert found.origin == "trained now"
    assert told == [2]
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).sum() == 8, "nothing is left of the counter"


@pytest.mark.parametrize(
    ("solver", "layer"),
    [
        (SHORT, "pool2"),
        (SHORT, "fc2"),
        (InvertingNetwork(module="upsample-conv", width=4, steps=2, batch=4), "pool1"),
        (UpConvolutional(width=4, steps=2, batch=4, feature_weight=1.0), "pool2"),
    ],
    ids=["modules", "dense modules", "upsampling", "up-convolutions"],
)
def test_the_multiply_adds_are_those_that_torch_counts(solver: Solver, layer: str, own_cache: Path) -> None:
    found = offline.prepare(solver, replace(TRIAL, layer=layer), scene())
    setting = offline.setting_for(replace(TRIAL, layer=layer).lesson(), scene(), lambda *_: None)
    with FlopCounterMode(display=False) as counter:
        solver.prepare(setting)
    assert 2 * found.multiply_adds == counter.get_total_flops() > 0


def test_an_offline_work_of_two_stages_costs_their_sum(own_cache: Path) -> None:
    (cell,) = plan(documents.parse(STUDY, "s"), catalogue()).cells
    bench = Bench()
    solvers = (MeanImage(), cell.method.stages[0][1], MeanImage(scale=4.0))
    method = Method("both", tuple((str(n), one) for n, one in enumerate(solvers)), (0.3, 0.4, 0.3))
    made, cost = prepare(cell, bench, method)
    assert [one.learned is not None for _, one in made.stages] == [True, False, True]
    kept = [
        offline.prepare(one, cell.trial, bench.scene(cell, bench.batch(cell, "test"))) for one in solvers[::2]
    ]
    assert cost == Cost(sum(one.seconds for one in kept), sum(one.multiply_adds for one in kept))


def test_no_images_and_no_room_are_told(own_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images to learn from"):
        offline.prepare(MeanImage(), TRIAL, replace(scene(), source=None))
    prepared = offline.prepare(MeanImage(), TRIAL, scene())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        offline.save(prepared, TRIAL, tmp_path / "file" / "weights.safetensors")
    offline.save(prepared, TRIAL, tmp_path / "weights.safetensors")
    kept = storage.read(tmp_path / "weights.safetensors")
    assert kept is not None
    assert kept[1]["recipe"] == repr(MeanImage())
    assert kept[1]["trial"] == repr(TRIAL.lesson())


def test_every_trial_has_a_lesson() -> None:
    """It keeps the kind of the trial, and what it is about."""
    for kind in catalogue().trials.values():
        required = {
            f.name: {"layer": "pool1"}.get(f.name, 1) for f in fields(kind)
            if f.default is MISSING and f.default_factory is MISSING
        }  # fmt: skip
        trial = kind(**required)
        lesson = trial.lesson()
        assert type(lesson) is type(trial)
        assert lesson.priors == {}
        assert lesson == lesson.lesson()
        assert lesson.labels().get("layer") == trial.labels().get("layer")
