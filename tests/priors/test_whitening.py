"""Whitening: identity covariance in training and where it is folded into filters."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invbench.errors import UserError
from invbench.priors.whitening import Patches, Whitening

SIDE = 3


def smooth_maps(generator: torch.Generator, count: int = 60, channels: int = 2, size: int = 12) -> Tensor:
    """Maps with neighbours alike, channels of different scales, and means far from 0."""
    maps = torch.rand(count, channels, size + 2, size + 2, dtype=torch.float64, generator=generator)
    scales = torch.tensor([1.0, 20.0])[:channels].reshape(-1, 1, 1).double()
    return scales * (functional.avg_pool2d(maps, 3, 1) + 5)


def all_patches(maps: Tensor, groups: int = 1) -> Patches:
    """Every patch once."""
    windows = maps.unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    count = [windows.shape[0], windows.shape[2], windows.shape[3]]
    places = torch.cartesian_prod(*(torch.arange(n) for n in count))
    return Patches(windows, places, groups)


def covariance(z: Tensor) -> Tensor:
    """(G, b, d) -> (G, d, d), around the mean."""
    centred = z - z.mean(1, keepdim=True)
    return centred.mT @ centred / z.shape[1]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mean", ["patch", "channel", "data"])
@pytest.mark.parametrize("scale", ["global", "channel", "none"])
def test_identity_without_noise_on_both_paths(groups, mean, scale, generator):
    maps = smooth_maps(generator)
    patches = all_patches(maps, groups)
    whitening = Whitening.fit(patches, "pca", mean, scale, 0.0)
    lost = {"patch": 1, "channel": 2 // groups, "data": 0}[mean]
    rank = patches.dimensions - lost
    assert whitening.matrix.shape == (groups, rank, patches.dimensions)
    z = whitening(patches[slice(None)])
    filters, bias = whitening.fold(torch.eye(rank).double().expand(groups, -1, -1))
    square = filters.reshape(groups * rank, 2 // groups, SIDE, SIDE)
    deployed = functional.conv2d(maps, square, bias.flatten(), groups=groups)
    deployed = deployed.unflatten(1, (groups, rank)).permute(1, 0, 3, 4, 2).flatten(1, 3)
    for path in (z, deployed):
        torch.testing.assert_close(path.mean(1), torch.zeros(groups, rank).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(
            covariance(path), torch.eye(rank).double().expand(groups, -1, -1), atol=1e-7, rtol=0
        )
    torch.testing.assert_close(deployed, z)


def test_identity_with_noise(generator):
    """Noise e is worth noise S e on the maps, on both paths."""
    maps = smooth_maps(generator)
    patches = all_patches(maps)
    whitening = Whitening.fit(patches, "pca", "patch", "channel", 0.5)
    identity = torch.eye(17).double()[None]
    z = torch.cat([whitening(patches[slice(None)], generator) for _ in range(30)], 1)
    torch.testing.assert_close(covariance(z), identity, atol=0.03, rtol=0)
    deviation = whitening.noise.reshape(2, SIDE**2)[:, :1, None]
    filters, bias = whitening.fold(identity)
    noisy = torch.cat([maps + deviation * torch.randn(maps.shape, generator=generator) for _ in range(30)])
    deployed = functional.conv2d(noisy, filters.reshape(17, 2, SIDE, SIDE), bias.flatten())
    deployed = deployed.permute(0, 2, 3, 1).reshape(1, -1, 17)
    torch.testing.assert_close(covariance(deployed), identity, atol=0.03, rtol=0)
    torch.testing.assert_close(deviation.flatten(), 0.5 * maps.std((0, 2, 3)), rtol=0.05, atol=0)


def test_zca_is_symmetric_and_white(generator):
    patches = all_patches(smooth_maps(generator))
    whitening = Whitening.fit(patches, "zca", "data", "none", 0.0)
    torch.testing.assert_close(whitening.matrix, whitening.matrix.mT)
    identity = torch.eye(18).double()[None]
    torch.testing.assert_close(covariance(whitening(patches[slice(None)])), identity, atol=1e-7, rtol=0)


def test_none_only_centres_and_scales(generator):
    patches = all_patches(smooth_maps(generator))
    whitening = Whitening.fit(patches, "none", "data", "global", 0.0)
    x = patches[slice(None)]
    expected = (x - x.mean(0)) / x.var(0, correction=0).mean().sqrt()
    torch.testing.assert_close(whitening(x), expected.transpose(0, 1))


def test_directions_without_variance_are_dropped(generator):
    """Two equal channels have half of the directions; nothing is divided by rounding."""
    maps = smooth_maps(generator, channels=1).float().expand(-1, 2, -1, -1)
    whitening = Whitening.fit(all_patches(maps), "pca", "data", "global", 0.0)
    assert whitening.matrix.shape[1] == SIDE**2
    assert whitening.matrix.abs().max() < 1e3


def test_noise_bounds_the_gain(generator):
    maps = smooth_maps(generator, channels=1)
    quiet = Whitening.fit(all_patches(maps), "pca", "data", "none", 0.1)
    assert torch.linalg.matrix_norm(quiet.matrix, 2).item() <= 10


def test_patches_are_those_of_the_maps(generator):
    maps = smooth_maps(generator, 4)
    patches = Patches.draw(maps, SIDE, 50, 2, generator)
    chosen = patches[torch.tensor([3, 40])]
    for found, (image, row, column) in zip(chosen, patches.places[[3, 40]].tolist(), strict=True):
        expected = maps[image, :, row : row + SIDE, column : column + SIDE]
        assert torch.equal(found.reshape(expected.shape), expected)
    ends = Patches.draw(maps, SIDE, 5000, 1, generator).places
    assert ends.amin(0).tolist() == [0, 0, 0] and ends.amax(0).tolist() == [3, 9, 9]


def test_what_cannot_be_whitened(generator):
    still = torch.full((3, 2, 6, 6), 0.1)
    flat = torch.rand(5, 1, 1, 1, generator=generator).expand(-1, 2, 6, 6)
    dead = smooth_maps(generator).clone()
    dead[:, 1] = 0.3
    for maps, groups, mean, noise, sentence in (
        (still, 1, "data", 0.0, "are constant"),
        (still, 1, "patch", 0.1, "are constant"),
        (flat, 1, "patch", 0.1, "are constant"),
        (dead, 2, "patch", 0.0, "a channel to learn from is constant"),
    ):
        with pytest.raises(UserError, match=sentence):
            Whitening.fit(all_patches(maps, groups), "pca", mean, "global", noise)
    single = Patches.draw(smooth_maps(generator, channels=1), 1, 100, 1, generator)
    with pytest.raises(UserError, match="nothing without their mean"):
        Whitening.fit(single, "pca", "patch", "global", 0.1)
    assert Whitening.fit(all_patches(dead, 2), "pca", "patch", "channel", 0.1).matrix.isfinite().all()
