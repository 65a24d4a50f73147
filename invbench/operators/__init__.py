"""Affine maps between batches: application, adjoint, price, and exact folding of one into another."""

from invbench.operators.convolutions import AveragePooling, Convolution, TransposedConvolution
from invbench.operators.folding import compose
from invbench.operators.maps import Affine, Composition, Dense, Diagonal, Normalise, Reshape

__all__ = [
    "Affine",
    "AveragePooling",
    "Composition",
    "Convolution",
    "Dense",
    "Diagonal",
    "Normalise",
    "Reshape",
    "TransposedConvolution",
    "compose",
]
