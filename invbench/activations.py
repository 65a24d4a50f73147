"""What follows an affine map in a stage of a network: activations, poolings, projections on their graphs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from invbench.errors import UserError

Shape = tuple[int, ...]
Pair = tuple[int, int]
Weight = float | Tensor

CONSENSUS_ITERATIONS = 8
CONSENSUS_PENALTY = 2.0  # of the copies of overlapping windows, times the weight of the input side


class Activation(Protocol):
    """A non-linear map without weights, (B, *shape) -> (B, *out_shape(shape))."""

    def __call__(self, p: Tensor) -> Tensor:
        """The activation of p: (B, *shape) -> (B, *out_shape(shape))."""

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of one output for one input of the given shape."""

    @property
    def lowest(self) -> float:
        """Greatest lower bound of the outputs."""

    def refuses(self) -> str | None:
        """One sentence on why `project` is not available; None where it is."""

    def project(self, p: Tensor, q: Tensor, a: Weight, b: Weight) -> tuple[Tensor, Tensor]:
        """The nearest point of the graph: argmin a |pre - p|^2 + b |post - q|^2 over post = act(pre).

        The equality holds exactly, rounding included: `post` equals `act(pre)`. A point of the graph is
        returned unchanged. Gradients are not tracked.

        Args:
            p: wanted inputs, (B, *shape).
            q: wanted outputs, (B, *out_shape(shape)).
            a: weight of the input side, positive: a float or one an instance, (B,).
            b: weight of the output side, likewise.

        Returns:
            (pre, post), of the shapes of p and q.

        Raises:
            UserError: the activation refuses, a weight is a float that is not positive, or a tensor that
                is not one number an instance.
        """


class _Projectable:
    """An activation with a projection."""

    @property
    def lowest(self) -> float:
        """Greatest lower bound of the outputs."""
        return -math.inf

    def refuses(self) -> str | None:
        """None: it can be projected on."""
        return None


class _Pointwise(_Projectable):
    """An activation that keeps the shape."""

    def out_shape(self, shape: Shape) -> Shape:
        """That of the input."""
        return shape


@dataclass(frozen=True)
class Identity(_Pointwise):
    """No activation: act(p) = p."""

    def __call__(self, p: Tensor) -> Tensor:
        """P itself."""
        return p

    @torch.no_grad()
    def project(self, p: Tensor, q: Tensor, a: Weight, b: Weight) -> tuple[Tensor, Tensor]:
        """The weighted mean (a p + b q) / (a + b), twice; see `Activation.project`."""
        a, b = _weights(p, a, b)
        mean = torch.lerp(p, q, b / (a + b))
        return mean, mean


@dataclass(frozen=True)
class ReLU(_Pointwise):
    """act(p) = max(p, 0) + slope min(p, 0).

    Args:
        slope: 0 for the rectifier, above 0 for a leaky one.
    """

    slope: float = 0.0

    @property
    def lowest(self) -> float:
        """0 for the rectifier."""
        return -math.inf if self.slope else 0.0

    def __call__(self, p: Tensor) -> Tensor:
        """The activation of every entry: (B, *shape) -> (B, *shape)."""
        return functional.leaky_relu(p, self.slope) if self.slope else functional.relu(p)

    @torch.no_grad()
    def project(self, p: Tensor, q: Tensor, a: Weight, b: Weight) -> tuple[Tensor, Tensor]:
        """The nearer of the projections on the two rays, "off" in a tie; see `Activation.project`.

        Ray "on" holds pre = max((a p + b q) / (a + b), 0), ray "off" min((a p + s b q) / (a + s^2 b), 0) with
        the slope s. The nearer ray makes the smaller angle with (p, q): their bisector is p = -rho q.

        References:
            Wong and Kolter 2017, "Neural network inversion beyond gradient descent". The bisector
            decides as the two costs would, without squares, which cancel in float32.
        """
        s = self.slope
        a, b = _weights(p, a, b)
        on = torch.lerp(p, q, b / (a + b)).clamp_(min=0)
        off = p + (q - s * p) * (s * b / (a + s * s * b)) if s else p
        pre = off.clamp(max=0).lerp_(on, _above(p, -_bisector(a, b, s) * q))
        return pre, self(pre)


