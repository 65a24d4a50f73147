from itertools import pairwise

import pytest

from invbench.errors import UserError
from invbench.planning import expand
from tests.studies import mistakes, planned

GOOD = """
study: example
images: {source: bundled, count: 2}
network: {name: lenet}
trials:
- preimage: {layers: [pool1, fc1], priors: {tv: [0.5, 1]}}
- adversarial: {methods: [adam]}
methods:
- adam: {lr: [0.01, 0.1]}
- mv2016: {depth: deep}
- pipeline: {name: two, stages: [{adam: {jitter: 2}}, lbfgs], shares: [0.25, 0.75]}
budget: {iterations: 10}
seeds: [0, 1]
"""


def test_every_list_is_an_axis() -> None:
    study = planned(GOOD)
    preimages = [cell for cell in study.cells if cell.trial_name == "preimage"]
    adversarial = [cell for cell in study.cells if cell.trial_name == "adversarial"]
    assert len(preimages) == 2 * 2 * 2 * 4
    assert len(adversarial) == 2 * 2, "the trial takes only the methods that it names"
    assert {cell.method.name for cell in study.cells} == {"adam", "mv2016", "two"}
    assert [cell.order for cell in study.cells] == list(range(len(study.cells)))


def test_all_methods_of_a_trial_follow_each_other() -> None:
    trials = [(repr(cell.trial), cell.seed) for cell in planned(GOOD).cells]
    changes = sum(a != b for a, b in pairwise(trials))
    assert changes == len(set(trials)) - 1


def test_presets_are_resolved_with_their_choices() -> None:
    method = next(cell.method for cell in planned(GOOD).cells if cell.method.name == "mv2016")
    assert method.loss_weight == 20
    assert method.stages[0][1].jitter == 4  # type: ignore[attr-defined]
    assert method.priors is not None
    assert set(method.priors) == {"range", "tv"}
    assert method.overrides


def test_a_preset_takes_parameters_of_its_solver() -> None:
    study = planned(GOOD.replace("mv2016: {depth: deep}", "mv2016: {lr: 0.5, loss_weight: 3}"))
    method = next(cell.method for cell in study.cells if cell.method.name == "mv2016")
    assert method.stages[0][1].lr == 0.5  # type: ignore[attr-defined]
    assert method.loss_weight == 3
    assert method.given == {"lr": 0.5, "loss_weight": 3}


def test_pipeline() -> None:
    method = next(cell.method for cell in planned(GOOD).cells if cell.method.name == "two")
    assert [name for name, _ in method.stages] == ["adam", "lbfgs"]
    assert method.shares == (0.25, 0.75)


def test_identity_ignores_the_name_of_the_study_and_sees_parameters() -> None:
    first, second = planned(GOOD).cells, planned(GOOD.replace("study: example", "study: other")).cells
    assert first[0].plain() == second[0].plain()
    plain = [str(cell.plain()) for cell in first]
    assert len(set(plain)) == len(plain)


