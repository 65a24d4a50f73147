"""The decoder with tied weights, against dense matrices, and where it is exact."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from invbench_solvers.tied_decoder import TiedDecoder
from torch import Tensor, nn

from invbench import metrics, networks
from invbench.domains import Box, Reals
from invbench.images import ImageBatch, open_images
from invbench.losses import CrossEntropy
from invbench.network import parse
from invbench.priors import SquaredL2
from invbench.problem import Problem, WeightedPrior
from invbench.solver import Randomness
from invbench.trials.contract import Posed, Scene
from invbench.trials.unpool import Unpool
from tests.modules import normalise, seeded, sequential
from tests.toys import tiny_problems


def decoded(problem: Problem, **parameters: Any) -> Tensor:
    solver = TiedDecoder(**parameters)
    assert solver.refuses(problem) is None
    start = torch.zeros(problem.shape, dtype=problem.network.dtype)
    (x,) = solver.iterates(problem, start, Randomness(0, range(problem.size), start))
    return x


def posed(module: nn.Module, x: Tensor, switches: str, window: int) -> Posed:
    network = parse(sequential(layer=module, pool=nn.MaxPool2d(window)).double(), tuple(x.shape[1:]))
    batch = ImageBatch(x, torch.zeros(len(x), dtype=torch.int64), tuple(str(n) for n in range(len(x))))
    return Unpool(layer="pool", switches=switches).pose(Scene(network, batch, (), x, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", ["fitted", "none"])
@pytest.mark.parametrize("switches", ["naive", "known"])
def test_is_its_formula_with_dense_matrices(switches: str, scale: str, generator: torch.Generator) -> None:
    """Padding and the normalisation in front make the bias one of every place."""
    layer = nn.Sequential(normalise(), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    x0 = torch.rand(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    problem = replace(posed(seeded(layer), x0, switches, 2).problem, domain=Reals())
    before = parse(layer[:3].double(), (3, 4, 6))
    offset = before(torch.zeros(1, 3, 4, 6).double())[0].flatten()
    basis = torch.eye(72, dtype=torch.float64).view(72, 3, 4, 6)
    W = before(basis).flatten(1).T - offset[:, None]
    found = decoded(problem, scale=scale)
    for y, x in zip(before(x0), found, strict=True):
        u = torch.zeros_like(y)
        for k in range(4):
            for i in range(0, 4, 2):
                for j in range(0, 6, 2):
                    window = y[k, i : i + 2, j : j + 2].flatten()
                    place = int(window.argmax()) if switches == "known" else 0
                    u[k, i + place // 2, j + place % 2] = window.max().clamp(min=0)
        S = u.flatten() > 0
        v = torch.where(S, u.flatten() - offset, 0)
        expected = W.T @ v
        if scale == "fitted":
            fit = torch.linalg.lstsq((W @ expected)[S][:, None], v[S][:, None]).solution
            expected = float(fit) * expected
        torch.testing.assert_close(x.flatten(), expected)


@pytest.mark.parametrize("scale", ["fitted", "none"])
def test_orthonormal_filters_of_both_signs_without_pooling_are_inverted(
    scale: str, generator: torch.Generator
) -> None:
    """W^T W = I and CReLU: Proposition 1 of the paper; x stays in the domain of images."""
    Q = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    convolution = nn.Conv2d(3, 24, 2, stride=2, bias=False)
    convolution.weight.data = torch.cat([Q, -Q]).view(24, 3, 2, 2)
    x0 = torch.rand(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    layer = nn.Sequential(convolution, nn.ReLU())
    for switches in ("naive", "known"):
        torch.testing.assert_close(decoded(posed(layer, x0, switches, 1).problem, scale=scale), x0)


def test_the_answer_lies_in_the_domain_and_dark_instances_stay_dark(generator: torch.Generator) -> None:
    layer = seeded(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
    problem = posed(
        layer, torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64), "naive", 2
    ).problem
    target = problem.target.clone()
    target[1] = 0
    x = decoded(replace(problem, target=target))
    assert problem.domain == Box(0.0, 1.0)
    assert problem.domain.contains(x, 0).all()
    assert x[1].count_nonzero() == 0


def test_on_photographs_known_switches_help_and_the_fit_does() -> None:
    images = open_images("bundled", 32)
    scene = Scene(
        networks.load("lenet", {}, images).network, images.draw("test", 32), images.classes, torch.empty(0), 0
    )
    error = metrics.find()["relative_l2"]
    for layer in ("pool1", "pool2"):
        errors = {}
        for switches in ("naive", "known"):
            one = Unpool(layer=layer, switches=switches).pose(scene)  # type: ignore[arg-type]
            for scale in ("fitted", "none"):
                x = decoded(one.problem, scale=scale)
                errors[switches, scale] = float(error(x, one.truth, one.problem).mean())
        assert errors["known", "fitted"] < errors["naive", "fitted"] < 0.95
        assert errors["naive", "none"] > 1 < errors["known", "none"], "these filters have other norms than 1"


def test_refusals_say_why() -> None:
    problems = {name: problem for name, (problem, _) in tiny_problems().items()}
    boxed = problems["features in a box"]
    prior = (WeightedPrior("l2", 1.0, SquaredL2()),)
    for problem, sentence in (
        (boxed, "tied_decoder takes no priors"),
        (replace(boxed, loss=CrossEntropy(), priors=()), "and their output as target"),
        (problems["features without constraint"], "needs convolution, ReLU and a max-pool"),
        (problems["features of a black box"], "needs a macro layer"),
        (
            problems["class in a box"],
            "undoes one macro layer of convolution, ReLU and max-pool, not 2 stages",
        ),
        (replace(problems["pooled values and switches"], priors=prior), "tied_decoder takes no priors"),
    ):
        assert sentence in str(TiedDecoder().refuses(problem))
    assert TiedDecoder().refuses(replace(boxed, priors=())) is None
