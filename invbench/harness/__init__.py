"""Runs cells: poses the problem, drives the solvers, owns clock, stopping, scoring and record."""

from invbench.harness.bench import Bench
from invbench.harness.cells import run_cell
from invbench.harness.environment import environment, source_version

__all__ = ["Bench", "environment", "run_cell", "source_version"]