def test_labels_fill_the_columns() -> None:
    labels = planned(GOOD).cells[0].labels()
    assert labels["layer"] == "pool1"
    assert labels["priors"] == "tv=0.5"
    assert labels["parameters"] == "lr=0.01"
    assert labels["images"] == "bundled 2 x 32 px"
    assert labels["ranked_by"] == "mse"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("lr: [0.01, 0.1]", "lr: -1", "study.yaml:9:10: methods[0].adam.lr: must be > 0 (got -1)"),
        ("lr: [0.01, 0.1]", "lrr: 1", "methods[0].adam.lrr: is unknown: did you mean 'lr'?"),
        (
            "lr: [0.01, 0.1]",
            "schedule: linear",
            "must be one of 'constant', 'cosine', 'exp",
        ),
        ("- adam: {lr", "- adaam: {lr", "methods[0]: unknown method 'adaam': did you mean 'adam'?"),
        ("mv2016: {depth: deep}", "mv2017", "methods[1]: unknown method 'mv2017': did you mean 'mv20"),
        ("depth: deep", "depth: abyss", "depth must be one of shallow, middle, deep, deepest (got abyss)"),
        ("iterations: 10", "iterations: -10", "budget.iterations: must be > 0 (got -10)"),
        ("iterations: 10", "", "needs at least one of iterations, seconds, work"),
        ("budget: {iterations: 10}", "", "study.yaml:2:1: budget: is required"),
        (
            "- adversarial",
            "- adversarail",
            "trials[1]: unknown trial 'adversarail': did you mean 'adv",
        ),
        ("tv: [0.5, 1]", "tvv: 1", "unknown prior 'tvv': did you mean 'tv'?"),
        ("{layers: [pool1, fc1], ", "{", "trials[0].preimage.layer: is required"),
        ("methods: [adam]", "methods: [sgd]", "trials[1].adversarial.methods[0]: unknown method 'sgd'"),
        ("name: lenet", "name: lenett", "network.name: unknown network 'lenett': did you mean 'lenet'?"),
        ("source: bundled", "source: bundle", "unknown image source 'bundle': did you mean 'bundled'?"),
        ("count: 2", "count: 0", "images.count: must be > 0 (got 0)"),
        ("shares: [0.25, 0.75]", "shares: [0.5, 0.75]", "at most 1 together"),
        ("shares: [0.25, 0.75]", "shares: [0.5]", "needs a share for each of 2 stages"),
        ("seeds: [0, 1]", "seeds: [-1]", "seeds[0]: must be >= 0 (got -1)"),
        ("seeds: [0, 1]", "sedes: [1]", "sedes: is unknown: did you mean 'seeds'?"),
    ],
)
def test_mistakes_name_the_place_and_the_fix(old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    found = mistakes(GOOD.replace(old, new))
    assert len(found) == 1, found
    assert sentence in found[0]
    assert found[0].startswith("study.yaml:")


def test_every_mistake_is_reported_at_once_in_order() -> None:
    text = GOOD.replace("layers: [pool1, fc1]", "layer: 3, startt: noise").replace(
        "lr: [0.01, 0.1]", "lr: -1"
    )
    found = mistakes(text.replace("adversarial:", "adversary:"))
    assert len(found) >= 3
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n"])
def test_no_study_at_all(text: str) -> None:
    assert "a study is a mapping" in mistakes(text)[0]


def test_expand_keeps_inner_lists() -> None:
    assert list(expand({"betas": [[0.9, 0.99]], "lr": [1, 2]})) == [
        {"betas": [0.9, 0.99], "lr": 1},
        {"betas": [0.9, 0.99], "lr": 2},
    ]


def test_networks_may_be_a_list_and_trials_restricted_to_some() -> None:
    text = GOOD.replace(
        "network: {name: lenet}", "network: [{name: lenet}, {name: vgg11, width: [0.25, 0.5]}]"
    )
    text = text.replace("methods: [adam]}", "methods: [adam], networks: [vgg11]}")
    cells = planned(text).cells
    networks = [str(cell.network) for cell in cells if cell.trial_name == "adversarial"]
    assert set(networks) == {"{'name': 'vgg11', 'width': 0.25}", "{'name': 'vgg11', 'width': 0.5}"}
    assert len({str(cell.network) for cell in cells if cell.trial_name == "preimage"}) == 3
    assert (
        "unknown network 'lennet': did you mean 'lenet'?" in mistakes(text.replace("[vgg11]", "[lennet]"))[0]
    )


def test_a_trial_may_have_a_budget_of_its_own() -> None:
    trials = "trials:\n  - preimage: {layer: pool1}\n  - adversarial: {budget: {seconds: 2}}\n"
    text = f"study: s\n{trials}methods: [lbfgs]\nbudget: {{iterations: 5}}\n"
    budgets = {cell.trial_name: str(cell.budget) for cell in planned(text).cells}
    assert budgets == {"preimage": "5 iterations", "adversarial": "2 seconds"}
    with pytest.raises(UserError, match="needs at least one of iterations, seconds, work"):
        planned(text.replace("{seconds: 2}", "{}"))
