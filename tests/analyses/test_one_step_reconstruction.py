"""One step of IHT on pooled maps, against dense matrices."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from invbench.analyses.contract import Refused
from invbench.analyses.one_step_reconstruction import OneStepReconstruction, errors, one_step
from invbench.domains import ModelSparse
from invbench.network import parse
from tests.modules import sequential
from tests.test_trials import scene


def pooled_network(size=8):
    torch.manual_seed(0)
    module = sequential(
        conv1=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()),
        pool2=nn.MaxPool2d(2),
    )
    return parse(module, (3, size, size), "pooled")


def test_the_step_is_that_of_the_dense_matrix():
    weight = torch.randn(5, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    basis = torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4)
    W = nn.functional.conv2d(basis, weight, padding=1).flatten(1).T
    W = W / W.norm(dim=1, keepdim=True)
    domain = ModelSparse(7, (2, 2))
    z = domain.project((x.flatten(1) @ W.T).view(3, 5, 4, 4)).flatten(1)
    torch.testing.assert_close(one_step(x, weight, (1, 1), domain), (z @ W).view_as(x))


def test_errors_by_their_definitions():
    generator = torch.Generator().manual_seed(3)
    x, found = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64).unbind()
    at = errors(found, x)
    scaled = found * (x.norm(dim=1) / found.norm(dim=1))[:, None]
    assert at["error"] == pytest.approx(float(((scaled - x).norm(dim=1) / x.norm(dim=1)).mean()))
    assert at["unscaled"] == pytest.approx(float(((found - x).norm(dim=1) / x.norm(dim=1)).mean()))
    best = [float(((c * found - x).norm(dim=1) / x.norm(dim=1)).min()) for c in torch.linspace(-2, 2, 9)]
    assert at["fitted"] <= at["error"]
    assert at["fitted"] <= at["unscaled"]
    coefficients = (x * found).sum(1) / found.square().sum(1)
    exact = (coefficients[:, None] * found - x).norm(dim=1) / x.norm(dim=1)
    assert at["fitted"] == pytest.approx(float(exact.mean()))
    assert min(best) >= float(exact.min()) - 1e-12


def test_noise_of_the_same_norm_is_off_by_the_root_of_two():
    rows = OneStepReconstruction().measure(replace(scene(), network=pooled_network()))
    assert [(row["layer"], row["convolution"], row["filters"]) for row in rows] == [
        ("pool1", "conv2.0", kind) for kind in ("learned", "random", "none")
    ]
    errors_found = {row["filters"]: float(row["error"]) for row in rows}
    assert errors_found["none"] == pytest.approx(2**0.5, rel=0.1)
    assert max(errors_found["learned"], errors_found["random"]) < errors_found["none"]
    assert all(row["k"] <= row["blocks"] == 6 * 4 for row in rows)


def test_k_is_the_number_of_active_regions():
    s = replace(scene(), network=pooled_network())
    maps = s.network.cut("conv2")(s.images.pixels)
    active = [
        sum(
            bool((one[c, i : i + 2, j : j + 2] > 0).any())
            for c in range(6)
            for i in range(0, 4, 2)
            for j in range(0, 4, 2)
        )
        for one in maps
    ]
    assert OneStepReconstruction().measure(s)[0]["k"] == round(sum(active) / len(active))


@pytest.mark.parametrize(
    ("network", "region", "sentence"),
    [
        (pooled_network(), 3, "do not tile the maps of conv2"),
        (pooled_network().cut("pool1"), 2, "needs a max-pool"),
    ],
)
def test_what_does_not_apply_is_refused_with_a_sentence(network, region, sentence):
    with pytest.raises(Refused, match=sentence):
        OneStepReconstruction(region=region).measure(replace(scene(), network=network))
