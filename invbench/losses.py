"""Losses: how far an output of the network is from its target, one number an instance."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from invbench.errors import UserError

Normalisation = Literal["target", "size", "variance", "none"]


class Loss(ABC):
    """A loss: `loss(output, target) -> (B,)`, differentiable in `output`; `name` identifies it in records."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """One number an instance.

        Args:
            output: what the network says, (B, ...).
            target: what it should say: the shape of `output`, or labels (B,), as the loss demands.

        Returns:
            The losses, (B,).
        """


@dataclass(frozen=True)
class SquaredError(Loss):
    """The squared error |r|^2, r = output - target, over a normaliser that the target alone decides.

    - `"target"`: |r|^2 / |t|^2, the square of the relative error; 1 at output 0.
    - `"size"`: the mean of r^2 over the elements.
    - `"variance"`: |r|^2 / |t - mean t|^2, the mean over all elements of an instance; 1 at output mean t.
    - `"none"`: |r|^2.

    A target of zeros (for `"variance"`: a constant one) cannot set a scale; its normaliser is 1, so that
    the loss of that instance is |r|^2.

    Args:
        normalisation: one of the names above.

    Raises:
        UserError: the normalisation has another name.

    References:
        Mahendran & Vedaldi 2015, eq. 3 (`"target"`). Published code also divides by the cross product
        <t, r>, which vanishes where the residual is orthogonal to the target; it is not offered.
    """

    name: ClassVar[str] = "squared_error"
    normalisation: Normalisation = "target"

    def __post_init__(self) -> None:
        if self.normalisation not in get_args(Normalisation):
            known = ", ".join(get_args(Normalisation))
            raise UserError(f"squared_error: normalisation {self.normalisation!r} is not one of {known}.")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Loss.__call__`; target: the shape of output."""
        _demand_same_shape(self.name, output, target)
        # One pass forward and one back; products summed pair by pair stay accurate in float32.
        error = functional.mse_loss(output, target, reduction="none").flatten(1).sum(1)
        match self.normalisation:
            case "none":
                return error
            case "size":
                return error / target.shape[1:].numel()
            case "target":
                return error / _scale(target.flatten(1))
            case "variance":
                return error / _spread(target.flatten(1))


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """The cross-entropy of a label: log sum_j exp f_j - f_t, by a log-sum-exp that does not overflow."""

    name: ClassVar[str] = "cross_entropy"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Loss.__call__`; output: scores (B, K); target: labels (B,), int64, 0..K-1."""
        _demand_labels(self.name, output, target)
        return functional.cross_entropy(output, target, reduction="none")


@dataclass(frozen=True)
class TargetedMargin(Loss):
    """The margin by which the best other class beats the target: max(max_{j != t} f_j - f_t, -confidence).

    At most 0 where the target is the network's answer; minimised until the target leads by `confidence`.
    The gradient of the inner maximum is shared equally among ties.

    Args:
        confidence: the lead after which the loss is flat, >= 0; infinity for a loss that never is.

    Raises:
        UserError: the confidence is negative.

    References:
        Carlini & Wagner 2017, "Towards evaluating the robustness of neural networks", f_6 (there on the
        scores, with kappa for the confidence).
    """

    name: ClassVar[str] = "targeted_margin"
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if not self.confidence >= 0:
            raise UserError(f"targeted_margin: confidence must be >= 0, but is {self.confidence}.")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Loss.__call__`; output: scores (B, K), K >= 2; target: labels (B,), int64, 0..K-1."""
        _demand_labels(self.name, output, target)
        label = target[:, None]
        others = output.scatter(1, label, -torch.inf).amax(1)
        return (others - output.gather(1, label)[:, 0]).clamp(min=-self.confidence)


@dataclass(frozen=True)
class InnerProduct(Loss):
    """The negative inner product -<output, y> with a direction y.

    With y the indicator of a channel or a class: activation maximisation. With y = e_target - e_true: an
    attack by a linear loss.

    References:
        Wong & Kolter 2017 (the linear loss of the adversarial examples); Mahendran & Vedaldi 2016, section 5
        (activation maximisation, there with a normaliser, which is a factor in y here).
    """

    name: ClassVar[str] = "inner_product"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Loss.__call__`; target: the direction y, the shape of output."""
        _demand_same_shape(self.name, output, target)
        return -(output * target).flatten(1).sum(1)


def _scale(target: Tensor) -> Tensor:
    """|t|^2, or 1 where that is 0: (B, n) -> (B,)."""
    scale: Tensor = torch.linalg.vecdot(target, target)
    return scale.masked_fill(scale == 0, 1.0)


def _spread(target: Tensor) -> Tensor:
    """|t - mean t|^2, or 1 where t is constant up to the rounding of its mean: (B, n) -> (B,)."""
    centred = target - target.mean(1, keepdim=True)
    spread: Tensor = torch.linalg.vecdot(centred, centred)
    rounding = (8 * torch.finfo(target.dtype).eps) ** 2 * torch.linalg.vecdot(target, target)
    return spread.masked_fill(spread <= rounding, 1.0)


def _demand_same_shape(name: str, output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise UserError(
            f"{name}: the target has the shape {tuple(target.shape)}, but the network's output has "
            f"{tuple(output.shape)}; give a target of that shape."
        )


def _demand_labels(name: str, output: Tensor, target: Tensor) -> None:
    if output.dim() != 2 or target.shape != output.shape[:1]:
        raise UserError(
            f"{name}: needs scores (B, K) and labels (B,), but got {tuple(output.shape)} and "
            f"{tuple(target.shape)}; choose a layer that ends in scores."
        )
