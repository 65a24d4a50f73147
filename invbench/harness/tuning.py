"""The best of some settings, on images that are not reported."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np

from invbench import metrics
from invbench.harness.attempt import attempt
from invbench.harness.bench import Bench
from invbench.harness.learning import prepare
from invbench.harness.scoring import Trace
from invbench.method import Method, Search
from invbench.study import Budget, Cell, Tuning

Settings = dict[str, float]


def tune(cell: Cell, bench: Bench, method: Method, tuning: Tuning) -> tuple[Method, dict[str, Any]]:
    """Try settings of a method and keep the best.

    Every candidate runs on the tuning images, with the seed and the budget of the cell (see
    `candidate_budget`). It is valued by the mean over images of the trial's objective at the end; a method
    with priors of its own, whose objective is another one (on any objective, prior weight 0 wins), by the
    metric that the trial is ranked by. An image on which a candidate diverges makes it worthless.

    Returns:
        The method with its best setting (the default, where all are worthless), and what was tried.
    """
    criterion = cell.trial.ranked_by if method.overrides else "objective"
    better = metrics.find()[criterion].better if method.overrides else "lower"
    sign = 1.0 if better == "lower" else -1.0
    started = time.perf_counter()
    settings = candidates(method, tuning.trials, cell.seed)
    cell = replace(cell, budget=candidate_budget(cell, tuning))
    values, tried = [], []
    for setting in settings:
        value, status = _value(cell, bench, method.with_settings(setting), criterion)
        values.append(sign * value if status == "done" else math.inf)
        parameters = {key.partition(".")[2] or key: kept for key, kept in setting.items()}
        tried.append({"parameters": parameters, "value": value, "status": status})
    chosen = int(np.argmin(values))
    about = {
        "criterion": criterion,
        "better": better,
        "images": tuning.images,
        "seconds": time.perf_counter() - started,
        "chosen": chosen,
        "candidates": tried,
    }
    return method.with_settings(settings[chosen]), about


def candidates(method: Method, trials: int, seed: int) -> list[Settings]:
    """The default setting, and a Latin hypercube over the search space.

    Of n samples, each parameter has one in every n-th of its range: few trials still cover every scale. The
    draw depends on the name of the method and the seed alone, not on the other methods of the study.

    References:
        McKay, Beckman & Conover, Technometrics 1979, section 2.
    """
    space = method.search_space()
    rng = np.random.default_rng([seed, crc32(method.name.encode())])
    count = trials - 1
    shares = np.stack([(rng.permutation(count) + rng.random(count)) / count for _ in space], axis=1)
    return [{}] + [_place(space, row.tolist()) for row in shares]


def candidate_budget(cell: Cell, tuning: Tuning) -> Budget:
    """The budget of a cell with its seconds in proportion to the images that a candidate runs on.

    Iterations and work are counted per image anyhow, but seconds are those of the whole batch: with all of
    them a small batch would get further, and settings would be chosen for longer runs than the one reported.
    """
    if cell.budget.seconds is None:
        return cell.budget
    share = tuning.images / cell.images["count"]
    return cell.budget.model_copy(update={"seconds": share * cell.budget.seconds})


def _place(space: Mapping[str, Search], shares: list[float]) -> Settings:
    """From shares in [0, 1] to values in the ranges."""
    settings = {}
    for (name, (low, high, scale)), share in zip(space.items(), shares, strict=True):
        value = low * (high / low) ** share if scale == "log" else low + share * (high - low)
        settings[name] = float(f"{value:.4g}")
    return settings


def _value(cell: Cell, bench: Bench, method: Method, criterion: str) -> tuple[float, str]:
    """Mean of the criterion at the end over the tuning images, and how the run ended."""
    trace = Trace()
    try:
        attempt(cell, bench, prepare(cell, bench, method)[0], trace, "tuning")
    except (ArithmeticError, RuntimeError, ValueError) as error:
        return math.nan, f"failed: {error}".splitlines()[0]
    value = float(np.mean(trace.series[criterion][-1]))
    return value, "done" if np.all(trace.points == len(trace.iteration)) else "diverged"
