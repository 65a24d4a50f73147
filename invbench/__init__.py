"""invbench: a benchmark suite for neural-network inversion."""

__version__ = "0.1.0"
