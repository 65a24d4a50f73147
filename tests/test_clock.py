import torch

from invbench.clock import Clock
from tests.toys import FakeTime


def test_time_counts_only_between_resume_and_hold() -> None:
    now = FakeTime()
    clock = Clock(torch.device("cpu"), now)
    now.now = 5.0
    assert clock.read() == 0
    clock.resume()
    now.now = 7.0
    assert clock.read() == 2
    assert clock.hold() == 2
    now.now = 100.0
    assert clock.read() == clock.hold() == 2
    clock.resume()
    now.now = 101.5
    assert clock.hold() == 3.5


def test_a_reading_that_is_recorded_waits_for_the_device() -> None:
    now, waited = FakeTime(), []
    clock = Clock(torch.device("cpu"), now)

    def wait() -> None:
        waited.append(now.now)
        now.now += 1.0  # work that was still queued

    clock._synchronise = wait
    clock.resume()
    now.now += 2.0
    assert clock.read() == 2.0
    assert clock.hold() == 3.0
    assert len(waited) == 2