@dataclass(frozen=True)
class MaxPool(_Projectable):
    """The largest value of every window, (B, C, H, W) -> (B, C, H', W'). Padding never wins.

    Args:
        kernel: size of a window (height, width).
        stride: steps (vertical, horizontal); windows overlap where it is below the kernel.
        padding: empty places on both sides (vertical, horizontal), at most half the kernel.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def __call__(self, p: Tensor) -> Tensor:
        """The largest values: (B, C, H, W) -> (B, C, H', W')."""
        return functional.max_pool2d(p, self.kernel, self.stride, self.padding)

    def out_shape(self, shape: Shape) -> Shape:
        """(C, H', W') for (C, H, W)."""
        sides = zip(shape[-2:], self.kernel, self.stride, self.padding, strict=True)
        return (*shape[:-2], *((n + 2 * p - k) // s + 1 for n, k, s, p in sides))

    @property
    def overlaps(self) -> bool:
        """Whether an input may lie in more than one window."""
        return any(step < side for step, side in zip(self.stride, self.kernel, strict=True))

    @torch.no_grad()
    def project(self, p: Tensor, q: Tensor, a: Weight, b: Weight) -> tuple[Tensor, Tensor]:
        """The nearest point of the graph; see `Activation.project`.

        Disjoint windows: exact. With p sorted downwards in each, post = max_k (a sum_{j<=k} p_(j) + b q) /
        (k a + b) and pre = min(p, post), except that the first of the largest entries always becomes post. An
        input that no window reads keeps p.

        Overlapping windows: approximate, though post = act(pre) still holds exactly. Every window has a copy
        of its inputs, projected exactly; `CONSENSUS_ITERATIONS` steps of ADMM draw the copies together; the
        largest entries of their consensus fix post, and all others return to min(p, post). An instance for
        which (p, act(p)) is nearer gets that. The mean cost on random cases of 2 or 3 windows lies within 1 %
        of the optimum for b <= a and 4 to 14 % above it for b = 20 a, where 4 of 5 instances attain it.

        References:
            Wong and Kolter 2017, "Neural network inversion beyond gradient descent", for disjoint windows.
            Boyd et al. 2011, "Distributed optimization and statistical learning via ADMM", chapter 7.
        """
        a, b = _weights(p, a, b)
        if self.overlaps:
            pre = self._nearest(p, q, a, b, self._restored(p, self._consensus(p, q, a, b)))
            return pre, self(pre)
        canvas = self._canvas(p)
        entries, post = self._window(self._entries(canvas), q, a, b)
        for part, entry in zip(self._parts(canvas), entries, strict=True):
            part.copy_(entry)
        return self._cropped(canvas, p), post

    def _window(self, p: Tensor, q: Tensor, a: Weight, b: Weight) -> tuple[Tensor, Tensor]:
        """The projection of every window on its own: p (K, B, C, H', W'), q (B, C, H', W')."""
        top, *others = _sorted(p)
        post, lifted = self._ends(top, self._level(top, others, q, a, b), q, a, b)
        return torch.minimum(p, post).lerp_(lifted.expand_as(p), _first(p, top)), post

    def _level(self, top: Tensor, others: Sequence[Tensor], q: Tensor, a: Weight, b: Weight) -> Tensor:
        """The largest entries after the projection, by a recurrence that keeps points of the graph."""
        post = torch.lerp(q, top, a / (a + b))
        for k, entry in enumerate(others, start=2):
            post = torch.maximum(post, torch.lerp(post, entry, a / (k * a + b)))
        return post

    def _ends(
        self,
        top: Tensor,  # noqa: ARG002
        level: Tensor,
        q: Tensor,  # noqa: ARG002
        a: Weight,  # noqa: ARG002
        b: Weight,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """The outputs, and what the largest entries become: both the level."""
        return level, level

    def _consensus(self, p: Tensor, q: Tensor, a: Weight, b: Weight) -> Tensor:
        """Inputs (B, C, H, W) on which the projected copies of overlapping windows nearly agree."""
        rho = CONSENSUS_PENALTY * a
        merged = wanted = self._canvas(p)
        wishes = consensus = self._entries(wanted)
        pull = rho / (a + rho * self._folded(torch.ones_like(wishes), wanted))
        dual = torch.zeros_like(wishes)
        for _ in range(CONSENSUS_ITERATIONS):
            dual += self._window(consensus - dual, q, rho, b)[0]
            merged = wanted + pull * self._folded(dual - wishes, wanted)
            consensus = self._entries(merged)
            dual -= consensus
        return self._cropped(merged, p)

    def _restored(self, p: Tensor, z: Tensor) -> Tensor:
        """The nearest inputs to p with the outputs of z at its own largest entries."""
        post, where = functional.max_pool2d(z, self.kernel, self.stride, self.padding, return_indices=True)
        post = self._floored(post)
        cap = torch.full_like(self._canvas(p), torch.inf)
        for part in self._parts(cap):
            part.copy_(torch.minimum(part, post))
        pre = torch.minimum(p, self._cropped(cap, p)).flatten(2)
        where = where.flatten(2)
        tops = z.flatten(2).gather(2, where)
        kept = torch.where(tops < post.flatten(2), pre.gather(2, where), tops)
        return pre.scatter(2, where, kept).view_as(p)

    def _nearest(self, p: Tensor, q: Tensor, a: Weight, b: Weight, pre: Tensor) -> Tensor:
        """Pre or p, an instance, whichever makes the nearer point of the graph; p in a tie."""
        far = (a * (pre - p).square()).flatten(1).sum(1) + (b * (self(pre) - q).square()).flatten(1).sum(1)
        near = (b * (self(p) - q).square()).flatten(1).sum(1)
        return torch.where((far < near).view(-1, 1, 1, 1), pre, p)

    def _floored(self, post: Tensor) -> Tensor:
        """What the output makes of the largest values."""
        return post

    def _canvas(self, p: Tensor) -> Tensor:
        """A copy of p in its padding, whose values are so low that they never win."""
        (top, left), low = self.padding, -torch.finfo(p.dtype).max / 4
        return functional.pad(p, (left, left, top, top), value=low) if top or left else p.clone()

    def _cropped(self, canvas: Tensor, p: Tensor) -> Tensor:
        """The canvas without its padding."""
        (top, left), (height, width) = self.padding, p.shape[-2:]
        return canvas[..., top : top + height, left : left + width]

    def _parts(self, canvas: Tensor) -> list[Tensor]:
        """For each of the K places in a window, that entry of all windows: views of (B, C, H', W')."""
        (kh, kw), (sh, sw) = self.kernel, self.stride
        height, width = (
            (n - k) // s * s + 1 for n, k, s in zip(canvas.shape[-2:], (kh, kw), (sh, sw), strict=True)
        )
        return [canvas[..., i : i + height : sh, j : j + width : sw] for i in range(kh) for j in range(kw)]

    def _entries(self, canvas: Tensor) -> Tensor:
        """The entries of all windows, (K, B, C, H', W')."""
        return torch.stack(self._parts(canvas))

    def _folded(self, entries: Tensor, canvas: Tensor) -> Tensor:
        """The sum of the copies of every input: the adjoint of `_entries`."""
        total = torch.zeros_like(canvas)
        for part, entry in zip(self._parts(total), entries, strict=True):
            part.add_(entry)
        return total


@dataclass(frozen=True)
class ReLUMaxPool(MaxPool):
    """max(largest value of a window, 0): rectifier and max-pooling, which commute, in one."""

    @property
    def lowest(self) -> float:
        """0."""
        return 0.0

    def __call__(self, p: Tensor) -> Tensor:
        """The largest values, at least 0: (B, C, H, W) -> (B, C, H', W')."""
        return functional.relu(super().__call__(p))

    def _ends(self, top: Tensor, level: Tensor, q: Tensor, a: Weight, b: Weight) -> tuple[Tensor, Tensor]:
        """The level, at least 0, where the window is on; where it is off, 0 and the largest entry, cut at 0.

        A window is on where its largest entry is better lifted to a positive output than left, as in `ReLU`.
        """
        on = _above(top, -_bisector(a, b, 0.0) * q.clamp(min=0))
        post = level.clamp(min=0).mul_(on)
        return post, top.clamp(max=0).lerp_(post, on)

    def _floored(self, post: Tensor) -> Tensor:
        """The rectified largest values."""
        return functional.relu(post)


@dataclass(frozen=True)
class LocalResponseNorm:
    """Normalisation across channels: p_c / (k + alpha / n sum of p_j^2 over the n channels around c)^beta.

    Args:
        size: number of channels n in the sum.
        alpha: weight of the sum.
        beta: exponent.
        k: what is added to the sum.

    References:
        Krizhevsky, Sutskever, Hinton 2012, "ImageNet classification with deep convolutional neural
        networks", 3.3; as in torch, alpha is divided by n here and not there.
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __call__(self, p: Tensor) -> Tensor:
        """The normalised p: (B, C, H, W) -> (B, C, H, W)."""
        return functional.local_response_norm(p, self.size, self.alpha, self.beta, self.k)

    def out_shape(self, shape: Shape) -> Shape:
        """That of the input."""
        return shape

    @property
    def lowest(self) -> float:
        """There is none."""
        return -math.inf

    def refuses(self) -> str:
        """Why there is no projection."""
        return "local response normalisation has no projection on its graph; use a network without it"

    def project(self, p: Tensor, q: Tensor, a: Weight, b: Weight) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """There is none: raises UserError with the sentence of `refuses`."""
        raise UserError(self.refuses())


