from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from invbench import metrics
from invbench.domains import Box
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.network import parse
from invbench.problem import Problem
from invbench.trials.gabor import Gabor
from tests.modules import sequential
from tests.toys import tiny_problems

FOUND = metrics.find()
PROBLEM, _ = tiny_problems()["features in a box"]


def pairs(generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Smooth and rough, alike and unlike, dark and bright images."""
    truth = torch.rand(6, 3, 32, 36, generator=generator, dtype=torch.float64)
    truth[:3] = torch.nn.functional.avg_pool2d(truth[:3], 5, 1, 2)
    noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    levels = torch.tensor([1e-3, 0.03, 0.3] * 2, dtype=torch.float64).view(-1, 1, 1, 1)
    x = (truth + levels * noise).clamp(0, 1)
    truth[5], x[5] = 0.98 + 0.02 * truth[5], 0.98 + 0.02 * x[5]
    return x.to(dtype), truth.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_ssim_is_that_of_scikit_image(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    x, truth = pairs(generator, dtype)
    ours = FOUND["ssim"](x.to(device), truth.to(device), PROBLEM).cpu()
    for i in range(len(x)):
        theirs = structural_similarity(
            truth[i].double().numpy(),
            x[i].double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
        )
        assert float(ours[i]) == pytest.approx(theirs, abs=tolerance)


def test_mse_and_psnr_are_those_of_scikit_image(generator: torch.Generator) -> None:
    x, truth = pairs(generator, torch.float32)
    for i in range(len(x)):
        a, b = truth[i].double().numpy(), x[i].double().numpy()
        assert float(FOUND["mse"](x, truth, PROBLEM)[i]) == pytest.approx(mean_squared_error(a, b), rel=1e-5)
        ours = float(FOUND["psnr"](x, truth, PROBLEM)[i])
        assert ours == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-4)


def test_a_perfect_reconstruction() -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert FOUND["mse"](x, x, PROBLEM).tolist() == [0, 0]
    assert FOUND["psnr"](x, x, PROBLEM).tolist() == [np.inf, np.inf]
    assert FOUND["ssim"](x, x, PROBLEM).tolist() == pytest.approx([1, 1])


def test_an_image_smaller_than_the_window_has_no_ssim() -> None:
    x = torch.rand(2, 3, 10, 32)
    assert FOUND["ssim"](x, x, PROBLEM).isnan().all()
    assert FOUND["ssim"](torch.rand(2, 3, 11, 11), torch.rand(2, 3, 11, 11), PROBLEM).isfinite().all()


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim"])
def test_image_metrics_clip_to_the_one_range(name: str, generator: torch.Generator) -> None:
    x, truth = pairs(generator, torch.float64)
    wild = (x - 0.5) * 3
    torch.testing.assert_close(
        FOUND[name](wild, truth, PROBLEM), FOUND[name](wild.clamp(0, 1), truth, PROBLEM)
    )


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_batch_equals_its_members(name: str, generator: torch.Generator) -> None:
    special = {"success": "class in a box", **dict.fromkeys(set(Gabor.metrics), "gabor")}
    problem, start = tiny_problems()[special.get(name, "features in a box")]
    x, truth = (torch.rand(start.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    together = FOUND[name](x, truth, problem)
    assert together.shape == (3,)
    for i in range(3):
        alone = FOUND[name](x[i : i + 1], truth[i : i + 1], problem.select(torch.tensor([i])))
        torch.testing.assert_close(together[i : i + 1], alone, equal_nan=True)


def test_norms_and_feature_error_by_their_definitions(generator: torch.Generator) -> None:
    x, truth = (torch.rand(3, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    y, f = PROBLEM.target.numpy(), PROBLEM.network(x).numpy()
    for i in range(3):
        d, t = (x[i] - truth[i]).numpy(), truth[i].numpy()
        expected = {
            "relative_l2": np.linalg.norm(d) / np.linalg.norm(t),
            "distortion_l2": np.linalg.norm(d),
            "distortion_linf": np.abs(d).max(),
            "feature_error": ((f[i] - y[i]) ** 2).sum() / (y[i] ** 2).sum(),
        }
        for name, value in expected.items():
            assert float(FOUND[name](x, truth, PROBLEM)[i]) == pytest.approx(value)


def test_success_for_labels_and_for_directions(generator: torch.Generator) -> None:
    problem, _ = tiny_problems()["class in a box"]
    x = torch.rand(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    predicted = problem.network(x).argmax(1)
    hit = replace(problem, target=predicted)
    assert FOUND["success"](x, None, hit).tolist() == [1, 1, 1]
    assert FOUND["success"](x, None, replace(problem, target=(predicted + 1) % 5)).tolist() == [0, 0, 0]
    direction = torch.nn.functional.one_hot(predicted, 5).double()
    assert FOUND["success"](x, None, replace(problem, target=direction)).tolist() == [1, 1, 1]


def test_diversity_is_the_mean_distance_to_the_other_preimages_of_an_image(
    generator: torch.Generator,
) -> None:
    x = torch.randn(6, 3, 4, 5, generator=generator, dtype=torch.float64)
    truth = torch.rand(3, 3, 4, 5, generator=generator, dtype=torch.float64)[[0, 1, 0, 2, 1, 0]]
    found = FOUND["diversity"](x, truth, PROBLEM).tolist()
    seen = x.clamp(0, 1).numpy()
    for i, others in enumerate([[2, 5], [4], [0, 5], [], [1], [0, 2]]):
        distances = [np.sqrt(np.mean((seen[i] - seen[j]) ** 2)) for j in others]
        assert found[i] == pytest.approx(np.mean(distances) if others else np.nan, nan_ok=True)


def test_diversity_of_results_that_nearly_agree_and_of_one_that_has_diverged() -> None:
    x = torch.full((3, 3, 32, 32), 0.5)
    x[1] += 1e-4
    x[2] = torch.nan
    found = FOUND["diversity"](x, torch.ones(3, 3, 32, 32), PROBLEM).tolist()
    assert found == pytest.approx([1e-4, 1e-4, np.nan], rel=1e-3, nan_ok=True)


def test_activation_is_the_inner_product_with_the_target(generator: torch.Generator) -> None:
    x = torch.rand(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    f, y = PROBLEM.network(x).numpy(), PROBLEM.target.numpy()
    expected = [float((f[i] * y[i]).sum()) for i in range(3)]
    assert FOUND["activation"](x, None, PROBLEM).tolist() == pytest.approx(expected)


def test_tf32_is_left_as_it_was() -> None:
    before = torch.backends.cudnn.allow_tf32
    FOUND["ssim"](torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), PROBLEM)
    assert torch.backends.cudnn.allow_tf32 == before


def features_of(layer: nn.Module, shape: tuple[int, ...], count: int = 3) -> Problem:
    """A problem whose features are those of a layer."""
    network = parse(sequential(layer=layer).double(), shape)  # type: ignore[no-untyped-call]
    target = network(torch.zeros(count, *shape, dtype=torch.float64))
    return Problem(network, target, SquaredError(), Box(0.0, 1.0), (), Meter(count))


def checkerboard(error: Tensor, stride: int) -> Tensor:
    problem = features_of(nn.MaxPool2d(stride), tuple(error.shape[1:]), len(error))
    truth = torch.full_like(error, 0.5)
    return FOUND["checkerboard"](truth + error, truth, problem)


@pytest.mark.parametrize(("stride", "sides"), [(2, (8, 8)), (2, (6, 10)), (3, (9, 12)), (4, (8, 16))])
def test_the_checkerboard_of_noise_is_one(
    stride: int, sides: tuple[int, int], generator: torch.Generator
) -> None:
    error = 0.01 * torch.randn(2000, 3, *sides, generator=generator, dtype=torch.float64)
    # Of n pixels without their mean every frequency holds 1 / (n - 1) of the energy, not 1 / n
    pixels = sides[0] * sides[1]
    expected = pixels / (pixels - 1)
    assert float(checkerboard(error, stride).mean()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("stride", "sides"), [(2, (8, 8)), (2, (6, 10)), (3, (9, 12)), (4, (8, 16))])
def test_a_pure_checkerboard_has_all_of_its_energy_there(
    stride: int, sides: tuple[int, int], generator: torch.Generator
) -> None:
    tile = 0.1 * torch.rand(2, 3, stride, stride, generator=generator, dtype=torch.float64)
    error = tile.repeat(1, 1, sides[0] // stride, sides[1] // stride)
    expected = sides[0] * sides[1] / (stride**2 - 1)
    assert checkerboard(error, stride).tolist() == pytest.approx([expected] * 2)
    signs = torch.ones(sides, dtype=torch.float64)
    signs[1::2] *= -1
    signs[:, 1::2] *= -1
    if stride == 2:
        found = checkerboard((0.1 * signs).expand(1, 3, *sides), stride)
        assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize(("stride", "sides"), [(2, (8, 10)), (3, (9, 12)), (4, (8, 16))])
def test_the_checkerboard_is_that_of_the_fourier_transform(
    stride: int, sides: tuple[int, int], generator: torch.Generator
) -> None:
    """The energy at the frequencies (i / s, j / s) but (0, 0), over the mean energy of all but (0, 0)."""
    height, width = sides
    error = 0.1 * torch.rand(3, 2, *sides, generator=generator, dtype=torch.float64)
    error += 0.1 * torch.linspace(0, 1, width, dtype=torch.float64).square()
    energy = np.abs(np.fft.fft2(error.numpy())) ** 2
    energy[..., 0, 0] = 0
    there = energy[..., :: height // stride, :: width // stride].sum((1, 2, 3)) / (stride**2 - 1)
    mean = energy.sum((1, 2, 3)) / (height * width)
    problem = features_of(nn.AvgPool2d(stride), (2, *sides))
    truth = torch.full_like(error, 0.5)
    found = FOUND["checkerboard"](truth + error, truth, problem)
    assert found.tolist() == pytest.approx((there / mean).tolist())
    wild = FOUND["checkerboard"](truth + 9 * error, truth, problem)
    clipped = FOUND["checkerboard"]((truth + 9 * error).clamp(0, 1), truth, problem)
    assert torch.equal(wild, clipped), "on [0, 1] as the other image metrics"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), (3, 8, 8)),
        (nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8)),
        (nn.MaxPool2d(2), (3, 9, 9)),
        (nn.MaxPool2d((2, 4)), (3, 8, 8)),
        (nn.Upsample(scale_factor=2), (3, 8, 8)),
    ],
    ids=["vectors", "as fine as the image", "no tiles", "two strides", "finer than the image"],
)
def test_where_there_is_no_checkerboard(layer: nn.Module, shape: tuple[int, ...]) -> None:
    problem = features_of(layer, shape)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = FOUND["checkerboard"](x, x.flip(2), problem)
    assert found.shape == (3,)
    assert found.isnan().all()


def test_the_checkerboard_of_layers_that_tile_without_being_pools() -> None:
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pool, steps = (features_of(layer, (3, 8, 8)) for layer in (nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, 2, 1)))
    found = FOUND["checkerboard"](x, x.flip(2), pool)
    assert found.isfinite().all()
    assert torch.equal(found, FOUND["checkerboard"](x, x.flip(2), steps))
