"""Networks to invert. A building function with the decorator is all that it takes to add one.

Every network takes images in [0, 1] and normalises them itself. A stage, by whose name it may be cut, is a
child of the sequence with its activation in it.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invbench.errors import UserError
from invbench.gabor.layer import GaborConv2d
from invbench.operators import Normalise

#: Means and standard deviations of natural images, roughly; networks trained elsewhere bring their own.
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
#: Local response normalisation of AlexNet: channels in the sum, alpha, beta, k (Krizhevsky et al. 2012, 3.3).
LRN = (5, 1e-4, 0.75, 2.0)
#: Blocks of VGG-16 between pools: channels, convolutions.
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; part of the identity of its weights.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        lr: first learning rate of AdamW with a cosine schedule.
        weight_decay: decoupled.
        shift: images are shifted by up to so many pixels, with reflected borders.
        flip: half of the images are mirrored.
        smoothing: of the labels.
    """

    epochs: float
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 1e-2
    shift: int = 0
    flip: bool = True
    smoothing: float = 0.05


@dataclass(frozen=True)
class Architecture:
    """A network by name.

    Attributes:
        name: in studies.
        summary: one line.
        build: (classes, size, **parameters) -> module.
        recipe: how it is trained, or None for networks that are not.
    """

    name: str
    summary: str
    build: Callable[..., nn.Module]
    recipe: Recipe | None

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that a study may set, with their defaults."""
        signature = inspect.signature(self.build)
        return {
            name: p.default for name, p in signature.parameters.items() if name not in ("classes", "size")
        }


_found: dict[str, Architecture] = {}


def find() -> dict[str, Architecture]:
    """All architectures by name."""
    return dict(_found)


def architecture(
    recipe: Recipe | None = None,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Offer a building function as a network, under its own name."""

    def collect(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        summary = (build.__doc__ or "").partition("\n")[0]
        _found[build.__name__] = Architecture(build.__name__, summary, build, recipe)
        return build

    return collect


@architecture(Recipe(epochs=12, shift=2))
def lenet(classes: int, size: int) -> nn.Module:
    """LeNet type: two 5 x 5 convolutions (16, 32), 2 x 2 max-pools, three dense layers; 32 px."""
    _demand(size, 8, 4, "lenet")
    return _lenet(classes, size, nn.Conv2d(3, 16, 5, padding=2))


@architecture(Recipe(epochs=12, shift=2))
def gabor_net(classes: int, size: int, kernel: int = 5) -> nn.Module:
    """The LeNet type with Gabor filters of `kernel` pixels in its first layer, five parameters a filter."""
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel is {kernel!r}, but an odd whole number is needed")
    _demand(size, 8, 4, "gabor_net")
    return _lenet(classes, size, GaborConv2d(3, 16, kernel))


def _lenet(classes: int, size: int, first: nn.Module) -> nn.Module:
    """What follows the first convolution of the LeNet type, with that in front."""
    return nn.Sequential(
        OrderedDict(
            normalise=Normalise(MEAN, STD),
            conv1=nn.Sequential(first, nn.ReLU()),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Sequential(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU()),
            pool2=nn.MaxPool2d(2),
            fc1=nn.Sequential(nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, 120), nn.ReLU()),
            fc2=nn.Sequential(nn.Linear(120, 84), nn.ReLU()),
            fc3=nn.Linear(84, classes),
        )
    )


