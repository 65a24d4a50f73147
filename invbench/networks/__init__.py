"""The networks that come along: by name, trained, shipped, cached, from a file, or a user's own."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invbench import cache
from invbench.errors import UserError
from invbench.images import Images, open_images
from invbench.network import Network, parse
from invbench.networks.architectures import Architecture, Recipe, find
from invbench.networks.classifier import accuracy, train_classifier
from invbench.networks.factories import call_factory
from invbench.networks.pretrained import PREFIX, published_weights, with_stages
from invbench.networks.weights import fit_weights, read_weights
from invbench.training import Progress

__all__ = ["Trained", "check_finite", "find", "load", "save"]

#: Parameters of every network, beside those of its architecture.
COMMON = ("weights", "seed", "images")


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with what is known about its weights.

    Attributes:
        network: ready to be inverted.
        origin: where the weights come from, in words.
        classes: names of the classes in the order of its outputs; none where the output is no vector.
        accuracy: share of the held-out images whose class it names, or None where that was not measured; of
            the whole network, on the images that it was trained on.
        held_out: number of the images that this is the share of, or None where it was not recorded.
        seconds: that the training took, or None.
    """

    network: Network
    origin: str
    classes: tuple[str, ...] = ()
    accuracy: float | None = None
    held_out: int | None = None
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {
            "origin": self.origin,
            "held_out_accuracy": self.accuracy,
            "held_out_images": self.held_out,
            "training_seconds": self.seconds,
            "multiply_adds": self.network.multiply_adds,
            "stages": list(self.network.stages),
            "chain": self.network.reason is None,
        }


def load(
    name: str,
    parameters: Mapping[str, Any],
    images: Images,
    progress: Progress = lambda *_: None,
    refresh: bool = False,
) -> Trained:
    """A network by name.

    Its weights come from `weights: PATH` if given; else, for a trained network, from the user's cache or the
    package if they hold what this recipe makes of the images of its training, and otherwise from a training
    now. Where the images that it is applied to are of another size, the network ends before the first stage
    that needs the size of the training, such as a dense layer.

    Args:
        name: one of `find()`, or `module:factory` for a network of one's own: the factory is called with the
            parameters and returns an nn.Module for images of the size in use.
        parameters: `weights` (a file with a state dict, .safetensors or of torch.save), `seed` (of
            initialisation and training), `images` (what it is made for and trained on, as a study names
            images; by default those that it is applied to), and those of the architecture.
        images: what it is applied to.
        progress: called with (done, total, text) during a training.
        refresh: train although there are weights, and put the new ones into the cache.

    Raises:
        UserError: there is no such network or parameter, or the weights or images do not fit.
    """
    source = _training_images(name, parameters.get("images"), images)
    module, origin, figures = _with_weights(name, parameters, source, progress, refresh)
    whole = parse(module, source.shape, name)
    network = whole if source.size == images.size else _resized(whole, images)
    if source is not images:
        origin += f", for {source.name} images of {source.size} px"
    if len(network.stages) < len(whole.stages):
        origin += f", up to {network.stages[-1]}"
    return Trained(network, origin, _classes(network, source), **figures)


def _training_images(name: str, spec: Any, images: Images) -> Images:
    """What a network is made for: the images that its parameter `images` names, or those it is applied to."""
    if spec is None:
        return images
    if not isinstance(spec, Mapping) or "source" not in spec:
        raise UserError(
            f"network '{name}': images are what it is trained on, such as "
            f"{{source: folder, path: cifar10.zip, size: 32}} (got {spec!r})"
        )
    return open_images(**{"size": images.size, **spec})


def _resized(network: Network, images: Images) -> Network:
    """The longest part of a network that takes images of another size and gives what it was made to give.

    That is a map with as many channels or a vector of as many entries as before.

    Raises:
        UserError: not even its first stage does.
    """
    for part in (network, *(network.cut(stage) for stage in reversed(network.stages))):
        try:
            found = parse(part.module, images.shape, network.name)
        except UserError:
            continue
        before, after = part.output_shape, found.output_shape
        if len(before) == len(after) and before[:1] == after[:1]:
            return found
    raise UserError(
        f"network '{network.name}', made for images of {network.input_shape[-1]} px, "
        f"has no stage that takes images of {images.size} px"
    )


def _classes(network: Network, images: Images) -> tuple[str, ...]:
    """Names for the outputs, those of the images' classes where there are as many; none for a map."""
    if len(network.output_shape) != 1:
        return ()
    (count,) = network.output_shape
    return images.classes if len(images.classes) == count else tuple(f"class {n}" for n in range(count))


