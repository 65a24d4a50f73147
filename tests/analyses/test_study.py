"""The key `analyses` of a study: entries, entries within, axes, and all mistakes."""

from dataclasses import dataclass
from functools import partial

import pytest

from invbench.analyses.contract import Analysis, Row
from invbench.analyses.residuals import Residuals
from invbench.registry import catalogue
from invbench.trials.contract import Scene
from tests import studies

STUDY = """
study: example
images: {source: bundled, count: 2}
network: [{name: lenet}, {name: vgg11, width: 0.25}]
trials:
- preimage: {layer: pool1}
methods: [adam]
budget: {iterations: 10}
seeds: [0, 1]
analyses:
- residuals:
    trial: {preimage: {layers: [pool1, pool2], priors: {}}}
    solver: {admm: {rho: [0.1, 1]}}
    iterations: 7
    networks: [lenet]
- toy: {layer: pool1}
- toy
claims:
- {id: c, source: ours, ours: {analysis: residuals, column: residual}, agree: {at_most: 1}}
"""
#: The solver of the residuals.
SOLVER = "{admm: {rho: [0.1, 1]}}"


@dataclass(frozen=True, kw_only=True)
class Toy(Analysis):
    """Counts the letters of a layer."""

    layer: str = "conv1"

    def measure(self, scene: Scene) -> list[Row]:
        """One row."""
        return [{"letters": len(self.layer)}]


planned = partial(studies.planned, toy=Toy)
mistakes = partial(studies.mistakes, toy=Toy)


def test_it_is_found_by_its_file() -> None:
    assert catalogue().analyses["residuals"] is Residuals


def test_a_study_may_hold_analyses_alone() -> None:
    study = planned("study: s\nanalyses: [toy]\n")
    assert not study.cells
    assert [one.name for one in study.measurements] == ["toy"]


def test_a_study_that_runs_nothing_is_a_mistake() -> None:
    assert mistakes("study: s\n") == [
        f"study.yaml:1:1: {key}: is required" for key in ("trials", "methods", "budget")
    ]


def test_entries_may_be_meant_for_networks_that_the_study_leaves_out() -> None:
    """So that one file serves several networks: `--set network=...` takes what fits."""
    study = planned("study: s\nanalyses: [{toy: {networks: [vgg16, lenet]}}, {toy: {networks: [vgg11]}}]\n")
    assert [one.network["name"] for one in study.measurements] == ["lenet"]


def test_a_measurement_for_each_variant_network_and_seed() -> None:
    study = planned(STUDY)
    assert len(study.cells) == 2 * 2
    residuals = [one for one in study.measurements if one.name == "residuals"]
    assert len(residuals) == 2 * 2 * 2, "layers, rho, seeds; on lenet alone"
    assert {one.network["name"] for one in residuals} == {"lenet"}
    toys = [one for one in study.measurements if one.name == "toy"]
    assert len(toys) == 2 * 2 * 2, "entries, networks, seeds"
    assert study.runs == (*study.cells, *study.measurements)


def test_entries_within_become_objects() -> None:
    first = planned(STUDY).measurements[0].analysis
    assert isinstance(first, Residuals)
    assert first.trial == catalogue().trials["preimage"](layer="pool1", priors={})  # type: ignore[call-arg]
    assert first.solver == catalogue().solvers["admm"](rho=0.1)  # type: ignore[call-arg]
    assert first.iterations == 7


def test_parameters_are_flat_columns() -> None:
    assert planned(STUDY).measurements[0].parameters() == {
        "trial": "preimage",
        "trial.layer": "pool1",
        "trial.priors": "none",
        "solver": "admm",
        "solver.rho": 0.1,
        "iterations": 7,
        "network": "lenet",
        "images": "bundled 2 x 32 px",
        "seed": 0,
    }