@architecture(Recipe(epochs=20, shift=4))
def vgg11(classes: int, size: int, width: float = 1.0, batch_norm: bool = True) -> nn.Module:
    """VGG-11 for 32 or 64 px, with or without batch norm; `width` scales the channels."""
    _demand(size, 32, 32, "vgg11")
    plan = [
        (64, True),
        (128, True),
        (256, False),
        (256, True),
        (512, False),
        (512, True),
        (512, False),
        (512, True),
    ]
    children: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(MEAN, STD))
    channels, pools = 3, 0
    for n, (full, pooled) in enumerate(plan, start=1):
        wide = max(1, round(full * width))
        convolution = nn.Conv2d(channels, wide, 3, padding=1, bias=not batch_norm)
        norm = [nn.BatchNorm2d(wide)] if batch_norm else []
        children[f"conv{n}"] = nn.Sequential(convolution, *norm, nn.ReLU())
        if pooled:
            pools += 1
            children[f"pool{pools}"] = nn.MaxPool2d(2)
        channels = wide
    children["fc"] = nn.Sequential(nn.Flatten(), nn.Linear(channels * (size // 32) ** 2, classes))
    return nn.Sequential(children)


@architecture(Recipe(epochs=20, shift=4))
def alexnet(classes: int, size: int, width: float = 1.0, norm: str = "lrn") -> nn.Module:
    """AlexNet type for 32 or 64 px: strided convolution, overlapping pools; `norm` is lrn, batch or none.

    `width` scales the channels. Local response normalisation, the original's, stands behind the first two
    convolutions; batch norm behind all five.
    """
    _demand(size, 32, 32, "alexnet")
    if norm not in ("lrn", "batch", "none"):
        raise ValueError(f"norm is {norm!r}, and there are lrn, batch and none")
    c1, c2, c3, c4, dense = (max(1, round(n * width)) for n in (64, 160, 224, 192, 512))
    side = size // 2
    for _ in range(3):
        side = (side - 3) // 2 + 1

    def convolution(channels: int, wide: int, kernel: int, stride: int = 1) -> nn.Module:
        layer = nn.Conv2d(channels, wide, kernel, stride, kernel // 2)
        return nn.Sequential(layer, *([nn.BatchNorm2d(wide)] if norm == "batch" else []), nn.ReLU())

    children: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(MEAN, STD))
    for n, layer in enumerate((convolution(3, c1, 7, stride=2), convolution(c1, c2, 5)), start=1):
        children[f"conv{n}"] = layer
        if norm == "lrn":
            children[f"norm{n}"] = nn.LocalResponseNorm(*LRN)
        children[f"pool{n}"] = nn.MaxPool2d(3, 2)
    children["conv3"] = convolution(c2, c3, 3)
    children["conv4"] = convolution(c3, c4, 3)
    children["conv5"] = convolution(c4, c4, 3)
    children["pool5"] = nn.MaxPool2d(3, 2)
    children["fc6"] = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(c4 * side * side, dense), nn.ReLU()
    )
    children["fc7"] = nn.Sequential(nn.Dropout(0.3), nn.Linear(dense, dense), nn.ReLU())
    children["fc8"] = nn.Linear(dense, classes)
    return nn.Sequential(children)


@architecture()
def random_cnn(classes: int, size: int, layers: int = 2, width: int = 64, kernel: int = 5) -> nn.Module:
    """Untrained: layers of random filters, ReLU and 2 x 2 max-pools, and a random dense layer.

    The filters are Gaussian with variance 2 / fan-in, so that activations keep their scale. Gilbert et al.
    2017 (Table 1) put a batch norm behind each convolution, whose scale and bias they train.
    """
    _demand(size, 2**layers, 2**layers, "random_cnn")
    children: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(MEAN, STD))
    channels = 3
    for n in range(1, layers + 1):
        children[f"conv{n}"] = nn.Sequential(_random_convolution(channels, width, kernel), nn.ReLU())
        children[f"pool{n}"] = nn.MaxPool2d(2)
        channels = width
    children["fc"] = nn.Sequential(nn.Flatten(), nn.Linear(channels * (size // 2**layers) ** 2, classes))
    return nn.Sequential(children)


@architecture()
def random_vgg16(classes: int, size: int, width: float = 1.0) -> nn.Module:
    """Untrained: the 13 convolutions and 5 max-pools of VGG-16 with random filters, and a random dense layer.

    The filters are those of `random_cnn`; `width` scales the channels. The stages are named as those of
    torchvision_vgg16, but instead of its three dense layers, 124 of 138 million weights, there is one.

    References:
        Simonyan & Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015,
        configuration D; Gilbert et al. 2017, 4.4, for random filters in it.
    """
    _demand(size, 32, 32, "random_vgg16")

    def layer(channels: int, wide: int) -> nn.Module:
        return nn.Sequential(_random_convolution(channels, wide, 3), nn.ReLU())

    return _vgg16(classes, size, width, layer)


@architecture(Recipe(epochs=15, shift=4))
def vgg16(classes: int, size: int, width: float = 1.0) -> nn.Module:
    """VGG-16 with batch norm and one dense layer, for 32 or 64 px; `width` scales the channels."""
    _demand(size, 32, 32, "vgg16")

    def layer(channels: int, wide: int) -> nn.Module:
        convolution = nn.Conv2d(channels, wide, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(wide), nn.ReLU())

    return _vgg16(classes, size, width, layer)


def _vgg16(classes: int, size: int, width: float, layer: Callable[[int, int], nn.Module]) -> nn.Module:
    """The 13 layers, 5 pools, and a dense layer; `layer` makes one from its numbers of channels."""
    children: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(MEAN, STD))
    channels = 3
    for block, (full, convolutions) in enumerate(VGG16, start=1):
        wide = max(1, round(full * width))
        for n in range(1, convolutions + 1):
            children[f"conv{block}_{n}"] = layer(channels, wide)
            channels = wide
        children[f"pool{block}"] = nn.MaxPool2d(2)
    children["fc"] = nn.Sequential(nn.Flatten(), nn.Linear(channels * (size // 32) ** 2, classes))
    return nn.Sequential(children)


@architecture(Recipe(epochs=5, lr=4e-3, shift=2))
def shallow_cnn(
    classes: int, size: int, layers: int = 2, width: int = 64, kernel: int = 5, filters: str = "random"
) -> nn.Module:
    """Layers of convolution, batch norm, ReLU, 2 x 2 max-pool, a dense layer; `filters` random or learned.

    Random filters, those of `random_cnn`, stay as they are drawn: scale and bias of the batch norms and the
    dense layer are trained. The scale of the filters is of no account, for the batch norm divides it out.

    References:
        Gilbert et al., Towards understanding the invertibility of convolutional neural networks, 2017,
        table 1; the batch norm stands before the ReLU, as their footnote 5 says (the caption has it behind).
    """
    for name, number in (("layers", layers), ("width", width), ("kernel", kernel)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}, but a whole number from 1 on is needed")
    if kernel % 2 == 0:
        raise ValueError(f"kernel is {kernel}, but an odd one is needed, which leaves maps their size")
    if filters not in ("random", "learned"):
        raise ValueError(f"filters is {filters!r}, and there are random and learned")
    _demand(size, 2**layers, 2**layers, "shallow_cnn")
    children: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(MEAN, STD))
    channels = 3
    for n in range(1, layers + 1):
        convolution = _random_convolution(channels, width, kernel).requires_grad_(filters == "learned")
        children[f"conv{n}"] = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
        children[f"pool{n}"] = nn.MaxPool2d(2)
        channels = width
    children["fc"] = nn.Sequential(nn.Flatten(), nn.Linear(channels * (size // 2**layers) ** 2, classes))
    return nn.Sequential(children).to(memory_format=torch.channels_last)  # trains faster by half on a CPU


@architecture(Recipe(epochs=20, shift=4))
def resnet(classes: int, size: int, width: int = 16, blocks: int = 3) -> nn.Module:
    """A small residual network, which is no chain: only black-box methods take it.

    Stages: stem, block1, ... (each doubles the width and halves the resolution but the first), head.
    """
    _demand(size, 2 ** (blocks - 1), 2 ** (blocks - 1), "resnet")
    stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    children: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(MEAN, STD), stem=stem)
    channels = width
    for n in range(1, blocks + 1):
        wide = width * 2 ** (n - 1)
        children[f"block{n}"] = ResidualBlock(channels, wide, stride=1 if n == 1 else 2)
        channels = wide
    children["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(children)


@architecture(Recipe(epochs=12, shift=4))
def inception(classes: int, size: int, width: int = 32, blocks: int = 3) -> nn.Module:
    """A small GoogLeNet type with batch norm, which is no chain: only black-box methods take it.

    Stages: stem, pool1, block1, ... (each doubles the width, behind a pool that halves the resolution), head.

    References:
        Szegedy et al., Going deeper with convolutions, CVPR 2015, figure 2b and table 1; Ioffe & Szegedy,
        ICML 2015, for batch norm. Here one block follows each pool, and the stem keeps the resolution.
    """
    _demand(size, 2**blocks, 2**blocks, "inception")
    children: OrderedDict[str, nn.Module] = OrderedDict(
        normalise=Normalise(MEAN, STD), stem=_normed_convolution(3, width, 3)
    )
    channels = width
    for n in range(1, blocks + 1):
        wide = width * 2**n
        children[f"pool{n}"] = nn.MaxPool2d(3, 2, 1)
        children[f"block{n}"] = InceptionBlock(channels, wide)
        channels = wide
    children["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(children).to(memory_format=torch.channels_last)  # trains faster by a third on a CPU


def _normed_convolution(channels: int, wide: int, kernel: int) -> nn.Module:
    """Convolution, batch norm, ReLU; maps keep their size where the kernel is odd."""
    convolution = nn.Conv2d(channels, wide, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(wide), nn.ReLU())


class InceptionBlock(nn.Module):
    """Four branches side by side: 1 x 1, 3 x 3 and 5 x 5 convolutions, and a 3 x 3 max-pool.

    The last three go through a 1 x 1 convolution with fewer channels. Of the `wide` channels that come out,
    1/4, 1/2, 1/8 and 1/8 are theirs, as in GoogLeNet's inception (3a).
    """

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        if wide % 16:
            raise ValueError(f"an inception block has a multiple of 16 channels, but {wide} are asked for")
        part = wide // 16
        self.one = _normed_convolution(channels, 4 * part, 1)
        self.three = nn.Sequential(
            _normed_convolution(channels, 6 * part, 1), _normed_convolution(6 * part, 8 * part, 3)
        )
        self.five = nn.Sequential(
            _normed_convolution(channels, part, 1), _normed_convolution(part, 2 * part, 5)
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _normed_convolution(channels, 2 * part, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, wide, H, W)."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def _random_convolution(channels: int, width: int, kernel: int) -> nn.Conv2d:
    """Gaussian filters of variance 2 / fan-in, no biases; maps keep their size where the kernel is odd."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return convolution


class ResidualBlock(nn.Module):
    """relu(F(x) + S(x)), F two normalised convolutions, S the identity or a 1 x 1 convolution."""

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, wide, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide),
        )
        same = channels == wide and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, wide, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, wide, H / stride, W / stride)."""
        return nn.functional.relu(self.residual(x) + self.shortcut(x))


def _demand(size: int, least: int, multiple: int, name: str) -> None:
    if size < least or size % multiple:
        needs = f"a multiple of {multiple} px, at least {least}"
        raise UserError(f"network '{name}' takes images of {needs} (got {size}): set images.size")
