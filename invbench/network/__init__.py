"""Networks as inversion sees them: frozen, cut at any stage, and read as a chain where they are one."""

from invbench.network.chain import Stage
from invbench.network.frozen import Network, parse
from invbench.network.interpretation import NoChainError, interpret

__all__ = ["Network", "NoChainError", "Stage", "interpret", "parse"]
