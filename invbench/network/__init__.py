"""Networks as inversion sees them: frozen, cut at any stage, and read as a chain where they are one."""

from invbench.network.appended import append
from invbench.network.chain import Stage
from invbench.network.frozen import Network, parse
from invbench.network.interpretation import NoChainError, interpret
from invbench.network.layers import convolution, convolutions, inputs_of, plain
from invbench.network.stages import after, without_activations

__all__ = [
    "Network",
    "NoChainError",
    "Stage",
    "after",
    "append",
    "convolution",
    "convolutions",
    "inputs_of",
    "interpret",
    "parse",
    "plain",
    "without_activations",
]
