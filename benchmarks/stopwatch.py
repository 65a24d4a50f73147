"""Ratios of durations, measured so that they survive a busy machine."""

import time
from collections.abc import Callable
from statistics import median


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], pairs: int = 100, seconds: float = 5.0
) -> float:
    """The median of ours / theirs over pairs of calls that follow each other, in alternating order.

    What slows the machine down for longer than a call slows both, and drops out.

    Args:
        ours: what is judged.
        theirs: what it is compared with.
        pairs: at most.
        seconds: after which no pair is begun, but for the first five.
    """
    for _ in range(3):
        ours(), theirs()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < pairs and (len(found) < 5 or time.perf_counter() < end):
        first, second = (ours, theirs) if len(found) % 2 else (theirs, ours)
        started = time.perf_counter()
        first()
        between = time.perf_counter()
        second()
        durations = between - started, time.perf_counter() - between
        found.append(durations[0] / durations[1] if first is ours else durations[1] / durations[0])
    return median(found)
