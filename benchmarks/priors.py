"""Priors: value and gradient of every one that is found."""

from functools import cache

import torch

from benchmarks import problems
from benchmarks.found import one_class_each
from invbench.priors import Prior, find


@cache
def prior(name: str) -> Prior:
    """A prior with its default parameters.

    Raises:
        NotImplementedError: it has none, as it is learned.
    """
    try:
        return find()[name]()
    except TypeError as error:
        raise NotImplementedError(str(error)) from None


class _Prior:
    """One prior on 32 images of 3 x 32 x 32 pixels."""

    name = ""
    repeat = (10, 200, 1.0)
    params = (["cpu", "cuda"],)
    param_names = ("device",)

    def setup(self, device: str) -> None:
        """The prior and a batch."""
        self.prior = prior(self.name)
        self.x = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(
            problems.demand(device)
        )

    def time_value_and_gradient(self, device: str) -> None:
        """R(x) and its gradient."""
        x = self.x.requires_grad_()
        torch.autograd.grad(self.prior(x).sum(), x)
        problems.finish(device)


globals().update(one_class_each(_Prior, find()))
