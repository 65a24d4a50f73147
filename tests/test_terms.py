"""Priors as a study names them: their mistakes, stages, and what they learn from."""

from typing import Any

import pytest
import torch

from invbench import documents
from invbench.errors import UserError
from invbench.planning import plan
from invbench.priors import TotalVariation
from invbench.registry import catalogue
from invbench.trials.preimage import Preimage
from invbench.trials.terms import check_priors, learned_prior, learns, weigh
from tests.scenes import scene_of
from tests.toys import SHAPE, tiny_network

MISTAKES: list[tuple[Any, str]] = [
    ([1], "must be a mapping of names"),
    ({"tvx": 1}, "unknown prior 'tvx': did you mean 'tv'?"),
    ({"tv": "much"}, "prior 'tv' needs a weight"),
    ({"tv": {"bta": 1}}, "prior 'tv' has no parameter 'bta'"),
    ({"tv": {"beta": "steep"}}, "prior 'tv': beta input should be a valid number"),
    ({"tv@pool1": {"beta": -1}}, "beta must be > 0"),
    ({"tv": {"raw": 1, "peak": 2}}, "a raw weight is converted by nothing"),
    ({"tv": {"images": {"source": "bundled"}}}, "learns nothing, so it takes no images"),
    ({"denoiser": {"images": {"source": "bundled"}, "weights": "file"}}, "give one of them"),
]


@pytest.mark.parametrize(("spec", "sentence"), MISTAKES)
def test_mistakes_are_told(spec: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"prior|must") as told:
        check_priors(spec)
    assert sentence in str(told.value)


def test_the_priors_of_a_method_are_checked_with_the_study() -> None:
    text = "study: s\ntrials: [preimage: {layer: pool1}]\nmethods:\n- adam: {priors: {tvx: 1}}\n"
    with pytest.raises(UserError, match=r"s:4.*priors.*unknown prior 'tvx': did you mean 'tv'"):
        plan(documents.parse(text, "s"), catalogue())


@pytest.mark.parametrize(("name", "sentence"), [("tv", "learns nothing"), ("tvx", "unknown prior")])
def test_only_what_learns_can_be_fitted(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        learned_prior(name, {})


def test_a_prior_of_a_stage_is_standardised_on_its_features() -> None:
    network = tiny_network(torch.float32)
    pixels = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    (term,) = weigh({"tv@conv1": {"weight": 2, "beta": 1}}, scene_of(network, pixels))
    features = network.cut("conv1")(pixels)
    assert (term.name, term.layer, term.weight) == ("tv@conv1", "conv1", 2)
    assert float(term.prior(features).mean()) == pytest.approx(0.09, rel=1e-4)
    (raw,) = weigh({"tv@conv1": {"raw": 0.5, "beta": 1}}, scene_of(network, pixels))
    torch.testing.assert_close(raw.prior(features), TotalVariation(beta=1)(features))


def test_the_stage_must_lie_within_what_is_inverted() -> None:
    network = tiny_network(torch.float32)
    pixels = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    trial = Preimage(layer="conv1", priors={"tv@pool1": 1})
    with pytest.raises(UserError, match="has no stage 'pool1'; its stages are: conv1"):
        trial.pose(scene_of(network, pixels))


def test_a_learned_prior_is_known_by_its_name_on_any_stage() -> None:
    assert learns({"tv": 1, "foe@pool1": 1})
    assert not learns({"tv": 1, "l1@pool1": 1})
    assert not learns({})
