"""Recover a sparse code from the signal that its filters make of it."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invbench.domains import Domain, ModelSparse, Reals
from invbench.errors import UserError
from invbench.filters import code_shape, random_filters, random_like, synthesis, unit_norm
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import Network, convolution, inputs_of, parse, plain
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Count, Randomness
from invbench.trials.contract import Posed, Priors, Scene, Trial
from invbench.trials.terms import weigh

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SparseCode(Trial):
    """Given x = W^T z0, find z: over model-k-sparse codes, or by an l1 prior over all of them; in float64.

        model_sparse:  min |x - W^T z|^2 / |x|^2   over the codes with at most k active blocks, one entry each
        l1:            min |x - W^T z|^2 + lambda |z|_1,  lambda from `priors: {l1: {raw: lambda}}`

    W is the convolution by K filters of M channels: random ones on signals `size` long (or `size` wide and
    high), or those of a layer of the network, which see maps padded as there; rows of W then have norm 1.

    Attributes:
        form: which problem.
        k: active blocks of the true code, and of the domain.
        region: side of the blocks, tiles of a map; by default every channel is one block.
        codes: the non-zeros of z0 at random places are `uniform` on [-1, 1] or `normal`; or there is no z0,
            and x are the `activations` that the layer gets for the images.
        draws: codes to recover; by default as many as there are images.
        layer: a convolution of the network, which gives K, M, kernel, padding and size; none by default.
        filters: with a layer: its own `learned` filters or `random` Gaussian ones.
        count: K, without a layer; as all that follow.
        channels: M.
        kernel: side of a filter.
        size: of the signal.
        dimensions: 1 or 2.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, sections 2.3 and 4.1 (the defaults), and line 1 of
        Algorithm 2.
    """

    metrics: ClassVar = ("feature_error", "relative_l2", "support_recovery")
    ranked_by: ClassVar = "objective"

    form: Literal["model_sparse", "l1"] = "model_sparse"
    k: Count = 10
    region: Count | None = None
    codes: Literal["uniform", "normal", "activations"] = "uniform"
    draws: Count | None = None
    layer: str | None = None
    filters: Literal["random", "learned"] = "random"
    count: Count = 96
    channels: Count = 32
    kernel: Count = 5
    size: Count = 32
    dimensions: Literal[1, 2] = 1
    priors: Priors = field(default_factory=dict)

    def pose(self, scene: Scene) -> Posed:
        """See `Trial.pose`."""
        network, signals = self._network(scene)
        codes = self._draw(network, scene) if signals is None else None
        if codes is not None:
            signals = network(codes)
        assert signals is not None
        problem = Problem(
            network=network,
            target=signals,
            loss=SquaredError("none" if self.form == "l1" else "target"),
            domain=self._domain(network),
            priors=self._priors(scene),
            meter=Meter(len(signals)),
            loss_weight=self.loss_weight,
        )
        names = scene.images.names if codes is None else tuple(f"code {n}" for n in range(len(codes)))
        return Posed(problem, signals.new_zeros(problem.shape), codes, names)

    def _network(self, scene: Scene) -> tuple[Network, Tensor | None]:
        """The synthesis x = W^T z, and the signals where they are activations."""
        generator = torch.Generator().manual_seed(scene.seed)
        if self.layer is None:
            if self.codes == "activations" or self.filters == "learned":
                raise UserError("sparse_code: learned filters and activations need a layer; name one.")
            wide = self.dimensions == 2
            side = self.kernel
            weight = random_filters(self.count, self.channels, (side, side if wide else 1), generator)
            return _synthesis(weight, (self.size, self.size if wide else 1), scene), None
        layer = convolution(scene.network, self.layer)
        weight, padding = plain(layer, self.layer)
        inputs = inputs_of(scene.network, layer, scene.images.pixels).double()
        if self.filters == "random":
            weight = random_like(weight, generator)
        weight = unit_norm(weight.double().cpu())
        network = _synthesis(weight, (inputs.shape[2], inputs.shape[3]), scene, padding, unit_rows=True)
        return network, inputs if self.codes == "activations" else None

    def _draw(self, network: Network, scene: Scene) -> Tensor:
        """True codes, one for each image or `draws` of them."""
        like = torch.empty(0, dtype=torch.float64, device=network.device)
        stream = Randomness(scene.seed, range(self.draws or len(scene.images)), like)
        return draw_codes(self._sparse(), network.input_shape, stream, uniform=self.codes == "uniform")

    def _priors(self, scene: Scene) -> tuple[WeightedPrior, ...]:
        if self.form == "l1" and "l1" not in self.priors:
            raise UserError("sparse_code: the form l1 needs its weight, priors: {l1: {raw: 0.1}}.")
        if self.form == "model_sparse" and self.priors:
            raise UserError("sparse_code: the form model_sparse takes no priors; for one, set form: l1.")
        return weigh(self.priors, scene)

    def _sparse(self) -> ModelSparse:
        if self.region is None:
            return ModelSparse(self.k)
        flat = self.layer is None and self.dimensions == 1
        return ModelSparse(self.k, (self.region, 1 if flat else self.region))

    def _domain(self, network: Network) -> Domain:
        if self.form == "l1":
            return Reals()
        domain = self._sparse()
        domain.blocks(network.input_shape)  # tells what does not fit
        return domain

    def labels(self) -> dict[str, str]:
        """See `Trial.labels`."""
        return {"layer": self.layer or "", "start": "zero"}


def draw_codes(
    domain: ModelSparse, shape: tuple[int, ...], stream: Randomness, uniform: bool = True
) -> Tensor:
    """Codes with k active blocks: blocks and places at random, values uniform on [-1, 1] or standard normal.

    Args:
        domain: k and the blocks.
        shape: (K, h, w) of a code.
        stream: one for each code; it says how many there are.
        uniform: which values.
    """
    places, values = domain.support(stream.each(shape)), stream.each(shape)
    return places * (torch.erf(values / 2**0.5) if uniform else values)


def _synthesis(
    weight: Tensor, sides: Pair, scene: Scene, padding: Pair = (0, 0), unit_rows: bool = False
) -> Network:
    module = synthesis(weight, sides, padding, unit_rows)
    network = parse(module, code_shape(weight, sides, padding), "synthesis")
    return network.to(device=scene.network.device)
