"""Single convolutions inside a network, and what they are given."""

import torch
from torch import Tensor, nn

from invbench.errors import UserError
from invbench.network.frozen import Network

Pair = tuple[int, int]


def convolutions(network: Network) -> dict[str, nn.Conv2d]:
    """Every convolution of a network by its dotted name, in the order of the module."""
    return {name: child for name, child in network.module.named_modules() if isinstance(child, nn.Conv2d)}


def convolution(network: Network, name: str) -> nn.Conv2d:
    """A convolution by its dotted name, or by that of a part of the network which holds no other.

    Raises:
        UserError: there is none of that name.
    """
    known = convolutions(network)
    found = [one for path, one in known.items() if path == name or path.startswith(f"{name}.")]
    if len(found) != 1:
        names = ", ".join(known) or "none"
        what = "no" if not found else "more than one"
        raise UserError(f"network {network.name!r} has {what} convolution {name!r}; there are: {names}.")
    return found[0]


def plain(one: nn.Conv2d, name: str) -> tuple[Tensor, Pair]:
    """The filters `(K, M, kh, kw)` and the padding of a convolution with stride 1, no groups, no dilation.

    Raises:
        UserError: it is another kind of convolution.
    """
    if one.stride != (1, 1) or one.dilation != (1, 1) or one.groups != 1 or one.padding_mode != "zeros":
        raise UserError(
            f"convolution {name!r} has stride, dilation or groups; sparse codes need a plain one."
        )
    if one.padding == "valid":
        return one.weight, (0, 0)
    if one.padding == "same":
        height, width = one.kernel_size
        if not (height % 2 and width % 2):
            raise UserError(f"convolution {name!r} pads its sides unequally; sparse codes need a plain one.")
        return one.weight, (height // 2, width // 2)
    vertical, horizontal = (int(pad) for pad in one.padding)
    return one.weight, (vertical, horizontal)


@torch.no_grad()
def inputs_of(network: Network, layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer of the network is given for a batch of images, (B, C, H, W)."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        network(x)
    finally:
        hook.remove()
    if not seen:
        raise UserError(f"network {network.name!r} never applies the layer that was asked for.")
    return seen[0]
