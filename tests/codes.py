"""Sparse codes seen through filters, for tests of their recovery, and the same by matrices."""

from itertools import islice

import torch
from torch import Tensor

from invbench.domains import ModelSparse
from invbench.filters import code_shape, random_filters, synthesis
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import Network, parse
from invbench.problem import Problem
from invbench.solver import Randomness, Solver

Pair = tuple[int, int]


def recovery(
    weight: Tensor | None = None,
    sides: Pair = (16, 1),
    k: int = 3,
    region: Pair | None = None,
    padding: Pair = (0, 0),
    batch: int = 4,
    noise: float = 0.0,
    device: str | torch.device = "cpu",
) -> tuple[Problem, Tensor]:
    """The problem to find a model-sparse code, and the code."""
    generator = torch.Generator().manual_seed(0)
    weight = random_filters(12, 8, (5, 1), generator) if weight is None else weight
    module = synthesis(weight, sides, padding, unit_rows=any(padding))
    network = parse(module, code_shape(weight, sides, padding)).to(device=device)
    domain, shape = ModelSparse(k, region), (batch, *network.input_shape)
    places = domain.support(torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)
    values = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    z = (places * values).to(device)
    x = network(z)
    x = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(device)
    return Problem(network, x, SquaredError(), domain, (), Meter(batch)), z


def correlated(overlap: float = 0.9) -> Tensor:
    """Filters with much in common, as learned ones have, (12, 8, 5, 1)."""
    generator = torch.Generator().manual_seed(1)
    weight = random_filters(12, 8, (5, 1), generator)
    return overlap * weight[:1] + (1 - overlap**2) ** 0.5 * weight


def matrix(network: Network) -> Tensor:
    """A, (entries of x, entries of z), of a network without bias."""
    size = torch.Size(network.input_shape).numel()
    units = torch.eye(size, dtype=network.dtype, device=network.device)
    return network(units.view(size, *network.input_shape)).flatten(1).T


def blocks_of(domain: ModelSparse, shape: tuple[int, int, int]) -> list[list[int]]:
    """The places of every block, by counting."""
    channels, height, width = shape
    rows, columns = domain.region or (height, width)
    return [
        [(c * height + top + i) * width + left + j for i in range(rows) for j in range(columns)]
        for c in range(channels)
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]


def thresholded(z: Tensor, blocks: list[list[int]], k: int) -> Tensor:
    """M(z, k) of one flattened code, by sorting."""
    best = [max(block, key=lambda place: abs(float(z[place]))) for block in blocks]
    kept = sorted(best, key=lambda place: -abs(float(z[place])))[:k]
    result = torch.zeros_like(z)
    result[kept] = z[kept]
    return result


def least_squares(A: Tensor, y: Tensor, places: Tensor) -> Tensor:
    """The code on some places that explains y best."""
    result = A.new_zeros(A.shape[1])
    result[places] = torch.linalg.lstsq(A[:, places], y[:, None]).solution[:, 0]
    return result


def run(solver: Solver, problem: Problem, count: int, start: Tensor | None = None) -> list[Tensor]:
    """The first iterates, from zero unless a start is given."""
    if start is None:
        start = torch.zeros(problem.shape, dtype=torch.float64, device=problem.target.device)
    rng = Randomness(0, range(problem.size), start)
    return [z.clone() for z in islice(solver.iterates(problem, start, rng), count)]


def error(z: Tensor, truth: Tensor) -> Tensor:
    """|z - truth| / |truth|, (B,)."""
    return (z - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


def residual(problem: Problem, z: Tensor) -> Tensor:
    """|y - A z|, (B,)."""
    return (problem.target - problem.network(z)).flatten(1).norm(dim=1)
