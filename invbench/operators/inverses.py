"""Solvers of (alpha I + beta W^T W) x = r, by the kind of W; `gram_solver` chooses and builds them."""

from dataclasses import dataclass

from torch import Tensor

from invbench.operators.canvas import Canvas
from invbench.operators.conjugate_gradients import conjugate_gradients
from invbench.operators.factorisation import BlockInverse
from invbench.operators.fourier import CircularInverse
from invbench.operators.maps import Affine, Shape


@dataclass(frozen=True, eq=False)
class GramSolver:
    """The map r -> (alpha I + beta W^T W)^-1 r of every instance of a batch.

    Args:
        affine: the map x -> W x + b from where x lives, the canvas: the input of the given map, or with soft
            boundaries its padded image, from which `affine` is the same convolution without padding.
        alpha: weight of the identity.
        beta: weight of the gram matrix.
    """

    affine: Affine
    alpha: float
    beta: float

    @property
    def canvas_shape(self) -> Shape:
        """Shape of one r and one x."""
        return self.affine.in_shape

    @property
    def multiply_adds(self) -> int:
        """Price of one application for one instance."""
        return 0

    @property
    def multiply_adds_with_output(self) -> int:
        """Price of `with_output` for one instance."""
        return self.multiply_adds + self.affine.multiply_adds

    def __call__(self, r: Tensor) -> Tensor:
        """The solution x: (B, *canvas_shape) -> (B, *canvas_shape)."""
        raise NotImplementedError

    def with_output(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The solution x and W x, which some solvers know anyhow: (B, *canvas_shape), (B, *out_shape)."""
        x = self(r)
        return x, self.affine.linear(x)

    def embed(self, x: Tensor) -> Tensor:
        """An input of the given map on the canvas, with zeros in its padding."""
        return x

    def crop(self, z: Tensor, unread: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The input on a canvas; pixels that no window reads are those of `unread`, or 0."""
        return z


@dataclass(frozen=True, eq=False)
class Scaled(GramSolver):
    """Where the gram matrix is diagonal: x = factor r.

    Args:
        factor: a number, or a tensor that broadcasts to the shape of an input.
    """

    factor: float | Tensor

    def __call__(self, r: Tensor) -> Tensor:
        """Factor r: (B, *in_shape) -> (B, *in_shape)."""
        return r * (self.factor.to(r) if isinstance(self.factor, Tensor) else self.factor)


@dataclass(frozen=True, eq=False)
class DenseSolver(GramSolver):
    """Where W is a matrix: an explicit inverse, or two thin factors where W has few rows.

    Args:
        inverse: a single block, over the flattened input.
    """

    inverse: BlockInverse

    @property
    def multiply_adds(self) -> int:
        """N^2, or 2 K N where that is less."""
        return self.inverse.multiply_adds

    def __call__(self, r: Tensor) -> Tensor:
        """The solution: (B, *in_shape) -> (B, *in_shape)."""
        return self.inverse(r.flatten(1)).reshape(r.shape)


@dataclass(frozen=True, eq=False)
class TiledSolver(GramSolver):
    """Where windows neither overlap nor meet padding, so that W W^T = kappa I.

    x = (r - beta / (alpha + beta kappa) W^T W r) / alpha.
    """

    kappa: float

    def __call__(self, r: Tensor) -> Tensor:
        """The solution: (B, *in_shape) -> (B, *in_shape)."""
        share = self.beta / (self.alpha + self.beta * self.kappa)
        return (r - share * self.affine.adjoint(self.affine.linear(r))) / self.alpha


@dataclass(frozen=True, eq=False)
class SoftConvolution(GramSolver):
    """The exact inverse for a convolution with *circular* boundaries, on the canvas of the padded image.

    The caller keeps x on the canvas and holds its padding to zero by a constraint, as for any other pixel.
    Outputs which only the circular convolution has are free: they are left out of W^T y, as `affine` does.

    Args:
        inverse: the inverse on the canvas.
        canvas: of the given convolution.
    """

    inverse: CircularInverse
    canvas: Canvas

    @property
    def multiply_adds(self) -> int:
        """FFTs and blocks."""
        return self.inverse.multiply_adds

    def __call__(self, r: Tensor) -> Tensor:
        """The solution: (B, C, L, L') -> (B, C, L, L')."""
        return self.inverse(r)

    def embed(self, x: Tensor) -> Tensor:
        """The image with zeros around it: (B, C, H, W) -> (B, C, L, L')."""
        return self.canvas.embed(x)

    def crop(self, z: Tensor, unread: Tensor | None = None) -> Tensor:
        """The image on a canvas: (B, C, L, L') -> (B, C, H, W), pixels off it from `unread`, or 0."""
        return self.canvas.crop(z, unread)


@dataclass(frozen=True, eq=False)
class HardConvolution(GramSolver):
    """Conjugate gradients from 0 for a zero-padded convolution, preconditioned by the circular inverse M.

    One step, x = t M r with t = <r, M r> / (alpha |M r|^2 + beta |W M r|^2), is *not* the exact inverse, but
    the best along M r: the energy x^T G x / 2 - r^T x, G = alpha I + beta W^T W, never rises. It needs one W
    and no W^T, and gives W x = t W M r for free. More steps converge to the exact inverse; without padding
    and overlap (kernel <= stride) one is enough.

    Args:
        inverse: the preconditioner M; r / alpha, which is exact, at pixels that no window reads.
        steps: conjugate-gradient steps an application.
    """

    inverse: CircularInverse
    steps: int

    @property
    def multiply_adds(self) -> int:
        """FFTs, blocks and W for every step, W^T for all but the last."""
        step = self.inverse.multiply_adds + self.affine.multiply_adds
        return self.steps * step + (self.steps - 1) * self.affine.multiply_adds

    @property
    def multiply_adds_with_output(self) -> int:
        """That of the solution alone."""
        return self.multiply_adds

    def with_output(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The solution x and W x: (B, C, H, W), (B, K, H', W')."""
        x, output, _ = conjugate_gradients(self.affine, self.alpha, self.beta, r, self.inverse, self.steps)
        return x, output

    def __call__(self, r: Tensor) -> Tensor:
        """The solution: (B, C, H, W) -> (B, C, H, W)."""
        return self.with_output(r)[0]


@dataclass(eq=False)
class Iteration:
    """How many steps the latest application took, over its slowest instance."""

    steps: int


@dataclass(frozen=True, eq=False)
class IterativeSolver(GramSolver):
    """Plain conjugate gradients from 0 for any affine map, until |residual| <= tolerance |r|.

    An instance that is there stays as it is, so that a batch equals its members.

    Args:
        tolerance: relative residual.
        limit: most steps an application.
        latest: the steps of the latest application, `limit` before the first.
    """

    tolerance: float
    limit: int
    latest: Iteration

    @property
    def multiply_adds(self) -> int:
        """Price of the *latest* application, which depends on the data: W and W^T for every step."""
        return 2 * self.latest.steps * self.affine.multiply_adds

    @property
    def multiply_adds_with_output(self) -> int:
        """That of the solution alone."""
        return self.multiply_adds

    def with_output(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The solution x and W x: (B, *in_shape), (B, *out_shape)."""
        x, output, self.latest.steps = conjugate_gradients(
            self.affine, self.alpha, self.beta, r, lambda s: s, self.limit, self.tolerance
        )
        return x, output

    def __call__(self, r: Tensor) -> Tensor:
        """The solution: (B, *in_shape) -> (B, *in_shape)."""
        return self.with_output(r)[0]
