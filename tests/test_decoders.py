"""Layers of decoders, how their weights are trained in units of the data, and what they cost."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from invbench.activations import Identity, ReLU
from invbench.decoders import (
    SILENT,
    TIMID,
    Apprentice,
    Layer,
    apply,
    convolution,
    decoded,
    dense,
    missed,
    resized,
    stages,
    transposed,
)
from invbench.domains import Box
from invbench.errors import UserError
from invbench.losses import SquaredError
from invbench.meter import Meter
from invbench.problem import Problem
from tests.toys import tiny_network

MAP, IMAGE = (4, 5, 6), (3, 10, 12)

LAYERS: dict[str, tuple[Layer, tuple[int, ...], tuple[int, ...]]] = {
    "convolution": (convolution(MAP, 7, ReLU(), 5), MAP, (7, 5, 6)),
    "transposed": (transposed(MAP, IMAGE, ReLU(0.2), (4, 3), (2, 2), (1, 2), (1, 2)), MAP, IMAGE),
    "resized": (resized(MAP, IMAGE, Identity()), MAP, IMAGE),
    "resized by a fraction": (resized(MAP, (3, 8, 11), Identity(), 5), MAP, (3, 8, 11)),
    "not resized": (resized(MAP, (2, 5, 6), Identity(), 5), MAP, (2, 5, 6)),
    "dense": (dense(MAP, (3, 2, 2), ReLU()), MAP, (3, 2, 2)),
    "dense of vectors": (dense((9,), (6,), Identity()), (9,), (6,)),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_map_between_the_shapes_it_was_made_for(name: str) -> None:
    layer, source, goal = LAYERS[name]
    affine = layer.affine(drawn(*layer.weight), drawn(layer.biases))
    assert (affine.in_shape, affine.out_shape) == (source, goal)
    assert affine(drawn(2, *source)).shape == (2, *goal)
    assert layer.weight[layer.channels] % source[0] == 0


def test_layers_are_what_torch_has() -> None:
    x, bias = drawn(2, *MAP), drawn(3)
    weight = drawn(3, 4, 5, 5)
    found = convolution(MAP, 3, ReLU(), 5).affine(weight, bias)(x)
    torch.testing.assert_close(found, functional.conv2d(x, weight, bias, padding=2))

    up = functional.interpolate(x, scale_factor=2, mode="nearest")
    found = resized(MAP, IMAGE, ReLU(), 5).affine(weight, bias)(x)
    torch.testing.assert_close(found, functional.conv2d(up, weight, bias, padding=2))

    weight = drawn(4, 3, 5, 5)
    found = transposed(MAP, IMAGE, ReLU(), (5, 5), (2, 2), (2, 2)).affine(weight, bias)(x)
    torch.testing.assert_close(found, functional.conv_transpose2d(x, weight, bias, 2, 2, 1))

    weight, bias = drawn(12, 120), drawn(12)
    found = dense(MAP, (3, 2, 2), ReLU()).affine(weight, bias)(x)
    torch.testing.assert_close(found.flatten(1), x.flatten(1) @ weight.T + bias)


@pytest.mark.parametrize("name", LAYERS)
def test_the_first_weights_keep_maps_as_strong_as_they_are(name: str, generator: torch.Generator) -> None:
    """Of variance 2 / fan-in times the products in an output, of which borders have fewer."""
    layer, source, _ = LAYERS[name]
    count = layer.affine(torch.ones(layer.weight).double(), torch.zeros(layer.biases).double())
    products = float(count(torch.ones(1, *source, dtype=torch.float64)).mean())
    assert 0.5 * layer.fan_in < products <= layer.fan_in
    x, powers = torch.randn(20, *source, generator=generator, dtype=torch.float64), []
    for _ in range(20):
        (stage,) = Apprentice.new((layer,), {0: x}, {}, generator).stages()
        powers.append(float(stage.affine(x).detach().square().mean()))
    assert sum(powers) / 20 == pytest.approx(2 * products / layer.fan_in, rel=0.15)


def scenery(generator: torch.Generator) -> tuple[tuple[Layer, ...], Tensor, Tensor, Apprentice]:
    """A decoder of three layers, whose first input and last output are known; channel 2 is dead."""
    strengths = torch.tensor([0.01, 30, 0, 2], dtype=torch.float64)[:, None, None]
    inputs = strengths * torch.randn(8, *MAP, generator=generator, dtype=torch.float64)
    outputs = 50 + 7 * torch.randn(8, *IMAGE, generator=generator, dtype=torch.float64)
    layers = (
        convolution(MAP, 6, ReLU()),
        transposed((6, 5, 6), (5, 10, 12), ReLU(), (2, 2), (2, 2)),
        convolution((5, 10, 12), 3, Identity()),
    )
    return layers, inputs, outputs, Apprentice.new(layers, {0: inputs}, {2: outputs}, generator)


def test_weights_are_those_of_the_normalised_computation(generator: torch.Generator) -> None:
    """Inputs over their strengths, V and c, then times the level."""
    layers, inputs, outputs, apprentice = scenery(generator)
    strength = inputs.square().mean((0, 2, 3))
    strength = strength.clamp(min=SILENT * float(strength.mean())).sqrt()
    level = outputs.square().mean().sqrt()
    z, trained = inputs / strength[:, None, None], apprentice.trained
    z = functional.conv2d(z, trained["0.weight"], trained["0.bias"], padding=1).relu()
    z = functional.conv_transpose2d(z, trained["1.weight"], trained["1.bias"], 2).relu()
    z = level * functional.conv2d(z, trained["2.weight"], trained["2.bias"], padding=1)
    torch.testing.assert_close(apply(apprentice.stages(), inputs), z)
    torch.testing.assert_close(apply(stages(layers, apprentice.learned()), inputs), z.detach())


def test_weights_of_a_dense_layer_behind_a_map_have_the_gain_of_their_channel(
    generator: torch.Generator,
) -> None:
    x = torch.tensor([2.0, 0.5], dtype=torch.float64)[:, None, None].expand(4, 2, 3, 3)
    apprentice = Apprentice.new((dense((2, 3, 3), (5,), Identity()),), {0: x}, {}, generator)
    gains = torch.tensor([0.5] * 9 + [2.0] * 9, dtype=torch.float64)
    torch.testing.assert_close(apprentice.weights()["0.weight"], apprentice.trained["0.weight"] * gains)


def test_gradients_reach_all_that_is_trained(generator: torch.Generator) -> None:
    _, inputs, outputs, apprentice = scenery(generator)
    missed(apply(apprentice.stages(), inputs), outputs).backward()  # type: ignore[no-untyped-call]
    assert set(apprentice.trained) == {f"{n}.{what}" for n in range(3) for what in ("weight", "bias")}
    for tensor in apprentice.trained.values():
        assert tensor.is_leaf and tensor.grad is not None and bool(tensor.grad.any())
    assert not any(tensor.requires_grad for tensor in apprentice.learned().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_channels_and_dead_maps_have_finite_gains(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    layers, inputs, outputs, _ = scenery(generator)
    for scale in (1.0, 0.0, 1e-18):
        seen, wanted = (scale * inputs).to(dtype), (scale * outputs).to(dtype)
        apprentice = Apprentice.new(layers, {0: seen}, {2: wanted}, generator)
        assert all(tensor.isfinite().all() for tensor in apprentice.weights().values())
        found = apply(apprentice.stages(), seen)
        assert found.dtype == dtype
        assert missed(found, wanted).isfinite()


def test_the_first_output_is_near_the_mean_of_the_outputs(generator: torch.Generator) -> None:
    _, inputs, _, _ = scenery(generator)
    outputs = torch.tensor([1.0, -2, 6], dtype=torch.float64)[:, None, None] + 0.5 * torch.randn(
        8, *IMAGE, generator=generator, dtype=torch.float64
    )
    layers = (transposed(MAP, IMAGE, Identity(), (3, 3), (2, 2), (1, 1)),)
    made = Apprentice.new(layers, {0: inputs}, {0: outputs}, generator)
    found = apply(stages(layers, made.learned()), inputs)
    level = float(outputs.square().mean().sqrt())
    error = float((found - outputs.mean((0, 2, 3), keepdim=True)).square().mean().sqrt())
    assert 0.2 * TIMID * level < error < 2 * TIMID * level


def test_training_in_units_of_the_data_does_not_depend_on_the_units() -> None:
    """A first step with inputs or outputs a thousand times as large gives as many times the output."""
    found = []
    for scale, level in ((1.0, 1.0), (1e3, 1.0), (1.0, 1e3)):
        generator = torch.Generator().manual_seed(1)
        layers, inputs, outputs, _ = scenery(generator)
        inputs, outputs = scale * inputs, level * outputs
        apprentice = Apprentice.new(layers, {0: inputs}, {2: outputs}, generator)
        optimiser = torch.optim.AdamW(apprentice.trained.values(), lr=1e-2)
        missed(apply(apprentice.stages(), inputs), outputs).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        found.append(apply(apprentice.stages(), inputs).detach() / level)
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_missed_is_relative_to_the_whole_batch(generator: torch.Generator) -> None:
    wanted = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    wanted[0] = 0
    found = wanted + torch.randn(3, 4, generator=generator, dtype=torch.float64)
    by_hand = ((found - wanted) ** 2).sum() / (wanted**2).sum()
    torch.testing.assert_close(missed(found, wanted), by_hand)
    assert missed(wanted, wanted) == 0
    nothing = torch.zeros_like(wanted)
    assert missed(nothing, nothing) == 0


def test_a_decoded_target_is_paid_for_and_in_the_domain(generator: torch.Generator) -> None:
    network = tiny_network(torch.float32).cut("pool1")
    x = torch.rand(3, *network.input_shape, generator=generator)
    problem = Problem(network, network(x), SquaredError(), Box(0.0, 1.0), (), Meter(3))
    layers = (
        transposed(network.output_shape, (4, 8, 8), ReLU(), (2, 2), (2, 2)),
        convolution((4, 8, 8), 3, Identity()),
    )
    apprentice = Apprentice.new(layers, {0: problem.target}, {}, generator)
    learned = {name: 3 * tensor.double() for name, tensor in apprentice.learned().items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = decoded(layers, learned, problem)
    expected = apply(stages(layers, {name: t.float() for name, t in learned.items()}), problem.target)
    assert expected.min() < 0 < 1 < expected.max(), "or the projection would not be seen"
    assert torch.equal(found, expected.clamp(0, 1))
    assert isinstance(problem.meter, Meter)
    assert problem.meter.total("applications").tolist() == [2, 2, 2]
    price = 16 * (8 * 4 * 4) + 64 * (4 * 3 * 9)
    assert problem.meter.multiply_adds.tolist() == [price] * 3
    assert counter.get_total_flops() == 2 * 3 * price
    with pytest.raises(UserError, match="prepare it first"):
        decoded(layers, None, problem)


def test_the_weights_depend_on_the_generator_alone(generator: torch.Generator) -> None:
    layers, inputs, outputs, _ = scenery(generator)
    state = torch.random.get_rng_state()
    drawn_weights = [
        Apprentice.new(layers, {0: inputs}, {2: outputs}, torch.Generator().manual_seed(seed)).learned()
        for seed in (5, 5, 6)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    for name in ("0.weight", "1.weight", "2.weight"):
        assert torch.equal(drawn_weights[0][name], drawn_weights[1][name])
        assert not torch.equal(drawn_weights[0][name], drawn_weights[2][name])
    coarse = Apprentice.new(layers, {0: inputs.float()}, {}, torch.Generator().manual_seed(5)).trained
    fine = Apprentice.new(layers, {0: inputs}, {}, torch.Generator().manual_seed(5)).trained
    torch.testing.assert_close(coarse["0.weight"], fine["0.weight"].float(), rtol=0, atol=0)


def test_the_variance_of_the_first_weights() -> None:
    layer = replace(LAYERS["dense of vectors"][0], weight=(400, 900), biases=400, fan_in=900.0)
    x = torch.ones(2, 900, dtype=torch.float64)
    for outputs, share in (({}, 1.0), ({0: torch.ones(2, 400, dtype=torch.float64)}, TIMID)):
        made = Apprentice.new((layer,), {0: x}, outputs, torch.Generator().manual_seed(0))
        assert float(made.trained["0.weight"].detach().std()) == pytest.approx(
            share * math.sqrt(2 / 900), rel=0.01
        )