def _weights(p: Tensor, a: Weight, b: Weight) -> tuple[Weight, Weight]:
    """The weights, ready to be broadcast against p."""
    return _weight(p, a, "a"), _weight(p, b, "b")


def _weight(p: Tensor, weight: Weight, name: str) -> Weight:
    """A positive float, or (B, 1, ...) from (B,)."""
    if not isinstance(weight, Tensor):
        if not 0 < weight < float("inf"):
            raise UserError(f"the weight {name} of a projection is {weight}; make it positive and finite")
        return weight
    if weight.shape != p.shape[:1]:
        shape = tuple(weight.shape)
        raise UserError(
            f"the weight {name} of a projection has shape {shape}; give one number an instance, ({len(p)},)"
        )
    return weight.to(p).reshape(-1, *[1] * (p.ndim - 1))


def _bisector(a: Weight, b: Weight, slope: float) -> Weight:
    """Rho of the line p = -rho q, as far from the ray (1, 1) as from (-1, -slope), in the metric (a, b)."""
    on, off = (a + b) ** 0.5, (a + slope * slope * b) ** 0.5
    return b / a * (off + slope * on) / (off + on)


def _above(p: Tensor, threshold: Tensor) -> Tensor:
    """1 where p > threshold, else 0, in place of the threshold.

    Numbers, not truth values: torch.lerp(off, on, mask) is exact for finite `off` and `on`, and takes a tenth
    of the time of torch.where on a CPU, whose passes from numbers to truth values and back are slow, too.
    """
    return threshold.lt_(p)


