"""Sparse codes by the solvers here and by other libraries, in CPU time.

The trial `sparse_code` at its default size (1-d: 96 filters 5 x 1 x 32, signals 32), in both its forms:

    l1:            min |x - W^T z|^2 + lambda |z|_1, until the relative duality gap is at most 1e-6
    model_sparse:  the 10 entries that x = W^T z was made of, which know no lambda: measured twice

The gap is (objective - bound) / bound; the bound of all methods is the Fenchel dual at the end of `fista`,
max x.t - |t|^2 / 4 over |W t|_inf <= lambda, itself within 1e-8. Time runs until the worst problem is there,
without checks and set-up of libraries, which get all problems at once and the best settings found by hand.

    pip install scikit-learn sporco 'invbench[reference]'
    OMP_NUM_THREADS=1 python reports/gilbert-2017/peers.py [PROBLEMS, 1000 by default: some minutes]
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module, metadata
from itertools import count
from typing import Any

import numpy as np
import torch
from invbench_solvers.conic import Conic
from invbench_solvers.fista import FISTA
from invbench_solvers.orthogonal_matching_pursuit import OrthogonalMatchingPursuit
from torch import Tensor, nn

from invbench.domains import ModelSparse
from invbench.images import ImageBatch
from invbench.network import parse
from invbench.solver import Randomness, Solver
from invbench.trials.contract import Scene
from invbench.trials.sparse_code import SparseCode

GAP, SECONDS = 1e-6, 30.0  # to reach; of CPU, after which a method gives up
LAMBDAS = {0.24: 3.0, 0.024: 1.0}  # and the best penalty of ADMM for each
PACKAGES = ("invbench", "torch", "numpy", "scipy", "cvxpy", "clarabel", "scikit-learn", "sporco", "pyFFTW")


class Task:
    """Problems of the form l1, their true codes, W^T as a matrix, and bounds below their optima."""

    def __init__(self, size: int, weight: float) -> None:
        """Pose them, of no network and no image."""
        none = torch.zeros(1, 1, 1, 1)
        scene = Scene(parse(nn.Identity(), (1, 1, 1)), ImageBatch(none, none, ("",)), (), none, seed=0)
        posed = SparseCode(form="l1", priors={"l1": {"raw": weight}}, draws=size).pose(scene)
        self.weight, self.problem, self.truth, y = weight, posed.problem, posed.truth, posed.problem.target
        affine = self.problem.network.chain[0].affine
        self.matrix = affine.adjoint(torch.eye(y[0].numel()).to(y).view(-1, *y.shape[1:])).flatten(1).numpy()
        self.signals, self.bound = y.flatten(1).numpy(), y.new_zeros(size)
        for z in iterates(FISTA(), self.problem):
            t = 2 * (y - affine.linear(z))
            t *= (weight / affine.adjoint(t).abs().amax((1, 2, 3), keepdim=True)).clamp(max=1)
            self.bound = self.bound.maximum((t * y - t.square() / 4).sum((1, 2, 3)))
            if self.gap(z) <= GAP / 100:
                break

    def gap(self, codes: Any) -> float:
        """The largest among the first problems, as many as there are codes."""
        z, few = torch.as_tensor(codes).reshape(-1, *self.problem.shape[1:]), torch.arange(len(codes))
        return float((self.problem.select(few).objective(z) / self.bound[few] - 1).max())


def iterates(solver: Solver, problem: Any) -> Iterator[Tensor]:
    """Those of a solver of ours, from 0."""
    x = problem.target.new_zeros(problem.shape)
    return solver.iterates(problem, x, Randomness(0, range(problem.size), x))


def reach(task: Task, attempts: Iterator[Any], label: str, together: bool = True) -> str:
    """CPU milliseconds a problem until the gap is small, of all attempts together or of the last alone."""
    spent, since = 0.0, time.process_time()
    for n, codes in enumerate(attempts, 1):
        last = time.process_time() - since
        spent, gap = spent + last, task.gap(codes)
        text = f"{1e3 * (spent if together else last) / len(codes):.3g} ({label.format(n)})"
        if gap <= GAP or spent > SECONDS:
            break
        since = time.process_time()
    return text if gap <= GAP else f"gap {gap:.0e} after {text}"


def lasso(task: Task) -> str:
    """Coordinate descent of scikit-learn on a sparse matrix, with the loosest tolerance that does."""
    from scipy.sparse import csc_array
    from sklearn.linear_model import Lasso

    matrix, fixed = csc_array(task.matrix), {"alpha": task.weight / 2 / len(task.matrix), "max_iter": 10**5}
    models = (Lasso(fit_intercept=False, tol=10.0**-n, **fixed) for n in count(1))
    return reach(task, (model.fit(matrix, task.signals.T).coef_ for model in models), "tol 1e-{}", False)


def convolutional(task: Task, family: str) -> str:
    """ConvBPDN of sporco. Its maps lie on a circle: a price on codes that reach around makes them ours."""
    from sporco import fft
    from sporco.pgm.backtrack import BacktrackRobust

    fft.pyfftw_threads, solver = 1, import_module(f"sporco.{family}.cbpdn").ConvBPDN
    (K, h, _), (_, M, H, _) = task.problem.network.input_shape, task.problem.target.shape
    filters = task.matrix.reshape(M, H, K, h)[:, : H - h + 1, :, 0].transpose(1, 0, 2)
    tuned = {"L": 2.0, "Backtrack": BacktrackRobust()}
    if family == "admm":
        tuned = {"rho": LAMBDAS[task.weight], "AutoRho": {"Enabled": False}, "RelaxParam": 1.8}
    price = np.where(np.arange(H) < h, 1.0, 1e4)[:, None, None, None].repeat(K, 3)
    options = {"FastSolve": True, "MaxMainIter": 1, "RelStopTol": 0.0, "L1Weight": price, **tuned}
    state = solver(filters, task.signals.reshape(-1, M, H).T, task.weight / 2, solver.Options(options), 1, 1)
    codes = (state.solve().reshape(H, -1, K)[:h].transpose(1, 2, 0) for _ in count())  # goes on every time
    return reach(task, codes, "{} iterations")


def pursuit(task: Task, library: bool) -> str:
    """CPU milliseconds a problem of ours or scikit-learn's, and how many supports are right."""
    attempts = iterates(OrthogonalMatchingPursuit(), replace(task.problem, domain=ModelSparse(10), priors=()))
    if library:
        from sklearn.linear_model import orthogonal_mp

        columns = task.matrix / np.linalg.norm(task.matrix, axis=0)  # as it asks for
        attempts = (orthogonal_mp(columns, task.signals.T, n_nonzero_coefs=10).T for _ in range(1))
    since = time.process_time()
    *_, codes = attempts
    spent = time.process_time() - since
    right = ((torch.as_tensor(codes).view_as(task.truth) != 0) == (task.truth != 0)).flatten(1).all(1)
    return f"{1e3 * spent / len(right):.3g} ({int(right.sum())} of {len(right)} supports right)"


