"""How near W^T is to an isometry on codes that are recovered from a network's activations."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from invbench.analyses.contract import Analysis, Refused, Row
from invbench.analyses.isometry import PLOT, Found, Isometry, length, rows_of
from invbench.domains import ModelSparse
from invbench.network import Network, convolution
from invbench.problem import Problem
from invbench.recovery import LinearModel, least_squares_on_support
from invbench.solver import Count, Fraction, Randomness, Solver, with_horizon
from invbench.trials.contract import Scene
from invbench.trials.sparse_code import SparseCode

#: Most steps of the least squares on the support.
REFIT = 200


@dataclass(frozen=True, kw_only=True)
class ModelRIPActivations(Analysis):
    """Norms of W^T z and W W^T z, deltas and errors of one step, for codes z of what a layer is given.

    For the input x of the layer, one for each image, Algorithm 2 finds z:

        1. z1 = argmin |x - W^T z|^2 + lambda |z|_1                           by `solver`
        2. S = the largest entry of every block of z1, where it is not 0      pooling with known switches
        3. z = argmin |x - W^T z|^2 over z that are 0 off S                   by conjugate gradients

    Their line 3 keeps lambda |z|_1, which would shrink z. W^T z is not x: how far it is off is one of the
    rows. All others are those of `isometry.Isometry` for z and its own image W^T z, where k is the number of
    blocks, so that M(., k) keeps an entry of each.

    Attributes:
        layer: a convolution of the network; rows of W have norm 1.
        solver: of line 1, for a linear network with the prior l1, as fista is.
        iterations: that it takes.
        penalty: lambda as a share of the least one for which z1 = 0, 2 max |W x|, averaged over the images.
        filters: the layer's own `learned` ones, or `random` Gaussian ones.
        activations: x is the input of the layer, which is `after` a ReLU, or what stands `before` it.
        region: side of the blocks, square tiles of a map; without one every channel is a block.
        bounded: images for which deltas on supports and the bound are found: they cost some ten times as much
            as the rest.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, section 4.4, Algorithm 2, fig. 3 (b) and (c).
    """

    plot: ClassVar = PLOT

    layer: str
    solver: Solver
    iterations: Count = 200
    penalty: Fraction = 0.01
    filters: Literal["random", "learned"] = "learned"
    activations: Literal["after", "before"] = "after"
    region: Count | None = 2
    bounded: Annotated[int, Ge(0)] = 4

    def check(self, scene: Scene) -> None:
        """See `Analysis.check`."""
        self._model().blocks(self._pose(scene).network.input_shape)

    def measure(self, scene: Scene) -> list[Row]:
        """Rows as `isometry.rows_of` has them, and "misfit of z", |x - W^T z|/|x|."""
        problem = self._pose(scene)
        if self.activations == "before":
            problem = replace(problem, target=self._before(scene))
        domain = self._model()
        domain = replace(domain, k=domain.blocks(problem.network.input_shape))
        problem = _weighed(problem, self.penalty)
        first = self._solved(problem, scene.seed)
        z = _refit(problem, first, (first != 0) & domain.support(first))
        one, x = Isometry.posed(replace(problem, domain=domain)), problem.target
        found: list[Found] = []
        for start in range(0, len(z), one.chunk()):
            part = slice(start, start + one.chunk())
            misfit = length(one.affine.linear(z[part]) - x[part]) / length(x[part])
            measured = one.measure(z[part], max(0, self.bounded - start))
            found.append({"misfit of z": misfit} | measured)
        return rows_of(found, {})

    def _model(self) -> ModelSparse:
        return ModelSparse(1, None if self.region is None else (self.region, self.region))

    def _pose(self, scene: Scene) -> Problem:
        """Line 1, with lambda = 1."""
        priors = {"l1": {"raw": 1.0}}
        trial = SparseCode(
            form="l1", codes="activations", layer=self.layer, filters=self.filters, priors=priors
        )
        return trial.pose(scene).problem

    def _before(self, scene: Scene) -> Tensor:
        """What stands before the ReLU that makes the input of the layer, (B, C, H, W) float64."""
        layer = convolution(scene.network, self.layer)
        found = before_relu(scene.network, layer, scene.images.pixels)
        if found is None:
            raise Refused(
                f"the input of layer '{self.layer}' is not what a ReLU gives, so nothing is before it"
            )
        return found.double()

    def _solved(self, problem: Problem, seed: int) -> Tensor:
        """The last iterate of the solver."""
        solver = with_horizon(self.solver, self.iterations)
        reason = solver.refuses(problem)
        if reason is not None:
            raise Refused(reason)
        start = problem.target.new_zeros(problem.shape)
        rng = Randomness(seed, range(problem.size), start)
        z = start
        for z in islice(solver.iterates(problem, start, rng), self.iterations):  # noqa: B007
            pass
        return z.clone()


def _weighed(problem: Problem, share: float) -> Problem:
    """The problem with lambda a share of the least one for which z = 0 is best, averaged over instances.

    At 0 the gradient of |x - W^T z|^2 is -2 W x, and 0 is best as long as no entry of it exceeds lambda.
    """
    assert problem.network.chain is not None
    (stage,) = problem.network.chain
    largest = 2 * stage.affine.adjoint(problem.target).flatten(1).abs().amax(1)
    (prior,) = problem.priors
    return replace(problem, priors=(replace(prior, weight=share * float(largest.mean())),))


@torch.no_grad()
def _refit(problem: Problem, first: Tensor, support: Tensor) -> Tensor:
    """Line 3: least squares over the codes on a support, `(B, K, h, w)`."""
    z = first
    for z in islice(least_squares_on_support(LinearModel.of(problem), support, first), REFIT):  # noqa: B007
        pass
    return z.clone()


@torch.no_grad()
def before_relu(network: Network, layer: nn.Module, x: Tensor) -> Tensor | None:
    """What the ReLU is given whose output is the input of a layer; None where that is no ReLU's output."""
    given: list[tuple[Tensor, Tensor]] = []
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append((inputs[0], output))

    def match(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.extend(before.clone() for before, after in given if after is inputs[0])

    relus = (module for module in network.module.modules() if isinstance(module, nn.ReLU))
    hooks = [module.register_forward_hook(keep) for module in relus]
    hooks.append(layer.register_forward_pre_hook(match))
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
