"""How well what a kernel makes of an image determines the parameters of the kernel."""

from dataclasses import replace

import torch
from torch import Tensor

from invbench.gabor.parameters import GAMMA, LAMBDA, SIGMA
from invbench.gabor.sought import directions, sought
from invbench.meter import Meter
from invbench.problem import Problem


def sensitivity(problem: Problem, parameters: Tensor) -> Tensor:
    """Singular values of the scaled Jacobian of every filter's output y in the free parameters, descending.

    The columns are dy/dp / |y| for angles, in radians, and p dy/dp / |y| for lambda, sigma and gamma, whose
    relative changes count. Noise of relative norm e in n outputs moves the parameters by e / (s sqrt(n)) in
    the direction of a singular value s: where s is 0, some combination of them is not identifiable.

    Args:
        problem: over Gabor parameters; what is evaluated here is not counted.
        parameters: where, (B, F, 5).

    Returns:
        (B, F, number of free parameters).
    """
    which = sought(problem)
    unmetered = replace(problem, meter=Meter(problem.size))
    output, derivatives = unmetered.linearised(parameters, directions(problem, which))
    relative = [parameter in (LAMBDA, SIGMA, GAMMA) for parameter in which]
    scale = torch.where(torch.tensor(relative, device=output.device), parameters[..., which], 1.0)
    jacobian = derivatives.flatten(3).movedim(0, 2) * scale[..., None]
    found: Tensor = torch.linalg.svdvals(jacobian / output.flatten(2).norm(dim=2)[..., None, None])
    return found
