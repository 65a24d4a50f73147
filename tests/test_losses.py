import math

import pytest
import torch

from invbench.errors import UserError
from invbench.losses import CrossEntropy, InnerProduct, SquaredError, TargetedMargin

NORMALISATIONS = ("target", "size", "variance", "none")


def randn(*shape, generator, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def squared_error_by_loops(output, target, normalisation):
    values = []
    for f, t in zip(output.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        error = math.fsum((a - b) ** 2 for a, b in zip(f, t, strict=True))
        mean = math.fsum(t) / len(t)
        normaliser = {
            "target": math.fsum(b * b for b in t),
            "size": len(t),
            "variance": math.fsum((b - mean) ** 2 for b in t),
            "none": 1.0,
        }[normalisation]
        values.append(error / normaliser)
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_squared_error_is_its_formula(normalisation, generator, device):
    output = randn(3, 2, 4, 5, generator=generator)
    target = randn(3, 2, 4, 5, generator=generator) + 0.7
    ours = SquaredError(normalisation)(output.to(device), target.to(device)).cpu()
    torch.testing.assert_close(
        ours, squared_error_by_loops(output, target, normalisation), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_squared_error_is_accurate_in_float32(normalisation, generator, device):
    output = randn(4, 16, 32, 32, generator=generator, dtype=torch.float32)
    target = randn(4, 16, 32, 32, generator=generator, dtype=torch.float32).relu()
    loss = SquaredError(normalisation)
    ours = loss(output.to(device), target.to(device)).cpu().double()
    torch.testing.assert_close(ours, loss(output.double(), target.double()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_squared_error_weights_are_its_factor(normalisation, generator, device):
    target = randn(3, 2, 4, 5, generator=generator).to(device)
    target[1] = 0
    output = randn(3, 2, 4, 5, generator=generator).to(device)
    loss = SquaredError(normalisation)
    plain = (output - target).square().flatten(1).sum(1)
    torch.testing.assert_close(loss.weights(target) * plain, loss(output, target), rtol=1e-13, atol=0)
    assert loss.weights(target.float()).dtype == torch.float32


def test_relative_error_is_one_at_zero_and_at_the_mean(generator):
    target = randn(3, 8, generator=generator) + 1
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(SquaredError("target")(torch.zeros_like(target), target), ones)
    mean = target.mean(1, keepdim=True).expand_as(target)
    torch.testing.assert_close(SquaredError("variance")(mean, target), ones)


def test_residual_orthogonal_to_the_target_does_not_blow_up():
    target = torch.tensor([[1.0, 0.0]])
    assert SquaredError()(torch.tensor([[1.0, 3.0]]), target).item() == 9.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("normalisation", "level"), [("target", 0.0), ("variance", 0.0), ("variance", 0.1), ("variance", 1e4 / 3)]
)
def test_a_target_without_scale_leaves_the_plain_error_to_that_instance_alone(normalisation, level, dtype):
    target = torch.full((2, 1000), level, dtype=dtype)
    target[1, ::2] += 1
    output = (target + 0.5).requires_grad_()
    loss = SquaredError(normalisation)(output, target)
    assert loss[0].item() == pytest.approx(250, rel=1e-3)
    assert loss[1].item() == pytest.approx(250 / (500 if normalisation == "target" else 250), rel=1e-3)
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    assert gradient.isfinite().all()


def test_a_variance_that_is_small_but_real_is_kept():
    target = 1 + 1e-4 * torch.tensor([[-1.0, 1.0]]).repeat(1, 50)
    assert SquaredError("variance")(target + 1e-4, target).item() == pytest.approx(1, rel=1e-2)


def test_cross_entropy_is_its_formula_and_stable(generator, device):
    scores, labels = randn(5, 7, generator=generator), torch.tensor([0, 6, 3, 3, 1])
    expected = scores.exp().sum(1).log() - scores[torch.arange(5), labels]
    ours = CrossEntropy()(scores.to(device), labels.to(device)).cpu()
    torch.testing.assert_close(ours, expected)
    huge = torch.tensor([[1e4, 0.0], [0.0, 1e4]], device=device)
    assert CrossEntropy()(huge, torch.tensor([0, 0], device=device)).tolist() == [0, 1e4]


def test_targeted_margin_is_its_formula(generator, device):
    scores, labels = randn(20, 4, generator=generator), torch.arange(20) % 4
    for confidence in (0.0, 0.5, math.inf):
        expected = [
            max(max(row[j] for j in range(4) if j != t) - row[t], -confidence)
            for row, t in zip(scores.tolist(), labels.tolist(), strict=True)
        ]
        ours = TargetedMargin(confidence)(scores.to(device), labels.to(device))
        torch.testing.assert_close(ours.cpu(), torch.tensor(expected, dtype=torch.float64))


def test_targeted_margin_is_flat_beyond_its_confidence_and_fair_to_ties():
    scores = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.0, 2.0]], requires_grad=True)
    loss = TargetedMargin(confidence=1.0)(scores, torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.tolist() == [-1, 2]
    assert gradient.tolist() == [[0, 0, 0], [-1, 0.5, 0.5]]


def test_inner_product_is_its_formula_and_the_linear_attack(generator, device):
    output, direction = (randn(3, 2, 4, 4, generator=generator) for _ in range(2))
    expected = -torch.stack([(a * b).sum() for a, b in zip(output, direction, strict=True)])
    ours = InnerProduct()(output.to(device), direction.to(device)).cpu()
    torch.testing.assert_close(ours, expected)
    scores, attack = torch.tensor([[5.0, 2.0, 1.0]]), torch.tensor([[-1.0, 0.0, 1.0]])
    assert InnerProduct()(scores, attack).item() == 4


def cases(generator):
    shape = (3, 2, 2, 3)
    for normalisation in NORMALISATIONS:
        pair = (randn(*shape, generator=generator), randn(*shape, generator=generator))
        yield SquaredError(normalisation), *pair
    yield InnerProduct(), randn(*shape, generator=generator), randn(*shape, generator=generator)
    for loss in (CrossEntropy(), TargetedMargin(), TargetedMargin(2.0)):
        yield loss, randn(3, 5, generator=generator), torch.tensor([0, 2, 4])


def test_gradients_and_members(generator):
    for loss, output, target in cases(generator):
        together = loss(output, target)
        assert together.shape == (3,)
        for i in range(3):
            alone = loss(output[i : i + 1], target[i : i + 1])
            torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-14, atol=0)
        leaf = output.requires_grad_()
        assert torch.autograd.gradcheck(lambda f, loss=loss, target=target: loss(f, target), leaf)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="'cross' is not one of target, size"):
        SquaredError("cross")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="confidence must be >= 0"):
        TargetedMargin(-1)
    with pytest.raises(UserError, match=r"shape \(2, 1\).*has \(2, 3\)"):
        SquaredError()(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(UserError, match="inner_product"):
        InnerProduct()(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(UserError, match="choose a layer that ends in scores"):
        CrossEntropy()(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match="targeted_margin"):
        TargetedMargin()(torch.zeros(2, 3), torch.zeros(2, 3))


def test_repr_identifies_and_equality_follows():
    assert SquaredError() == SquaredError("target") != SquaredError("size")
    assert repr(TargetedMargin(2.0)) == "TargetedMargin(confidence=2.0)"
