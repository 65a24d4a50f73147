"""Runs cells and analyses: poses problems, drives solvers, owns clock, stopping, scoring and record."""

from invbench.harness.analysing import check_analyses, run_analysis
from invbench.harness.bench import Bench
from invbench.harness.cells import run_cell
from invbench.harness.environment import environment, source_version
from invbench.harness.forecast import forecast

__all__ = ["Bench", "check_analyses", "environment", "forecast", "run_analysis", "run_cell", "source_version"]
