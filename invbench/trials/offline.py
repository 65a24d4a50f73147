"""Offline work of solvers: done once for each recipe and what it learns from, measured, and kept."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from invbench import cache
from invbench.errors import UserError
from invbench.images import ImageBatch, Images, Split
from invbench.solver import Setting, Solver
from invbench.training import Progress
from invbench.trials.contract import Posed, Scene, Trial

#: Images that a solver learns from, and is validated on, at most.
IMAGES: dict[Split, int] = {"train": 12000, "validation": 500}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A solver with what it has learned.

    Attributes:
        solver: ready to run.
        origin: where its tensors come from, in words.
        seconds: that the work took when it was done, on whatever machine.
        multiply_adds: of matrix products and convolutions in it, forward and backward.
    """

    solver: Solver
    origin: str
    seconds: float
    multiply_adds: int

    def about(self, lesson: Trial) -> cache.About:
        """What is kept beside the tensors."""
        return {
            "recipe": repr(self.solver),
            "trial": repr(lesson),
            "seconds": f"{self.seconds:.3f}",
            "multiply_adds": str(self.multiply_adds),
        }

    def plain(self) -> dict[str, Any]:
        """Plain data for people."""
        return {
            "recipe": repr(self.solver),
            "origin": self.origin,
            "training_seconds": round(self.seconds, 1),
            "training_multiply_adds": self.multiply_adds,
            "numbers_learned": sum(tensor.numel() for tensor in (self.solver.learned or {}).values()),
        }


def prepare(
    solver: Solver, trial: Trial, scene: Scene, progress: Progress = lambda *_: None, refresh: bool = False
) -> Prepared:
    """Do, or fetch, the offline work of a solver that has some.

    It learns from the trial as `Trial.lesson` has it, posed on the training and validation images of the
    scene. What has been learned is found again by the recipe, the trial, the network, the images and the
    seed; what another recipe has left behind is never taken.

    Args:
        solver: with its hyper-parameters.
        trial: that it is for.
        scene: whose network, images and seed.
        progress: called with (done, total, text).
        refresh: do the work although it has been done, and put the result into the cache.

    Raises:
        UserError: there are no images to learn from.
    """
    lesson, recipe = trial.lesson(), repr(solver)
    key = _key(solver, lesson, scene)
    found = None if refresh else cache.learned("solvers", key)
    if found is not None and found[1].get("recipe") == recipe:
        tensors, about, origin = found
        cost = float(about["seconds"]), int(about["multiply_adds"])
        return Prepared(replace(solver, learned=tensors), origin, *cost)
    setting = setting_for(lesson, scene, progress)
    started = time.perf_counter()
    solver, work = _measured(solver, setting)
    seconds = round(time.perf_counter() - started, 3)  # as it is kept
    prepared = Prepared(solver, "", seconds, work)
    origin = cache.keep_learned("solvers", key, solver.learned or {}, prepared.about(lesson))
    return replace(prepared, origin=origin)


def save(prepared: Prepared, trial: Trial, path: Path) -> None:
    """Write what a solver has learned, with its recipe; raises UserError when that fails."""
    try:
        cache.write(path, prepared.solver.learned or {}, prepared.about(trial.lesson()))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _measured(solver: Solver, setting: Setting) -> tuple[Solver, int]:
    """The solver after its work, and the multiply-adds of that."""
    from torch.utils.flop_counter import flop_registry  # takes a second to import

    counter = _Counter(flop_registry)
    with counter:
        solver = solver.prepare(setting)
    return solver, counter.flops // 2


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what every matrix product and convolution costs, gradients included.

    It says what torch's own FlopCounterMode does, whose search for further operations inside of others takes
    a fifth of the time of a training; this one takes a twentieth.
    """

    def __init__(self, prices: Mapping[Any, Callable[..., int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._prices = prices
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        price = self._prices.get(func.overloadpacket)
        if price is not None:
            self.flops += price(*args, **(kwargs or {}), out_val=out)
        return out


def setting_for(lesson: Trial, scene: Scene, progress: Progress = lambda *_: None) -> Setting:
    """What offline work may see: a trial, posed on training images of the scene."""

    def pose(pixels: Tensor) -> Posed:
        names = tuple(str(n) for n in range(len(pixels)))
        labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
        return lesson.pose(replace(scene, images=ImageBatch(pixels, labels, names)))

    train, validation = (_source(scene).sample(split, count).pixels for split, count in IMAGES.items())
    if not (len(train) and len(validation)):
        raise UserError(
            f"no images {_source(scene).where} to learn from: give some for training and validation"
        )
    return Setting(pose, train.to(scene.natural), validation.to(scene.natural), scene.seed, progress)


def _source(scene: Scene) -> Images:
    if scene.source is None:
        raise UserError("a method that learns has no images to learn from: the scene has no source of them.")
    return scene.source


def _key(solver: Solver, lesson: Trial, scene: Scene) -> str:
    name = type(solver).__module__.rpartition(".")[2]
    spec = (repr(solver), repr(lesson), scene.network.digest, _source(scene).digest, IMAGES, scene.seed)
    return f"{name}-{hashlib.sha256(repr(spec).encode()).hexdigest()[:16]}"
