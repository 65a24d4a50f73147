"""A network that undoes another one operation by operation, trained for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self

import torch
from torch import Tensor

from invbench.decoders import Apprentice, Layer, apply, decoded, missed, stages
from invbench.inverse_modules import Kind, maps, modules, operations, refusal
from invbench.losses import SquaredError
from invbench.network import Stage
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Setting, Solver

#: Images that the scales of the layers are found from.
SEEN = 64


@dataclass(frozen=True)
class InvertingNetwork(Solver):
    """One module M_i for each operation g_i of the chain f = g_k ... g_1, in one shot.

        z_i = g_i(z_{i-1}), z_0 = x                 z^_k = y,  z^_{i-1} = M_i(z^_i),  x = P(z^_0)

    A module is two layers with a ReLU between (see `inverse_modules.module`). Relative squared errors
    |a - b|^2 / |b|^2 on training images are minimised, by regime:

        solo, stacked   sum_i |M_i(z_i) - z_{i-1}|^2        every module on true features, alone
        joint           sum_i |M_i(z^_i) - z_{i-1}|^2       on what the module before gives
        end-to-end      |M_1(z^_1) - x|^2                   no losses in between

    A `solo` module is given true features, and a problem gives those of the last operation alone: so `solo`
    takes chains of one operation. Chained, the same modules are `stacked`. Priors of the problem are not
    looked at: what is learned is the prior.

    Attributes:
        regime: of training, as above.
        module: kinds of layers in a module.
        width: channels between them.
        steps: of the training.
        batch: images a step.
        lr: first learning rate.

    References:
        Harder, Deep Restoration, 2017, sections 3.2 and 4.2: there Adam at the constant rate 3e-4 on 48,000
        photographs; here with a cosine schedule. Relative errors, so that no module outweighs the others, are
        ours, as is the cut at 0 of what lies behind a ReLU (not end-to-end: there it has no meaning). Odena,
        Dumoulin & Olah, Distill 2016, for upsample-conv.
    """

    regime: Literal["solo", "stacked", "joint", "end-to-end"] = "joint"
    module: Kind = "deconv-conv"
    width: Count = 32
    steps: Count = 800
    batch: Count = 32
    lr: Positive = 2e-3

    @classmethod
    def tiny(cls) -> Self:
        """Narrow modules after a few steps."""
        return cls(width=8, steps=60, batch=8, lr=1e-2)

    def refuses(self, problem: Problem) -> str | None:
        """Features of a chain only, each of whose operations has a module."""
        if not isinstance(problem.loss, SquaredError):
            return "inverting_network takes features as its target, and the loss of this problem wants none"
        chain = problem.network.chain
        if chain is None:
            return f"inverting_network needs a chain of known layers: {problem.network.reason}"
        steps = operations(chain)
        if self.regime == "solo" and len(steps) > 1:
            return (
                f"inverting_network: solo modules are for one operation each, and there are {len(steps)}; "
                "chained, they are the regime stacked"
            )
        return refusal(steps)

    def prepare(self, setting: Setting) -> Self:
        """Train all modules on the training images."""
        generator = torch.Generator().manual_seed(setting.seed)
        first, truth = setting.solved(setting.train[:SEEN])
        steps = _steps(first)
        down = maps(steps, truth)[::-1]
        layers = self._layers(first)
        inputs = {2 * n: one for n, one in enumerate(down[:-1])}
        outputs = {2 * n + 1: one for n, one in enumerate(down[1:])}
        if self.regime == "end-to-end":  # what is between the modules is theirs
            inputs, outputs = {0: down[0]}, {len(layers) - 1: down[-1]}
        apprentice = Apprentice.new(layers, inputs, outputs, generator)

        def loss(images: Tensor) -> Tensor:
            with torch.no_grad():
                down = maps(steps, setting.solved(images)[1])[::-1]
            return self._loss(apprentice.stages(), down)

        parameters = apprentice.trained.values()
        setting.fit(parameters, loss, generator, steps=self.steps, batch=self.batch, lr=self.lr)
        return replace(self, learned=apprentice.learned())

    def _loss(self, decoder: Sequence[Stage], down: Sequence[Tensor]) -> Tensor:
        """What the regime minimises for a batch; `down` holds z_k to z_0."""
        given, losses = down[0], []
        for n, (seen, wanted) in enumerate(pairwise(down)):
            source = given if self.regime in ("joint", "end-to-end") else seen
            given = apply(decoder[2 * n : 2 * n + 2], source)
            losses.append(missed(given, wanted))
        return losses[-1] if self.regime == "end-to-end" else torch.stack(losses).sum()

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """Once."""
        yield decoded(self._layers(problem), self.learned, problem)

    def decoder(self, problem: Problem) -> tuple[Stage, ...]:
        """The layers with what they have learned, two a module, that of the last operation first."""
        learned = {name: tensor.to(problem.target) for name, tensor in (self.learned or {}).items()}
        return stages(self._layers(problem), learned)

    def _layers(self, problem: Problem) -> tuple[Layer, ...]:
        return modules(_steps(problem), self.module, self.width, cut=self.regime != "end-to-end")


def _steps(problem: Problem) -> tuple[Stage, ...]:
    """The operations of a problem that is not refused."""
    assert problem.network.chain is not None
    return operations(problem.network.chain)
