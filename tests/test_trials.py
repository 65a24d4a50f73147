"""Problems, starts, truths, and the weights of priors."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invbench.domains import Box
from invbench.images import ImageBatch
from invbench.priors import AlphaNorm, Range, SquaredL2, TotalVariation
from invbench.registry import catalogue
from invbench.solver import Randomness
from invbench.trials.activation import Activation
from invbench.trials.adversarial import Adversarial
from invbench.trials.caricature import Caricature
from invbench.trials.class_inversion import ClassInversion
from invbench.trials.contract import Scene, Trial
from invbench.trials.masks import FeatureMask
from invbench.trials.preimage import Preimage
from invbench.trials.starts import draw_start
from invbench.trials.terms import check_priors, weigh
from tests.scenes import scene_of
from tests.toys import CLASSES, SHAPE, tiny_network


def scene(count: int = 4, seed: int = 0) -> Scene:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(count, *SHAPE, generator=generator)
    return Scene(
        network=tiny_network(torch.float32),
        images=ImageBatch(pixels, torch.zeros(count, dtype=torch.int64), tuple("abcdefgh"[:count])),
        classes=tuple(f"class {n}" for n in range(CLASSES)),
        natural=torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(4)),
        seed=seed,
    )


TRIALS: list[Trial] = [
    Preimage(layer="pool1"),
    Preimage(layer="conv1", start="black", domain="reals", normalisation="size"),
    Preimage(layer="pool1", mask=FeatureMask(window=2, channels="first_half")),
    ClassInversion(),
    ClassInversion(around="image", target="next", priors={"l2": {"raw": 0.1}}),
    Adversarial(),
    Adversarial(loss="linear", norm="l2", radius=1.0, target="least_likely"),
    Adversarial(loss="cross_entropy", target="next", priors={"l2": 1}),
    Activation(layer="pool1"),
    Activation(layer="conv1", extent="channel", order="network", start="natural"),
    Caricature(layer="pool1"),
    Caricature(layer="fc1", start="grey", priors={"l2": 1}),
]


@pytest.mark.parametrize("trial", TRIALS, ids=repr)
def test_the_start_is_feasible_and_the_problem_fits(trial: Trial) -> None:
    posed = trial.pose(scene())
    problem = posed.problem
    assert tuple(posed.start.shape) == problem.shape == (4, *SHAPE)
    assert problem.domain.contains(posed.start).all()
    value, gradient = problem.value_and_gradient(posed.start)
    assert value.shape == (4,)
    assert gradient.isfinite().all()
    assert len(posed.names) == 4


@pytest.mark.parametrize("trial", TRIALS, ids=repr)
def test_an_instance_does_not_depend_on_the_others(trial: Trial) -> None:
    whole, part = trial.pose(scene(4)), trial.pose(scene(2))
    assert torch.equal(whole.start[:2], part.start)
    assert torch.equal(whole.problem.target[:2], part.problem.target)
    torch.testing.assert_close(
        whole.problem.objective(whole.start)[:2], part.problem.objective(part.start), rtol=1e-5, atol=1e-6
    )


def test_preimages_have_the_images_as_truth_and_loss_zero_there() -> None:
    posed = Preimage(layer="pool1").pose(scene())
    assert posed.truth is not None
    terms = posed.problem.terms(posed.truth)
    assert terms["loss"].abs().max() < 1e-12


@pytest.mark.parametrize("target", ["runner_up", "next", "least_likely"])
def test_no_attack_starts_solved(target: Any) -> None:
    s = scene()
    output = s.network(s.images.pixels)
    wrong = Adversarial(target=target).pose(s).problem.target
    assert (wrong != output.argmax(1)).all()
    if target == "least_likely":
        assert torch.equal(wrong, output.argmin(1))
    if target == "runner_up":
        others = output.scatter(1, output.argmax(1, keepdim=True), -torch.inf)
        assert torch.equal(wrong, others.argmax(1))


def test_the_linear_loss_is_the_difference_of_two_outputs() -> None:
    s = scene()
    problem = Adversarial(loss="linear", target="next").pose(s).problem
    output = s.network(s.images.pixels)
    predicted = output.argmax(1, keepdim=True)
    expected = output.gather(1, predicted) - output.gather(1, (predicted + 1) % CLASSES)
    torch.testing.assert_close(problem.objective(s.images.pixels), expected[:, 0])


def test_class_inversion_around_an_image_is_that_of_wong_and_kolter() -> None:
    """CE(f(x), t) + lambda/2 |x - x0|^2 over the box [0, 1], from x0."""
    s, lam = scene(), 0.1
    posed = ClassInversion(around="image", target="next", priors={"l2": {"raw": lam}}).pose(s)
    x0, x = s.images.pixels, torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(8))
    scores, wrong = s.network(x), (s.network(x0).argmax(1) + 1) % CLASSES
    entropy = scores.logsumexp(1) - scores[torch.arange(4), wrong]
    expected = entropy + lam / 2 * (x - x0).square().sum((1, 2, 3))
    torch.testing.assert_close(posed.problem.objective(x), expected)
    assert torch.equal(posed.start, x0)
    assert posed.truth is not None and torch.equal(posed.truth, x0), "distortions are measured from it"
    assert posed.problem.domain == Box(0.0, 1.0)
    assert posed.names == s.images.names


def test_class_inversion_around_grey_knows_no_image() -> None:
    s = scene()
    trial = ClassInversion()
    posed = trial.pose(s)
    assert posed.truth is None
    assert posed.problem.target.tolist() == [0, 1, 2, 3]
    assert posed.names == s.classes[:4]
    assert torch.equal(posed.start, draw_start("grey", tuple(posed.start.shape), 0, posed.start))
    (term,) = posed.problem.priors
    assert term.prior(torch.full((1, *SHAPE), 0.5)) == 0


def test_the_start_follows_the_centre_unless_it_is_set() -> None:
    s = scene()
    for trial, start in (
        (ClassInversion(), "grey"),
        (ClassInversion(around="image"), "image"),
        (ClassInversion(around="image", start="noise"), "noise"),
        (ClassInversion(start="image"), "image"),
    ):
        assert trial.labels() == {"start": start}
        assert torch.equal(trial.pose(s).start, s.images.pixels) == (start == "image")


def test_cross_entropy_in_a_small_box_around_the_image() -> None:
    s, radius = scene(), 4 / 255
    problem = Adversarial(loss="cross_entropy", target="next", radius=radius).pose(s).problem
    x0 = s.images.pixels
    far = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(8)) * 3 - 1
    torch.testing.assert_close(problem.domain.project(far), far.clamp(x0 - radius, x0 + radius).clamp(0, 1))
    wrong = (s.network(x0).argmax(1) + 1) % CLASSES
    torch.testing.assert_close(
        problem.objective(x0), functional.cross_entropy(s.network(x0), wrong, reduction="none")
    )


def test_starts_depend_on_the_seed_and_have_their_strength() -> None:
    shape, like = (2, 3, 64, 64), torch.zeros(1)
    noise = draw_start("noise", shape, 0, like)
    assert torch.equal(noise, draw_start("noise", shape, 0, like))
    assert not torch.equal(noise, draw_start("noise", shape, 1, like))
    grey, black = draw_start("grey", shape, 0, like), draw_start("black", shape, 0, like)
    assert float((grey - 0.5).std()) == pytest.approx(0.01, rel=0.05)
    assert float(noise.std()) == pytest.approx(0.25, abs=0.03)
    assert black.max() < 0.06
    each = Randomness(0, range(2), like).each(shape[1:])
    torch.testing.assert_close(grey, (0.5 + 0.01 * each).clamp(0, 1))


# -- weights of priors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tv", "alpha_norm", "range", "l2", "l1"])
def test_weight_one_costs_the_same_on_natural_images_whatever_the_prior(name: str) -> None:
    natural = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (term,) = weigh({name: 1}, scene_of(tiny_network(), natural))
    assert float((term.weight * term.prior(natural)).mean()) == pytest.approx(0.09, rel=1e-4)
    (double,) = weigh({name: {"weight": 2}}, scene_of(tiny_network(), natural))
    assert double.weight == 2 * term.weight


@pytest.mark.parametrize(
    ("name", "prior"), [("tv", TotalVariation()), ("l2", SquaredL2()), ("range", Range())]
)
def test_a_raw_weight_multiplies_the_energy_as_it_is_defined(name: str, prior: Any) -> None:
    natural = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (term,) = weigh({name: {"raw": 0.3}}, scene_of(tiny_network(), natural[:2]))
    torch.testing.assert_close(term.weight * term.prior(natural), 0.3 * prior(natural))


def test_numbers_may_be_written_as_yaml_reads_them() -> None:
    """YAML takes 1e-3 for text."""
    (text,), (number,) = (weigh({"l2": {"raw": value}}, scene()) for value in ("1e-3", 0.001))
    assert text.weight == number.weight == 0.001
    assert weigh({"l2": "1e-3"}, scene())[0].weight == 0.001


def photograph(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def energy(spec: dict[str, Any], x: Tensor) -> float:
    (term,) = weigh(spec, scene_of(tiny_network(), x))
    return float(term.weight * term.prior(x))


def test_weights_of_2015_are_those_of_the_paper_at_its_size() -> None:
    """There the image is (pixels - mean) / 27098.12, at 227 x 227."""
    x = photograph(227)
    u = 255 * (x - 0.5) / 27098.12
    published = {"weight": 2.16e8, "peak": 27098.12, "reference": 227}
    assert energy({"alpha_norm": {"alpha": 6, **published}}, x) == pytest.approx(2.16e8 * float((u**6).sum()))
    corner = u[..., :-1, :-1]
    tv = float((u[..., :-1, 1:] - corner).square().sum() + (u[..., 1:, :-1] - corner).square().sum())
    ours = energy({"tv": {"beta": 2, **published}}, x)
    assert ours == pytest.approx(2.16e8 * tv, rel=0.02), "borders aside"


def test_weights_of_2016_are_those_of_the_paper_at_any_size() -> None:
    """There 1 / (H W B^alpha) weighs sum_ij |255 (x - mean)|_ij^alpha."""
    for side in (32, 50):
        x = photograph(side)
        norms = (255 * (x - 0.5)).square().sum(1).sqrt()
        expected = float((norms**6).sum()) / (side * side * 80.0**6)
        assert energy({"range": {"alpha": 6, "weight": 1, "peak": 80}}, x) == pytest.approx(expected)


@pytest.mark.parametrize("prior", [AlphaNorm(alpha=3), Range(alpha=4), TotalVariation(beta=2)])
def test_the_degree_that_conversions_rely_on(prior: Any) -> None:
    x = photograph(12) - 0.5
    centred = replace(prior, mean=0.0) if hasattr(prior, "mean") else prior
    assert float(centred(3 * x)) == pytest.approx(float(centred(x)) * 3**prior.degree)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"tvv": 1}, "did you mean 'tv'"),
        ({"tv": "much"}, "needs a weight or a mapping"),
        ({"tv": {"gamma": 2}}, "has no parameter 'gamma'"),
        ({"tv": True}, "needs a weight"),
        ({"tv": {"weight": "much"}}, "weight must be a number"),
        ({"l2": {"raw": [1]}}, "raw must be a number"),
        ({"l2": {"raw": 1, "weight": 1}}, "has raw and weight"),
        ({"l2": {"raw": 1, "peak": 255}}, "has raw and peak"),
    ],
)
def test_mistakes_in_priors_are_told(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_priors(spec)


def test_every_trial_found_declares_what_it_measures() -> None:
    from invbench import metrics

    for name, kind in catalogue().trials.items():
        assert kind.metrics, name
        assert set(kind.metrics) <= set(metrics.find())
        assert kind.ranked_by in {*kind.metrics, "objective"}
        assert kind.__doc__
