"""What every record says, whatever is run: of what, by which code, and how it ended."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import torch

from invbench.harness.environment import source_version
from invbench.harness.limit import Timeout, time_limit
from invbench.store import Record


def blank(key: str) -> Record:
    """What the record of a run says before it has run.

    Args:
        key: identity of the run.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"key": key, "status": "done", "reason": "", "started": started}


def made_by() -> Record:
    """The version of the source and the number of threads, on which figures depend."""
    return {"version": source_version(), "threads": torch.get_num_threads()}


@contextmanager
def recorded(record: Record, timeout: float, limit: float | None = None) -> Iterator[None]:
    """Run a block; a timeout or an exception ends it and becomes part of the record.

    Args:
        record: of the run, changed here.
        timeout: seconds, as the reason of a timeout tells them.
        limit: seconds that the block may take where these are others.
    """
    try:
        with time_limit(timeout if limit is None else limit):
            yield
    except Timeout:
        record |= {"status": "timeout", "reason": f"took longer than {timeout:g} s"}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        record |= {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
