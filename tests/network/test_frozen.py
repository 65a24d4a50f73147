"""Networks: what cannot be one; frozen, priced, hashed, pickled, moved."""

import operator
import pickle

import pytest
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from invbench.errors import UserError
from invbench.network import Network, parse
from tests.modules import CHAINS, ResNet, images, lenet, run


def test_an_input_that_does_not_fit():
    with pytest.raises(
        UserError, match=r"'lenet' cannot take an input of shape \(3, 20, 20\): .*mat1 and mat2"
    ) as error:
        parse(lenet(), (3, 20, 20), "lenet")
    assert "\n" not in str(error.value)


class Listing(nn.Module):
    def forward(self, x):
        return [x]


@pytest.mark.parametrize(("module", "found"), [(Listing(), "a list"), (nn.Flatten(0), r"shape \(48,\)")])
def test_an_output_that_is_no_batch(module, found):
    with pytest.raises(UserError, match=f"must return a tensor .* gives {found}"):
        parse(module, (3, 4, 4))


def test_a_module_that_cannot_be_copied():
    module = nn.Conv2d(3, 3, 1)
    module.computed = module.weight * 2
    with pytest.raises(UserError, match="cannot be copied"):
        parse(module, (3, 4, 4))


def test_the_module_of_the_user_and_the_global_randomness_are_left_alone():
    module = lenet().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    network = parse(module, (3, 16, 16))
    _ = network.chain, network.digest, network.multiply_adds, network.cut("pool1").chain
    network.to(dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert all(child.training for child in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert module.conv2[1].inplace
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    with torch.no_grad():
        module.fc3.bias += 1
    assert torch.equal(network.module.fc3.bias, before["fc3.bias"])


def test_the_network_is_frozen_and_shares_weights_with_its_cuts():
    network = parse(lenet().train(), (3, 16, 16))
    cut = network.cut("conv2.0")
    for frozen in (network, cut):
        assert not any(child.training for child in frozen.module.modules())
        assert not any(parameter.requires_grad for parameter in frozen.module.parameters())
    assert cut.module.conv1[0].weight is network.module.conv1[0].weight
    assert network.module.conv2[1] is not None and len(network.module.conv2) == 2
    with pytest.raises(AttributeError):
        network.name = "other"


def test_gradients_reach_the_input_and_nothing_works_in_place(generator):
    network = parse(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten()), (3, 2, 2))
    x = (images((3, 2, 2), generator) - 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    assert torch.equal(gradient, (x > 0).double()) and (x < 0).any()


def test_the_chain_is_read_when_asked_for_and_once(monkeypatch):
    calls = []
    monkeypatch.setattr("invbench.network.frozen.read_chain", lambda *arguments: calls.append(1) or ())
    monkeypatch.setattr("invbench.network.frozen._check", lambda *arguments: None)
    network = parse(lenet(), (3, 16, 16))
    network.cut("pool1")
    assert not calls
    _ = network.chain, network.reason, network.chain
    assert calls == [1]


@pytest.mark.parametrize(("make", "shape"), [*CHAINS.values(), (ResNet, (3, 9, 9))], ids=[*CHAINS, "resnet"])
def test_the_price_is_that_of_the_flop_counter(make, shape):
    module = make().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *shape))
    assert parse(module, shape).multiply_adds == counter.get_total_flops() // 2 > 0


def test_the_price_is_that_of_one_instance():
    layers = 256 * 4 * 75 + 64 * 6 * 100 + 96 * 12 + 12 * 8 + 8 * 5
    assert parse(lenet(), (3, 16, 16)).multiply_adds == layers


def test_the_digest_tells_weights_and_architectures_apart():
    network = parse(lenet(), (3, 16, 16), "a")
    assert network.digest == parse(lenet(), (3, 16, 16), "b").digest
    assert len(network.digest) == 64
    other = lenet()
    with torch.no_grad():
        other.fc3.bias[-1] += 1e-6
    shifted = lenet()
    shifted.normalise.mean += 0.1
    strided = lenet()
    strided.pool2 = nn.MaxPool2d(2, 2, 0)
    strided.pool1 = nn.MaxPool2d(3, 2, 1)
    networks = [network, network.cut("fc3"), network.cut("fc2")]
    networks += [parse(module, (3, 16, 16)) for module in (other, shifted, strided)]
    digests = [one.digest for one in networks]
    assert digests[0] == digests[1] and len(set(digests[1:])) == 5


def test_the_digest_sees_what_a_traced_network_computes():
    plus, minus = fx.Graph(), fx.Graph()
    for graph, function in ((plus, operator.add), (minus, operator.sub)):
        x = graph.placeholder("x")
        graph.output(graph.call_function(function, (x, 1)))
    digests = {parse(fx.GraphModule({}, graph), (3, 2, 2)).digest for graph in (plus, minus)}
    assert len(digests) == 2


def test_networks_pickle(generator):
    network = parse(lenet(), (3, 16, 16), "lenet")
    x = images((3, 16, 16), generator, dtype=torch.float32)
    for one in (network, network.cut("pool2")):
        for _ in range(2):  # before and after the caches are filled
            twin = pickle.loads(pickle.dumps(one))
            assert isinstance(twin, Network) and (twin.name, twin.input_shape) == ("lenet", (3, 16, 16))
            torch.testing.assert_close(twin(x), one(x), rtol=0, atol=0)
            torch.testing.assert_close(run(twin.chain, x), run(one.chain, x), rtol=0, atol=0)
            assert twin.digest == one.digest


def test_the_chain_follows_the_network(device, generator):
    network = parse(lenet(), (3, 16, 16))
    assert network.to() is network and network.to("cpu", torch.float32) is network
    assert network.dtype == torch.float32 and network.device == torch.device("cpu")
    x = images((3, 16, 16), generator)
    moved = network.to(device, torch.float64)
    assert moved.dtype == torch.float64 and moved.device.type == torch.device(device).type
    found = run(moved.chain, x.to(device))
    assert found.dtype == torch.float64 and found.device == moved.device
    torch.testing.assert_close(found, moved(x.to(device)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.cpu().float(), network(x.float()), rtol=1e-4, atol=1e-5)
    assert network.module.fc3.weight.dtype == torch.float32
    single = moved.to(dtype=torch.float32)
    assert single.reason is None and single.to("cpu").digest == network.digest


def test_a_network_without_weights_moves():
    network = parse(nn.Sequential(nn.Flatten()), (3, 2, 2)).to(dtype=torch.float64)
    assert network.dtype == torch.float64 and network.chain is not None


@pytest.mark.parametrize(
    ("module", "shape", "last", "inner"),
    [(lenet(), (3, 16, 16), "pool2", "pool1"), (ResNet(), (3, 8, 8), "block2", "block1")],
)
def test_maps_on_the_way_are_those_of_the_cut_network(module, shape, last, inner, generator):
    """Also in a module with a forward of its own, whose cut is traced."""
    network = parse(module.double(), shape).cut(last)
    x = images(shape, generator)
    output, maps = network.with_maps(x, [inner, last])
    torch.testing.assert_close(output, network(x))
    torch.testing.assert_close(maps[inner], network.cut(inner)(x))
    assert maps[last] is output
    assert network.with_maps(x, [])[1] == {}


def test_a_stage_that_tracing_took_apart_cannot_be_looked_at():
    network = parse(ResNet(), (3, 8, 8)).cut("block2.0.conv")
    with pytest.raises(
        UserError, match="cannot be looked into at 'block1' on the way to its output; it can at"
    ):
        network.with_maps(torch.rand(1, 3, 8, 8), ["block1"])
