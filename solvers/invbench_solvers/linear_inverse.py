"""The optimal linear inverse of an affine layer: the Wiener filter of what images are like."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from invbench.activations import Identity
from invbench.errors import UserError
from invbench.linear_inverses import (
    matrix_of,
    optimal_inverse,
    refusal,
    regularised_inverse,
    shrunk,
    stationary,
)
from invbench.metered import MeteredStage
from invbench.network import Stage
from invbench.operators import Affine, Dense
from invbench.problem import Problem
from invbench.solver import Positive, Randomness, Setting, Solver

#: Unknowns of an instance, at most: the matrix has their square of entries, or fewer.
UNKNOWNS = 4096
#: Training images that mean and covariance are of, at most, at equal steps.
SAMPLES = 4096
#: Share of a white covariance of the same trace in that of `images` and `stationary`.
SHRINKAGE = 1e-4
#: Images that are posed at a time.
CHUNK = 256


@dataclass(frozen=True)
class LinearInverse(Solver):
    """x = P(m + (sigma^2 Sigma^-1 + W^T W)^-1 W^T (y - W m - b)), in one shot.

    The most probable x for a Gaussian prior with mean m and covariance Sigma and white noise of deviation
    sigma on the features y = W x + b, and of all linear inverses the one with the least mean squared error.
    Where y has fewer entries than x, the same is computed as Sigma W^T (W Sigma W^T + sigma^2 I)^-1. Mean and
    covariance are learned from training images; this prior stands in for those of the problem, which are
    ignored. P projects onto the domain. One adjoint and one matrix are paid for, or the matrix alone.

    Attributes:
        noise: sigma; equation 2 has lambda = 1 / sigma^2.
        prior: `images`: m and Sigma are those of the images, Sigma with a share of `SHRINKAGE` of white;
            `stationary`: their means over all circular shifts; `white`: Sigma is a multiple of the identity.

    References:
        Harder, Deep Restoration, 2017, section 1.1.1, equation 2 (there m = 0).
    """

    noise: Positive = field(default=1e-3, metadata={"search": (1e-4, 1.0, "log")})
    prior: Literal["images", "stationary", "white"] = "images"

    def refuses(self, problem: Problem) -> str | None:
        """Any affine map of one stage with up to `UNKNOWNS` inputs is taken."""
        reason = refusal(problem, "linear_inverse")
        size = math.prod(problem.network.input_shape)
        if reason is None and size > UNKNOWNS:
            return (
                f"linear_inverse is exact for up to {UNKNOWNS} unknowns, and here are {size}: give smaller "
                "images, or take best_convolutional_inverse"
            )
        return reason

    @torch.no_grad()
    def prepare(self, setting: Setting) -> Self:
        """Mean and covariance of the training images, and the inverse."""
        problem, truth = _truths(setting)
        affine, shape = _affine(problem).to(dtype=torch.float64), tuple(truth.shape[1:])
        mean, covariance = _prior(truth, self.prior)
        matrix = _matrix(affine, covariance, self.noise)
        centre = affine(mean.view(1, *shape))[0]
        learned = {"matrix": matrix, "mean": mean.view(shape), "centre": centre}
        return replace(self, learned={name: one.to(setting.train.dtype) for name, one in learned.items()})

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """Once."""
        if self.learned is None:
            raise UserError("linear_inverse has learnt nothing yet: prepare it first.")
        assert problem.chain is not None
        learned = {name: tensor.to(x) for name, tensor in self.learned.items()}
        (stage,) = problem.chain
        given = problem.target - learned["centre"]
        if _after_adjoint(stage.stage.affine):
            given = stage.adjoint(given)
        dense = Dense(learned["matrix"], learned["mean"].flatten(), tuple(given.shape[1:]))
        found = MeteredStage(Stage("inverse", dense, Identity()), problem.meter).affine(given)
        yield problem.domain.project(found.view(problem.shape))


def _truths(setting: Setting) -> tuple[Problem, Tensor]:
    """A problem of the kind, and what solves those of the training images, `(M, ...)`."""
    images = setting.train[:: -(-len(setting.train) // SAMPLES)]
    solved = [setting.solved(chunk) for chunk in torch.split(images, CHUNK)]
    return solved[0][0], torch.cat([truth for _, truth in solved])


def _affine(problem: Problem) -> Affine:
    assert problem.network.chain is not None
    return problem.network.chain[0].affine


def _prior(truth: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean `(N,)` and covariance `(N, N)` in double precision; one mean a channel but for `images`."""
    shape, rows = tuple(truth.shape[1:]), truth.double()
    places = tuple(range(2, rows.dim())) if kind != "images" else ()
    mean = rows.mean((0, *places), keepdim=True).expand(1, *shape)
    centred = (rows - mean).flatten(1)
    if kind == "white":
        eye = torch.eye(centred.shape[1], dtype=rows.dtype, device=rows.device)
        return mean.flatten(), centred.square().mean() * eye
    covariance = shrunk(centred.T @ centred / len(centred), SHRINKAGE)
    return mean.flatten(), stationary(covariance, shape) if kind == "stationary" else covariance


def _after_adjoint(affine: Affine) -> bool:
    """Whether the matrix stands behind W^T, `(N, N)`: so it is smaller than the whole inverse, `(N, K)`."""
    return math.prod(affine.out_shape) >= math.prod(affine.in_shape)


def _matrix(affine: Affine, covariance: Tensor, noise: float) -> Tensor:
    if _after_adjoint(affine):
        gram = matrix_of(lambda e: affine.adjoint(affine.linear(e)), affine.in_shape, covariance.device)
        return regularised_inverse(gram, covariance, noise)
    return optimal_inverse(matrix_of(affine.linear, affine.in_shape, covariance.device), covariance, noise)