def _with_weights(
    name: str, parameters: Mapping[str, Any], images: Images, progress: Progress, refresh: bool
) -> tuple[nn.Module, str, dict[str, Any]]:
    """A module for images with its weights, where they come from, and what is known about them."""
    own = {key: value for key, value in parameters.items() if key not in COMMON}
    path, seed = parameters.get("weights"), _seed(name, parameters)
    architecture = None if ":" in name else _architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = call_factory(name, own) if architecture is None else _build(architecture, own, images)
    if path is not None:
        file = Path(str(path)).expanduser()
        module, origin = _filled(name, module, read_weights(file), f"weights {path}"), f"file {file.name}"
    elif architecture is None:
        origin = "as its factory makes it"
    elif name.startswith(PREFIX):
        module = _filled(name, module, published_weights(name), "the weights of torchvision")
        origin = "torchvision's default weights"
    elif architecture.recipe is None:
        origin = f"untrained, seed {seed}"
    else:
        key = _key(architecture, own, seed, images)
        found = None if refresh else cache.learned("networks", key)
        state, about, origin = found or _train(module, architecture.recipe, key, seed, images, progress)
        fit_weights(module, state, f"trained weights {key}")
        return module, origin, _figures(about)
    return module, origin, {}


def save(trained: Trained, path: Path) -> None:
    """Write the weights of a network, with what is known about them; raises UserError when that fails."""
    about = {"origin": trained.origin, "accuracy": str(trained.accuracy), "seconds": str(trained.seconds)}
    try:
        cache.write(path, trained.network.module.state_dict(), about)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def check_finite(network: Network, pixels: Tensor) -> None:
    """Raise UserError when the network returns NaN or infinity for images."""
    with torch.no_grad():
        output = network(pixels)
    if not output.isfinite().all():
        what = "NaN" if output.isnan().any() else "infinite values"
        raise UserError(f"network '{network.name}' returns {what} for the images: check its weights")


def _architecture(name: str) -> Architecture:
    found = find()
    if name not in found:
        near = get_close_matches(name, found, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(found)}"
        raise UserError(f"unknown network '{name}': {hint}")
    return found[name]


def _seed(name: str, parameters: Mapping[str, Any]) -> int:
    seed = parameters.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"network '{name}': seed is {seed!r}, but a whole number from 0 on is needed")
    return seed


def _build(architecture: Architecture, own: Mapping[str, Any], images: Images) -> nn.Module:
    name, known = architecture.name, architecture.parameters
    for key in own:
        if key not in known:
            near = get_close_matches(key, [*known, *COMMON], 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join([*known, *COMMON])}"
            raise UserError(f"network '{name}' has no parameter '{key}': {hint}")
    try:
        return architecture.build(len(images.classes), images.size, **own)
    except (RuntimeError, TypeError, ValueError) as error:
        given = ", ".join(f"{key}: {value!r}" for key, value in own.items())
        raise UserError(f"network '{name}' cannot be built with {given} ({error})") from error


def _filled(name: str, module: nn.Module, state: dict[str, Tensor], place: str) -> nn.Module:
    """A module with these weights; those of torchvision's networks may have its names or those of `save`."""
    staged = with_stages(module) if name.startswith(PREFIX) else module
    fit_weights(staged if staged.state_dict().keys() == state.keys() else module, state, place)
    return staged


def _figures(about: cache.About) -> dict[str, Any]:
    """What is kept about weights as attributes of `Trained`; older files do not say `held_out`."""
    kinds = {"accuracy": float, "held_out": int, "seconds": float}
    return {name: kind(about[name]) for name, kind in kinds.items() if name in about}


def _train(
    module: nn.Module, recipe: Recipe, key: str, seed: int, images: Images, progress: Progress
) -> tuple[dict[str, Tensor], cache.About, str]:
    """The same from a training now."""
    history = train_classifier(module, images, recipe, seed, progress)
    test = images.all("test")
    about = {
        "accuracy": str(accuracy(module, test)),
        "held_out": str(len(test)),
        "seconds": f"{history.seconds:.1f}",
        "recipe": repr(recipe),
    }
    origin = cache.keep_learned("networks", key, module.state_dict(), about)
    return module.state_dict(), about, origin


def _key(architecture: Architecture, own: Mapping[str, Any], seed: int, images: Images) -> str:
    """Identity of trained weights: architecture, recipe, parameters, seed, and what was learned from."""
    assert architecture.recipe is not None
    parameters = {**architecture.parameters, **own}
    spec = [architecture.name, asdict(architecture.recipe), parameters, seed, images.digest, images.size]
    return f"{architecture.name}-{hashlib.sha256(repr(spec).encode()).hexdigest()[:16]}"
