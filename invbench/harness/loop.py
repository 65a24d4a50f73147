"""The loop around a method: when to look, when to stop."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from invbench.clock import Clock, next_look
from invbench.harness.scoring import Judge, Trace
from invbench.meter import Meter, MeterView
from invbench.method import Method
from invbench.problem import Problem
from invbench.solver import Randomness, with_horizon
from invbench.study import Budget

#: Iterates of the warm-up: the first pays for initialisations, the second shows that they are paid.
WARM_UP = 2


@dataclass(frozen=True)
class Amount:
    """Something spent, or a limit on it: iterations, seconds, multiply-adds per instance."""

    iterations: float
    seconds: float
    work: float

    @classmethod
    def total(cls, budget: Budget) -> "Amount":
        """The limits of a budget; what it does not name is unlimited."""
        return cls(budget.iterations or math.inf, budget.seconds or math.inf, budget.work or math.inf)

    def reached(self, iteration: int, clock: Clock, meter: Meter | MeterView) -> bool:
        """Whether this limit is reached."""
        return iteration >= self.iterations or clock.read() >= self.seconds or meter.mean >= self.work

    def allow(self, total: "Amount", part: float) -> "Amount":
        """The limit of a stage: what is spent plus a part of what is left of the total."""
        return Amount(
            self.iterations + math.ceil(part * (total.iterations - self.iterations))
            if math.isfinite(total.iterations)
            else math.inf,
            self.seconds + part * (total.seconds - self.seconds),
            self.work + part * (total.work - self.work),
        )


def parts(method: Method) -> Iterator[float]:
    """For each stage, the part of the remaining budget that it may spend.

    The remaining budget is divided in proportion to the shares of the stages that are left, so that what
    one stage leaves unused passes on to the next ones.
    """
    shares = [None if share == "done" else float(share) for share in method.shares]
    for n, share in enumerate(shares):
        left = sum(item for item in shares[n:] if item is not None)
        yield 1.0 if share is None else share / left


def fill_horizon(method: Method, budget: Budget, pass_cost: int) -> Method:
    """Fill the horizons that are None from a budget in iterations or work.

    A method whose budget is in seconds alone keeps None: nobody knows how many iterations there will be.

    Args:
        method: whose solvers may have a field `horizon`.
        budget: of the run.
        pass_cost: multiply-adds of one forward pass; an iteration is taken as a forward and a backward one.
    """
    limits = [budget.iterations, budget.work / (2 * pass_cost) if budget.work and pass_cost else None]
    total = min((limit for limit in limits if limit is not None), default=None)
    if total is None:
        return method
    left, stages = float(total), []
    for (name, solver), part in zip(method.stages, parts(method), strict=True):
        stages.append((name, with_horizon(solver, max(1, round(part * left)))))
        left -= 0 if part == 1.0 else part * left
    return replace(method, stages=tuple(stages))


def drive(
    method: Method,
    problem: Problem,
    start: Tensor,
    rng: Randomness,
    budget: Budget,
    judge: Judge,
    clock: Clock,
    trace: Trace,
) -> Tensor:
    """Run the stages of a method in turn and fill the trace; returns the last x, in the domain.

    The clock runs only while a solver works. The host clock is read at every iterate to decide; what the
    trace holds was read after waiting for the device. Trace points lie on a geometric grid of iterations;
    the start, and the last iterate of every stage, are always among them.

    Args:
        method: with its horizons filled.
        problem: what the solvers see.
        start: the first x, not to be changed.
        rng: of the run.
        budget: of the run.
        judge: scores trace points.
        clock: not yet started.
        trace: filled here, so that it survives an exception.
    """
    meter, total = problem.meter, Amount.total(budget)
    iteration, x = 0, start

    def score(name: str, x: Tensor) -> tuple[Tensor, bool]:
        """Hold the clock and add x to the trace; its projection, and whether any instance is finite."""
        seconds = clock.hold()
        check_iterate(x, start, name)
        scores, projected = judge.score(x)
        return projected, trace.add(iteration, seconds, name, scores, meter.multiply_adds)

    inside, _ = score("", start)
    for (name, solver), part in zip(method.stages, parts(method), strict=True):
        limit = Amount(iteration, clock.read(), meter.mean).allow(total, part)
        look = iteration + 1
        clock.resume()
        with closing(solver.iterates(problem, inside.clone(), rng)) as source:  # type: ignore[type-var]
            looked = True
            for x in source:
                iteration += 1
                over = limit.reached(iteration, clock, meter)
                looked = over or iteration >= look
                if not looked:
                    continue
                inside, finite = score(name, x)
                if over or not finite:
                    break
                look = next_look(iteration)
                clock.resume()
        if not looked:  # the solver returned between two trace points: its last iterate is its answer
            inside, _ = score(name, x)
        clock.hold()
        if total.reached(iteration, clock, meter):
            break
    return inside


def check_iterate(x: Tensor, start: Tensor, name: str) -> None:
    """Raise TypeError, with a sentence, when an iterate is not of the kind of the start."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} yielded a {type(x).__name__}; solvers yield tensors and nothing else")
    if (x.shape, x.dtype, x.device) != (start.shape, start.dtype, start.device):
        got, want = (f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (x, start))
        raise TypeError(f"{name} yielded {got} where the problem has {want}")


def warm_up(method: Method, problem: Problem, start: Tensor, rng: Randomness) -> None:
    """Take the first iterates of every stage on another batch, so that no run pays for initialisations."""
    for _, solver in method.stages:
        with closing(solver.iterates(problem, start.clone(), rng)) as source:  # type: ignore[type-var]
            for _ in islice(source, WARM_UP):
                pass
