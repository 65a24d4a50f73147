"""Networks of torchvision with their published weights, as sequences whose stages have names."""

import socket
from collections import OrderedDict
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from invbench.errors import UserError
from invbench.networks.architectures import architecture
from invbench.networks.weights import read_weights
from invbench.operators import Normalise

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Seconds that a download may hang before it is given up.
PATIENCE = 20.0
PREFIX = "torchvision_"


@architecture()
def torchvision_alexnet(classes: int = 1000, size: int = 224) -> nn.Module:  # noqa: ARG001
    """AlexNet as torchvision has it, ImageNet weights; stages conv1, pool1, ... fc8."""
    return _model("alexnet")


@architecture()
def torchvision_vgg11(classes: int = 1000, size: int = 224) -> nn.Module:  # noqa: ARG001
    """VGG-11 as torchvision has it, ImageNet weights; stages conv1_1, pool1, ... fc8."""
    return _model("vgg11")


@architecture()
def torchvision_vgg11_bn(classes: int = 1000, size: int = 224) -> nn.Module:  # noqa: ARG001
    """VGG-11 with batch norm as torchvision has it, ImageNet weights; stages conv1_1, pool1, ... fc8."""
    return _model("vgg11_bn")


@architecture()
def torchvision_vgg16(classes: int = 1000, size: int = 224) -> nn.Module:  # noqa: ARG001
    """VGG-16 as torchvision has it, ImageNet weights; stages conv1_1, conv1_2, pool1, ... fc8."""
    return _model("vgg16")


@architecture()
def torchvision_vgg16_bn(classes: int = 1000, size: int = 224) -> nn.Module:  # noqa: ARG001
    """VGG-16 with batch norm as torchvision has it, ImageNet weights; stages conv1_1, conv1_2, ... fc8."""
    return _model("vgg16_bn")


@architecture()
def torchvision_resnet18(classes: int = 1000, size: int = 224) -> nn.Module:  # noqa: ARG001
    """ResNet-18 as torchvision has it, ImageNet weights; no chain."""
    return _model("resnet18")


def _model(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


def published_weights(name: str) -> dict[str, Tensor]:
    """The default weights of a torchvision network, from its cache or downloaded into it.

    Raises:
        UserError: they are not on this machine and cannot be downloaded, or the file is damaged.
    """
    import torchvision

    weights = torchvision.models.get_model_weights(name.removeprefix(PREFIX)).DEFAULT
    kept = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not kept.is_file():
        try:
            _download(weights.url, kept)
        except (OSError, HTTPException, RuntimeError) as error:
            advice = f"put {kept.name} into {kept.parent}, or give a state dict with weights: PATH"
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            failed = f"the weights of '{name}' are not on this machine and cannot be downloaded ({reason})"
            raise UserError(f"{failed}: {advice}") from None
    return read_weights(kept)


def _download(url: str, kept: Path) -> None:
    """Fetch a file whose name ends with the first digits of its hash; it appears whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        torch.hub.download_url_to_file(url, str(kept), kept.stem.rpartition("-")[2], progress=False)
    finally:
        socket.setdefaulttimeout(before)


def with_stages(model: nn.Module) -> nn.Module:
    """A torchvision model as a sequence of named stages, its normalisation in front.

    In AlexNet and VGG a convolution or dense layer with its batch norm, if any, and its ReLU is a stage, and
    so is a pool.
    """
    features, classifier = getattr(model, "features", None), getattr(model, "classifier", None)
    if not isinstance(features, nn.Sequential) or not isinstance(classifier, nn.Sequential):
        return _residual_stages(model)
    plain = sum(isinstance(layer, nn.Conv2d) for layer in features) == 5  # AlexNet counts through
    children: OrderedDict[str, nn.Module] = OrderedDict(normalise=Normalise(IMAGENET_MEAN, IMAGENET_STD))
    pool, n = 1, 0
    for group in _stages(features):
        if isinstance(group[0], nn.MaxPool2d):
            children[f"pool{n if plain else pool}"] = group[0]
            pool, n = pool + 1, n if plain else 0
        else:
            n += 1
            children[f"conv{n}" if plain else f"conv{pool}_{n}"] = nn.Sequential(*group)
    for number, group in enumerate(_stages(classifier), start=6):
        first = [cast(nn.Module, model.avgpool), nn.Flatten()] if number == 6 else []
        children[f"fc{number}"] = nn.Sequential(*first, *group)
    return nn.Sequential(children)


def _stages(layers: nn.Sequential) -> Iterator[list[nn.Module]]:
    """Layers in groups that begin with a convolution, a pool or a dense layer, less dropout."""
    group: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Dropout):
            continue
        if group and isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.Linear):
            yield group
            group = []
        group.append(layer)
    yield group


def _residual_stages(model: nn.Module) -> nn.Module:
    """A ResNet as stem, layer1, ..., layer4, head: its forward pass runs through them in this order."""
    child = dict(model.named_children())
    stages = {name: layer for name, layer in child.items() if name.startswith("layer")}
    return nn.Sequential(
        OrderedDict(
            normalise=Normalise(IMAGENET_MEAN, IMAGENET_STD),
            stem=nn.Sequential(*(child[name] for name in ("conv1", "bn1", "relu", "maxpool"))),
            **stages,
            head=nn.Sequential(child["avgpool"], nn.Flatten(), child["fc"]),
        )
    )
