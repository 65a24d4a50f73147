"""The best of all convolutions that undo a convolution."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from invbench.activations import Identity
from invbench.errors import UserError
from invbench.linear_inverses import Layout, best_convolution, refusal
from invbench.metered import MeteredStage
from invbench.network import Stage
from invbench.operators import Convolution
from invbench.problem import Problem
from invbench.solver import Count, Positive, Randomness, Setting, Solver

#: Training images that the kernel is fitted to, at most, at equal steps.
SAMPLES = 256
#: Images whose windows are in memory at once.
CHUNK = 8


@dataclass(frozen=True)
class BestConvolutionalInverse(Solver):
    """x = P(m + G (y - W m - b)), G the convolution with the least mean squared error, in one shot.

    The layer is a convolution of stride s, so G gives every pixel of a block of s x s a kernel of its own: a
    convolution of stride 1 with C s^2 output channels, which are then laid side by side. Its kernel
    minimises, in closed form, the mean over training images of |G (W (x - m) + n) - (x - m)|^2 with white
    noise n of deviation sigma on the features; m is one mean a channel. These images stand in for the priors
    of the problem, which are ignored. P projects onto the domain. The work of one convolution is counted.

    Attributes:
        kernel: side of G in positions of y, odd.
        noise: sigma.

    References:
        Harder, Deep Restoration, 2017, section 1.1.1: what its inverting networks are said to be limited to;
        the fit is ours.
    """

    kernel: Count = 5
    noise: Positive = field(default=1e-3, metadata={"search": (1e-4, 1.0, "log")})

    def refuses(self, problem: Problem) -> str | None:
        """The one stage must be a convolution, and nothing else."""
        reason = refusal(problem, "best_convolutional_inverse")
        if reason is not None:
            return reason
        assert problem.network.chain is not None
        if not isinstance(problem.network.chain[0].affine, Convolution):
            return (
                "best_convolutional_inverse mirrors a convolution, and the affine map of this layer is none"
            )
        if self.kernel % 2 == 0:
            return (
                f"best_convolutional_inverse needs an odd kernel, not {self.kernel}: give {self.kernel + 1}"
            )
        return None

    @torch.no_grad()
    def prepare(self, setting: Setting) -> Self:
        """Fit the kernel to the training images."""
        problem, solutions = setting.solved(setting.train[:: -(-len(setting.train) // SAMPLES)])
        affine, truth = _affine(problem).to(dtype=torch.float64), solutions.double()
        mean = truth.mean((0, 2, 3), keepdim=True)
        pairs = ((x, affine.linear(x)) for x in torch.split(truth - mean, CHUNK))
        kernel = best_convolution(pairs, Layout.behind(affine, self.kernel), self.noise)
        centre = affine(mean.expand(1, *affine.in_shape))[0]
        learned = {"kernel": kernel, "mean": mean[0], "centre": centre}
        return replace(self, learned={name: one.to(setting.train.dtype) for name, one in learned.items()})

    @torch.no_grad()
    def iterates(self, problem: Problem, x: Tensor, rng: Randomness) -> Iterator[Tensor]:  # noqa: ARG002
        """Once."""
        if self.learned is None:
            raise UserError("best_convolutional_inverse has learnt nothing yet: prepare it first.")
        learned = {name: tensor.to(x) for name, tensor in self.learned.items()}
        layout = Layout.behind(_affine(problem), self.kernel)
        read = layout.read(problem.target - learned["centre"])
        convolution = Convolution(learned["kernel"], None, tuple(read.shape[1:]))
        blocks = MeteredStage(Stage("inverse", convolution, Identity()), problem.meter).affine(read)
        yield problem.domain.project(learned["mean"] + layout.join(blocks))


def _affine(problem: Problem) -> Convolution:
    assert problem.network.chain is not None
    affine = problem.network.chain[0].affine
    assert isinstance(affine, Convolution)
    return affine
