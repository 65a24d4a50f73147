"""Networks: parsed into chains, cut, frozen, hashed, moved, and black boxes told apart with a reason."""

import operator
import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from invbench.activations import Identity, LocalResponseNorm, MaxPool, ReLU, ReLUMaxPool
from invbench.errors import UserError
from invbench.network import Network, Stage, interpret, parse
from invbench.operators import (
    AveragePooling,
    Composition,
    Convolution,
    Dense,
    Diagonal,
    Normalise,
    Reshape,
    TransposedConvolution,
)


def sequential(**children):
    return nn.Sequential(OrderedDict(children))


def seeded(module, seed=0):
    """The module with weights, biases and running statistics that are all different from their defaults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
                layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator))
                layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.1)
    return module


def normalise():
    return Normalise([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


def lenet():
    return seeded(
        sequential(
            normalise=normalise(),
            conv1=nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU()),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Sequential(nn.Conv2d(4, 6, 5, padding=2), nn.ReLU(inplace=True)),
            pool2=nn.MaxPool2d(2),
            fc1=nn.Sequential(nn.Flatten(), nn.Linear(96, 12), nn.ReLU()),
            fc2=nn.Sequential(nn.Dropout(), nn.Linear(12, 8), nn.ReLU()),
            fc3=nn.Linear(8, 5),
        )
    )


def vgg():
    block = lambda a, b: [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]  # noqa: E731
    return seeded(
        sequential(
            normalise=normalise(),
            features=nn.Sequential(
                *block(3, 4), nn.MaxPool2d(2), nn.Sequential(*block(4, 6), *block(6, 6)), nn.MaxPool2d(2)
            ),
            average=nn.AdaptiveAvgPool2d(2),
            classifier=nn.Sequential(
                nn.Flatten(), nn.Linear(24, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
            ),
        )
    )


def alexnet():
    return seeded(
        sequential(
            conv1=nn.Sequential(nn.Conv2d(3, 6, 5, stride=2, padding=2), nn.ReLU()),
            norm1=nn.LocalResponseNorm(5, alpha=0.1),
            pool1=nn.MaxPool2d(3, 2),
            conv2=nn.Sequential(nn.Conv2d(6, 8, 3, padding="same", groups=2), nn.ReLU()),
            pool2=nn.MaxPool2d(3, 2, padding=1),
            fc=nn.Sequential(nn.Flatten(), nn.Linear(72, 5)),
        )
    )


def generator_network():
    return seeded(
        sequential(
            code=nn.Sequential(nn.Flatten(), nn.Linear(27, 12), nn.LeakyReLU(0.2)),
            up1=nn.Sequential(
                nn.Unflatten(1, (3, 2, 2)), nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4)
            ),
            act1=nn.LeakyReLU(0.2),
            up2=nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1),
        )
    )


def odds_and_ends():
    """What is rare: several layers without a map in front, pooling before ReLU, averages, no-ops."""
    return seeded(
        sequential(
            start=nn.LeakyReLU(0.5),
            pool=nn.Sequential(nn.MaxPool2d((2, 1)), nn.ReLU()),
            conv=nn.Conv2d(3, 4, 3, dilation=2, padding="same"),
            leaky=nn.LeakyReLU(0.1),
            pool2=nn.MaxPool2d(2, ceil_mode=True),
            average=nn.AvgPool2d(2, padding=1, count_include_pad=False),
            whole=nn.AdaptiveAvgPool2d((None, 1)),
            same=nn.AdaptiveAvgPool2d((None, None)),
            end=nn.Sequential(nn.Identity(), nn.Dropout2d()),
        )
    )


CHAINS = {
    "lenet": (lenet, (3, 16, 16)),
    "vgg": (vgg, (3, 16, 16)),
    "alexnet": (alexnet, (3, 23, 23)),
    "generator": (generator_network, (3, 3, 3)),
    "odds": (odds_and_ends, (3, 16, 12)),
    "one layer": (lambda: seeded(nn.Conv2d(3, 2, 3)), (3, 5, 5)),
}


def images(shape, generator, count=2, dtype=torch.float64):
    return torch.rand(count, *shape, generator=generator, dtype=dtype)


def run(chain, x):
    for stage in chain:
        x = stage(x)
    return x


@pytest.mark.parametrize(("make", "shape"), CHAINS.values(), ids=CHAINS)
def test_the_chain_equals_the_module(make, shape, generator):
    module = make().double().eval()
    network = parse(module, shape)
    x = images(shape, generator) * 3 - 1
    assert network.reason is None
    torch.testing.assert_close(run(network.chain, x), module(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(network(x), module(x), rtol=0, atol=0)
    assert network.output_shape == module(x).shape[1:] == network.chain[-1].out_shape
    for first, second in zip(network.chain, network.chain[1:], strict=False):
        assert first.out_shape == second.affine.in_shape


@pytest.mark.parametrize(("make", "shape"), CHAINS.values(), ids=CHAINS)
def test_every_cut_equals_the_prefix_of_the_module(make, shape, generator):
    module = make().double().eval()
    network = parse(module, shape)
    x = expected = images(shape, generator)
    for name, child in module.named_children():
        expected = child(expected)
        if name in network.stages:
            cut = network.cut(name)
            torch.testing.assert_close(cut(x), expected, rtol=0, atol=0)
            torch.testing.assert_close(run(cut.chain, x), expected, rtol=1e-10, atol=1e-10)
            assert cut.stages[-1] == name and cut.output_shape == expected.shape[1:]
            assert cut.input_shape == shape and cut.name == network.name


@pytest.mark.parametrize(("make", "shape"), CHAINS.values(), ids=CHAINS)
def test_stages_are_named_by_where_to_cut(make, shape, generator):
    network = parse(make().double(), shape)
    x = images(shape, generator)
    assert len({stage.name for stage in network.chain}) == len(network.chain)
    if not network.stages:
        return
    for stage in network.chain:
        x, before = stage(x), x
        torch.testing.assert_close(
            network.cut(stage.name)(images_again(shape)), run_until(network, stage, shape)
        )
        assert before.shape[1:] == stage.affine.in_shape


def images_again(shape):
    return images(shape, torch.Generator().manual_seed(0))


def run_until(network, last, shape):
    return run(network.chain[: network.chain.index(last) + 1], images_again(shape))


def kinds(network):
    return [(stage.name, type(stage.affine), stage.activation) for stage in network.chain]


def test_the_chain_of_lenet():
    network = parse(lenet(), (3, 16, 16), "lenet")
    assert network.stages == ("conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "fc3")
    pool = ReLUMaxPool((2, 2), (2, 2))
    assert kinds(network) == [
        ("pool1", Convolution, pool),
        ("pool2", Convolution, pool),
        ("fc1", Dense, ReLU()),
        ("fc2", Dense, ReLU()),
        ("fc3", Dense, Identity()),
    ]
    assert kinds(network.cut("conv1")) == [("conv1", Convolution, ReLU())]
    assert kinds(network.cut("pool1")) == [("pool1", Convolution, pool)]
    assert kinds(network.cut("conv1.0")) == [("conv1", Convolution, Identity())]
    assert network.chain[0].affine.bias.shape == (4, 16, 16)  # the normalisation meets zero padding
    assert network.chain[2].affine.in_shape == (6, 4, 4)
    assert network.multiply_adds == sum(stage.affine.multiply_adds for stage in network.chain)


def test_the_chain_of_vgg_has_no_batch_norm():
    network = parse(vgg(), (3, 16, 16))
    assert kinds(network) == [
        ("features.3", Convolution, ReLUMaxPool((2, 2), (2, 2))),
        ("features.4.2", Convolution, ReLU()),
        ("features", Convolution, ReLUMaxPool((2, 2), (2, 2))),
        ("classifier.3", Composition, ReLU()),
        ("classifier", Dense, Identity()),
    ]
    assert [type(one) for one in network.chain[3].affine.maps] == [AveragePooling, Dense]


def test_the_chain_of_an_alexnet_keeps_the_response_normalisation():
    network = parse(alexnet(), (3, 23, 23))
    assert kinds(network) == [
        ("conv1", Convolution, ReLU()),
        ("norm1", Diagonal, LocalResponseNorm(5, 0.1)),
        ("pool1", Diagonal, MaxPool((3, 3), (2, 2))),
        ("pool2", Convolution, ReLUMaxPool((3, 3), (2, 2), (1, 1))),
        ("fc", Dense, Identity()),
    ]


def test_the_chain_of_a_generator():
    network = parse(generator_network(), (3, 3, 3))
    assert kinds(network) == [
        ("code", Dense, ReLU(0.2)),
        ("act1", Composition, ReLU(0.2)),
        ("up2", TransposedConvolution, Identity()),
    ]
    assert [type(one) for one in network.chain[1].affine.maps] == [Reshape, TransposedConvolution]


def test_the_chain_of_odds_and_ends():
    network = parse(odds_and_ends(), (3, 16, 12))
    assert [(name, activation) for name, _, activation in kinds(network)] == [
        ("start", ReLU(0.5)),
        ("pool", ReLUMaxPool((2, 1), (2, 1))),
        ("leaky", ReLU(0.1)),
        ("pool2", MaxPool((2, 2), (2, 2))),
        ("whole", Identity()),
    ]


def test_a_network_that_does_nothing():
    assert kinds(parse(sequential(a=nn.Dropout(), b=nn.Identity()), (3, 4, 4))) == [
        ("b", Diagonal, Identity())
    ]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("kernel", "dilation"), [(4, 1), ((2, 3), 3), ((2, 4), (1, 3)), (2, 2)])
def test_even_kernels_with_the_same_padding(kernel, dilation, generator):
    module = nn.Conv2d(3, 2, kernel, padding="same", dilation=dilation, dtype=torch.float64)
    network = parse(seeded(module), (3, 9, 8))
    x = images((3, 9, 8), generator)
    torch.testing.assert_close(run(network.chain, x), network(x), rtol=1e-12, atol=1e-12)


def test_a_layer_that_occurs_twice_counts_twice(generator):
    relu, conv = nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)
    network = parse(seeded(sequential(a=conv, b=relu, c=conv, d=relu)), (3, 6, 6))
    assert network.stages == ("a", "b", "c", "d") and len(network.chain) == 2
    x = images((3, 6, 6), generator, dtype=torch.float32)
    torch.testing.assert_close(network.cut("d")(x), network(x))
    assert len(network.cut("c").chain) == 2


def test_features_of_torchvision_alexnet():
    from torchvision.models import alexnet as build

    with torch.random.fork_rng():
        features = build(weights=None).features
    network = parse(seeded(features), (3, 64, 64))
    assert [stage.name for stage in network.chain] == ["2", "5", "7", "9", "12"]
    assert network.chain[0].activation == ReLUMaxPool((3, 3), (2, 2)) and network.reason is None
    assert kinds(network.cut("3"))[-1] == ("3", Convolution, Identity())


# --- black boxes -------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x + self.relu(self.conv(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.normalise = normalise()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.block1 = ResidualBlock(4)
        self.block2 = nn.Sequential(ResidualBlock(4), nn.Conv2d(4, 5, 3, 2), ResidualBlock(5))
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = self.block2(self.block1(self.conv1(self.normalise(x))))
        return self.fc(x.mean((2, 3)))


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Cropped(nn.Conv2d):
    def forward(self, x):
        return super().forward(x)[..., 1:]


class Skipping(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


REASONS = {
    "block": (
        lambda: sequential(conv1=nn.Conv2d(3, 3, 3), block1=ResidualBlock(3)),
        "stage 'block1' is a ResidualBlock, which is neither an affine map nor an activation",
    ),
    "nested": (
        lambda: sequential(body=nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3)), nn.ELU())),
        "stage 'body.1' is an ELU, which is neither",
    ),
    "root": (ResNet, "the network is a ResNet instead of an nn.Sequential"),
    "sequential with a forward": (lambda: Skipping(nn.Conv2d(3, 3, 1)), "the network is a Skipping"),
    "reflection": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")),
        "stage '0' is a Conv2d, which pads by 'reflect' instead of zeros",
    ),
    "dilated pool": (
        lambda: nn.Sequential(nn.MaxPool2d(2, dilation=2)),
        "MaxPool2d, which dilates its windows",
    ),
    "ceil": (lambda: nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "which rounds its size up"),
    "ceil average": (lambda: nn.Sequential(nn.AvgPool2d(2, ceil_mode=True)), "which rounds its size up"),
    "divisor": (lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "which divides by a number"),
    "unequal": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4)),
        "which averages over windows of unequal sizes",
    ),
    "enlarging": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(18)), "unequal sizes"),
    "last axis": (
        lambda: nn.Sequential(nn.Linear(9, 2)),
        r"Linear, which takes vectors, but is given \(3, 9, 9\)",
    ),
    "batch": (
        lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
        "which normalises by the statistics of its batch",
    ),
    "own forward": (lambda: nn.Sequential(Doubled(3, 3, 3)), "does not compute what its type says"),
    "own shape": (
        lambda: nn.Sequential(Cropped(3, 3, 3), nn.Flatten(), nn.Linear(126, 2)),
        "their types say",
    ),
    "empty": (nn.Sequential, "the network is empty"),
}


@pytest.mark.parametrize(("make", "reason"), REASONS.values(), ids=REASONS)
def test_black_boxes_are_taken_and_say_why(make, reason, generator):
    module = make().eval()
    network = parse(module, (3, 9, 9))
    x = images((3, 9, 9), generator, dtype=torch.float32)
    torch.testing.assert_close(network(x), module(x))
    assert network.chain is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(network.reason)
    assert "\n" not in network.reason and network.multiply_adds >= 0


def test_a_hook_that_alters_a_layer_is_noticed():
    module = lenet()
    module.conv1.register_forward_hook(lambda layer, arguments, output: output + 1)
    assert "does not compute" in parse(module, (3, 16, 16)).reason


def test_a_network_that_returns_nan_is_no_chain():
    module = lenet()
    module.fc3.bias.data[0] = torch.nan
    assert parse(module, (3, 16, 16)).chain is None


def test_further_layers_can_be_made_known():
    class Negative(nn.Module):
        def forward(self, x):
            return -x

    module = nn.Sequential(Negative())
    assert parse(module, (3, 4, 4)).chain is None
    interpret.register(Negative, lambda layer, shape: Diagonal(shape, -torch.ones(())))
    assert kinds(parse(module, (3, 4, 4))) == [("0", Diagonal, Identity())]


def test_a_residual_network_is_cut(generator):
    module = seeded(ResNet()).eval()
    network = parse(module, (3, 9, 9), "resnet")
    assert network.stages == ("conv1", "block1", "block2", "fc")
    x = images((3, 9, 9), generator, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cuts = {
            name: network.cut(name) for name in (*network.stages, "block2.0", "block2.1", "block2.0.conv")
        }
    for name, cut in cuts.items():
        seen = []
        with module.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out.clone())):  # noqa: B023
            module(x)
        torch.testing.assert_close(cut(x), seen[0], msg=name)
        assert cut.output_shape == seen[0].shape[1:] and cut.chain is None and "instead of" in cut.reason
    assert cuts["block2"].stages == ("conv1", "block1", "block2")
    again = cuts["block2"].cut("block1")
    torch.testing.assert_close(again(x), cuts["block1"](x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(again))(x), cuts["block1"](x))
    torch.testing.assert_close(again.to(dtype=torch.float64)(x.double()).float(), cuts["block1"](x))
    assert len({cut.digest for cut in cuts.values()}) == len(cuts)
    assert cuts["block1"].multiply_adds < network.multiply_adds


def test_a_residual_network_within_a_sequential_is_cut(generator):
    module = seeded(sequential(first=nn.Conv2d(3, 3, 1), body=ResNet())).eval()
    network = parse(module, (3, 9, 9))
    x = images((3, 9, 9), generator, dtype=torch.float32)
    cut = network.cut("body.block1")
    body = module.body
    torch.testing.assert_close(cut(x), body.block1(body.conv1(body.normalise(module.first(x)))))
    assert cut.stages == ("first", "body")


def test_a_network_that_cannot_be_traced_says_so():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    network = parse(Branching(), (3, 4, 4), "branching")
    with pytest.raises(UserError, match=r"'branching' cannot be cut at 'conv', as torch.fx cannot trace it"):
        network.cut("conv")


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["conv9", "conv1.7", "", "conv1.", ".", "pool1.x", "conv1.0.weight"])
def test_an_unknown_stage_lists_the_stages(stage):
    network = parse(lenet(), (3, 16, 16), "lenet")
    with pytest.raises(
        UserError, match=r"'lenet' has no stage .*: conv1, pool1, conv2, pool2, fc1, fc2, fc3"
    ):
        network.cut(stage)


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


# --- frozen, hashed, moved ---------------------------------------------------------------------------------


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


def test_a_stage_is_applied_and_moved(generator):
    stage = parse(lenet(), (3, 16, 16)).chain[0]
    assert isinstance(stage, Stage) and stage.out_shape == (4, 8, 8)
    x = images((3, 16, 16), generator)
    torch.testing.assert_close(
        stage.to(dtype=torch.float64)(x), stage(x.float()).double(), rtol=1e-4, atol=1e-5
    )
