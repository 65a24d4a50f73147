"""Studies as tests plan them, and runs of them that are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from invbench import documents
from invbench.analyses.contract import Analysis
from invbench.errors import UserError
from invbench.planning import plan
from invbench.registry import catalogue
from invbench.study import Study


def of_analyses(entries: str, layers: int = 2, width: int = 6) -> str:
    """The text of a study of analyses alone, of a tiny untrained network on two bundled images."""
    return f"""
study: small
images: {{source: bundled, count: 2, size: 32}}
network: {{name: random_cnn, layers: {layers}, width: {width}, kernel: 3}}
analyses:
{entries}
"""


def planned(text: str, **analyses: type[Analysis]) -> Study:
    """A study from its text, which may use analyses of a test."""
    known = catalogue()
    known = replace(known, analyses={**known.analyses, **analyses})
    return plan(documents.parse(text, "study.yaml"), known)


def mistakes(text: str, **analyses: type[Analysis]) -> list[str]:
    """What planning says is wrong with a study, line by line."""
    with pytest.raises(UserError) as caught:
        planned(text, **analyses)
    return str(caught.value).splitlines()


def run_and_kill(text: str, folder: Path, finished: Callable[[], Collection[str]], count: int) -> None:
    """Run a study on the command line, and kill it once so many files are finished.

    Args:
        text: of the study.
        folder: where the results go.
        finished: the files that are there.
        count: of them, at which it is killed.
    """
    study = folder.with_suffix(".yaml")
    study.write_text(text)
    command = [sys.executable, "-m", "invbench", "run", str(study), "--out", str(folder), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(finished()) < count:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
