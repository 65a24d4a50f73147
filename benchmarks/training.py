"""The training loop."""

import torch

from invbench.training import fit

STEPS = 100


class Fit:
    """Overhead: the loop around a loss that costs next to nothing."""

    def setup(self) -> None:
        """One parameter."""
        self.parameter = torch.zeros(1, requires_grad=True)

    def time_100_steps(self) -> None:
        """A hundred steps."""
        fit(
            [self.parameter],
            lambda _: (self.parameter - 1).square().sum(),
            size=1000,
            steps=STEPS,
            batch=10,
            lr=1e-3,
            generator=torch.Generator().manual_seed(0),
        )
