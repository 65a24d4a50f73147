"""A network with one more layer behind it."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import fx, nn

from invbench.errors import UserError
from invbench.network.frozen import Network, parse
from invbench.network.interpretation import children, is_sequential


def append(network: Network, name: str, layer: nn.Module) -> Network:
    """The network followed by a layer, as a stage of this name; all other stages keep theirs.

    Args:
        network: a sequence of layers, or what `Network.cut` leaves of another module.
        name: of the new stage.
        layer: takes the output of the network, on its device and in its precision.

    Raises:
        UserError: the network has a stage of this name, or is a module that has been neither cut nor traced.
    """
    module = network.module
    if name in module._modules:
        raise UserError(f"network {network.name!r} has a stage {name!r} already; rename that one.")
    if is_sequential(module):
        longer: nn.Module = nn.Sequential(OrderedDict([*children(module), (name, layer)]))
    elif isinstance(module, fx.GraphModule):
        longer = _traced_longer(module, name, layer)
    else:
        raise UserError(
            f"nothing can follow network {network.name!r}, which is no sequence; cut it at a stage."
        )
    return parse(longer, network.input_shape, network.name)


def _traced_longer(module: fx.GraphModule, name: str, layer: nn.Module) -> fx.GraphModule:
    """The same for a traced module: its graph with one more call."""
    graph = fx.Graph()
    output = graph.graph_copy(module.graph, {})
    assert isinstance(output, fx.Node)
    graph.output(graph.call_module(name, (output,)))
    parts: Mapping[str, object] = {
        **dict(module.named_modules()),
        **dict(module.named_parameters()),
        **dict(module.named_buffers()),
        name: layer,
    }
    return fx.GraphModule(dict(parts), graph, class_name=type(module).__name__)
