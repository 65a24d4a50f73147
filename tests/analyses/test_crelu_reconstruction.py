"""CReLU reconstructions against dense matrices and closed forms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invbench.analyses.crelu_reconstruction import (
    KEPT,
    CReLUReconstruction,
    Frame,
    gaussian,
    orthonormal,
    relative_errors,
)
from invbench.errors import UserError
from invbench.harness import Bench, run_analysis
from invbench.network import parse
from invbench.trials.contract import Scene
from tests.scenes import scene_of
from tests.studies import of_analyses, planned

STUDY = of_analyses("- crelu_reconstruction: {redundancy: [1, 2]}", layers=1, width=2)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(pixels: Tensor, seed: int = 0) -> Scene:
    return scene_of(parse(nn.Flatten(), tuple(pixels.shape[1:])), pixels, seed)


def photographs(count: int = 5, size: int = 12) -> Tensor:
    """Random images that are smooth, so that they are no noise."""
    rough = torch.rand(count, 3, size, size, generator=draws(1))
    return nn.functional.avg_pool2d(rough, 3, 1, 1)


def measured(pixels: Tensor, seed: int = 0, **given: Any) -> dict[tuple[str, str, float], Any]:
    found = CReLUReconstruction(**given).measure(scene(pixels, seed))
    return {(str(row["filters"]), str(row["activation"]), float(row["kept"])): row for row in found}


def dense(frame: Frame, shape: tuple[int, ...]) -> Tensor:
    """W as a matrix, by the images of the unit vectors."""
    size = torch.Size(shape).numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return frame.analyse(units).flatten(1).T


def filters(kind: Any, count: int, channels: int, kernel: int) -> Tensor:
    matrix: Tensor = kind(count, channels * kernel**2, draws())
    return matrix.reshape(count, channels, kernel, kernel)


# -- frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (12, 5), (1, 1)])
def test_orthonormal_matrices_are(rows: int, columns: int) -> None:
    matrix = orthonormal(rows, columns, draws())
    assert matrix.dtype == torch.float64
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(columns).double(), rtol=0, atol=1e-14)


def test_orthonormal_matrices_prefer_no_direction() -> None:
    """With the signs that a QR leaves, the first entry would never be positive."""
    generator = draws()
    firsts = torch.stack([orthonormal(3, 2, generator) for _ in range(2000)]).mean(0)
    assert float(firsts.abs().max()) < 4 * (1 / 3 / 2000) ** 0.5


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 3), (4, 2), (4, 1), (1, 1), (6, 1)])
def test_frames_from_orthonormal_filters_are_tight(kernel: int, stride: int) -> None:
    shape = (2, 12, 6) if kernel != 4 else (2, 8, 4)
    frame = Frame.of(filters(orthonormal, 2 * kernel**2 + 3, 2, kernel), stride)
    matrix = dense(frame, shape)
    size = matrix.shape[1]
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(size).double(), rtol=0, atol=1e-13)
    h = torch.randn(3, *frame.analyse(torch.zeros(1, *shape).double()).shape[1:], generator=draws()).double()
    torch.testing.assert_close(frame.synthesise(h).flatten(1), h.flatten(1) @ matrix, rtol=1e-12, atol=1e-12)


def test_the_matrix_is_a_circular_correlation() -> None:
    """Against sums that are written down, pixel by pixel."""
    frame = Frame(filters(gaussian, 2, 1, 2), 1)
    x = torch.randn(1, 1, 3, 4, generator=draws()).double()
    h = frame.analyse(x)
    for k, i, j in ((0, 0, 0), (1, 2, 1), (0, 1, 3), (1, 2, 3)):
        around = torch.stack([x[0, 0, (i + a) % 3, (j + b) % 4] for a in (0, 1) for b in (0, 1)])
        assert float(h[0, k, i, j]) == pytest.approx(float(around @ frame.weight[k, 0].flatten()))


def test_gaussian_filters_are_a_frame_on_average() -> None:
    generator = draws()
    matrices = [gaussian(8, 3, generator) for _ in range(4000)]
    mean = torch.stack([matrix.T @ matrix for matrix in matrices]).mean(0)
    torch.testing.assert_close(mean, torch.eye(3).double(), rtol=0, atol=0.05)


# -- errors --------------------------------------------------------------------------------------------------


def test_relative_errors_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0], [1.0, 0.0]]).double()
    found = torch.tensor([[6.0, 8.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).double()
    error, rescaled = relative_errors(found, x)
    assert error.tolist() == pytest.approx([1, 1, 2**0.5])
    assert rescaled.tolist() == pytest.approx([0, 1, 2**0.5])


def test_tight_frames_reconstruct_exactly_and_nothing_else_does() -> None:
    found = measured(photographs(), kernel=3)
    for (filters_, activation, kept), row in found.items():
        exact = filters_.startswith("orthonormal") and activation == "crelu" and kept == 1
        assert (row["worst"] < 1e-14) == exact
        assert row["error"] <= row["worst"]
        assert exact or row["error"] > 0.02
    assert len(found) == 2 * 2 * 2 * len(KEPT)


def test_a_row_agrees_with_dense_matrices() -> None:
    """Everything once more by a matrix for the whole image, sorted lists and loops."""
    pixels = photographs(3, 8)
    found = measured(pixels, seed=4, kernel=2, redundancy=1.5)
    generator = draws(4)
    for kind, make in (("orthonormal", orthonormal), ("gaussian", gaussian)):
        bank = make(18, 12, generator).reshape(18, 3, 2, 2)
        for place, stride in (("patches", 2), ("convolution", 1)):
            matrix = dense(Frame.of(bank, stride), (3, 8, 8))
            for activation in ("crelu", "relu"):
                for kept in KEPT:
                    errors = []
                    for image in pixels.double():
                        x = (image - image.mean()).flatten()
                        h = matrix @ x
                        parts = [h.relu(), (-h).relu() if activation == "crelu" else torch.zeros_like(h)]
                        pairs = torch.cat(parts)
                        least = sorted(pairs.tolist(), reverse=True)[round(kept * len(h)) - 1]
                        positive, negative = (torch.where(part >= least, part, 0) for part in parts)
                        errors.append(float((matrix.T @ (positive - negative) - x).norm() / x.norm()))
                    row = found[f"{kind} {place}", activation, kept]
                    assert row["error"] == pytest.approx(sum(errors) / 3, rel=1e-9, abs=1e-14)
                    assert row["worst"] == pytest.approx(max(errors), rel=1e-9, abs=1e-14)


def test_a_basis_loses_by_relu_what_is_negative() -> None:
    """Of an orthonormal basis |x_hat - x| is |relu(-Wx)|, about sqrt(1/2) |x|, whatever x."""
    found = measured(photographs(), kernel=4, redundancy=1)["orthonormal patches", "relu", 1]
    assert found["error"] == pytest.approx(0.5**0.5, abs=0.05)
    kept = [
        measured(photographs(), kernel=4, redundancy=1)["orthonormal patches", "crelu", s]["error"]
        for s in KEPT
    ]
    assert kept == sorted(kept)


def test_gaussian_patches_err_as_a_wishart_matrix_does() -> None:
    """E |W^T W x - x|^2 = (d + 1) / n |x|^2 for n x d with variance 1 / n."""
    found = [
        measured(photographs(2), seed, kernel=3, redundancy=3)["gaussian patches", "crelu", 1]
        for seed in range(8)
    ]
    squares = [row["error"] ** 2 for row in found]
    assert sum(squares) / 8 == pytest.approx(28 / 81, rel=0.1)


def test_sides_are_cut_and_images_without_contrast_do_not_count() -> None:
    pixels = photographs(3, 13)
    pixels[1] = 0.4
    cut = measured(pixels[[0, 2], :, :12, :12], kernel=4)
    found = measured(pixels, kernel=4)
    key = ("gaussian convolution", "relu", 0.5)
    assert found[key]["error"] == pytest.approx(cut[key]["error"], rel=1e-9)
    flat = measured(torch.full((1, 3, 8, 8), 0.5))
    assert all(row["error"] != row["error"] and row["worst"] != row["worst"] for row in flat.values())


def test_the_seed_decides_and_a_batch_equals_its_members() -> None:
    pixels = photographs()
    given = scene(pixels)
    analysis = CReLUReconstruction(kernel=3)
    rows = analysis.measure(given)
    assert rows == analysis.measure(given)
    assert rows != analysis.measure(replace(given, seed=1))
    alone = [analysis.measure(scene(pixels[n : n + 1])) for n in range(5)]
    for n, row in enumerate(rows):
        errors = [float(one[n]["error"]) for one in alone]
        assert row["error"] == pytest.approx(sum(errors) / 5, rel=1e-9, abs=1e-15)
        assert row["worst"] == pytest.approx(max(errors), rel=1e-9, abs=1e-15)


def test_a_kernel_larger_than_the_images_is_a_sentence() -> None:
    with pytest.raises(UserError, match="kernel is 9, but the images have 8 px"):
        CReLUReconstruction(kernel=9).check(scene(photographs(1, 8)))
    CReLUReconstruction(kernel=8).check(scene(photographs(1, 8)))


def test_a_study_measures_it_and_is_told_its_mistakes() -> None:
    study = planned(STUDY)
    bench = Bench()
    for one in study.measurements:
        record = run_analysis(one, bench, "key")
        assert record["status"] == "done", record["reason"]
        assert record["rows"][0]["error"] < 1e-14
    with pytest.raises(UserError, match=r"crelu_reconstruction\.redundancy: must be >= 1 \(got 0\.5\)"):
        planned(STUDY.replace("[1, 2]", "0.5"))


def test_devices_agree(device: torch.device) -> None:
    pixels = photographs()
    here, there = (measured(where, kernel=3) for where in (pixels, pixels.to(device)))
    for key, row in here.items():
        assert there[key]["error"] == pytest.approx(row["error"], rel=1e-9, abs=1e-14)