def _first(entries: Tensor, top: Tensor) -> Tensor:
    """1 at the first of the entries (K, ...) that is equal to top (...), else 0."""
    hits = torch.eq(entries, top, out=torch.empty_like(entries))
    seen = hits[0].clone()
    for hit in hits[1:]:
        seen += hit.gt_(seen)
    return hits


def _sorted(entries: Tensor) -> list[Tensor]:
    """The K slices of (K, ...), sorted downwards element by element: `_comparators` on whole slices."""
    slices = list(entries)
    for i, j in _comparators(len(slices)):
        slices[i], slices[j] = torch.maximum(slices[i], slices[j]), torch.minimum(slices[i], slices[j])
    return slices


@cache
def _comparators(count: int) -> tuple[Pair, ...]:
    """A sorting network: pairs i < j to compare in turn, 1 for 2 entries, 5 for 4, 26 for 9.

    References:
        Batcher 1968, "Sorting networks and their applications"; Knuth, TAOCP 3, 5.2.2, algorithm M.
    """
    top = 1 << max(count - 1, 1).bit_length() - 1
    pairs: list[Pair] = []
    p = top
    while p:
        gaps = [(p, 0), *((q - p, p) for q in _halved(top, p))]
        pairs += [(i, i + gap) for gap, part in gaps for i in range(count - gap) if i & p == part]
        p //= 2
    return tuple(pairs)


def _halved(top: int, bottom: int) -> list[int]:
    """Powers of two from top down to above bottom."""
    return [1 << k for k in range(top.bit_length() - 1, bottom.bit_length() - 1, -1)]
