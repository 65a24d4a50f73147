"""A network as inversion sees it: a frozen module, where it may be cut, its price, hash and chain."""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain as chained

import torch
from torch import Tensor, fx, nn

from invbench.errors import UserError
from invbench.network.chain import Chain, apply_chain, read_chain
from invbench.network.interpretation import NoChainError, children, is_sequential, with_article
from invbench.operators import Normalise

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """A module in evaluation mode whose parameters need no gradients. Made by `parse`.

    Args:
        module: the module; nobody else may change it.
        name: what it is called in records and messages.
        input_shape: (C, H, W) of one input.
        output_shape: shape of one output.
        device: where the weights are.
        dtype: their precision.
    """

    module: nn.Module = field(repr=False)
    name: str
    input_shape: Shape
    output_shape: Shape
    device: torch.device
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """The output for a batch, (B, *input_shape) -> (B, *output_shape), differentiable in x."""
        output: Tensor = self.module(x)
        return output

    def with_maps(self, x: Tensor, stages: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The output for a batch, and the outputs of some stages on the way, from one pass.

        Args:
            x: (B, *input_shape).
            stages: names that `cut` takes, of modules that this network calls.

        Returns:
            (B, *output_shape), and (B, ...) by stage.

        Raises:
            UserError: tracing has taken a stage apart (see `cut`), so that nothing calls it.
        """
        maps: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for stage in stages:

                def keep(module: nn.Module, inputs: object, output: Tensor, stage: str = stage) -> None:  # noqa: ARG001
                    maps[stage] = output

                hooks.enter_context(self.module.get_submodule(stage).register_forward_hook(keep))
            output = self(x)
        unseen = [stage for stage in stages if stage not in maps]
        if unseen:
            known = ", ".join(self.stages)
            sentence = (
                f"network {self.name!r} cannot be looked into at {unseen[0]!r} on the way to its output"
            )
            raise UserError(f"{sentence}; it can at: {known}.")
        return output, maps

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the top-level children, where the network may be cut; a normalisation is none."""
        return tuple(name for name, child in children(self.module) if not isinstance(child, Normalise))

    def cut(self, stage: str) -> "Network":
        """The network up to and including a stage; the weights are shared.

        Args:
            stage: one of `stages`, or a dotted name of a child within one of them.

        Raises:
            UserError: where there is no such stage, or torch.fx cannot trace the module that contains it.
        """
        if not _has_child(self.module, stage):
            known = ", ".join(self.stages) or "none"
            sentence = f"network {self.name!r} has no stage {stage!r}; its stages are: {known}."
            raise UserError(sentence)
        return _wrap(_prefix(self.module, stage.split("."), self.name).eval(), self.input_shape, self.name)

    @cached_property
    def multiply_adds(self) -> int:
        """Price of one forward pass of one instance, in matrix products and convolutions.

        The sum over the chain where there is one; torch's own counter, which says the same, takes more than
        a second to import. A module that convolves by other means, such as the FFT, states its price itself.
        """
        stated = getattr(self.module, "multiply_adds", None)
        if isinstance(stated, int):
            return stated
        if self.chain is not None:
            return sum(stage.affine.multiply_adds for stage in self.chain)
        from torch.utils.flop_counter import FlopCounterMode

        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.module(torch.zeros(1, *self.input_shape, device=self.device, dtype=self.dtype))
        return int(counter.get_total_flops()) // 2

    @property
    def chain(self) -> Chain | None:
        """Affine maps and activations in turn, equal to the module; None where it is no chain."""
        return self._parsed[0]

    @property
    def reason(self) -> str | None:
        """Why there is no chain, in one sentence; None where there is one."""
        return self._parsed[1]

    @cached_property
    def digest(self) -> str:
        """Hash of architecture and weights, 64 hexadecimal digits, the same on every device.

        The architecture is what the module prints: two classes of one name and the same layers, which
        differ in `forward` alone, are told apart only once traced.
        """
        digest = hashlib.sha256(str(self.module).encode())
        for name, tensor in chained(self.module.named_parameters(), self.module.named_buffers()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Network":
        """The same network on another device or in another precision; itself where nothing changes."""
        probe = torch.empty(0, device=self.device, dtype=self.dtype)
        moved = probe.to(device=device, dtype=dtype)
        if moved is probe:
            return self
        module = copy.deepcopy(self.module).to(device=device, dtype=dtype)
        return replace(self, module=module, device=moved.device, dtype=moved.dtype)

    @cached_property
    def _parsed(self) -> tuple[Chain | None, str | None]:
        """The chain or the reason why there is none, found when first asked for: many solvers never ask."""
        try:
            with torch.no_grad():
                chain = read_chain(self.module, self.input_shape)
                _check(chain, self)
        except NoChainError as error:
            return None, str(error)
        except (RuntimeError, TypeError, ValueError) as error:
            return None, f"the layers of the network are not what their types say: {_first_line(error)}"
        return chain, None


def _check(chain: Chain, network: Network) -> None:
    """Hold a chain to its network on a random batch.

    Raises:
        NoChainError: where they differ, as where a layer has a forward or a hook of its own.
    """
    # Convolutions on a GPU multiply with ten bits of mantissa by default: compare in double precision there.
    dtype = torch.float64 if network.device.type == "cuda" else network.dtype
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *network.input_shape, generator=generator, dtype=dtype).to(network.device)
    expected = network.to(dtype=dtype)(x)
    found = apply_chain(tuple(stage.to(dtype=dtype) for stage in chain), x)
    tolerance = torch.finfo(network.dtype).eps ** 0.5 * expected.abs().max()
    if found.shape != expected.shape or not bool((found - expected).abs().max() <= tolerance):
        raise NoChainError("a layer of the network does not compute what its type says, as its chain differs")


def parse(module: nn.Module, input_shape: Shape, name: str = "network") -> Network:
    """A frozen copy of a module, ready to be inverted.

    The copy is in evaluation mode, its parameters need no gradients, and no layer works in place, so that
    neither x nor a feature map is overwritten. The module itself stays as it is.

    Args:
        module: any module that maps a batch (B, C, H, W) to a tensor (B, ...).
        input_shape: (C, H, W).
        name: what the network is called in records and messages.

    Raises:
        UserError: where the module cannot be copied, takes no input of that shape, or returns no batch.
    """
    try:
        module = copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"network {name!r} cannot be copied: {_first_line(error)}.") from error
    for child in module.modules():
        if getattr(child, "inplace", False) is True:
            vars(child)["inplace"] = False
    return _wrap(module.eval().requires_grad_(False), tuple(input_shape), name)


