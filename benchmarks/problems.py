"""Posed problems and solvers that benchmarks share.

They stand on what seldom changes (images, networks, trials, solvers), so that old commits can be measured.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invbench import networks
from invbench.errors import UserError
from invbench.images import ImageBatch, Images, open_images
from invbench.network import Network, parse
from invbench.registry import catalogue
from invbench.solver import Randomness, Setting, Solver
from invbench.trials.contract import Posed, Scene, Trial

#: What a schedule spans.
HORIZON = 100
#: Images that a solver with offline work learns from here.
LEARNED_FROM = 256
#: Of the VGG-11, whose channels it scales.
WIDTH = 0.25


def demand(device: str) -> torch.device:
    """The device, or NotImplementedError, which asv shows as n/a, where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("PyTorch finds no CUDA device here")
    return torch.device(device)


def finish(device: str) -> None:
    """Wait until the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


@cache
def photographs() -> Images:
    """The bundled images, 3 x 32 x 32."""
    return open_images("bundled", 32)


@cache
def lenet(device: str) -> Network:
    """The LeNet that is shipped with the package."""
    return networks.load("lenet", {}, photographs()).network.to(device=demand(device))


@cache
def vgg11(device: str) -> Network:
    """A VGG-11 of a quarter of the width, untrained: what a pass costs does not depend on the weights."""
    torch.manual_seed(0)
    classes, shape = len(photographs().classes), (3, 32, 32)
    module = networks.find()["vgg11"].build(classes, shape[1], width=WIDTH)
    return parse(module, shape, "vgg11").to(device=demand(device))


NETWORKS = {"lenet": lenet, "vgg11": vgg11}


@cache
def natural(device: str) -> Tensor:
    """Images that standardise priors; drawn once, for a training poses many problems."""
    return photographs().draw("train", 32).pixels.to(device)


def scene(device: str, images: ImageBatch, network: str = "lenet") -> Scene:
    """What trials are posed with."""
    images = replace(images, pixels=images.pixels.to(device), labels=images.labels.to(device))
    return Scene(NETWORKS[network](device), images, photographs().classes, natural(device), seed=0)


@dataclass(frozen=True)
class Task:
    """A trial on bundled images.

    Attributes:
        trial: by name.
        layer: that pre-images start from.
        plain: whether the priors are left out.
        device: cpu or cuda.
        count: of images.
        network: the shipped `lenet`, or `vgg11`.
        options: further parameters of the trial, by name.
    """

    trial: str = "preimage"
    layer: str | None = None
    plain: bool = False
    device: str = "cpu"
    count: int = 32
    network: str = "lenet"
    options: tuple[tuple[str, Any], ...] = ()

    def made(self) -> Trial:
        """The trial."""
        layer: Mapping[str, Any] = {"layer": self.layer} if self.layer else {}
        priors: Mapping[str, Any] = {"priors": {}} if self.plain else {}
        return catalogue().trials[self.trial](**layer, **priors, **dict(self.options))


@cache
def posed(task: Task) -> Posed:
    """The trial on test images."""
    demand(task.device)
    return task.made().pose(scene(task.device, photographs().draw("test", task.count), task.network))


def solver(name: str, task: Task) -> Solver:
    """A solver by name, ready to run; offline work, if any, is shrunk.

    Raises:
        NotImplementedError: it does not take the problem, or needs what is not installed.
    """
    problem = posed(task).problem
    try:
        found = catalogue().solvers[name]
    except UserError as error:
        raise NotImplementedError(str(error)) from None
    made = found.tiny() if found.learns() else found()
    if getattr(made, "horizon", 0) is None:
        changes: Mapping[str, Any] = {"horizon": HORIZON}
        made = replace(made, **changes)
    reason = made.refuses(problem)
    if reason is not None:
        raise NotImplementedError(reason)
    return made.prepare(setting(task)) if found.learns() else made


def setting(task: Task) -> Setting:
    """What offline work may see."""

    def pose(pixels: Tensor) -> Posed:
        names = tuple(str(n) for n in range(len(pixels)))
        batch = ImageBatch(pixels, torch.zeros(len(pixels), dtype=torch.int64), names)
        return task.made().pose(scene(task.device, batch, task.network))

    train, validation = (
        photographs().draw(split, LEARNED_FROM).pixels.to(task.device) for split in ("train", "validation")
    )
    return Setting(pose, train, validation, 0, lambda *_: None)


def iterates(solver: Solver, task: Task) -> Iterator[Tensor]:
    """One run of a solver."""
    problem, start = posed(task).problem, posed(task).start
    return solver.iterates(problem, start.clone(), Randomness(0, range(problem.size), start))


def stepper(name: str, task: Task) -> Callable[[], Tensor]:
    """A function that takes one iterate after the other; a solver that has ended starts anew."""
    made = solver(name, task)

    def endless() -> Iterator[Tensor]:
        while True:
            yield from iterates(made, task)

    return endless().__next__