METHODS = {
    "`fista`": lambda task: reach(task, iterates(FISTA(), task.problem), "{} iterates"),
    "`conic`": lambda task: reach(task, iterates(Conic(), task.problem.select(torch.arange(3))), "first 3"),
    "scikit-learn `Lasso`, sparse matrix": lasso,
    "sporco `pgm.ConvBPDN`": lambda task: convolutional(task, "pgm"),
    "sporco `admm.ConvBPDN`": lambda task: convolutional(task, "admm"),
    "`orthogonal_matching_pursuit`": lambda task: pursuit(task, library=False),
    "scikit-learn `orthogonal_mp`": lambda task: pursuit(task, library=True),
}

if __name__ == "__main__":
    known = {found.name: found.version for found in metadata.distributions()}
    tasks = [Task(int([*sys.argv, 1000][1]), weight) for weight in LAMBDAS]
    print(", ".join(f"{name} {known.get(name, 'missing')}" for name in PACKAGES), end="; ")
    print(f"{torch.get_num_threads()} thread(s), {tasks[0].problem.size} problems\n")
    print("| CPU ms a problem | lambda =", " | lambda = ".join(map(str, LAMBDAS)), "|\n|---|---|---|")
    for name, method in METHODS.items():
        try:
            print("|", " | ".join([name, *map(method, tasks)]), "|", flush=True)
        except ImportError as error:
            print(f"| {name} | not measured: {error} | |", flush=True)
