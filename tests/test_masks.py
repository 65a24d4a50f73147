"""Inversions that are given a part of a representation, and several starts for one."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from invbench_solvers.admm import ADMM
from invbench_solvers.lbfgs import LBFGS
from torch import Tensor, nn

from invbench import documents, metrics, registry
from invbench.errors import UserError
from invbench.harness import Bench, run_cell
from invbench.network import Network, append, parse
from invbench.operators import Convolution, Diagonal, Rescale
from invbench.planning import plan
from invbench.solver import Randomness
from invbench.trials.caricature import Caricature
from invbench.trials.masks import FeatureMask, check_mask, masked
from invbench.trials.preimage import Preimage
from tests.modules import ResNet, alexnet, lenet, seeded, sequential
from tests.scenes import scene_of
from tests.toys import SHAPE, tiny_network

SIDES = {  # window, side -> rows that are kept
    (1, 4): [1],
    (2, 4): [1, 2],
    (3, 4): [0, 1, 2],
    (4, 4): [0, 1, 2, 3],
    (1, 5): [2],
    (2, 5): [1, 2],
    (3, 5): [1, 2, 3],
    (4, 5): [0, 1, 2, 3],
}


def photographs(count: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("window", "side"), SIDES)
def test_a_window_keeps_the_middle_of_a_map(window: int, side: int) -> None:
    kept = FeatureMask(window=window).kept((2, side, 5))
    across = SIDES.get((window, 5), range(5))
    for c, i, j in product(range(2), range(side), range(5)):
        assert bool(kept[c, i, j]) == (i in SIDES[window, side] and j in across)


@pytest.mark.parametrize("shape", [(4, 3, 3), (5, 3, 3), (6,), (2,)])
def test_halves_of_the_channels_are_a_partition(shape: tuple[int, ...]) -> None:
    first, second = (FeatureMask(channels=half).kept(shape) for half in ("first_half", "second_half"))
    assert torch.equal((first + second).expand(shape), torch.ones(shape))
    assert first[: shape[0] // 2].all()
    assert second[shape[0] // 2 :].all()


def test_window_and_half_keep_what_is_in_both() -> None:
    both = FeatureMask(window=2, channels="second_half").kept((4, 4, 4))
    assert torch.equal(both.nonzero(), torch.cartesian_prod(*map(torch.tensor, ([2, 3], [1, 2], [1, 2]))))


NETWORKS = {
    "behind a pool": (lenet, (3, 16, 16), "pool1"),
    "behind a layer": (lenet, (3, 16, 16), "conv2.0"),
    "behind a vector": (lenet, (3, 16, 16), "fc2"),
    "normalised responses": (alexnet, (3, 23, 23), "norm1"),
    "no chain": (lambda: seeded(ResNet()), (3, 9, 9), "block2.1"),
    "no chain, scores": (lambda: seeded(ResNet()), (3, 9, 9), "fc"),
}


@pytest.mark.parametrize(("make", "shape", "stage"), NETWORKS.values(), ids=NETWORKS)
def test_a_masked_network_is_the_network_with_features_missing(make: Any, shape: Any, stage: str) -> None:
    cut = parse(make().double(), shape).cut(stage)
    mask = FeatureMask(channels="second_half")
    network = masked(cut, mask)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, half = cut(x), cut.output_shape[0] // 2
    expected[:, :half] = 0
    assert torch.equal(network(x), expected)
    assert network.multiply_adds == cut.multiply_adds
    assert (network.chain is None) == (cut.chain is None)
    first = "conv1"
    assert torch.equal(network.with_maps(x, [first])[1][first], cut.with_maps(x, [first])[1][first])
    torch.testing.assert_close(network.cut(first)(x), cut.cut(first)(x))


def test_a_mask_is_a_last_diagonal_stage() -> None:
    network = parse(lenet().double(), (3, 16, 16))
    pooled = masked(network.cut("pool1"), FeatureMask(window=3))
    assert pooled.chain is not None
    assert [stage.name for stage in pooled.chain] == ["pool1", "mask"]
    last = pooled.chain[-1].affine
    assert isinstance(last, Diagonal)
    generator = torch.Generator().manual_seed(0)
    z, r = (torch.rand(2, *last.in_shape, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close((last.linear(z) * r).sum(), (z * last.adjoint(r)).sum())
    folded = masked(network.cut("conv1.0"), FeatureMask(channels="first_half"))
    assert folded.chain is not None
    (stage,) = folded.chain
    assert isinstance(stage.affine, Convolution), "it has become part of the filters"


def test_no_mask_is_the_network_itself() -> None:
    network = tiny_network()
    assert masked(network, None) is network


def test_no_pixel_outside_the_receptive_field_has_a_gradient() -> None:
    """Place 1 of 4 behind a 2 x 2 pool and a 3 x 3 convolution: rows and columns 1 to 4 of the image."""
    pixels = photographs()
    scene = scene_of(tiny_network(), pixels)
    trial = Preimage(layer="pool1", mask=FeatureMask(window=1), priors={})
    posed = trial.pose(scene)
    _, gradient = posed.problem.value_and_gradient(posed.start)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[1:5, 1:5] = True
    assert (gradient[:, :, ~inside] == 0).all()
    reached = (gradient != 0).any(0).any(0)
    assert reached[1:5, :].any(1)[[0, 3]].all() and reached[:, 1:5].any(0)[[0, 3]].all(), "it is that large"
    _, whole = Preimage(layer="pool1", priors={}).pose(scene).problem.value_and_gradient(posed.start)
    assert (whole[:, :, ~inside] != 0).any()


def test_loss_and_feature_error_are_over_the_features_that_are_kept() -> None:
    pixels, x = photographs(), photographs(seed=5)
    network = tiny_network()
    posed = Preimage(layer="pool1", mask=FeatureMask(window=2), priors={}).pose(scene_of(network, pixels))
    y, f = (network.cut("pool1")(image)[:, :, 1:3, 1:3] for image in (pixels, x))
    expected = (f - y).square().sum((1, 2, 3)) / y.square().sum((1, 2, 3))
    torch.testing.assert_close(metrics.feature_error(x, pixels, posed.problem), expected)
    torch.testing.assert_close(posed.problem.objective(x), expected)


def test_a_mask_leaves_priors_on_stages_alone() -> None:
    scene, x = scene_of(tiny_network(), photographs()), photographs(seed=5)
    trials = [
        Preimage(layer="pool1", priors={"l2@conv1": 1}, mask=mask) for mask in (None, FeatureMask(window=1))
    ]
    whole, part = (trial.pose(scene).problem.terms(x)["prior:l2@conv1"] for trial in trials)
    assert torch.equal(whole, part)


@pytest.mark.parametrize("solver", [ADMM(), LBFGS()], ids=repr)
def test_solvers_take_masked_features(solver: Any) -> None:
    scene = scene_of(tiny_network(), photographs())
    posed = Preimage(layer="pool1", mask=FeatureMask(window=2), priors={}).pose(scene)
    problem, x = posed.problem, posed.start
    assert solver.refuses(problem) is None
    iterates = solver.iterates(problem, x, Randomness(0, range(3), x))
    for _, found in zip(range(60), iterates, strict=False):
        x = found.clone()
    assert (problem.objective(x) < 0.5 * problem.objective(posed.start)).all()


def test_a_caricature_of_a_half_sees_that_half() -> None:
    pixels = photographs()
    network = tiny_network()
    posed = Caricature(layer="pool1", mask=FeatureMask(channels="first_half"), priors={}).pose(
        scene_of(network, pixels)
    )
    x = photographs(seed=5)
    f, y = network.cut("pool1")(x)[:, :4], network.cut("pool1")(pixels)[:, :4]
    expected = -(f * y).sum((1, 2, 3)) / y.square().sum((1, 2, 3))
    torch.testing.assert_close(posed.problem.objective(x), expected)


# -- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "layer", "sentence"),
    [
        (FeatureMask(window=5), "pool1", "a window of 5 is larger than the map, whose side is 4"),
        (FeatureMask(window=1), "fc1", r"a window needs features \(C, H, W\)"),
    ],
)
def test_masks_that_do_not_fit_are_told(mask: FeatureMask, layer: str, sentence: str) -> None:
    for kind in (Preimage, Caricature):
        with pytest.raises(UserError, match=sentence):
            kind(layer=layer, mask=mask).pose(scene_of(tiny_network(), photographs()))


def test_one_channel_has_no_halves() -> None:
    with pytest.raises(UserError, match="a single channel has no halves"):
        FeatureMask(channels="first_half").kept((1, 4, 4))


def test_a_stage_has_one_name() -> None:
    network = parse(sequential(mask=nn.Conv2d(3, 2, 3)), SHAPE)
    with pytest.raises(UserError, match="has a stage 'mask' already"):
        masked(network, FeatureMask(window=1))


def test_nothing_follows_a_module_that_was_not_cut() -> None:
    network: Network = parse(seeded(ResNet()), (3, 9, 9))
    with pytest.raises(UserError, match="cut it at a stage"):
        append(network, "mask", Rescale(torch.ones(())))


@pytest.mark.parametrize(
    ("mask", "place", "sentence"),
    [
        ("3", "mask", "needs a mapping such as"),
        ("{}", "mask", "keeps every feature: set window or channels"),
        ("{windw: 3}", "mask", "has no 'windw': it takes window and channels"),
        ("{window: 0}", "mask.window", "must be >= 1"),
        ("{channels: half}", "mask.channels", "must be one of 'first_half' or 'second_half'"),
    ],
)
def test_mistakes_in_a_study_are_told(mask: str, place: str, sentence: str) -> None:
    with pytest.raises(UserError) as told:
        study(f"mask: {mask}")
    assert sentence in str(told.value)
    assert place.rpartition(".")[2] in str(told.value)


def test_a_mask_that_is_read_stays_as_it_is() -> None:
    assert check_mask(None) is None
    mask = FeatureMask(window=2)
    assert check_mask(mask) is mask


# -- in a study ------------------------------------------------------------------------------------------


def study(trial: str) -> Any:
    text = (
        "study: s\nimages: {source: bundled, count: 2, size: 32}\nnetwork: {name: lenet}\n"
        f"trials: [preimage: {{layer: pool2, {trial}}}]\nmethods: [adam]\nbudget: {{iterations: 3}}\n"
    )
    return plan(documents.parse(text, "s"), registry.catalogue())


def test_masks_are_an_axis() -> None:
    both = FeatureMask(window=2, channels="first_half")
    cells = study("mask: [null, {window: 1}, {channels: first_half, window: 2}]").cells
    assert [cell.trial.mask for cell in cells] == [None, FeatureMask(window=1), both]
    sides = study("mask: {window: [1, 3]}").cells
    assert [cell.trial.mask for cell in sides] == [FeatureMask(window=1), FeatureMask(window=3)]


def test_starts_of_one_image_are_instances_of_a_run() -> None:
    (cell,) = study("starts: 3").cells
    record, arrays = run_cell(cell, Bench(), "key")
    names = [instance["name"] for instance in record["instances"]]
    assert arrays["x"].shape == (6, 3, 32, 32)
    assert [name.partition(", start ")[::2] for name in names[:3]] == [
        (names[0], ""),
        (names[0], "2"),
        (names[0], "3"),
    ]
    assert names[3] != names[0]
    diversity = record["trace"]["series"]["diversity"][-1]
    assert (diversity > 0).all()
    assert len(set(diversity.tolist())) == 6


def test_one_start_has_no_diversity() -> None:
    (cell,) = study("starts: 1").cells
    record, _ = run_cell(cell, Bench(), "key")
    series = record["trace"]["series"]["diversity"]
    assert all(values.shape == (2,) for values in series)
    assert all(bool((values != values).all()) for values in series), "NaN, which tables leave empty"


def test_copies_share_target_and_truth_and_differ_in_their_start() -> None:
    scene = scene_of(tiny_network(), photographs(2))
    posed, alone = (Preimage(layer="pool1", starts=starts).pose(scene) for starts in (3, 1))
    assert posed.truth is not None and alone.truth is not None
    assert posed.names == ("0", "0, start 2", "0, start 3", "1", "1, start 2", "1, start 3")
    for i in range(6):
        assert torch.equal(posed.truth[i], alone.truth[i // 3])
        assert torch.equal(posed.problem.target[i], alone.problem.target[i // 3])
    assert torch.equal(posed.start[:2], alone.start), "instances draw by their index"
    assert all(not torch.equal(a, b) for a, b in pairwise(posed.start))
    assert posed.problem.size == posed.problem.meter.size == 6