def test_identity_is_content() -> None:
    plain = [str(one.plain()) for one in planned(STUDY).measurements]
    assert len(set(plain)) == len(plain)
    again = planned(STUDY.replace("study: example", "study: other\ntimeout: 5"))
    assert [str(one.plain()) for one in again.measurements] == plain
    default = planned(STUDY.replace("- toy: {layer: pool1}", "- toy: {layer: conv1}")).measurements
    assert len({str(one.plain()) for one in default if one.name == "toy"}) == 4, (
        "stated or not, it is the same"
    )


def test_a_list_of_entries_is_an_axis() -> None:
    study = planned(STUDY.replace(SOLVER, "[adam, {admm: {rho: [1, 2]}}]"))
    solvers = [one.given["solver"] for one in study.measurements if one.name == "residuals"]
    assert sorted(solvers) == ["adam"] * 4 + ["admm"] * 8


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "- residuals:",
            "- residual:",
            "study.yaml:11:3: analyses[0]: unknown analysis 'residual': did you mean 'residuals'?",
        ),
        (
            "{preimage: {l",
            "{preimag: {l",
            "12:5: analyses[0].residuals.trial: unknown trial 'preimag': did you mean 'preimage'?",
        ),
        (
            "{layers: [pool1, pool2], priors: {}}",
            "{layer: pool1, startt: noise}",
            "yaml:12:38: analyses[0].residuals.trial.preimage.startt: is unknown: did you mean 'start'?",
        ),
        ("layers: [pool1, pool2], ", "", "analyses[0].residuals.trial.preimage.layer: is required"),
        ("{}}}\n", "{}, networks: [lenet]}}\n", "trial.preimage.networks: is unknown"),
        (SOLVER, "admmm", "analyses[0].residuals.solver: unknown solver 'admmm'"),
        (SOLVER, "mv2016", "analyses[0].residuals.solver: unknown solver 'mv2016'"),
        ("rho: [0.1, 1]", "rho: -1", "analyses[0].residuals.solver.admm.rho: must be > 0 (got -1)"),
        (SOLVER, "[adam, 3]", "analyses[0].residuals.solver[1]: must be a name, or one name"),
        (SOLVER, "{admm: 3}", "residuals.solver.admm: must be a mapping of parameters (got 3)"),
        (SOLVER, "[]", "analyses[0].residuals.solver: needs at least one entry"),
        (f"    solver: {SOLVER}\n", "", "analyses[0].residuals.solver: is required"),
        ("iterations: 7", "iterations: 0", "analyses[0].residuals.iterations: must be >= 1 (got 0)"),
        ("iterations: 7", "iteration: 7", "residuals.iteration: is unknown: did you mean 'iterations'?"),
        (
            "networks: [lenet]",
            "networks: [lenett]",
            "residuals.networks[0]: unknown network 'lenett': did you mean",
        ),
        ("networks: [lenet]", "methods: [adam]", "analyses[0].residuals.methods: is unknown"),
        ("- toy\n", "- 3\n", "analyses[2]"),
        (
            "analysis: residuals",
            "analysis: residual",
            "claims[0].ours.analysis: unknown analysis 'residual': did",
        ),
    ],
)
def test_mistakes_name_the_place_and_the_fix(old: str, new: str, sentence: str) -> None:
    assert old in STUDY
    found = mistakes(STUDY.replace(old, new, 1))
    assert sentence in found[0]
    assert len(found) == 1 or "- 3" in new, found


def test_every_mistake_is_told_at_once() -> None:
    text = STUDY.replace("{preimage: {l", "{preimag: {l").replace("rho: [0.1, 1]", "rho: -1")
    found = mistakes(
        text.replace("iterations: 7", "iterations: 0").replace("methods: [adam]", "methods: [adaam]")
    )
    assert [line.split(": ")[1] for line in found] == [
        "methods[0]",
        "analyses[0].residuals.trial",
        "analyses[0].residuals.solver.admm.rho",
        "analyses[0].residuals.iterations",
    ]


def test_a_claim_needs_its_analysis() -> None:
    text = STUDY[: STUDY.index("analyses:")] + STUDY[STUDY.index("claims:") :]
    (line,) = mistakes(text)
    assert "claims[0].ours.analysis: the study has no analyses: list it under 'analyses'" in line
