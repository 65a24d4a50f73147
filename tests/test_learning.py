"""Offline work is done once, cached by content, timed apart, and sees no reported image."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invbench import documents
from invbench.harness import Bench
from invbench.harness.learning import prepare
from invbench.method import Method
from invbench.planning import plan
from invbench.problem import Problem
from invbench.registry import catalogue
from invbench.solver import Randomness, Setting, Solver

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


def test_it_is_done_once_and_fetched_afterwards() -> None:
    MeanImage.calls.clear()
    (cell,) = plan(documents.parse(STUDY, "s"), catalogue()).cells
    bench = Bench()
    method = Method("mean", (("mean_image", MeanImage()),), (1.0,))
    first, seconds = prepare(cell, bench, method)
    again, remembered = prepare(cell, bench, method)
    assert len(MeanImage.calls) == 1
    assert seconds == remembered
    learned, kept = first.stages[0][1].learned, again.stages[0][1].learned
    assert learned is not None
    assert kept is not None
    assert torch.equal(learned["mean"], kept["mean"])
    prepare(cell, bench, replace(method, stages=(("mean_image", MeanImage(scale=2.0)),)))
    assert len(MeanImage.calls) == 2, "other hyper-parameters, other offline work"


def test_the_setting_poses_the_trial_on_training_images() -> None:
    MeanImage.calls.clear()
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
