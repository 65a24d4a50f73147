"""The class that an image is to be taken for: one that it is not taken for yet."""

from typing import Literal

from torch import Tensor

from invbench.errors import UserError
from invbench.network import Network

Wrong = Literal["runner_up", "next", "least_likely"]


def demand_classes(network: Network) -> None:
    """Raise UserError where the outputs of a network are no scores of classes, `(B, K)`, but maps."""
    if len(network.output_shape) != 1:
        raise UserError(
            f"network '{network.name}' names no classes here, as its output is of shape "
            f"{network.output_shape}: use a trial that needs none, or a network whole for this size of images"
        )


def wrong_classes(output: Tensor, choice: Wrong) -> tuple[Tensor, Tensor]:
    """The predicted class of every instance, and another one.

    Args:
        output: scores of the network, `(B, K)`.
        choice: `runner_up` of the prediction, `next` in order (the first after the last), or `least_likely`.

    Returns:
        Both classes, `(B,)` int64 each.
    """
    ranking = output.argsort(1, descending=True)
    predicted = ranking[:, 0]
    if choice == "next":
        return predicted, (predicted + 1) % output.shape[1]
    return predicted, ranking[:, 1 if choice == "runner_up" else -1]
