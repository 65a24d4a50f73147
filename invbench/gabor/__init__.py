"""Gabor filters: their parameters and symmetries, their kernels, and what they make of an image."""

from invbench.gabor.filtering import Filtering, GaborFiltering
from invbench.gabor.frequency import from_frequency, to_frequency
from invbench.gabor.kernel import gabor_kernel
from invbench.gabor.parameters import (
    GAMMA,
    LAMBDA,
    PARAMETERS,
    PSI,
    SIGMA,
    THETA,
    canonical,
    representative,
    twin,
    wrapped,
)
from invbench.gabor.sensitivity import sensitivity
from invbench.gabor.sought import bounds, directions, slackened, sought, turned, within

__all__ = [
    "GAMMA",
    "LAMBDA",
    "PARAMETERS",
    "PSI",
    "SIGMA",
    "THETA",
    "Filtering",
    "GaborFiltering",
    "bounds",
    "canonical",
    "directions",
    "from_frequency",
    "gabor_kernel",
    "representative",
    "sensitivity",
    "slackened",
    "sought",
    "to_frequency",
    "turned",
    "twin",
    "within",
    "wrapped",
]
