"""Domains: the closed sets that x may move in, with the exact nearest-point projection."""

from invbench.domains.balls import L2Ball, L2BallInBox, PixelBall
from invbench.domains.blocks import Blocks
from invbench.domains.boxes import Box, LinfBall, LinfBallInBox, Reals
from invbench.domains.domain import Domain, Value
from invbench.domains.model_sparse import ModelSparse

__all__ = [
    "Blocks",
    "Box",
    "Domain",
    "L2Ball",
    "L2BallInBox",
    "LinfBall",
    "LinfBallInBox",
    "ModelSparse",
    "PixelBall",
    "Reals",
    "Value",
]
