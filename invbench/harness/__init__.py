"""Runs cells: poses the problem, drives the solvers, owns clock, stopping, scoring and record."""

from invbench.harness.bench import Bench
from invbench.harness.cells import run_cell
from invbench.harness.environment import environment, source_version
from invbench.harness.forecast import forecast

__all__ = ["Bench", "environment", "forecast", "run_cell", "source_version"]
