"""A stopwatch that can be held while a solver is looked at, and when to look."""

import math
import time
from collections.abc import Callable

import torch

#: Looks at a solver lie this factor apart, in iterations.
GRID = 1.25


def next_look(iteration: int) -> int:
    """The iteration of the first look after this one, on a geometric grid."""
    return max(iteration + 1, math.ceil(GRID * iteration))


def synchroniser(device: torch.device) -> Callable[[], None]:
    """A function that waits until all work queued on `device` is done."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


class Clock:
    """Seconds that a solver has spent, without what happens between `hold` and `resume`.

    `read` is cheap and may run ahead of the device: it serves decisions. `hold` first waits for the device:
    its reading is what records show.

    Args:
        device: where the solver works.
        now: host clock, in seconds.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._synchronise = synchroniser(device)
        self._spent = 0.0
        self._since: float | None = None

    def resume(self) -> None:
        """Start, or go on after `hold`."""
        self._synchronise()
        self._since = self._now()

    def read(self) -> float:
        """Seconds so far by the host's clock, without waiting for the device."""
        return self._spent if self._since is None else self._spent + self._now() - self._since

    def hold(self) -> float:
        """Wait for the device, stop counting, and return the seconds so far."""
        self._synchronise()
        self._spent = self.read()
        self._since = None
        return self._spent
