"""Losses: how far an output of the network is from its target, one number an instance."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from invbench.errors import UserError

Normalisation = Literal["target", "size", "variance", "none"]

# Newton's method for the cross-entropy: lengths of a step tried at once (its steps are too short where the
# probabilities vanish, and far too long where such a one must grow), the most steps, and when it is done.
_LENGTHS = 2.0 ** torch.tensor([3, 2, 1, 0, -1, -2, -4, -6, -9, -12, -16, -20, -24]).double()[:, None, None]
_NEWTON_STEPS = 30
_PRECISION = 1e-10


class Loss(ABC):
    """A loss: `loss(output, target) -> (B,)`, differentiable in `output`; `name` identifies it in records.

    `has_prox` tells whether `prox` is there, which splitting methods need.
    """

    name: ClassVar[str]
    has_prox: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """One number an instance.

        Args:
            output: what the network says, (B, ...).
            target: what it should say: the shape of `output`, or labels (B,), as the loss demands.

        Returns:
            The losses, (B,).
        """

    def prox(self, point: Tensor, target: Tensor, rho: float | Tensor) -> Tensor:  # noqa: ARG002  # see below
        """The proximal point argmin_v loss(v, target) + rho/2 |v - point|^2, instance by instance.

        Args:
            point: where to stay near, (B, ...): the shape and dtype of an output and of the answer.
            target: as for the loss itself.
            rho: how near, > 0; a number, or (B,) for one an instance.

        Raises:
            UserError: the loss has none (`has_prox` is false), or rho is not as above.
        """
        raise UserError(f"{self.name}: has no proximal operator; choose another loss or a gradient method.")


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
    has_prox: ClassVar[bool] = True
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
        return error / self._normalisers(target)

    def weights(self, target: Tensor) -> Tensor:
        """The factor c of every instance in loss = c |output - target|^2: (B, ...) -> (B,)."""
        return self._normalisers(target).reciprocal()

    def prox(self, point: Tensor, target: Tensor, rho: float | Tensor) -> Tensor:
        """See `Loss.prox`; the mean (2 c target + rho point) / (2 c + rho), c the weight of the instance."""
        _demand_same_shape(self.name, point, target)
        pull = 2 * _column(self.name, self.weights(target), point)
        return torch.lerp(point, target, pull / (pull + _column(self.name, rho, point)))

    def _normalisers(self, target: Tensor) -> Tensor:
        match self.normalisation:
            case "none":
                return target.new_ones(len(target))
            case "size":
                return target.new_full((len(target),), target.shape[1:].numel())
            case "target":
                return _scale(target.flatten(1))
            case "variance":
                return _spread(target.flatten(1))


@dataclass(frozen=True)
class SwitchedError(Loss):
    """What pooled values and known switches say about y, the values that are rectified and pooled.

        (sum_{i in S} (y_i - p_i)^2 + sum_{i not in S} max(y_i - p_i, 0)^2) / sum_{i in S} p_i^2

    p_i >= 0 is the pooled value of the window that i lies in, and S the switches, the places of the largest
    entries, of the windows with p > 0. It is 0 if and only if y has these pooled values, with the largest
    entries there; it is convex in y. A target of zeros cannot set a scale; its normaliser is 1.
    """

    name: ClassVar[str] = "switched_error"
    has_prox: ClassVar[bool] = True

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Loss.__call__`; output: y, (B, ...); target: p and the indicator of S, (B, 2, ...)."""
        pooled, switches = self._read(output, target)
        error = torch.where(switches, output - pooled, functional.relu(output - pooled))
        return error.flatten(1).square().sum(1) * self.weights(target)

    def weights(self, target: Tensor) -> Tensor:
        """The factor before the squares, of every instance: (B, 2, ...) -> (B,)."""
        return _scale((target[:, 0] * target[:, 1]).flatten(1)).reciprocal()

    def prox(self, point: Tensor, target: Tensor, rho: float | Tensor) -> Tensor:
        """See `Loss.prox`; that of a squared error at switches and above p, the point itself elsewhere."""
        pooled, switches = self._read(point, target)
        pull = 2 * _column(self.name, self.weights(target), point)
        mean = torch.lerp(point, pooled, pull / (pull + _column(self.name, rho, point)))
        return torch.where(switches | (point > pooled), mean, point)

    def _read(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled values and whether a place is a switch, both of the shape of the output."""
        if target.dim() != output.dim() + 1 or target.shape[1] != 2:
            raise UserError(
                f"{self.name}: the target holds pooled values and switches, (B, 2, ...), but has the shape "
                f"{tuple(target.shape)}."
            )
        _demand_same_shape(self.name, output, target[:, 0])
        return target[:, 0], target[:, 1] > 0


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """The cross-entropy of a label: log sum_j exp f_j - f_t, by a log-sum-exp that does not overflow."""

    name: ClassVar[str] = "cross_entropy"
    has_prox: ClassVar[bool] = True

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Loss.__call__`; output: scores (B, K); target: labels (B,), int64, 0..K-1."""
        _demand_labels(self.name, output, target)
        return functional.cross_entropy(output, target, reduction="none")

    @torch.no_grad()
    def prox(self, point: Tensor, target: Tensor, rho: float | Tensor) -> Tensor:
        """See `Loss.prox`; by Newton's method in float64, to its precision for rho from 1e-8 to 1e4.

        With p the softmax of v, u = v - point and D = p + rho, the gradient is g = p - e_target + rho u and
        the Hessian diag(D) - p p^T, inverted by Sherman and Morrison. The minimiser has sum u = 0, hence
        sum g = 0; among such u the rho in the denominator sum p rho/D cancels against the numerator, and
        Newton's step is (p sum(g/D) / sum(p/D) - g) / D, accurate for any rho. Several lengths of it are
        tried at once; the flattest point along the step is kept. The start is the prox of the maximum, which
        the log-sum-exp is within log K of: it finds the classes that compete.

        References:
            Wong & Kolter 2017, the last stage of the sweep; the start and the step without rho are ours.
        """
        _demand_labels(self.name, point, target)
        centre, label = point.double(), target[:, None]
        rho = _column(self.name, rho, centre)
        shift = _competitive(centre, label, rho, 0.0) - centre
        lengths = _LENGTHS.to(centre.device)
        for _ in range(_NEWTON_STEPS):
            p, gradient = _cross_entropy_slope(centre, shift, label, rho)
            D = p + rho
            step = (p * ((gradient / D).sum(1) / (p / D).sum(1))[:, None] - gradient) / D
            trials = shift + lengths * step
            _, slopes = _cross_entropy_slope(centre, trials, label.expand(len(lengths), -1, -1), rho)
            flattest = (slopes * step).sum(-1).abs().argmin(0)
            shift = shift + lengths[flattest, 0] * step
            if (step.abs() <= _PRECISION * (1 + (centre + shift).abs())).all():
                break
        return (centre + shift).to(point.dtype)


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
    has_prox: ClassVar[bool] = True
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

    @torch.no_grad()
    def prox(self, point: Tensor, target: Tensor, rho: float | Tensor) -> Tensor:
        """See `Loss.prox`; exact, by sorting, in float64.

        The other scores are cut off at a level m, and what they lose, S(m) = sum_{j != t} (p_j - m)+, the
        target gains. Either all of 1/rho is spent, S(m) = 1/rho, or the lead reaches the confidence c before,
        m + c = p_t + S(m); the level is the higher of the two. With P_k the sum of the k highest other
        scores, S(m) = max_k (P_k - k m), so that they are max_k (P_k - 1/rho) / k, k >= 1, and
        max_k (P_k + p_t - c) / (k + 1), k >= 0.
        """
        _demand_labels(self.name, point, target)
        exact = point.double()
        rho = _column(self.name, rho, exact)
        return _competitive(exact, target[:, None], rho, self.confidence).to(point.dtype)


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
    has_prox: ClassVar[bool] = True

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """See `Loss.__call__`; target: the direction y, the shape of output."""
        _demand_same_shape(self.name, output, target)
        return -(output * target).flatten(1).sum(1)

    def prox(self, point: Tensor, target: Tensor, rho: float | Tensor) -> Tensor:
        """See `Loss.prox`; point + y / rho."""
        _demand_same_shape(self.name, point, target)
        return point + target / _column(self.name, rho, point)


def _cross_entropy_slope(centre: Tensor, shift: Tensor, label: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax p and gradient p - e_target + rho shift at centre + shift: (..., B, K) each."""
    p = (centre + shift).softmax(-1)
    others = p.scatter(-1, label, 0.0)
    # p_target - 1 would lose the small probabilities of the others, which weigh up a small rho.
    return p, others.scatter(-1, label, -others.sum(-1, keepdim=True)) + rho * shift


def _competitive(point: Tensor, label: Tensor, rho: Tensor, confidence: float) -> Tensor:
    """The prox of the targeted margin: (B, K), labels (B, 1), rho (B or 1, 1) -> (B, K)."""
    own = point.gather(1, label)
    others = point.scatter(1, label, -torch.inf)
    highest = others.sort(1, descending=True).values[:, :-1]
    sums, k = highest.cumsum(1), torch.arange(1, point.shape[1], device=point.device)
    spent = (sums - 1 / rho) / k
    reached = (functional.pad(sums, (1, 0)) + own - confidence) / functional.pad(k + 1, (1, 0), value=1)
    level = torch.cat([spent, reached], 1).amax(1, keepdim=True)
    gain = (others - level).relu().sum(1, keepdim=True)
    return others.minimum(level).scatter(1, label, own + gain)


def _column(name: str, rho: float | Tensor, x: Tensor) -> Tensor:
    """A number, or one an instance, with the dimensions of x (B, ...): (1 or B, 1, ...)."""
    if not isinstance(rho, Tensor) and not rho > 0:
        raise UserError(f"{name}: the prox needs rho > 0, but it is {rho}.")
    column = torch.as_tensor(rho, dtype=x.dtype, device=x.device)
    if column.shape not in ((), x.shape[:1]):
        raise UserError(f"{name}: rho has the shape {tuple(column.shape)}; give a number or ({len(x)},).")
    return column.reshape(-1, *[1] * (x.dim() - 1))


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
