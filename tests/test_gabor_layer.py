"""Convolutions of Gabor filters: their weight, its gradients, their chain, and that they learn."""

import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from invbench.gabor import GAMMA, LAMBDA, SIGMA, gabor_kernel
from invbench.gabor.layer import GaborConv2d, drawn
from invbench.network import convolutions, parse
from invbench.networks import find
from invbench.operators import Convolution


def layer(channels: int = 3, filters: int = 4, size: int = 5, **options: bool | int | str) -> GaborConv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GaborConv2d(channels, filters, size, **options).double()  # type: ignore[arg-type]


def test_a_filter_is_a_kernel_of_norm_1_in_a_colour() -> None:
    module = layer()
    assert module.weight.shape == (4, 3, 5, 5)
    for k in range(4):
        kernel = gabor_kernel(module.gabor[k], 5)
        for c in range(3):
            expected = module.mixing[k, c] * kernel / kernel.square().sum().sqrt()
            torch.testing.assert_close(module.weight[k, c], expected)


def test_it_has_five_parameters_a_filter_and_a_colour_and_a_bias() -> None:
    shapes = {name: tuple(value.shape) for name, value in layer().state_dict().items()}
    assert shapes == {"raw": (4, 5), "mixing": (4, 3), "bias": (4,)}
    assert {name for name, _ in layer(bias=False).named_parameters()} == {"raw", "mixing"}


def test_parameters_are_in_their_ranges_whatever_is_learned() -> None:
    module = layer(filters=200)
    nn.init.normal_(module.raw, std=3)
    assert (module.gabor[:, LAMBDA] > 2).all()
    assert (module.gabor[:, [SIGMA, GAMMA]] > 0).all()
    assert module.weight.isfinite().all()


def test_the_drawn_parameters_are_those_it_begins_with() -> None:
    parameters = drawn(300, 9, torch.Generator().manual_seed(0))
    wavelength, theta, psi, sigma, gamma = parameters.unbind(1)
    assert ((wavelength >= 2.5) & (wavelength <= 9)).all()
    assert (4 * sigma >= wavelength).all()
    assert ((gamma >= 0.5) & (gamma <= 1)).all()
    assert float(theta.max()) - float(theta.min()) > 0.9 * math.pi
    assert float(psi.max()) - float(psi.min()) > 1.9 * math.pi
    found = layer(filters=300, size=9).gabor.detach()
    for k in (LAMBDA, SIGMA, GAMMA):
        quantiles = [one[:, k].quantile(q) for one in (found, parameters) for q in (0.25, 0.75)]
        torch.testing.assert_close(quantiles[:2], quantiles[2:], rtol=0.15, atol=0)


def test_gradients_are_those_of_finite_differences() -> None:
    module = layer(channels=2, filters=2)
    x = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def output(raw: Tensor, mixing: Tensor, x: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(module, {"raw": raw, "mixing": mixing}, (x,))
        return found

    inputs = (module.raw.detach(), module.mixing.detach(), x)
    assert torch.autograd.gradcheck(output, tuple(one.clone().requires_grad_() for one in inputs))


def test_a_kernel_that_vanishes_leaves_no_nan() -> None:
    module = layer(size=4, filters=1, padding="valid")
    nn.init.constant_(module.raw[:, SIGMA], -20)  # of four by four pixels none is at the centre
    module(torch.ones(1, 3, 8, 8, dtype=torch.float64)).sum().backward()
    assert module.raw.grad is not None
    assert torch.equal(module.weight, torch.zeros_like(module.weight))
    assert module.raw.grad.isfinite().all()


@pytest.mark.parametrize(("theta", "turns"), [(math.pi / 2, 1), (math.pi, 2)])
def test_a_quarter_turn_of_theta_turns_the_filter(theta: float, turns: int) -> None:
    module = layer()
    before = module.weight.detach()
    with torch.no_grad():
        module.raw[:, 1] += theta
    torch.testing.assert_close(module.weight, before.rot90(-turns, (2, 3)))


def test_an_even_wave_makes_a_filter_symmetric_and_an_odd_one_antisymmetric() -> None:
    module = layer()
    for psi, sign in ((0.0, 1.0), (math.pi / 2, -1.0)):
        nn.init.constant_(module.raw[:, 2], psi)
        torch.testing.assert_close(module.weight.flip(2, 3), sign * module.weight)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 3}, {"padding": "valid", "bias": False}])
def test_to_all_else_it_is_a_convolution(options: dict[str, bool | int | str]) -> None:
    module = nn.Sequential(layer(**options), nn.ReLU())
    network = parse(module, (3, 9, 8))
    first = convolutions(network)["0"]
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = functional.conv2d(
        x, first.weight, first.bias, stride=first.stride, padding=first.padding
    ).relu()
    torch.testing.assert_close(network(x), expected)
    assert network.reason is None
    assert network.chain is not None
    assert isinstance(network.chain[0].affine, Convolution)
    torch.testing.assert_close(network.chain[0](x), expected)


def test_it_is_copied_moved_pickled_and_told_apart() -> None:
    module = nn.Sequential(layer())
    network, again = parse(module, (3, 8, 8)), parse(pickle.loads(pickle.dumps(module)), (3, 8, 8))
    assert network.digest == again.digest
    assert "GaborConv2d(3, 4, kernel_size=(5, 5)" in str(network.module)
    single = network.to(dtype=torch.float32)
    assert convolutions(single)["0"].weight.dtype == torch.float32
    module.get_parameter("0.raw").data[0, 0] += 0.1
    assert parse(module, (3, 8, 8)).digest != network.digest
    with pytest.raises(AttributeError, match="weight"):
        module.get_parameter("0.weight")


def test_it_learns_filters_from_what_they_make_of_images() -> None:
    truth, module = layer(channels=1, filters=3, size=7), layer(channels=1, filters=3, size=7)
    with torch.no_grad():
        module.raw += 0.2 * torch.randn(module.raw.shape, generator=torch.Generator().manual_seed(1))
    x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = truth(x).detach()
    optimiser = torch.optim.Adam(module.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = (module(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]
    torch.testing.assert_close(module.weight, truth.weight, atol=0.02, rtol=0)


def test_gabor_net_is_found_and_is_a_chain() -> None:
    assert find()["gabor_net"].recipe == find()["lenet"].recipe
    network = parse(find()["gabor_net"].build(5, 16, kernel=7).double(), (3, 16, 16))
    assert network.stages == ("conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "fc3")
    assert convolutions(network)["conv1.0"].kernel_size == (7, 7)
    assert network.chain is not None
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x
    for stage in network.chain:
        y = stage(y)
    torch.testing.assert_close(y, network(x))


@pytest.mark.parametrize("kernel", [4, 0, 2.5, True])
def test_a_kernel_that_is_none_is_told(kernel: object) -> None:
    with pytest.raises(ValueError, match="an odd whole number is needed"):
        find()["gabor_net"].build(5, 16, kernel=kernel)
