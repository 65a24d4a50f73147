"""Images decoded from activations: switches by brute force, training on tiny images, what is refused."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from invbench.analyses.contract import Refused
from invbench.analyses.decoded_reconstruction import DecodedReconstruction, relative, scaled
from invbench.analyses.decoder import Block, Decoder, Encoder, Pool, unpooled
from invbench.analyses.one_step_reconstruction import reconstruct
from invbench.errors import UserError
from invbench.images import SPLITS, ImageBatch
from invbench.network import parse
from invbench.trials.contract import Scene
from tests.modules import normalise, seeded, sequential

TINY = DecodedReconstruction(width=8, steps=80, tuning=40, batch=8, lr=1e-2, train=96)


def layer(channels, count, stride=1):
    return nn.Sequential(nn.Conv2d(channels, count, 3, stride, padding=1), nn.ReLU())


def network(size=8, pool=None, stride=1):
    module = sequential(
        normalise=normalise(),
        conv1=layer(3, 6, stride),
        pool1=pool or nn.MaxPool2d(2),
        conv2=layer(6, 8),
        conv3=layer(8, 8),
        pool2=nn.MaxPool2d(2),
        conv4=layer(8, 8),
    )
    return parse(seeded(module), (3, size, size), "pooled")


class Smooth:
    """A source of coloured slopes, so many in each split."""

    def __init__(self, count):
        self.count = count

    def draw(self, split, count):
        if count > self.count:
            raise UserError(f"{count} {split} images asked for")
        generator = torch.Generator().manual_seed(SPLITS.index(split))
        coarse = torch.rand(self.count, 3, 3, 3, generator=generator)
        pixels = functional.interpolate(coarse, 8, mode="bilinear", align_corners=True)[:count]
        return ImageBatch(pixels, torch.zeros(count, dtype=torch.int64), tuple(map(str, range(count))))

    def all(self, split):
        if not self.count:
            raise UserError(f"no {split} images")
        return self.draw(split, self.count)


def scene(net=None, **changes):
    source = Smooth(128)
    images = source.draw("test", 6)
    return replace(Scene(net or network(), images, (), images.pixels, 0, source=source), **changes)


@pytest.fixture(scope="module")
def measured():
    """Rows of a tiny network on tiny images, the same again, and whether the random state was left alone."""
    posed, state = scene(), torch.random.get_rng_state()
    rows, again = (TINY.measure(posed) for _ in range(2))
    return rows, again, torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture
def maps():
    """Rectified maps with ties: many windows hold nothing but zeros."""
    y = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)).relu()
    y[:, :, :2, :2] = 0
    return y


def test_switches_by_brute_force(maps):
    pool = Pool.of(maps, (2, 3))
    assert pool.values.shape == (2, 3, 2, 2)
    for b, c, i, j in product(range(2), range(3), range(2), range(2)):
        window = maps[b, c, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].flatten().tolist()
        expected = [0.0] * 6
        expected[window.index(max(window))] = 1.0
        found = pool.switches[b, c, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].flatten().tolist()
        assert found == expected
        assert pool.values[b, c, i, j] == max(window)


def test_unpooled_values_stand_at_their_switches_and_everywhere(maps):
    pool = Pool.of(maps, (2, 2))
    at_switches, everywhere = unpooled(pool.values, pool.switches).chunk(2, 1)
    assert torch.equal(at_switches, maps * pool.switches)
    assert torch.equal(functional.max_pool2d(at_switches, 2), pool.values)
    for i, j in product(range(2), range(2)):
        assert torch.equal(everywhere[:, :, i::2, j::2], pool.values)


def test_the_encoder_sees_what_the_pools_give():
    net, x = network(), scene().images.pixels
    encoder = Encoder(net, "pool2")
    pools = encoder(x)
    assert encoder.names == ("pool1", "pool2")
    for pool, name, before in zip(pools, encoder.names, ("conv1", "conv3"), strict=True):
        assert torch.equal(pool.values, net.cut(name)(x))
        assert torch.equal(
            unpooled(pool.values, pool.switches).chunk(2, 1)[0], net.cut(before)(x) * pool.switches
        )


def test_a_decoder_goes_down_block_by_block():
    x, generator = scene().images.pixels, torch.Generator().manual_seed(1)
    pools = Encoder(network(), "pool2")(x)
    first = Block(pools[0], x, 5, generator)
    second = Block(pools[1], pools[0].values, 5, generator)
    values = torch.randn(pools[1].values.shape, generator=generator)
    middle = second(values, pools[1].switches)
    assert middle.shape == pools[0].values.shape
    image = first(middle, pools[0].switches)
    assert image.shape == x.shape
    assert torch.equal(Decoder([first, second])(values, pools), image)
    assert torch.equal(Decoder([first])(middle, pools), image)


def test_a_block_by_its_definition():
    x, generator = scene().images.pixels, torch.Generator().manual_seed(2)
    (pool,) = Encoder(network(), "pool1")(x)
    block = Block(pool, x, 5, generator)
    rectified = Block(pool, x, 5, torch.Generator().manual_seed(2), rectified=True)
    inside, outside = pool.values.square().mean().sqrt(), x.square().mean().sqrt()
    hidden = functional.conv2d(unpooled(pool.values, pool.switches) / inside, block.first, padding=1)
    hidden = torch.maximum(hidden, hidden / 10)
    expected = functional.conv2d(hidden, block.second, padding=1) * outside + x.mean((0, 2, 3))[:, None, None]
    torch.testing.assert_close(block(pool.values, pool.switches), expected)
    torch.testing.assert_close(rectified(pool.values, pool.switches), expected.clamp(min=0))


def test_errors_and_scales_by_their_definitions():
    generator = torch.Generator().manual_seed(3)
    found, x = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64).unbind()
    ratios = [float((a - b).norm() / b.norm()) for a, b in zip(found, x, strict=True)]
    assert relative(found, x) == pytest.approx(sum(ratios) / 3)
    x[1] = 0
    assert relative(found, x) == pytest.approx((ratios[0] + ratios[2]) / 2)
    found[2] = 0
    rescaled = scaled(found, x)
    torch.testing.assert_close(rescaled[0], found[0] * x[0].norm() / found[0].norm())
    assert not rescaled[1:].any()


def test_rows_and_their_order(measured):
    rows, _, _ = measured
    kinds = ("learned", "random", "none", "original")
    assert [(row["layer"], row["filters"]) for row in rows] == list(product(("pool1", "pool2"), kinds))
    assert all(math.isnan(row["decoded_error"]) == (row["filters"] == "original") for row in rows)
    assert all(math.isfinite(row["image_error"]) for row in rows)


def test_training_makes_images_of_activations_and_not_of_noise(measured):
    rows, _, _ = measured
    error = {(row["layer"], row["filters"]): row["image_error"] for row in rows}
    pixels = scene().images.pixels
    grey = relative(pixels.mean((1, 2, 3), keepdim=True).expand_as(pixels), pixels)
    assert error["pool1", "original"] < 0.9 * grey
    for name in ("pool1", "pool2"):
        assert error[name, "original"] < 0.8 * error[name, "none"]
        assert error[name, "original"] < min(error[name, "learned"], error[name, "random"])


def test_the_same_seed_gives_the_same_rows_and_the_world_stays_as_it_was(measured):
    rows, again, untouched = measured
    assert untouched
    assert [list(map(str, row.values())) for row in rows] == [list(map(str, row.values())) for row in again]
    brief = replace(TINY, steps=2, tuning=1)
    assert brief.measure(scene())[0] != brief.measure(scene(seed=1))[0]


def test_it_decodes_what_one_step_reconstruction_measures(monkeypatch):
    """The very same x^, drawn before anything is trained, whatever the training draws."""
    seen = []
    module = "invbench.analyses.decoded_reconstruction.scaled"
    monkeypatch.setattr(module, lambda found, x: seen.append(found) or scaled(found, x))
    replace(TINY, steps=1, tuning=1).measure(scene())
    generator = torch.Generator().manual_seed(0)
    steps = [reconstruct(scene(), name, 2, generator) for name in ("conv2.0", "conv4.0")]
    expected = [one for step in steps for one in step.found.values()]
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_few_training_images_are_all_used():
    assert len(replace(TINY, steps=2, tuning=1).measure(scene(source=Smooth(5)))) == 8


@pytest.mark.parametrize(
    ("posed", "sentence"),
    [
        (scene(source=None), "there is no source of training images"),
        (scene(source=Smooth(0)), "nothing to train decoders on: no train images"),
        (scene(network().cut("pool1")), "needs a max-pool that a convolution follows"),
        (scene(network(stride=2)), "those before pool1 make 4 x 4 of 8 x 8"),
        (scene(network(pool=nn.MaxPool2d(3, 2, 1))), "those of pool1 do not"),
        (scene(network(pool=nn.MaxPool2d(3))), "windows of pool1 do not tile its maps of 8 x 8"),
    ],
)
def test_what_does_not_apply_is_refused_with_a_sentence(posed, sentence):
    with pytest.raises(Refused, match=sentence):
        TINY.measure(posed)
