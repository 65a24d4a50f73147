"""Proximal operators of losses and priors, against cvxpy, optimality conditions and their geometry."""

import math

import cvxpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invbench.errors import UserError
from invbench.losses import CrossEntropy, InnerProduct, Loss, SquaredError, TargetedMargin
from invbench.priors import L1, AlphaNorm, Prior, Range, SquaredL2, Standardised, TotalVariation

NORMALISATIONS = ("target", "size", "variance", "none")
LOSSES = (
    *map(SquaredError, NORMALISATIONS),
    CrossEntropy(),
    TargetedMargin(),
    TargetedMargin(2.0),
    TargetedMargin(math.inf),
    InnerProduct(),
)
PRIORS = (
    SquaredL2(),
    SquaredL2(0.3),
    L1(),
    AlphaNorm(1),
    AlphaNorm(1.3, (0.2, 0.5, 0.6)),
    AlphaNorm(2),
    AlphaNorm(6),
    Range(2, scale=0.5),
    Range(6, (0.2, 0.5, 0.6), scale=0.3),
    Standardised(AlphaNorm(3), 0.2),
)
RHOS = (1e-8, 1e-5, 1e-2, 1.0, 1e4)
CLASSES = 5


def randn(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def target_of(loss, shape, generator):
    if isinstance(loss, (SquaredError, InnerProduct)):
        return randn(*shape, generator=generator)
    return torch.randint(shape[1], shape[:1], generator=generator)


def colours(generator, batch=3):
    return 0.5 + randn(batch, 3, 2, 2, generator=generator)


def expression(loss, v, target):
    """A loss of one instance in the words of cvxpy."""
    if isinstance(loss, SquaredError):
        weight = loss.weights(target[None]).item()
        return weight * cvxpy.sum_squares(v - target.numpy())
    if isinstance(loss, InnerProduct):
        return -target.numpy() @ v
    label = int(target)
    if isinstance(loss, CrossEntropy):
        return cvxpy.log_sum_exp(v) - v[label]
    margin = cvxpy.max(cvxpy.hstack([v[j] - v[label] for j in range(CLASSES) if j != label]))
    return margin if math.isinf(loss.confidence) else cvxpy.maximum(margin, -loss.confidence)


def minimiser(energy, v, point, rho, gap):
    objective = energy + rho / 2 * cvxpy.sum_squares(v - point.numpy())
    cvxpy.Problem(cvxpy.Minimize(objective)).solve(
        solver="CLARABEL", tol_gap_abs=gap, tol_gap_rel=gap, tol_feas=gap
    )
    return torch.from_numpy(v.value)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_against_cvxpy(loss, generator, device):
    point = 3 * randn(3, CLASSES, generator=generator)
    target = target_of(loss, point.shape, generator)
    for rho in (0.05, 0.7, 20.0):
        ours = loss.prox(point.to(device), target.to(device), rho).cpu()
        for p, t, mine in zip(point, target, ours, strict=True):
            v = cvxpy.Variable(CLASSES)
            theirs = minimiser(expression(loss, v, t), v, p, rho, gap=1e-11)
            torch.testing.assert_close(mine, theirs, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("prior", "energy"),
    [
        (L1(), lambda v: cvxpy.norm1(v)),
        (SquaredL2(0.3), lambda v: cvxpy.sum_squares(v - 0.3) / 2),
        (AlphaNorm(1), lambda v: cvxpy.norm1(v - 0.5)),
        (AlphaNorm(1.5), lambda v: cvxpy.sum(cvxpy.power(cvxpy.abs(v - 0.5), 1.5))),
        (AlphaNorm(4), lambda v: cvxpy.sum(cvxpy.power(v - 0.5, 4))),
        (Standardised(AlphaNorm(2), 0.2), lambda v: 0.2 * cvxpy.sum_squares(v - 0.5)),
        (Range(3, scale=0.5), lambda v: cvxpy.sum(cvxpy.power(cvxpy.norm(v - 0.5, 2, axis=0) / 0.5, 3))),
    ],
    ids=lambda value: "" if callable(value) and not isinstance(value, Prior) else repr(value),
)
def test_priors_against_cvxpy(prior, energy, generator, device):
    point = colours(generator, batch=1)
    for rho in (0.3, 4.0):
        v = cvxpy.Variable((3, 4))
        theirs = minimiser(energy(v), v, point[0].reshape(3, 4), rho, gap=1e-9)
        ours = prior.prox(point.to(device), rho).cpu()
        torch.testing.assert_close(ours[0].reshape(3, 4), theirs, atol=2e-4, rtol=0)


def slope(energy, v, point, rho):
    """The gradient of the objective of the prox at v."""
    leaf = v.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    return gradient + rho * (v - point)


@pytest.mark.parametrize("rho", RHOS)
def test_smooth_losses_are_stationary(rho, generator):
    point = 4 * randn(8, CLASSES, generator=generator)
    for loss in LOSSES:
        if not isinstance(loss, TargetedMargin):
            target = target_of(loss, point.shape, generator)
            v = loss.prox(point, target, rho)
            rest = slope(lambda x, loss=loss, target=target: loss(x, target), v, point, rho)
            assert rest.abs().max() < 1e-13 * (1 + rho * v.abs().max()), loss


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_priors_beat_their_neighbourhood_and_smooth_ones_are_stationary(prior, rho, generator):
    point = colours(generator)
    v = prior.prox(point, rho)

    def objective(x):
        return prior(x) + rho / 2 * (x - point).square().flatten(1).sum(1)

    for size in (1e-6, 1e-3, 1):
        moved = v + size * randn(*v.shape, generator=generator)
        assert (objective(v) <= objective(moved) * (1 + 1e-12)).all()
    if prior.degree > 1.5:
        rest = slope(prior, v, point, rho).abs().max()
        rounding_of_the_mean = 1e-14
        assert rest < 1e-12 * rho * (1 + (point - v).abs().max()) + rounding_of_the_mean


@pytest.mark.parametrize("rho", [*RHOS, torch.logspace(-8, 4, 40, dtype=torch.float64)], ids=str)
@pytest.mark.parametrize("confidence", [0.0, 1.5, math.inf])
def test_margin_satisfies_the_subgradient_inclusion(rho, confidence, generator):
    point = 10 * randn(40, CLASSES, generator=generator).round(decimals=1)  # with ties
    point[:5] = 0
    target = torch.arange(40) % CLASSES
    loss = TargetedMargin(confidence)
    v = loss.prox(point, target, rho)
    rho = torch.as_tensor(rho, dtype=torch.float64).reshape(-1, 1)
    label, rounding = target[:, None], 1e-13 * (1 + rho * v.abs().amax(1, keepdim=True))
    # A subgradient of the loss at v: weights on the classes that tie, minus their sum on the target.
    pull = rho * (point - v)
    weights = pull.scatter(1, label, 0.0)
    total = weights.sum(1, keepdim=True)
    assert (weights >= -rounding).all()
    assert ((pull.gather(1, label) + total).abs() <= CLASSES * rounding).all()
    assert (total <= 1 + CLASSES * rounding).all()
    best = v.scatter(1, label, -torch.inf).amax(1, keepdim=True)
    margin = best - v.gather(1, label)
    near = 1e-12 * (1 + v.abs().amax(1, keepdim=True))
    assert ((weights <= rounding) | (v >= best - near)).all()
    assert ((margin <= -confidence + near) | ((total - 1).abs() <= CLASSES * rounding)).all()
    assert ((margin >= -confidence - near) | (total.abs() <= CLASSES * rounding)).all()


def two_class_prox(gap, rho):
    """By bisection: v = point + (s, -s), point = (-gap, 0), target 0, so s rho = sigmoid(gap - 2 s)."""
    low, high = 0.0, 1 / rho
    for _ in range(200):
        s = (low + high) / 2
        log_sigmoid = (
            -math.log1p(math.exp(2 * s - gap))
            if 2 * s - gap < 0
            else (gap - 2 * s - math.log1p(math.exp(gap - 2 * s)))
        )
        low, high = (s, high) if math.log(s * rho) < log_sigmoid else (low, s)
    return s


@pytest.mark.parametrize("gap", [-1e4, -40.0, 0.0, 3.0, 1e4])
@pytest.mark.parametrize("rho", RHOS)
def test_cross_entropy_of_two_classes_against_bisection(gap, rho):
    point = torch.tensor([[-gap, 0.0]], dtype=torch.float64)
    v = CrossEntropy().prox(point, torch.tensor([0]), rho)
    s = two_class_prox(gap, rho)
    expected = torch.tensor([[-gap + s, -s]], dtype=torch.float64)
    torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("rho", RHOS)
def test_cross_entropy_at_extreme_scores(classes, rho, generator):
    """Levels of 1e4 whose mutual ties at the solution make plain Newton steps overshoot by a factor 1e6."""
    levels = 1e4 * torch.randint(-1, 2, (16, classes), generator=generator).double()
    labels = torch.randint(classes, (16,), generator=generator)
    for point in (levels, 1e4 * randn(16, classes, generator=generator), torch.zeros_like(levels)):
        v = CrossEntropy().prox(point, labels, rho)
        rest = slope(lambda x: CrossEntropy()(x, labels), v, point, rho)
        # The scores themselves are rounded by 1e-12, the probabilities hence by as much of themselves.
        assert rest.abs().max() < 1e-11 * (1 + rho * v.abs().max())
        assert (v - point).sum(1).abs().max() < 1e-9 * (1 + (v - point).abs().max())


scores = st.lists(st.floats(-50, 50), min_size=2 * CLASSES, max_size=2 * CLASSES)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(scores, st.integers(0, CLASSES - 1), st.floats(-8, 4), st.sampled_from(LOSSES))
def test_losses_are_firmly_non_expansive(values, label, exponent, loss):
    p, q = torch.tensor(values, dtype=torch.float64).reshape(2, 1, CLASSES)
    target = torch.tensor([label])
    if isinstance(loss, (SquaredError, InnerProduct)):
        target = torch.linspace(-1, label, CLASSES, dtype=torch.float64)[None]
    firmly(p, q, *(loss.prox(x, target, 10**exponent) for x in (p, q)))


colour_values = st.lists(st.floats(-5, 5), min_size=6, max_size=6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(colour_values, st.floats(-8, 4), st.sampled_from(PRIORS))
def test_priors_are_firmly_non_expansive(values, exponent, prior):
    p, q = torch.tensor(values, dtype=torch.float64).reshape(2, 1, 3, 1, 1)
    firmly(p, q, *(prior.prox(x, 10**exponent) for x in (p, q)))


def firmly(p, q, prox_p, prox_q):
    """|prox p - prox q|^2 <= <prox p - prox q, p - q>, up to the rounding of the points."""
    apart = prox_p - prox_q
    slack = 1e-9 * (1 + (p - q).norm()) * (1 + prox_p.abs().max() * 1e-6)
    assert apart.square().sum() <= (apart * (p - q)).sum() + slack * (1e-3 + apart.norm())


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_float32_members_and_one_rho_an_instance(loss, generator, device):
    point = 3 * randn(4, CLASSES, generator=generator).to(device)
    target = target_of(loss, point.shape, generator).to(device)
    rho = torch.tensor([1e-5, 0.1, 1.0, 100.0], device=device)
    together = loss.prox(point, target, rho)
    for i in range(4):
        alone = loss.prox(point[i : i + 1], target[i : i + 1], rho[i].item())
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)
    target = target.float() if target.is_floating_point() else target
    single = loss.prox(point.float(), target, rho)
    assert single.dtype == torch.float32
    exact = loss.prox(point.float().double(), target.double() if target.is_floating_point() else target, rho)
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_priors_float32_members_and_one_rho_an_instance(prior, generator, device):
    point = colours(generator).to(device)
    rho = torch.tensor([1e-5, 1.0, 100.0], device=device)
    together = prior.prox(point, rho)
    for i in range(3):
        alone = prior.prox(point[i : i + 1], rho[i].item())
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-7, atol=1e-9)
    single = prior.prox(point.float(), rho)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_priors_leave_their_minimum_alone_at_any_rho(prior):
    base = prior.prior if isinstance(prior, Standardised) else prior
    centre = getattr(base, "mean", getattr(base, "centre", 0.0))
    lowest = torch.as_tensor(centre).reshape(1, -1, 1, 1).expand(1, 3, 2, 2)
    for rho in RHOS:
        torch.testing.assert_close(prior.prox(lowest, rho), lowest)


