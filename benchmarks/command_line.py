"""The command line."""

import subprocess
import sys


class Process:
    """What is waited for before anything happens."""

    def time_help(self) -> None:
        """`invbench --help`, as a process."""
        subprocess.run([sys.executable, "-m", "invbench", "--help"], check=True, capture_output=True)
