"""Coherence against a loop over all pairs and shifts, and against banks whose value is known."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invbench.analyses import coherence as module
from invbench.analyses.coherence import Coherence, coherence
from invbench.analyses.contract import Refused
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.network import parse
from invbench.trials.contract import Scene
from tests.modules import sequential
from tests.scenes import scene_of
from tests.studies import of_analyses, planned

SHAPES = [(7, 3), (6, 2, 5), (5, 3, 3, 2), (2, 1, 1, 4), (2, 1), (3, 1, 2, 1, 3)]

STUDY = of_analyses("- coherence: {shifts: [false, true], draws: 5}")


def bank(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_loops(weight: Tensor, shifts: bool) -> float:
    """Every ordered pair, every shift, tap by tap."""
    kernel = weight.shape[2:]
    moves = list(product(*(range(1 - side, side) for side in kernel))) if shifts else [(0,) * len(kernel)]
    taps = list(product(*map(range, kernel)))
    largest = 0.0
    for (i, first), (j, second) in product(enumerate(weight), repeat=2):
        norms = float(first.norm() * second.norm())
        for move in moves:
            if i == j and not any(move):
                continue
            found = 0.0
            for tap in taps:
                other = tuple(t - m for t, m in zip(tap, move, strict=True))
                if other in taps:
                    found += float((first[:, *tap] * second[:, *other]).sum())
            largest = max(largest, abs(found) / norms)
    return largest


def scene(network: nn.Module, channels: int = 3, seed: int = 0, size: int = 8) -> Scene:
    pixels = torch.rand(2, channels, size, size)
    return scene_of(parse(network, (channels, size, size), "toy"), pixels, seed)


def rows(network: nn.Module, channels: int = 3, seed: int = 0, **given: Any) -> list[Any]:
    return Coherence(**given).measure(scene(network, channels, seed))


# -- of filters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_largest_over_all_pairs_and_shifts(shape: tuple[int, ...], shifts: bool) -> None:
    for seed in range(3):
        weight = bank(*shape, seed=seed)
        assert float(coherence(weight, shifts)) == pytest.approx(by_loops(weight, shifts), rel=1e-12)


def test_blocks_leave_no_pair_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 3)
    weight = bank(8, 40, 2)
    for i in range(8):  # the largest product is that of each pair in turn
        for j in range(i):
            planted = weight.clone()
            planted[j] = 0.9 * weight[i] + 0.1 * weight[j]
            for shifts in (False, True):
                assert float(coherence(planted, shifts)) == pytest.approx(
                    by_loops(planted, shifts), rel=1e-12
                )


def test_known_banks() -> None:
    assert float(coherence(torch.eye(4))) == 0
    assert float(coherence(torch.tensor([[1.0, 0.0], [-3.0, 3.0]]))) == pytest.approx(0.5**0.5)
    assert float(coherence(-bank(1, 4).repeat(2, 1))) == pytest.approx(1)
    mercedes = torch.tensor([[math.cos(a), math.sin(a)] for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    assert float(coherence(mercedes)) == pytest.approx(0.5, rel=1e-6)


def test_shifts_of_one_filter_are_pairs() -> None:
    box = torch.ones(1, 2, 3)
    assert float(coherence(box, shifts=True)) == pytest.approx(2 / 3)
    twice = torch.tensor([[[1.0, 2.0, 0.0]], [[0.0, 1.0, 2.0]]])
    assert float(coherence(twice)) == pytest.approx(2 / 5)
    assert float(coherence(twice, shifts=True)) == pytest.approx(1), "the same filter, moved by one"


def test_shifts_are_the_rows_of_a_convolution() -> None:
    """Against the gram matrix of W: windows of a canvas on which any two kernels meet with full overlap."""
    weight = bank(3, 2, 3, 2)
    canvas = torch.zeros(3, 5, 3, 2, 7, 5, dtype=torch.float64)
    for top, left in product(range(5), range(3)):
        canvas[:, top, left, :, top : top + 3, left : left + 2] = weight
    rows = nn.functional.normalize(canvas.reshape(45, -1), dim=1)
    gram = (rows @ rows.T).abs().fill_diagonal_(0)
    assert float(coherence(weight, shifts=True)) == pytest.approx(float(gram.max()), rel=1e-12)


def test_scale_and_sign_of_a_filter_do_not_matter() -> None:
    weight = bank(5, 3, 3)
    scaled = weight * torch.tensor([1e-20, -2.0, 1e20, 1.0, -1e-3]).double()[:, None, None]
    for shifts in (False, True):
        assert float(coherence(scaled, shifts)) == pytest.approx(float(coherence(weight, shifts)), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    weight = bank(4, 3, 3).to(dtype)
    assert float(coherence(weight)) == pytest.approx(by_loops(weight.double(), False), rel=1e-5)
    assert not coherence(weight.requires_grad_()).requires_grad
    assert float(coherence(bank(1, 9).to(dtype).repeat(3, 1))) <= 1


@pytest.mark.parametrize(
    ("weight", "shifts", "sentence"),
    [
        (torch.ones(3, 2, dtype=torch.int64), False, r"real numbers, not of torch\.int64"),
        (torch.ones(3, 2, dtype=torch.complex64), False, r"real numbers, not of torch\.complex64"),
        (torch.ones(3), False, r"filters \(K, M, ...\), not a tensor of shape \(3,\)"),
        (torch.ones(1, 2, 3), False, "compares pairs, .* give 2 filters or more"),
        (torch.ones(1, 2, 1, 1), True, "compares pairs, .* give 2 filters or more"),
        (torch.ones(1, 2), True, "compares pairs"),
        (torch.ones(0, 2, 3), True, "compares pairs"),
        (torch.tensor([[1.0, 2.0], [0.0, 0.0]]), False, "filter 1 has norm 0"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), False, "filter 0 has norm nan"),
    ],
)
def test_bad_filters_get_a_sentence(weight: Tensor, shifts: bool, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        coherence(weight, shifts)


# -- of a network --------------------------------------------------------------------------------------------


def small() -> nn.Module:
    torch.manual_seed(0)
    return sequential(
        conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        conv2=nn.Conv2d(6, 4, (2, 1), groups=2),
        fc=nn.Sequential(nn.Flatten(), nn.Linear(4 * 7 * 8, 2)),
    )


def test_two_rows_a_convolution() -> None:
    network = small()
    found = rows(network, draws=50)
    assert [(row["layer"], row["depth"], row["filters"]) for row in found] == [
        ("conv1.0", 1, "learned"),
        ("conv1.0", 1, "random"),
        ("conv2", 2, "learned"),
        ("conv2", 2, "random"),
    ]
    assert found[0]["shape"] == "6 x 3 x 3 x 3"
    weight = network.get_parameter("conv1.0.weight").detach().double()
    assert found[0]["max"] == pytest.approx(by_loops(weight, False), rel=1e-12)
    assert math.isnan(found[0]["low"])
    assert 0 < found[1]["low"] < found[1]["max"] < found[1]["high"] < 1


def test_filters_of_two_groups_are_no_pair() -> None:
    """Against the filters with the channels that they do not see filled up with zeros."""
    network = small()
    weight = network.get_parameter("conv2.weight").detach().double()
    full = torch.zeros(4, 6, 2, 1, dtype=torch.float64)
    full[:2, :3], full[2:, 3:] = weight[:2], weight[2:]
    for shifts in (False, True):
        found = rows(network, draws=1, shifts=shifts)[2]
        assert found["max"] == pytest.approx(by_loops(full, shifts), rel=1e-12)
    depthwise = rows(sequential(conv=nn.Conv2d(3, 3, 3, groups=3)), draws=3)
    assert [row["max"] for row in depthwise] == [0, 0]


def test_random_filters_are_gaussian_ones_of_the_same_shape() -> None:
    """Against draws of another generator: 12 filters of 2 taps, and the ends of the range from many draws."""
    network = sequential(conv=nn.Conv2d(2, 12, 1))
    (found,) = [row for row in rows(network, 2, draws=1500) if row["filters"] == "random"]
    angles = 2 * math.pi * torch.rand(20000, 12, generator=torch.Generator().manual_seed(9))
    unit = torch.stack([angles.cos(), angles.sin()], dim=2)
    products = (unit @ unit.mT).abs()
    products.diagonal(dim1=1, dim2=2).zero_()
    largest = products.flatten(1).amax(1).double()
    assert found["max"] == pytest.approx(float(largest.mean()), abs=3 * float(largest.std()) / 1500**0.5)
    assert found["low"] == pytest.approx(float(largest.quantile(0.01)), abs=0.003)


def test_the_seed_decides() -> None:
    network = small()
    first = rows(network, draws=3)
    assert repr(first) == repr(rows(network, draws=3))
    other = rows(network, draws=3, seed=1)
    assert other[0]["max"] == first[0]["max"]
    assert other[1]["max"] != first[1]["max"]
    assert repr(rows(network.double(), draws=3)[1]) == repr(first[1]), "in every precision the same"


def test_one_filter_has_no_coherence_but_with_its_shifts() -> None:
    network = sequential(conv=nn.Conv2d(3, 1, 3))
    assert all(math.isnan(row["max"]) for row in rows(network, draws=2))
    assert all(0 < row["max"] < 1 for row in rows(network, draws=2, shifts=True))


def test_refusals_are_sentences() -> None:
    with pytest.raises(Refused, match="network 'toy' has no convolution"):
        rows(sequential(fc=nn.Sequential(nn.Flatten(), nn.Linear(192, 2))))
    network = small()
    nn.init.zeros_(network.get_parameter("conv1.0.weight")[2].detach())
    with pytest.raises(Refused, match=r"convolution 'conv1\.0': filter 2 has norm 0"):
        rows(network)


def test_a_study_measures_it() -> None:
    study = planned(STUDY)
    bench = Bench()
    plain, shifted = (run_analysis(one, bench, "key") for one in study.measurements)
    assert (plain["status"], shifted["status"]) == ("done", "done"), plain["reason"]
    assert [row["layer"] for row in plain["rows"][::2]] == ["conv1.0", "conv2.0"]
    for row, other in zip(plain["rows"], shifted["rows"], strict=True):
        assert row["max"] <= other["max"]


def test_devices_agree(device: torch.device) -> None:
    weight = bank(30, 4, 3, 3)
    for shifts in (False, True):
        found = coherence(weight.to(device), shifts)
        assert found.device.type == device.type
        assert float(found) == pytest.approx(float(coherence(weight, shifts)), rel=1e-9)
    given = scene(small())
    there = replace(given, network=given.network.to(device=device))
    for one, other in zip(*(Coherence(draws=3).measure(at) for at in (given, there)), strict=True):
        assert one["max"] == pytest.approx(other["max"], rel=1e-5)
