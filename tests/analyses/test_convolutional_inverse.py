"""Where the optimal inverse of a convolution is a convolution, and where it is none."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from invbench.analyses.contract import Findings, Refused, Row
from invbench.analyses.convolutional_inverse import ConvolutionalInverse, by_position
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.network import parse
from invbench.operators import Convolution
from invbench.trials.contract import Scene
from tests.modules import lenet, seeded, sequential
from tests.scenes import scene_of
from tests.studies import of_analyses, planned


def scene(module: nn.Module | None = None, count: int = 60, size: int = 16) -> Scene:
    """Images that are anything but stationary: smooth, and with more contrast at the bottom."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, size, size, generator=generator)
    pixels = noise.cumsum(2).cumsum(3) / size
    return scene_of(parse(module or lenet(), (3, size, size), "toy"), pixels)


@pytest.fixture(scope="module")
def found() -> Findings:
    return ConvolutionalInverse(side=8, kernels=(3,), strides=(1, 2)).measure(scene())


def numbers(found: Findings, **about: str | int) -> list[Row]:
    rows = [row for row in found.rows if about.items() <= row.items()]
    assert rows
    return rows


def test_every_case_has_a_row(found: Findings) -> None:
    assert len(found.rows) == 2 * 2 * 3
    assert [row["prior"] for row in found.rows[:3]] == ["white", "stationary", "images"]


def test_on_the_torus_with_a_stationary_prior_the_inverse_is_a_convolution(found: Findings) -> None:
    for prior in ("white", "stationary"):
        for row in numbers(found, boundary="circular", prior=prior):
            assert max(float(row[key]) for key in ("toeplitz", "interior", "borders", "border_peak")) < 1e-11
            assert row["large_ratio"] == pytest.approx(1, abs=1e-9)
    for row in numbers(found, boundary="circular", prior="stationary", stride=1):
        assert float(row["small_ratio"]) > 1.01, "no small kernel does it"


def test_elsewhere_it_is_none(found: Findings) -> None:
    others = [row for row in found.rows if row["boundary"] == "zero" or row["prior"] == "images"]
    assert len(others) == 8
    for row in others:
        assert float(row["toeplitz"]) > 0.02
        assert float(row["border_peak"]) > 0.02
        assert float(row["small_ratio"]) >= float(row["large_ratio"]) > 1.005
    for row in numbers(found, boundary="zero", stride=1):
        assert float(row["interior"]) < float(row["borders"])
        assert float(row["interior_peak"]) < float(row["border_peak"])


def test_errors_are_shares_and_fall_with_the_noise(found: Findings) -> None:
    loud = ConvolutionalInverse(side=8, kernels=(3,), strides=(1, 2), noise=0.1).measure(scene())
    for low, high in zip(found.rows, loud.rows, strict=True):
        for key in ("optimal", "small", "large"):
            assert 0 < float(low[key]) < float(high[key]) < 1


def test_pictures_show_one_case_of_each_boundary(found: Findings) -> None:
    titles = [picture.title for picture in found.pictures]
    assert len(titles) == 6
    assert ["circular" in title for title in titles] == [True] * 3 + [False] * 3
    assert all("kernel 3, stride 1" in title for title in titles)
    matrix, deviation, places = (picture.pixels for picture in found.pictures[:3])
    assert (matrix.shape, deviation.shape, places.shape) == ((1, 64, 64), (1, 64, 64), (1, 8, 8))
    assert matrix.max() == 1 or matrix.min() == 0
    assert bool((deviation == 0.5).all() and (places == 0).all()), "rounding is not drawn"
    border = found.pictures[5].pixels[0]
    assert border.max() == 1
    assert border[2:6, 2:6].max() < 0.5, "zeros around the image tell at its border"


def test_positions_of_an_inverse() -> None:
    """The transposed convolution with the filters of W: an entry depends on channels, phase, displacement."""
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = Convolution(weight, None, (2, 6, 8), (2, 2), (1, 1))
    basis = torch.eye(3 * 12, dtype=torch.float64).view(-1, 3, 3, 4)
    blocks = by_position(layer.adjoint(basis).flatten(1).T, layer)
    assert blocks.shape == (2, 2, 2, 3, 12, 12)
    for c, k, (row, column), (r, s) in [
        (0, 1, (3, 5), (1, 2)),
        (1, 2, (3, 5), (2, 3)),
        (1, 0, (2, 2), (1, 1)),
    ]:
        one = basis.new_zeros(1, 3, 3, 4)
        one[0, k, r, s] = 1
        expected = layer.adjoint(one)[0, c, row, column]
        place = (row // 2) * 4 + column // 2
        assert blocks[c, row % 2, column % 2, k, place, r * 4 + s] == expected != 0


def test_filters_of_the_network() -> None:
    analysis = ConvolutionalInverse(side=8, filters="network", strides=(1,), features=2, support=3)
    given = scene()
    rows = numbers(analysis.measure(given), boundary="circular", prior="stationary")
    assert [row["kernel"] for row in rows] == [5]
    assert float(rows[0]["toeplitz"]) < 1e-10
    scaled: list[Tensor] = [p for p in given.network.module.parameters() if p.ndim == 4]
    with torch.no_grad():
        scaled[0].mul_(3.0)
    again = numbers(analysis.measure(given), boundary="circular", prior="stationary")
    assert again[0]["optimal"] == pytest.approx(rows[0]["optimal"]), "filters have norm 1"


def test_mistakes_and_refusals_are_told() -> None:
    given = scene()
    with pytest.raises(UserError, match="cannot take stride 3: choose strides that divide the side 8"):
        ConvolutionalInverse(side=8, strides=(1, 3)).check(given)
    with pytest.raises(UserError, match="needs odd kernels up to its side 8, not 4"):
        ConvolutionalInverse(side=8, kernels=(4,)).check(given)
    with pytest.raises(UserError, match="side 20 from images: set side to 16 at most"):
        ConvolutionalInverse(side=20).check(given)
    network = ConvolutionalInverse(filters="network")
    with pytest.raises(Refused, match="has no convolution"):
        network.measure(scene(nn.Flatten()))
    grouped = seeded(sequential(conv=nn.Conv2d(3, 6, 3, groups=3)))
    with pytest.raises(Refused, match="take `filters: random`"):
        network.measure(scene(grouped))


def test_the_seed_draws_the_filters() -> None:
    small = ConvolutionalInverse(side=8, kernels=(3,), strides=(2,))
    first, again, other = (small.measure(replace(scene(), seed=seed)).rows for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_study_measures_it() -> None:
    study = planned(of_analyses("- convolutional_inverse: {side: 8, kernels: [[3]], samples: 40}"))
    record = run_analysis(study.measurements[0], Bench(), "key")
    assert record["status"] == "done", record["reason"]
    assert len(record["rows"]) == 12
    assert len(record["pictures"]) == 6