def _wrap(module: nn.Module, input_shape: Shape, name: str) -> Network:
    """A Network around a frozen module, whose output shape one zero image tells."""
    tensors = chained(module.parameters(), module.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(0))
    try:
        with torch.no_grad():
            output: object = module(like.new_zeros(1, *input_shape))
    except Exception as error:  # whatever the user's own code may raise
        sentence = f"network {name!r} cannot take an input of shape {input_shape}: {_first_line(error)}."
        raise UserError(sentence) from error
    if not isinstance(output, Tensor) or output.shape[:1] != (1,):
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else with_article(output)
        raise UserError(f"network {name!r} must return a tensor (B, ...), but one image gives {found}.")
    return Network(module, name, input_shape, tuple(output.shape[1:]), like.device, like.dtype)


def _has_child(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return path != ""


def _prefix(module: nn.Module, path: list[str], name: str) -> nn.Module:
    """The part of a module up to and including the child at `path`, with the same weights."""
    if not is_sequential(module):
        return _traced_prefix(module, ".".join(path), name)
    head, *rest = path
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for key, child in children(module):
        kept[key] = _prefix(child, rest, name) if key == head and rest else child
        if key == head:
            break
    return nn.Sequential(kept)


def _traced_prefix(module: nn.Module, stage: str, name: str) -> nn.Module:
    """The same for a module with a forward of its own."""
    from torchvision.models.feature_extraction import create_feature_extractor  # a second to import

    try:
        extractor = create_feature_extractor(
            module,
            {stage: "features"},
            tracer_kwargs={"leaf_modules": _whole(module, stage)},
            suppress_diff_warning=True,
        )
    except Exception as error:  # tracing runs the user's own code
        place = f"network {name!r} cannot be cut at {stage!r}"
        raise UserError(f"{place}, as torch.fx cannot trace it there: {_first_line(error)}.") from error
    graph = extractor.eval().graph
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    output.args = (output.args[0]["features"],)
    return fx.GraphModule(extractor, graph, class_name=type(module).__name__)


def _whole(module: nn.Module, stage: str) -> list[type[nn.Module]]:
    """What stays in one piece when a module is traced: its stages, which may be looked at, and Normalise.

    The classes of the modules that the cut lies within are taken apart, wherever they are used.
    """
    steps = stage.split(".")
    around = {type(module.get_submodule(".".join(steps[:n]))) for n in range(1, len(steps))}
    stages: set[type[nn.Module]] = {type(child) for child in module.children()}
    return [Normalise, *(stages - around)]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