def test_squared_l2_with_a_centre_an_instance(generator):
    point, centre = colours(generator), colours(generator)
    rho = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    v = SquaredL2(centre).prox(point, rho)
    assert slope(SquaredL2(centre), v, point, rho.reshape(3, 1, 1, 1)).abs().max() < 1e-13


def test_convolutional_features_have_a_squared_prox(generator):
    point, target = (randn(2, 3, 4, 5, generator=generator) for _ in range(2))
    v = SquaredError().prox(point, target, 1e-5)
    assert v.shape == point.shape
    assert slope(lambda x: SquaredError()(x, target), v, point, 1e-5).abs().max() < 1e-15


def test_a_loss_and_a_prior_tell_whether_they_have_one():
    class Other(Loss):
        name = "other"

        def __call__(self, output, target):
            return output.sum(1)

    assert all(loss.has_prox for loss in LOSSES)
    assert all(prior.has_prox for prior in PRIORS)
    assert not Other().has_prox
    assert not TotalVariation(1.0).has_prox
    assert not Standardised(TotalVariation(1.0), 2.0).has_prox
    assert not Prior.has_prox
    with pytest.raises(UserError, match="other: has no proximal operator"):
        Other().prox(torch.zeros(1, 2), torch.zeros(1), 1.0)
    with pytest.raises(UserError, match="tv: has no proximal operator"):
        Standardised(TotalVariation(1.0), 2.0).prox(torch.zeros(1, 3, 2, 2), 1.0)


@pytest.mark.parametrize("rho", [0, -1.0, math.nan])
def test_rho_must_be_positive(rho):
    with pytest.raises(UserError, match=f"cross_entropy: the prox needs rho > 0, but it is {rho}"):
        CrossEntropy().prox(torch.zeros(2, 3), torch.tensor([0, 1]), rho)
    with pytest.raises(UserError, match=f"l1: the prox needs rho > 0, but it is {rho}"):
        L1().prox(torch.zeros(2, 3), rho)


def test_shapes_are_checked():
    with pytest.raises(UserError, match=r"squared_error: rho has the shape \(3,\); give a number or \(2,\)"):
        SquaredError().prox(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3))
    with pytest.raises(UserError, match=r"l2: rho has the shape \(2, 1\)"):
        SquaredL2().prox(torch.zeros(2, 3), torch.ones(2, 1))
    with pytest.raises(UserError, match="choose a layer that ends in scores"):
        TargetedMargin().prox(torch.zeros(2, 3, 4, 4), torch.zeros(2), 1.0)
    with pytest.raises(UserError, match="inner_product: the target has the shape"):
        InnerProduct().prox(torch.zeros(2, 3), torch.zeros(3), 1.0)
