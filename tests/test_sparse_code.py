"""Codes, signals, and the two forms of their recovery."""

from typing import Any

import pytest
import torch

from invbench import metrics
from invbench.domains import ModelSparse, Reals
from invbench.errors import UserError
from invbench.filters import random_filters
from invbench.trials.sparse_code import SparseCode
from tests.test_trials import scene

SMALL: dict[str, Any] = {"count": 12, "channels": 6, "kernel": 3, "size": 8, "k": 4}


def test_the_defaults_are_the_size_of_the_paper() -> None:
    posed = SparseCode(draws=3).pose(scene())
    assert posed.problem.shape == (3, 96, 28, 1)
    assert tuple(posed.problem.target.shape) == (3, 32, 32, 1)
    assert posed.problem.target.dtype == torch.float64
    assert posed.problem.domain == ModelSparse(10)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_signals_are_what_the_filters_make_of_the_codes(dimensions: Any) -> None:
    posed = SparseCode(**SMALL, dimensions=dimensions, draws=5).pose(scene(seed=7))
    assert posed.truth is not None
    kernel = (3, 3 if dimensions == 2 else 1)
    weight = random_filters(12, 6, kernel, torch.Generator().manual_seed(7))
    expected = torch.zeros_like(posed.problem.target)
    for b, c, i, j in posed.truth.nonzero().tolist():
        expected[b, :, i : i + kernel[0], j : j + kernel[1]] += posed.truth[b, c, i, j] * weight[c]
    torch.testing.assert_close(posed.problem.target, expected)
    assert (posed.truth != 0).flatten(1).sum(1).tolist() == [4] * 5
    assert posed.problem.objective(posed.truth).abs().max() < 1e-24


def test_values_are_uniform_or_normal_and_every_place_has_its_turn() -> None:
    big = SMALL | {"draws": 3000}
    uniform, normal = (SparseCode(**big, codes=codes).pose(scene()).truth for codes in ("uniform", "normal"))
    assert uniform is not None
    assert normal is not None
    values = uniform[uniform != 0]
    assert values.abs().max() <= 1
    assert float(values.square().mean()) == pytest.approx(1 / 3, rel=0.05)
    assert float(normal[normal != 0].square().mean()) == pytest.approx(1, rel=0.05)
    expected = 3000 * 4 / uniform[0].numel()
    turns = (uniform != 0).sum(0)
    assert ((turns - expected).abs() < 5 * expected**0.5).all()


@pytest.mark.parametrize("codes", ["uniform", "normal"])
def test_an_instance_does_not_depend_on_the_others(codes: Any) -> None:
    many, few = (SparseCode(**SMALL, draws=draws, codes=codes).pose(scene()) for draws in (4, 2))
    assert many.truth is not None
    assert few.truth is not None
    assert torch.equal(many.truth[:2], few.truth)
    torch.testing.assert_close(many.problem.target[:2], few.problem.target)


def test_the_l1_form_is_least_squares_with_a_penalty_over_all_codes() -> None:
    posed = SparseCode(**SMALL, form="l1", priors={"l1": {"raw": 0.3}}).pose(scene())
    assert posed.truth is not None
    assert isinstance(posed.problem.domain, Reals)
    z = torch.randn(posed.problem.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    residual = posed.problem.network(z) - posed.problem.target
    expected = residual.square().flatten(1).sum(1) + 0.3 * z.abs().flatten(1).sum(1)
    torch.testing.assert_close(posed.problem.objective(z), expected)


@pytest.mark.parametrize("filters", ["learned", "random"])
def test_activations_of_a_layer_have_no_true_code(filters: Any) -> None:
    s = scene()
    trial = SparseCode(layer="conv1", filters=filters, codes="activations", k=9, region=2)
    posed = trial.pose(s)
    assert posed.truth is None
    torch.testing.assert_close(posed.problem.target, s.images.pixels.double())
    assert posed.names == s.images.names
    rows = posed.problem.network.chain
    assert rows is not None
    one = torch.zeros(1, *posed.problem.network.input_shape, dtype=torch.float64)
    for place in ((0, 0, 0), (3, 4, 7), (7, 7, 7)):  # corners reach into the padding
        atom = one.clone()
        atom[(0, *place)] = 1
        assert float(rows[0].affine.linear(atom).norm()) == pytest.approx(1)


def test_random_and_learned_filters_differ_in_the_filters_alone() -> None:
    learned, drawn = (
        SparseCode(layer="conv1", filters=filters, k=8).pose(scene()) for filters in ("learned", "random")
    )
    assert learned.truth is not None
    assert drawn.truth is not None
    assert torch.equal(learned.truth, drawn.truth)
    assert not torch.allclose(learned.problem.target, drawn.problem.target)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": 13}, "k is 13, but the code has only 12 blocks"),
        ({"region": 4}, "regions of 4 x 1 do not tile a map of 6 x 1"),
        ({"kernel": 9}, "do not fit a signal of 8 x 1"),
        ({"filters": "learned"}, "need a layer"),
        ({"codes": "activations"}, "need a layer"),
        ({"layer": "conv7"}, "no convolution 'conv7'"),
        ({"form": "l1"}, "needs its weight"),
        ({"priors": {"l1": {"raw": 1}}}, "takes no priors"),
    ],
)
def test_mistakes_get_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SparseCode(**SMALL | changes).pose(scene())


def test_support_recovery_counts_the_true_places_among_the_largest() -> None:
    truth = torch.tensor([[1.0, 0, -2, 0], [1, 0, -2, 0], [1, 0, -2, 0], [0, 0, 3, 0]])
    found = torch.tensor([[0.1, 0, 9, 0.01], [0, 5, 9, 0], [0, 0, 0, 0], [1, 2, -3, 0]])
    metric = metrics.find()["support_recovery"]
    problem = SparseCode(**SMALL).pose(scene()).problem
    assert metric(found, truth, problem).tolist() == [1, 0.5, 0, 1]
