"""Priors: value and gradient of every one that is found."""

from functools import cache

import torch

from benchmarks import problems
from benchmarks.found import one_class_each
from invbench.images import open_images
from invbench.priors import LearnedPrior, Lesson, Prior, find


@cache
def prior(name: str) -> Prior:
    """A prior with its default parameters; one that learns has learned too little to be of use."""
    kind = find()[name]
    if not issubclass(kind, LearnedPrior):
        return kind()
    images = open_images(source="bundled", size=32)
    lesson = Lesson(images.sample("train", 64).pixels, images.sample("validation", 16).pixels)
    return kind.tiny().fit(lesson)


class _Prior:
    """One prior on 32 images of 3 x 32 x 32 pixels."""

    name = ""
    repeat = (10, 200, 1.0)
    params = (["cpu", "cuda"],)
    param_names = ("device",)

    def setup(self, device: str) -> None:
        """The prior and a batch."""
        self.x = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(
            problems.demand(device)
        )
        found = prior(self.name)
        self.prior = found.to(self.x) if isinstance(found, LearnedPrior) else found

    def time_value_and_gradient(self, device: str) -> None:
        """R(x) and its gradient."""
        x = self.x.requires_grad_()
        torch.autograd.grad(self.prior(x).sum(), x)
        problems.finish(device)


globals().update(one_class_each(_Prior, find()))
