"""Networks: a call, and what it takes to read one as a chain and to check it."""

from functools import cache

import torch
from torch import nn

from benchmarks import problems
from invbench import networks
from invbench.network import Network, parse

SHAPE = (3, 32, 32)


@cache
def module(name: str) -> nn.Module:
    """An untrained network for twelve classes."""
    torch.manual_seed(0)
    return networks.find()[name].build(12, SHAPE[1])


@cache
def network(name: str, device: str) -> Network:
    """The same, ready to be inverted."""
    return parse(module(name), SHAPE, name).to(device)


class Call:
    """One pass of a batch of 32."""

    params = (["lenet", "vgg11"], ["cpu", "cuda"])
    param_names = ("network", "device")
    repeat = (5, 50, 2.0)

    def setup(self, name: str, device: str) -> None:
        """The network and a batch."""
        problems.demand(device)
        self.network = network(name, device)
        self.x = torch.rand(32, *SHAPE, device=device)

    def time_call(self, _name: str, device: str) -> None:
        """f(x)."""
        with torch.no_grad():
            self.network(self.x)
        problems.finish(device)


class Parse:
    """From a module to a chain that has been held to it."""

    params = (["lenet", "vgg11"],)
    param_names = ("network",)

    def setup(self, name: str) -> None:
        """The module."""
        self.module = module(name)

    def time_parse(self, name: str) -> None:
        """The frozen copy alone: all that a black-box method pays."""
        parse(self.module, SHAPE, name)

    def time_parse_and_check(self, name: str) -> None:
        """The copy, the chain, and the check of the one against the other."""
        assert parse(self.module, SHAPE, name).chain is not None
