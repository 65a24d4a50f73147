"""Single stages of a network as networks of their own."""

from collections import OrderedDict

from torch import nn

from invbench.errors import UserError
from invbench.network.frozen import Network, parse
from invbench.network.interpretation import children, is_sequential


def after(network: Network, stage: str) -> Network:
    """What follows a stage: the network from the output of that stage on.

    Args:
        network: a (nested) sequence of layers.
        stage: a name that `Network.cut` takes.

    Raises:
        UserError: there is no such stage, nothing follows it, or it lies in a module which is no sequence.
    """
    shape = network.cut(stage).output_shape
    rest = _suffix(network.module, stage.split("."))
    if rest is None or not len(rest):
        why = "nothing follows it" if rest is not None else "it lies in a module that is no sequence"
        raise UserError(f"network {network.name!r} cannot be taken from behind {stage!r}, as {why}.")
    return parse(rest, shape, network.name)


def without_activations(network: Network) -> Network:
    """The affine part of a network of one stage: its layers but for ReLU and max-pool."""
    return parse(_kept(network.module), network.input_shape, network.name)


def _suffix(module: nn.Module, path: list[str]) -> nn.Sequential | None:
    """The layers behind the child at `path`, or None where something else than a sequence holds it."""
    if not is_sequential(module):
        return None
    head, *rest = path
    found = children(module)
    place = [name for name, _ in found].index(head)
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    if rest:
        inner = _suffix(found[place][1], rest)
        if inner is None:
            return None
        if len(inner):
            kept[head] = inner
    kept.update(found[place + 1 :])
    return nn.Sequential(kept)


def _kept(module: nn.Module) -> nn.Module:
    if not is_sequential(module):
        return module
    dropped = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d)
    return nn.Sequential(
        OrderedDict(
            (name, _kept(child)) for name, child in children(module) if not isinstance(child, dropped)
        )
    )
