"""Masks on features: an inversion that is given a part of a representation."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, ConfigDict
from torch import Tensor

from invbench.errors import UserError
from invbench.network import Network, append
from invbench.operators import Rescale
from invbench.solver import Count

#: Name of the stage that a mask is.
STAGE = "mask"


@dataclass(frozen=True, kw_only=True)
class FeatureMask:
    """Which features are kept; with both fields set, those that are in the window and in the half.

    Attributes:
        window: side of a square window in the middle of the map. What is reconstructed from it is what its
            receptive field shows. Where it cannot be centred it lies half a place up and to the left.
        channels: `first_half` or `second_half` of the channels; the one in the middle of an odd number
            belongs to the second.

    References:
        Mahendran & Vedaldi, CVPR 2015, section 5: reconstructions from the centre of a map, and from either
        group of the channels of AlexNet.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    window: Count | None = None
    channels: Literal["first_half", "second_half"] | None = None

    def kept(self, shape: tuple[int, ...]) -> Tensor:
        """1 where a feature is kept and 0 elsewhere.

        Args:
            shape: of the features, (C, H, W), or (C,) for a vector.

        Returns:
            What broadcasts to this shape; (C, 1, 1) without a window, so that it folds into a convolution.

        Raises:
            UserError: there is no such window or half.
        """
        kept = torch.ones(shape[0], *[1] * len(shape[1:]))
        if self.channels is not None:
            kept[_other_half(self.channels, shape[0])] = 0
        if self.window is None:
            return kept
        if len(shape) != 3:
            raise UserError(f"mask: a window needs features (C, H, W), but these are {shape}; leave it out.")
        rows, columns = (_middle(self.window, side) for side in shape[1:])
        inside = torch.zeros(shape)
        inside[:, rows, columns] = 1
        return kept * inside


def check_mask(spec: Any) -> Any:
    """Refuse a mask that says nothing or too much; raises ValueError with a sentence."""
    if spec is None or isinstance(spec, FeatureMask):
        return spec
    names = [field.name for field in fields(FeatureMask)]
    if not isinstance(spec, Mapping):
        raise ValueError(f"needs a mapping such as {{window: 3}} or {{channels: first_half}} (got {spec!r})")
    unknown = [name for name in spec if name not in names]
    if unknown:
        raise ValueError(f"has no {unknown[0]!r}: it takes {' and '.join(names)}")
    if all(spec.get(name) is None for name in names):
        raise ValueError(f"keeps every feature: set {' or '.join(names)}")
    return spec


#: A mask as a trial has it; a mapping in a study.
Mask = Annotated[FeatureMask | None, BeforeValidator(check_mask)]


def masked(network: Network, mask: FeatureMask | None) -> Network:
    """The network whose output is multiplied by a mask of zeros and ones: a last, diagonal stage.

    Loss, chain, solvers and metrics see nothing else of it, and its price is that of the network.

    Raises:
        UserError: the mask does not fit the output.
    """
    if mask is None:
        return network
    kept = mask.kept(network.output_shape).to(network.device, network.dtype)
    return append(network, STAGE, Rescale(kept))


def _middle(window: int, side: int) -> slice:
    if window > side:
        raise UserError(
            f"mask: a window of {window} is larger than the map, whose side is {side}; shrink it."
        )
    first = (side - window) // 2
    return slice(first, first + window)


def _other_half(half: str, channels: int) -> slice:
    """The channels that are left out."""
    if channels < 2:
        raise UserError("mask: a single channel has no halves; leave `channels` out.")
    first, second = slice(0, channels // 2), slice(channels // 2, channels)
    return second if half == "first_half" else first
