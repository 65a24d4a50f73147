"""A limit on the time of a block."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Timeout(Exception):
    """A block took longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Timeout in the block after so many seconds; without effect where there are no alarms."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(_signal: int, _frame: object) -> None:
        raise Timeout

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
