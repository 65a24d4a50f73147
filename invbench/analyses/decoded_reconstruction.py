"""What one step of model-based IHT leaves of the image, seen through a decoder."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invbench.analyses.contract import Analysis, Refused, Row
from invbench.analyses.decoder import Decoder, Encoder, Pool, Schooling
from invbench.analyses.one_step_reconstruction import pooled_layers, reconstruct
from invbench.errors import UserError
from invbench.images import Images, Split
from invbench.solver import Count, Positive
from invbench.trials.contract import Scene

#: Validation images at most.
VALIDATED = 128


@dataclass(frozen=True, kw_only=True)
class DecodedReconstruction(Analysis):
    """The relative error of the image that a decoder D makes of x^ = c W^T M(W x, k), for every pooled map x.

    The x^ are those of `one_step_reconstruction`, by `learned` and `random` filters and from noise (`none`),
    scaled to |x^| = |x|, and beside them stands x itself (`original`). D goes down from pool i to the image,
    with a block for every pool: unpool, 3 x 3 convolution, leaky ReLU, 3 x 3 convolution, and a ReLU where
    the output is a map. A block sees every value at its switch, and beside it at all places of its window.

    **Oracle information.** D is told the switches of pool i and of all pools below it as they are for the
    image itself, and the scale c needs |x|. In the paper, too, outlines are seen even from noise. A switch is
    the place of the largest entry of a window, the first one where all are 0; that a unit is 0 is not told.

    Each block is first trained alone, from the values of a pool to those of the pool before or the image;
    then for every i in turn, as the paper has a decoder for each, the blocks of pools 1 to i together, on the
    error of the image, starting from those of the decoder of pool i - 1. D learns from the `train` and
    `validation` images of the source, which by construction hold none of `test`, on which it is measured;
    it sees true activations only, never an x^.

    The paper does not say whether its image error is against the image x0 or the decoded original D(x); nor
    whether images have their mean. Here they are pixels in [0, 1] with it, and D(.) is not clipped to that.

    Attributes:
        region: side of a pooling region of M.
        width: channels within a block.
        steps: of the training of all blocks alone.
        tuning: steps of the training of the decoder of each pool.
        batch: images a step.
        lr: first learning rate; in tuning, a tenth of it.
        train: training images, or all that there are.

    References:
        Gilbert, Zhang, Lee, Zhang & Lee, IJCAI 2017, table 4, image space, and figure 4. Decoder: Zhang, Lee
        & Lee, Augmenting supervised neural networks with unsupervised objectives, ICML 2016; Zhao, Mathieu,
        Goroshin & LeCun, Stacked what-where auto-encoders, ICLR 2016 workshop. Theirs mirrors every
        convolution of VGG-16 and is trained on ImageNet; this one is smaller and its training short.
    """

    region: Count = 2
    width: Count = 48
    steps: Count = 600
    tuning: Count = 300
    batch: Count = 16
    lr: Positive = 4e-3
    train: Count = 4000

    def measure(self, scene: Scene) -> list[Row]:
        """Rows (layer, filters, image_error, decoded_error), means over the images.

        `image_error` is |D(x^) - x0| / |x0|, `decoded_error` |D(x^) - D(x)| / |D(x)|, and none for x itself.
        """
        pairs = pooled_layers(scene.network)
        if not pairs:
            raise Refused("decoded_reconstruction needs a max-pool that a convolution follows")
        if scene.source is None:
            raise Refused("decoded_reconstruction trains decoders, and there is no source of training images")
        encoder = Encoder(scene.network, pairs[-1][0])
        generator = torch.Generator().manual_seed(scene.seed)
        found = {pool: reconstruct(scene, name, self.region, generator) for pool, name in pairs}
        decoders = self._schooling(scene, scene.source).decoders(encoder, generator)
        pools, rows = encoder(scene.images.pixels), list[Row]()
        for pool, step in found.items():
            own = pools[: encoder.names.index(pool) + 1]
            if not torch.equal(own[-1].values, step.x.to(own[-1].values)):
                raise Refused(f"the convolution above {pool} is given something else than its output")
            inputs = {kind: scaled(one, step.x) for kind, one in step.found.items()} | {"original": step.x}
            rows += [
                {"layer": pool, **row} for row in _rows(decoders[pool], own, inputs, scene.images.pixels)
            ]
        return rows

    def _schooling(self, scene: Scene, source: Images) -> Schooling:
        like = scene.images.pixels
        return Schooling(
            train=_some(source, "train", self.train).to(like),
            validation=_some(source, "validation", VALIDATED).to(like),
            width=self.width,
            steps=self.steps,
            tuning=self.tuning,
            batch=self.batch,
            lr=self.lr,
        )


def scaled(found: Tensor, x: Tensor) -> Tensor:
    """What was found at the norm of x, instance by instance; 0 stays 0."""
    norm, length = (one.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for one in (x, found))
    return found * torch.where(length > 0, norm / length, 0.0)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Mean over the instances of |found - wanted| / |wanted|; one that wants 0 does not count."""
    wanted, missed = wanted.flatten(1).double(), (found - wanted).flatten(1).double().norm(dim=1)
    norm = wanted.norm(dim=1)
    return float((missed / norm)[norm > 0].mean())


@torch.no_grad()
def _rows(decoder: Decoder, pools: list[Pool], inputs: dict[str, Tensor], images: Tensor) -> list[Row]:
    """One row for each of the activations of a pool."""
    decoded = {kind: decoder(one.to(images), pools) for kind, one in inputs.items()}
    original = decoded["original"]
    return [
        {
            "filters": kind,
            "image_error": relative(one, images),
            "decoded_error": math.nan if kind == "original" else relative(one, original),
        }
        for kind, one in decoded.items()
    ]


def _some(source: Images, split: Split, count: int) -> Tensor:
    """So many images of a split, or all where there are fewer."""
    try:
        return source.draw(split, count).pixels
    except UserError:
        pass
    try:
        return source.all(split).pixels
    except UserError as error:
        raise Refused(f"decoded_reconstruction has nothing to train decoders on: {error}") from error
