"""How near W^T is to an isometry on given codes, and what one step of hard thresholding loses of them.

Everything is measured code by code, for z that are model-k-sparse, x = W^T z and x_hat = W^T z_hat.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from invbench.analyses.contract import Plot, Row
from invbench.domains import ModelSparse
from invbench.operators import Affine
from invbench.problem import Problem
from invbench.unpooling import cornered, spread

#: The golden ratio, the constant of the bound.
PHI = (1 + 5**0.5) / 2
#: Krylov steps for the distortion of a support: exact up to so many entries, an estimate from below beyond.
STEPS = 32
#: A Krylov space ends where what is new is shorter than this.
ENDS = 1e-9
#: A bound below this, of rows that do not touch, is rounding alone.
ROUNDING = 1e-9
#: Entries of codes or signals that are in memory as one chunk, in float64 some 30 times.
ENTRIES = 2**21
#: Bins of a histogram; the first and the last are empty.
BINS = 32
#: Ends of the range that rows state.
LOW, HIGH = 0.01, 0.99

Found = dict[str, Tensor]

#: What the figures show, and in which of them.
FIGURES = {
    "|W^T z|/|z|": "norms over |z|",
    "|W W^T z|/|z|": "norms over |z|",
    "|W W^T z|/|z| on the support": "norms over |z|",
    "|M(W W^T z)|/|z|": "norms over |z|",
    "error, strict": "|x_hat - x|/|x|",
    "error, known regions": "|x_hat - x|/|x|",
    "error, known support": "|x_hat - x|/|x|",
    "error, naive switches": "|x_hat - x|/|x|",
    "bound": "|x_hat - x|/|x|",
}
PLOT = Plot(x="value", y="density", lines="distribution", panels="figure")


@dataclass(frozen=True)
class Isometry:
    """What is measured of codes for one W.

        |W^T z|/|z|                     1 for an isometry
        |W W^T z|/|z|                   not 1: rows off the support answer, too
        ... on the support, |M(...)|    what is left of it by the true support and by M(., k)
        error, strict                   z_hat = M(W x, k)
        error, known regions            the k active blocks are known, the place within each is not
        error, known support            z_hat = W x on the support of z
        error, naive switches           M(W x, k) with every entry moved to the first corner of its block
        delta_k, sampled                | |W^T z|^2/|z|^2 - 1 |
        delta_2k, sampled               the same for sums of two codes: the first two, the next two, ...
        delta_k, on the support         |W_S W_S^T - I|, S the support of z: the worst of all codes on it
        delta_2k, on both supports      |W_T W_T^T - I|, T = S and the support of M(W x, k)
        bound                           phi d_2k sqrt((1 + d_2k)/(1 - d_k)) of these two, phi = (1 + sqrt 5)/2

    The bound holds for the strict error of every code. Let S and S' be the supports of z and of
    z_hat = M(b, k), b = W x, and T their union; e = (W_T W_T^T - I) z_T = b_T - z_T, so |e| <= d_2k |z|; and
    p, q, r be |e| on S' - S, on S - S' and on both. M prefers S', so |b| on S - S' is at most |b| on S' - S,
    which is p, as z is 0 there. Hence |z| on S - S' is at most p + q, and

        |z_hat - z|^2 <= p^2 + (p + q)^2 + r^2 <= phi^2 |e|^2,

    for phi^2 is the largest eigenvalue of [[2, 1], [1, 1]]. Last |x_hat - x|^2 <= (1 + d_2k) |z_hat - z|^2
    and |x|^2 >= (1 - d_k) |z|^2. Where d_k >= 1 there is no bound.

    Attributes:
        affine: z -> W^T z, `(B, K, h, w)` -> `(B, M, H, W)`, whose adjoint is W.
        domain: the model of the codes.
    """

    affine: Affine
    domain: ModelSparse

    @classmethod
    def posed(cls, problem: Problem) -> "Isometry":
        """For the W and the domain of a problem that the trial `sparse_code` has posed."""
        assert problem.network.chain is not None
        assert isinstance(problem.domain, ModelSparse)
        (stage,) = problem.network.chain
        return cls(stage.affine, problem.domain)

    def chunk(self) -> int:
        """The number of codes to measure at once, an even one."""
        entries = max(math.prod(self.affine.in_shape), math.prod(self.affine.out_shape))
        return max(2, ENTRIES // entries // 2 * 2)

    @torch.no_grad()
    def measure(self, z: Tensor, bounded: int) -> Found:
        """All quantities by name: `(B,)` but for those of pairs, `(B // 2,)`, and of the bound.

        Args:
            z: codes in the domain, float64; a code that is 0 gives NaN.
            bounded: the number of codes, from the first on, for which deltas of supports and bound are found.
        """
        x = self.affine.linear(z)
        b = self.affine.adjoint(x)
        active = z != 0
        kept = self.domain.project(b)
        strict = self._error(kept, x)
        found = {
            "|W^T z|/|z|": length(x) / length(z),
            "|W W^T z|/|z|": length(b) / length(z),
            "|W W^T z|/|z| on the support": length(b * active) / length(z),
            "|M(W W^T z)|/|z|": length(kept) / length(z),
            "error, strict": strict,
            "error, known regions": self._error(self.domain.project(b * self._regions(active)), x),
            "error, known support": self._error(b * active, x),
            "error, naive switches": self._error(self._naive(kept), x),
            "delta_k, sampled": _defect(x, z),
            "delta_2k, sampled": _defect(_in_pairs(x), _in_pairs(z)),
        }
        return found | self._bounded(active[:bounded], (kept != 0)[:bounded], strict)

    def _bounded(self, active: Tensor, kept: Tensor, strict: Tensor) -> Found:
        one, two = distortion(self.affine, active), distortion(self.affine, active | kept)
        bound = bound_of(one, two)
        return {
            "delta_k, on the support": one,
            "delta_2k, on both supports": two,
            "bound": bound,
            "error over bound": (strict[: len(bound)] / bound).where(bound > ROUNDING, math.nan),
        }

    def _error(self, z: Tensor, x: Tensor) -> Tensor:
        """|W^T z - x| / |x|, `(B,)`."""
        return length(self.affine.linear(z) - x) / length(x)

    def _regions(self, active: Tensor) -> Tensor:
        """All entries of the blocks that hold an active one, `(B, K, h, w)` bool."""
        window = self.domain.tile(active.shape)
        return spread(functional.max_pool2d(active.double(), window), window) > 0

    def _naive(self, kept: Tensor) -> Tensor:
        """The non-zero of every block moved to its first corner, `(B, K, h, w)`."""
        window = self.domain.tile(kept.shape)
        return cornered(functional.avg_pool2d(kept, window, divisor_override=1), window)


@torch.no_grad()
def distortion(affine: Affine, support: Tensor) -> Tensor:
    """|W_T W_T^T - I| for every support T: the smallest delta that holds for all codes on it, `(B,)`.

    The largest eigenvalue in magnitude, by Rayleigh-Ritz in a Krylov space of `STEPS` dimensions with full
    orthogonalisation: exact where T has no more entries, else from below, as extreme eigenvalues converge
    first. The start has no chance in it.

    Args:
        affine: z -> W^T z.
        support: `(B, K, h, w)` bool.

    References:
        Parlett, The symmetric eigenvalue problem, 1980, chapters 11 and 12.
    """
    flat = support.flatten(1)
    size = int(flat.sum(1).max()) if len(flat) else 0
    if size == 0:
        return torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
    places = torch.argsort(~flat, dim=1, stable=True)[:, :size]
    there = flat.gather(1, places)

    def defect(v: Tensor) -> Tensor:
        """(W_T W_T^T - I) v in the coordinates of T, `(B, size)`."""
        z = v.new_zeros(flat.shape).scatter_(1, places, v).view(support.shape)
        return (affine.adjoint(affine.linear(z)).flatten(1).gather(1, places) - v) * there

    start = torch.arange(1, size + 1, dtype=torch.float64, device=flat.device).cos()
    return _largest(defect, _normalised(start * there), min(size, STEPS))


def _largest(operator: Callable[[Tensor], Tensor], q: Tensor, steps: int) -> Tensor:
    """The largest magnitude among the Ritz values of a symmetric map, `(B,)`; q: unit starts, `(B, n)`."""
    basis, images = q[:, None], operator(q)[:, None]
    for _ in range(steps - 1):
        new = images[:, -1:]
        for _ in range(2):  # once leaves too much of the old
            new = new - new @ basis.mT @ basis
        q = _normalised(new[:, 0])
        basis = torch.cat((basis, q[:, None]), 1)
        images = torch.cat((images, operator(q)[:, None]), 1)
    small = basis @ images.mT
    values: Tensor = torch.linalg.eigvalsh((small + small.mT) / 2)
    return values.abs().amax(1)


def _normalised(v: Tensor) -> Tensor:
    """Every row with norm 1, or 0 where it is about 0 already."""
    norm = length(v)[:, None]
    return torch.where(norm > ENDS, v / norm, 0)


def bound_of(one: Tensor, two: Tensor) -> Tensor:
    """The bound phi d_2k sqrt((1 + d_2k)/(1 - d_k)), NaN where d_k >= 1; `one` is d_k, `two` is d_2k."""
    return PHI * two * ((1 + two) / (1 - one).clamp(min=0)).sqrt().where(one < 1, math.nan)


def length(v: Tensor) -> Tensor:
    """The norm of every instance, `(B,)`."""
    found: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return found


def _defect(x: Tensor, z: Tensor) -> Tensor:
    """| |x|^2/|z|^2 - 1 |, `(B,)`."""
    return ((length(x) / length(z)).square() - 1).abs()


def _in_pairs(v: Tensor) -> Tensor:
    """v_0 + v_1, v_2 + v_3, ...; one that is left over has no pair: `(B, ...)` -> `(B // 2, ...)`."""
    even = len(v) // 2 * 2
    return v[0:even:2] + v[1:even:2]


# -- rows ----------------------------------------------------------------------------------------------------


def rows_of(parts: Sequence[Found], predicted: Mapping[str, tuple[float, float]]) -> list[Row]:
    """The summary of all quantities, and after it the histograms of those that figures show.

    Summary rows have (quantity, number, mean, std, rms, low, high, max, predicted, predicted_std). `low` and
    `high` are the 1 and 99 % quantiles, `rms` is the root of the mean square, and `predicted` what it should
    be. Codes without a value do not count in `number`. Histogram rows have (distribution, figure, value,
    density): the name of the quantity, the centre of a bin, and the share of codes in it over its width.

    Args:
        parts: of one or more chunks.
        predicted: root mean square and standard deviation by name, NaN for what is not known.
    """
    found = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    one, two = (found[name] for name in ("delta_k, on the support", "delta_2k, on both supports"))
    if len(one):  # the largest deltas that were seen, which those of all codes exceed
        found["bound, uniform"] = bound_of(one.max(), two.max())[None]
    finite = {name: values[values.isfinite()] for name, values in found.items()}
    summary = [_summary(name, values, predicted.get(name)) for name, values in finite.items()]
    shown = (name for name in FIGURES if len(finite[name]))
    return [*summary, *(row for name in shown for row in _histogram(name, finite[name]))]


def _summary(name: str, values: Tensor, predicted: tuple[float, float] | None) -> Row:
    rms, std = predicted or (math.nan, math.nan)
    head: dict[str, str | float | int] = {"quantity": name, "number": len(values)}
    return {**head, **_moments(values), "predicted": rms, "predicted_std": std}


def _moments(values: Tensor) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("mean", "std", "rms", "low", "high", "max"), math.nan)
    return {
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
        "rms": float(values.square().mean().sqrt()),
        "low": float(values.quantile(LOW)),
        "high": float(values.quantile(HIGH)),
        "max": float(values.max()),
    }


def _histogram(name: str, values: Tensor) -> Iterator[Row]:
    low, high = float(values.min()), float(values.max())
    width = max(high - low, 1e-6 * max(abs(high), 1.0)) / (BINS - 3)
    counts = torch.histc(values, BINS, low - 1.5 * width, high + 1.5 * width)
    for n, count in enumerate(counts.tolist()):
        yield {
            "distribution": name,
            "figure": FIGURES[name],
            "value": low + (n - 1) * width,
            "density": count / (len(values) * width),
        }
