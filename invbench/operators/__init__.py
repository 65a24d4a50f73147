"""Affine maps between batches: application, adjoint, price, exact folding, gram systems."""

from invbench.operators.convolutions import AveragePooling, Convolution, TransposedConvolution
from invbench.operators.folding import compose
from invbench.operators.gram import gram_solver
from invbench.operators.inverses import GramSolver
from invbench.operators.maps import Affine, Composition, Dense, Diagonal, Normalise, Rescale, Reshape
from invbench.operators.upsampling import Upsampling
from invbench.operators.windows import Windows

__all__ = [
    "Affine",
    "AveragePooling",
    "Composition",
    "Convolution",
    "Dense",
    "Diagonal",
    "GramSolver",
    "Normalise",
    "Rescale",
    "Reshape",
    "TransposedConvolution",
    "Upsampling",
    "Windows",
    "compose",
    "gram_solver",
]
