"""The class that an image is to be taken for: one that it is not taken for yet."""

from typing import Literal

from torch import Tensor

Wrong = Literal["runner_up", "next", "least_likely"]


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
