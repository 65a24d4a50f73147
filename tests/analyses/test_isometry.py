"""Every quantity against dense matrices and loops over blocks, and the bound against hard codes."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from invbench.analyses import isometry as module
from invbench.analyses.isometry import BINS, FIGURES, Found, Isometry, bound_of, distortion, rows_of
from invbench.domains import ModelSparse
from invbench.filters import code_shape, random_filters, synthesis
from invbench.network import parse

#: kernel, signal, padding, region, k
CASES = {
    "1-d": ((3, 1), (8, 1), (0, 0), None, 3),
    "2-d": ((2, 2), (5, 5), (0, 0), (2, 2), 6),
    "padded": ((3, 3), (4, 6), (1, 1), (2, 3), 4),
    "tall regions": ((2, 3), (7, 6), (0, 0), (3, 1), 5),
}


def made(case: str, channels: int = 4, count: int = 6) -> Isometry:
    kernel, shape, padding, region, k = CASES[case]
    weight = random_filters(count, channels, kernel, torch.Generator().manual_seed(1))
    network = parse(synthesis(weight, shape, padding, any(padding)), code_shape(weight, shape, padding))
    assert network.chain is not None
    return Isometry(network.chain[0].affine, ModelSparse(k, region))


def codes(one: Isometry, number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return one.domain.project(torch.randn(number, *one.affine.in_shape, generator=generator).double())


def dense(one: Isometry) -> Tensor:
    """W, a row for every entry of a code."""
    size = math.prod(one.affine.in_shape)
    return one.affine.linear(torch.eye(size, dtype=torch.float64).view(size, *one.affine.in_shape)).flatten(1)


def blocks(one: Isometry) -> list[list[int]]:
    """The flat places of every block, the first corner first."""
    count, height, width = one.affine.in_shape
    rows, columns = one.domain.region or (height, width)
    found = []
    for c, top, left in product(range(count), range(0, height, rows), range(0, width, columns)):
        tile = product(range(top, top + rows), range(left, left + columns))
        found.append([(c * height + i) * width + j for i, j in tile])
    return found


def thresholded(b: Tensor, found: list[list[int]], k: int) -> Tensor:
    """M(b, k) of one code, by sorting."""
    best = [max(block, key=lambda place: abs(float(b[place]))) for block in found]
    best.sort(key=lambda place: -abs(float(b[place])))
    kept = torch.zeros_like(b)
    kept[best[:k]] = b[best[:k]]
    return kept


def by_hand(one: Isometry, z: Tensor) -> dict[str, float]:
    """All quantities of one code."""
    w, found, k = dense(one), blocks(one), one.domain.k
    z = z.flatten()
    x = w.T @ z
    b = w @ x
    active = [block for block in found if bool((z[block] != 0).any())]
    kept, naive = thresholded(b, found, k), torch.zeros_like(b)
    for block in found:
        naive[block[0]] = kept[block].sum()

    def lost(guess: Tensor) -> float:
        return float((w.T @ guess - x).norm() / x.norm())

    def delta(support: Tensor) -> float:
        rows = w[support]
        return float(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows)).double(), 2))

    one_, two = delta(z != 0), delta((z != 0) | (kept != 0))
    strict = lost(kept)
    bound = (1 + 5**0.5) / 2 * two * math.sqrt((1 + two) / (1 - one_)) if one_ < 1 else math.nan
    return {
        "|W^T z|/|z|": float(x.norm() / z.norm()),
        "|W W^T z|/|z|": float(b.norm() / z.norm()),
        "|W W^T z|/|z| on the support": float(b[z != 0].norm() / z.norm()),
        "|M(W W^T z)|/|z|": float(kept.norm() / z.norm()),
        "error, strict": strict,
        "error, known regions": lost(thresholded(b, active, k)),
        "error, known support": lost(torch.where(z != 0, b, 0)),
        "error, naive switches": lost(naive),
        "delta_k, sampled": abs(float(x.norm() / z.norm()) ** 2 - 1),
        "delta_k, on the support": one_,
        "delta_2k, on both supports": two,
        "bound": bound,
        "error over bound": strict / bound,
    }


@pytest.mark.parametrize("case", CASES)
def test_every_quantity_is_that_of_dense_matrices(case: str) -> None:
    one = made(case)
    z = codes(one, 5)
    found = one.measure(z, bounded=5)
    expected = [by_hand(one, single) for single in z]
    assert set(found) == {*expected[0], "delta_2k, sampled"}
    for name in expected[0]:
        values = [single[name] for single in expected]
        np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_deltas_of_sums_are_of_codes_two_by_two(case: str) -> None:
    one = made(case)
    z, w = codes(one, 5), dense(made(case))
    sums = [z[0] + z[1], z[2] + z[3]]
    expected = [abs(float((w.T @ s.flatten()).norm() / s.norm()) ** 2 - 1) for s in sums]
    np.testing.assert_allclose(one.measure(z, 0)["delta_2k, sampled"], expected, rtol=1e-9)


@pytest.mark.parametrize("case", ["1-d", "2-d", "padded"])
@pytest.mark.parametrize("channels", [8, 40])
def test_no_code_breaks_the_bound(case: str, channels: int) -> None:
    """Also codes that are all but confused with others: flat ones, and one entry far above the rest."""
    one = made(case, channels)
    z = codes(one, 150)
    heights = torch.rand(z.shape, generator=torch.Generator().manual_seed(2))
    flat, steep = z.sign(), z.sign() * (8.0 * heights).exp()
    few = replace(one.domain, k=1).project(z)
    found = one.measure(torch.cat((z, flat, steep, few)), bounded=600)
    ratio = found["error over bound"]
    assert int(ratio.isfinite().sum()) > 100
    assert float(ratio[ratio.isfinite()].max()) < 1
    error, bound = found["error, strict"], found["bound"]
    assert bool((error <= bound + 1e-12)[bound.isfinite()].all())


def test_without_the_golden_ratio_the_bound_on_codes_would_be_broken() -> None:
    """Two rows with the gram matrix I + d [[-c, s], [s, c]], whose distortion is d: M takes the wrong one."""
    worst = 0.0
    for angle in np.linspace(0.8, 1.2, 401):
        c, s = math.cos(angle), math.sin(angle)
        delta = 1 / (c + s) + 1e-9  # the least for which the answer d s of the second row beats 1 - d c
        b = np.array([1 - delta * c, delta * s])
        assert b[1] > b[0]
        worst = max(worst, float(np.linalg.norm([1, b[1]])) / delta)
    assert 1.618 < worst <= module.PHI


# -- distortions ---------------------------------------------------------------------------------------------


def test_the_distortion_is_exact_up_to_so_many_entries_and_from_below_beyond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = made("2-d", count=8)
    generator = torch.Generator().manual_seed(3)
    support = torch.rand(6, *one.affine.in_shape, generator=generator) < torch.linspace(0, 0.2, 6).view(
        -1, 1, 1, 1
    )
    w = dense(one)
    expected = []
    for active in support.flatten(1):
        rows = w[active]
        gram = rows @ rows.T - torch.eye(len(rows)).double()
        expected.append(float(torch.linalg.matrix_norm(gram, 2)) if len(rows) else 0.0)
    assert support[0].sum() == 0
    assert 16 < int(support[5].sum()) <= module.STEPS
    exact = distortion(one.affine, support)
    np.testing.assert_allclose(exact, expected, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(module, "STEPS", 8)
    below = distortion(one.affine, support)
    assert bool((below <= exact * (1 + 1e-12)).all())
    np.testing.assert_allclose(below, expected, rtol=0.03)
    monkeypatch.setattr(module, "STEPS", 2)
    assert float(distortion(one.affine, support)[5]) < 0.99 * expected[5]


def test_an_orthonormal_basis_has_no_distortion_and_no_error() -> None:
    one = made("1-d", channels=18, count=3)
    weight = torch.linalg.qr(torch.randn(54, 54, generator=torch.Generator().manual_seed(0)).double()).Q
    network = parse(synthesis(weight[:3].view(3, 54, 1, 1), (6, 1)), (3, 6, 1))
    assert network.chain is not None
    one = Isometry(network.chain[0].affine, ModelSparse(2))
    found = one.measure(codes(one, 4), 4)
    for name in ("error, strict", "delta_k, sampled", "delta_2k, on both supports", "bound"):
        assert float(found[name].abs().max()) < 1e-12, name
    assert float(found["error, naive switches"].max()) > 0.5


def test_the_bound_has_no_value_where_it_holds_for_nothing() -> None:
    one, two = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([0.6, 1.2, 2.0])
    found = bound_of(one, two)
    assert float(found[0]) == pytest.approx(1.618034 * 0.6 * math.sqrt(1.6 / 0.5))
    assert found[1:].isnan().all()


# -- batches and rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["1-d", "padded"])
def test_a_batch_equals_its_members(case: str) -> None:
    one = made(case)
    z = codes(one, 4)
    found = one.measure(z, 4)
    for n in range(4):
        for name, values in one.measure(z[n : n + 1], 1).items():
            if name != "delta_2k, sampled":
                np.testing.assert_allclose(
                    found[name][n : n + 1], values, rtol=1e-9, atol=1e-12, err_msg=name
                )


def test_only_the_first_codes_are_bounded_and_a_code_of_zeros_counts_nowhere() -> None:
    one = made("1-d", channels=40)
    z = codes(one, 6)
    z[1] = 0
    found = one.measure(z, 2)
    assert len(found["bound"]) == len(found["error over bound"]) == 2
    rows = {row["quantity"]: row for row in rows_of([found, one.measure(z, 0)], {}) if "quantity" in row}
    assert rows["error, strict"]["number"] == 10
    assert rows["bound"]["number"] == 2, "of nothing it is 0"
    assert rows["error over bound"]["number"] == 1


def test_a_summary_is_what_it_says() -> None:
    values = torch.rand(500, generator=torch.Generator().manual_seed(0)).double()
    none = torch.full((3,), math.nan).double()
    found: Found = dict.fromkeys(FIGURES, none) | {"error, strict": values}
    found |= {"delta_k, on the support": none[:0], "delta_2k, on both supports": none[:0]}
    rows = rows_of([found, found], {"error, strict": (0.5, 0.25)})
    summary = {row["quantity"]: row for row in rows if "quantity" in row}
    twice = np.concatenate([values, values])
    assert summary["error, strict"] == {
        "quantity": "error, strict",
        "number": 1000,
        "mean": pytest.approx(twice.mean()),
        "std": pytest.approx(twice.std()),
        "rms": pytest.approx(np.sqrt((twice**2).mean())),
        "low": pytest.approx(np.quantile(twice, 0.01)),
        "high": pytest.approx(np.quantile(twice, 0.99)),
        "max": pytest.approx(twice.max()),
        "predicted": 0.5,
        "predicted_std": 0.25,
    }
    assert summary["bound"]["number"] == 0
    assert math.isnan(float(summary["bound"]["max"]))
    assert "bound, uniform" not in summary


def test_a_histogram_is_a_density_that_ends_at_zero() -> None:
    one = made("1-d")
    measured = one.measure(codes(one, 200), 20)
    rows = rows_of([measured], {})
    for name, figure in FIGURES.items():
        bins = [row for row in rows if row.get("distribution") == name]
        assert len(bins) == BINS
        assert {row["figure"] for row in bins} == {figure}
        value, density = (np.array([float(row[key]) for row in bins]) for key in ("value", "density"))
        width = value[1] - value[0]
        assert density.sum() * width == pytest.approx(1)
        values = measured[name].numpy()
        values = values[np.isfinite(values)]
        for centre, expected in zip(value, density, strict=True):
            inside = np.abs(values - centre) / width
            least, most = ((inside < 0.5 - 1e-9).mean(), (inside < 0.5 + 1e-9).mean())
            assert least - 1e-9 <= expected * width <= most + 1e-9
        assert density[0] == density[-1] == 0
        (summary,) = (row for row in rows if row.get("quantity") == name)
        assert (value * density).sum() * width == pytest.approx(float(summary["mean"]), abs=width)


def test_the_uniform_bound_takes_the_largest_deltas() -> None:
    one = made("1-d", channels=60)
    found = one.measure(codes(one, 20), 20)
    row = next(row for row in rows_of([found], {}) if row.get("quantity") == "bound, uniform")
    largest = [found[name].max() for name in ("delta_k, on the support", "delta_2k, on both supports")]
    assert row["mean"] == pytest.approx(float(bound_of(*largest)))
    assert float(row["mean"]) >= float(found["bound"].max())


def test_a_single_value_has_a_histogram() -> None:
    one = made("1-d")
    rows = rows_of([one.measure(codes(one, 1), 1)], {})
    density = [float(row["density"]) for row in rows if row.get("distribution") == "|W^T z|/|z|"]
    assert sum(value > 0 for value in density) == 1
