"""The one problem of this suite.

minimise over x in C    w f_loss(f(x), y) + sum_i w_i R_i(f_i(x))
"""

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invbench.domains import Domain
from invbench.losses import Loss
from invbench.meter import Meter, MeterView
from invbench.metered import MeteredStage
from invbench.network import Network
from invbench.priors import ALL, Grid, Prior


@dataclass(frozen=True)
class WeightedPrior:
    """One term w R(f_i(x)) of the objective, under the name that records show.

    Attributes:
        name: in records.
        weight: w.
        prior: R.
        layer: stage of the network whose output is f_i(x); "" for x itself.
    """

    name: str
    weight: float
    prior: Prior
    layer: str = ""


@dataclass(frozen=True, eq=False)
class Problem:
    """A batch of B independent instances of the problem above. It holds no ground truth.

    x is a batch `(B, *network.input_shape)` of images, codes or parameter vectors. Everything returned is
    per instance, `(B,)`. What a solver evaluates here is counted by `meter`.

    Attributes:
        network: f.
        target: y, `(B, ...)`: features, labels or directions, as the loss reads them.
        loss: `(f(x), y) -> (B,)`.
        domain: C; objectives are judged at points projected onto it.
        priors: the terms w_i R_i, of x or of the output of a stage.
        meter: counts passes through the network.
        loss_weight: w; 1 but for published methods that scale it.
    """

    network: Network
    target: Tensor
    loss: Loss
    domain: Domain
    priors: tuple[WeightedPrior, ...]
    meter: Meter | MeterView
    loss_weight: float = 1.0

    @property
    def size(self) -> int:
        """Number of instances, B."""
        return len(self.target)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of x, (B, ...)."""
        return (self.size, *self.network.input_shape)

    @property
    def chain(self) -> tuple[MeteredStage, ...] | None:
        """The network as metered stages, or None where it is no chain (`network.reason` says why)."""
        chain = self.network.chain
        return None if chain is None else tuple(MeteredStage(stage, self.meter) for stage in chain)

    def objective(self, x: Tensor) -> Tensor:
        """The exact objective at x, `(B,)`; counts one application."""
        with torch.no_grad():
            value = self._value(x, x)
        self.meter.count("applications", self.network.multiply_adds)
        return value

    def value_and_gradient(
        self, x: Tensor, shift: tuple[int, int] = (0, 0), prior_scale: float = 1.0, grid: Grid = ALL
    ) -> tuple[Tensor, Tensor]:
        """Objective `(B,)` and its gradient `(B, ...)`; counts one application and one adjoint.

        Args:
            x: where.
            shift: the network sees x translated by so many rows and columns, on the torus, so that nothing
                is blanked or repeated (jitter of Mahendran & Vedaldi 2016, whose x carries a border
                instead). Priors see x as it is, those of a stage what comes of the translated x.
            prior_scale: factor on all prior weights (homotopies that let them fall).
            grid: the positions at which priors over patches are evaluated, an estimate of them at all.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            seen = torch.roll(leaf, shift, dims=(-2, -1)) if any(shift) else leaf
            value = self._value(leaf, seen, prior_scale, grid)
            (gradient,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
        self.meter.count("applications", self.network.multiply_adds)
        self.meter.count("adjoints", self.network.multiply_adds)
        return value.detach(), gradient

    def output(self, x: Tensor) -> Tensor:
        """f(x), (B, ...), for solvers that want more than the value; counts one application."""
        with torch.no_grad():
            output = self.network(x)
        self.meter.count("applications", self.network.multiply_adds)
        return output

    def linearised(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The output f(x) and its derivatives along some directions, by forward differentiation.

        Counts one application, and one more for every direction.

        Args:
            x: where, (B, ...).
            directions: the same for all instances, (n, *network.input_shape).

        Returns:
            f(x), (B, ...), and f'(x) d for every direction d, (n, B, ...).
        """

        def along(direction: Tensor) -> tuple[Tensor, Tensor]:
            both: tuple[Tensor, Tensor] = torch.func.jvp(self.network, (x,), (direction.expand_as(x),))  # type: ignore[assignment]
            return both

        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch warns of what it loads here itself
            output, derivatives = torch.func.vmap(along, out_dims=(None, 0))(directions)  # type: ignore[arg-type]
        self.meter.count("applications", self.network.multiply_adds, times=1 + len(directions))
        return output.detach(), derivatives.detach()

    def terms(self, x: Tensor) -> dict[str, Tensor]:
        """Every term at x by name, unweighted, and their weighted sum: what records show.

        Args:
            x: `(B, ...)`.

        Returns:
            `{"objective": (B,), "loss": (B,), "prior:NAME": (B,), ...}`.
        """
        output, maps = self.network.with_maps(x, self._layers)
        loss = self.loss(output, self.target)
        energies = {f"prior:{term.name}": term.prior(maps.get(term.layer, x)) for term in self.priors}
        weighted = (term.weight * energies[f"prior:{term.name}"] for term in self.priors)
        return {"objective": sum(weighted, start=self.loss_weight * loss), "loss": loss, **energies}

    def select(self, indices: Tensor) -> "Problem":
        """The sub-problem of some instances, repeats allowed; its work is charged to them.

        Args:
            indices: `(b,)` int64.
        """
        return replace(
            self,
            target=self.target[indices],
            domain=self.domain.select(indices),
            priors=tuple(replace(term, prior=term.prior.select(indices)) for term in self.priors),
            meter=self.meter.view(indices.cpu().numpy()),
        )

    @property
    def _layers(self) -> tuple[str, ...]:
        """The stages whose outputs have priors."""
        return tuple(dict.fromkeys(term.layer for term in self.priors if term.layer))

    def _value(self, x: Tensor, seen: Tensor, prior_scale: float = 1.0, grid: Grid = ALL) -> Tensor:
        output, maps = self.network.with_maps(seen, self._layers)
        value = self.loss(output, self.target)
        if self.loss_weight != 1.0:
            value = self.loss_weight * value
        if prior_scale == 0:
            return value
        for term in self.priors:
            prior = term.prior if grid.stride == 1 else term.prior.on_grid(grid)
            value = value + (prior_scale * term.weight) * prior(maps.get(term.layer, x))
        return value
