import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from scipy import stats

from invbench.claims import Claim, check_claims, evaluate, of_study
from invbench.cli.claims import command
from invbench.errors import UserError
from tests.results_folder import Folder


def claim(**changes: object) -> Claim:
    plain = {
        "id": "one",
        "source": "A paper, Table 1",
        "ours": {"where": {"solver": "adam"}, "column": "mse"},
        "agree": {"at_most": 1},
    }
    return Claim.model_validate({**plain, **changes})


def rows(*each: dict[str, object]) -> pd.DataFrame:
    """Final rows, and before each a row of the curve that no claim may see."""
    defaults = {"trial": "preimage", "layer": "pool1", "seed": 0, "instance_name": "a", "status": "done"}
    plain = [{**defaults, "variant": "default", "final": final, **row} for row in each for final in (0, 1)]
    table = pd.DataFrame(plain)
    table["final"] = table["final"].astype(bool)
    table.loc[~table["final"], "mse"] = 1e9
    table["solver"] = table["solver"].astype("category")
    return table


TABLE = rows(
    {"solver": "adam", "mse": 1.0, "instance_name": "a"},
    {"solver": "adam", "mse": 2.0, "instance_name": "b"},
    {"solver": "adam", "mse": 6.0, "instance_name": "c"},
    {"solver": "lbfgs", "mse": 4.0, "instance_name": "a"},
    {"solver": "lbfgs", "mse": 2.0, "instance_name": "b", "seed": 1},
)


def verdict(table: pd.DataFrame = TABLE, **changes: object):  # type: ignore[no-untyped-def]
    (result,) = evaluate([claim(**changes)], table)
    return result


@pytest.mark.parametrize(("reduce", "value"), [("mean", 3), ("median", 2), ("min", 1), ("max", 6)])
def test_the_final_rows_are_reduced(reduce: str, value: float) -> None:
    result = verdict(ours={"where": {"solver": "adam"}, "column": "mse", "reduce": reduce})
    assert (result.ours, result.value, result.against) == (value, value, None)
    assert result.verdict == ("reproduced" if value <= 1 else "differs")
    assert result.agree == "at most 1"
    assert result.note == ""


@pytest.mark.parametrize(
    ("where", "mean"),
    [
        ({"solver": ["adam", "lbfgs"]}, 3.0),
        ({"solver": "lbfgs", "seed": 1}, 2.0),
        ({"solver": "lbfgs", "seed": "1"}, 2.0),
        ({"solver": "lbfgs", "seed": [0, 1.0]}, 3.0),
        ({"instance_name": "a"}, 2.5),
        ({"final": True}, 3.0),
        ({}, 3.0),
    ],
)
def test_conditions_compare_text_with_text_and_numbers_with_numbers(where: object, mean: float) -> None:
    assert verdict(ours={"where": where, "column": "mse"}).ours == pytest.approx(mean)


def test_text_that_looks_like_a_number_or_is_missing() -> None:
    table = rows(
        {"solver": "x", "parameters": "3", "oracle": None, "mse": 1.0},
        {"solver": "x", "parameters": "true", "oracle": "oracle", "mse": 2.0},
    )
    for where, expected in (({"parameters": 3}, 1), ({"parameters": True}, 2), ({"oracle": ""}, 1)):
        assert verdict(table, ours={"where": where, "column": "mse"}).ours == expected


@pytest.mark.parametrize(
    ("as_", "value", "agree", "outcome"),
    [
        ("ratio", 1.0, {"at_most": 1}, "reproduced"),
        ("ratio", 1.0, {"at_least": 1.01}, "differs"),
        ("difference", 0.0, {"at_least": -1, "at_most": 1}, "reproduced"),
    ],
)
def test_against_another_number_of_ours(as_: str, value: float, agree: object, outcome: str) -> None:
    result = verdict(**{"as": as_}, against={"where": {"solver": "lbfgs"}}, agree=agree)
    assert (result.ours, result.against, result.value, result.verdict) == (3, 3, value, outcome)
    assert result.agree.startswith(as_)


def test_the_other_side_inherits_what_it_does_not_say() -> None:
    ours = {"where": {"solver": "lbfgs", "seed": 1}, "column": "mse", "reduce": "max"}
    result = verdict(**{"as": "ratio"}, ours=ours, against={"where": {"seed": 0}})
    assert (result.ours, result.against, result.value) == (2, 4, 0.5)
    other = verdict(**{"as": "difference"}, ours=ours, against={"column": "seed", "reduce": "min"})
    assert (other.ours, other.against, other.value) == (2, 1, 1)


@pytest.mark.parametrize(
    ("paper", "agree", "outcome", "words"),
    [
        (3.2, {"within": 0.1}, "differs", "within 0.1 of 3.2"),
        (3.2, {"within": 0.2001}, "reproduced", "within 0.2001 of 3.2"),
        (-3.0, {"within": 1.99, "relative": True}, "differs", "within 199 % of -3"),
        (2.5, {"within": 0.2, "relative": True}, "reproduced", "within 20 % of 2.5"),
        (
            2.5,
            {"within": 0.2, "relative": True, "at_most": 2.9},
            "differs",
            "at most 2.9 and within 20 % of 2.5",
        ),
    ],
)
def test_within_compares_with_the_paper(paper: float, agree: object, outcome: str, words: str) -> None:
    result = verdict(paper=paper, agree=agree)
    assert (result.paper, result.value, result.verdict, result.agree) == (paper, 3, outcome, words)


def test_a_ratio_to_the_paper_and_a_ratio_of_the_paper() -> None:
    assert verdict(**{"as": "ratio"}, paper=1.5, agree={"at_most": 2}).value == 2
    against = {"where": {"seed": 1, "solver": "lbfgs"}}
    result = verdict(**{"as": "ratio"}, paper=1.6, against=against, agree={"within": 0.11})
    assert (result.value, result.verdict) == (1.5, "reproduced")


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"ours": {"where": {"layer": "fc9"}, "column": "mse"}}, "no row has layer = fc9"),
        (
            {"ours": {"where": {"solver": "adam", "seed": [1, 2]}, "column": "mse"}},
            "no row has seed = 1 or 2 where solver = adam",
        ),
        ({"ours": {"where": {"depth": 1}, "column": "mse"}}, "there is no column depth"),
        ({"ours": {"column": "msee"}}, "there is no column msee"),
        ({"ours": {"column": "max", "analysis": "coherence"}}, "there are no rows of the analysis coherence"),
        ({"as": "ratio", "against": {"where": {"solver": "x"}}}, "against: no row has solver = x"),
        (
            {"as": "ratio", "against": {"where": {"seed": 0}, "column": "seed"}},
            "a ratio to 0 has no value",
        ),
    ],
)
def test_a_claim_without_data_is_not_run_and_says_why(changes: dict[str, object], note: str) -> None:
    result = verdict(**changes)
    assert (result.verdict, result.value, result.note) == ("not run", None, note)


def test_an_empty_table() -> None:
    assert verdict(TABLE.iloc[:0]).note == "there are no rows"


def test_what_was_not_finished_is_left_out_and_counted() -> None:
    lost = rows(
        {"solver": "adam", "mse": 1.0, "instance_name": "a"},
        {"solver": "adam", "mse": 9.0, "instance_name": "b", "status": "diverged"},
        {"solver": "adam", "mse": np.nan, "instance_name": "", "status": "failed"},
        {"solver": "adam", "mse": np.nan, "instance_name": "c"},
        {"solver": "lbfgs", "mse": 4.0, "instance_name": "a"},
        {"solver": "lbfgs", "mse": 4.0, "instance_name": "b"},
    )
    result = verdict(lost, **{"as": "ratio"}, against={"where": {"solver": "lbfgs"}})
    assert (result.ours, result.against, result.verdict) == (1, 4, "reproduced")
    left_out, without, lacking = result.note.split("; ")
    assert left_out in (
        f"left out {each} of 4 rows" for each in ("1 diverged, 1 failed", "1 failed, 1 diverged")
    )
    assert without == "1 of 2 finished rows have no mse"
    assert lacking == "ours lacks 1 instances that the other side has"
    nothing = verdict(lost, ours={"where": {"solver": "adam", "instance_name": "b"}, "column": "mse"})
    assert nothing.verdict == "not run"
    assert nothing.note == "nothing to take the mean of: left out 1 diverged of 1 rows"


def test_the_same_instances_of_other_layers_count_as_the_same() -> None:
    table = rows(
        *({"solver": "adam", "mse": n, "layer": layer} for n, layer in ((1.0, "pool1"), (2.0, "fc1")))
    )
    ours = {"where": {"layer": "pool1"}, "column": "mse"}
    assert verdict(table, **{"as": "ratio"}, ours=ours, against={"where": {"layer": "fc1"}}).note == ""


def test_a_mean_over_both_variants_is_told() -> None:
    both = rows(*({"solver": "adam", "mse": 1.0, "variant": variant} for variant in ("default", "tuned")))
    assert verdict(both).note == "mixes the variants default, tuned"
    tuned = {"where": {"variant": "tuned"}, "column": "mse"}
    assert verdict(both, ours=tuned).note == ""


def test_analyses_are_tables_with_their_parameters_as_columns() -> None:
    analyses = [
        {
            "name": "coherence",
            "parameters": {"filters": filters},
            "rows": [{"layer": layer, "max": value * scale} for layer, scale in (("c1", 1), ("c21", 2))],
        }
        for filters, value in (("random", 0.07), ("trained", 0.2))
    ]
    stated = claim(
        paper=0.155,
        ours={"analysis": "coherence", "where": {"layer": "c21", "filters": "random"}, "column": "max"},
        agree={"within": 0.15, "relative": True},
    )
    (result,) = evaluate([stated], TABLE, analyses)
    assert (result.ours, result.verdict) == (pytest.approx(0.14), "reproduced")
    order = claim(**{"as": "ratio"}, ours=stated.ours.model_dump(), against={"where": {"filters": "trained"}})
    (result,) = evaluate([order], TABLE, analyses)
    assert (result.value, result.note) == (pytest.approx(0.35), "")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"agree": {}}, "needs at least one of at_most, at_least, within"),
        ({"agree": {"at_most": 1, "at_least": 2}}, "at_least (2) is above at_most (1)"),
        ({"agree": {"at_most": 1, "relative": True}}, "relative belongs to within"),
        ({"agree": {"within": 1}}, "needs the paper's number"),
        ({"agree": {"at_most": float("inf")}}, "finite"),
        ({"as": "ratio"}, "needs 'against', or the paper's number"),
        ({"as": "ratio", "paper": 2, "agree": {"within": 1}}, "both compare with the paper"),
        ({"against": {"column": "ssim"}}, "against needs 'as: ratio', 'as: difference'"),
        ({"compare": "ratio"}, "Extra inputs"),
        ({"ours": {"where": {"layer": {"a": 1}}, "column": "mse"}}, "must be text, a number"),
        ({"ours": {"where": {}}}, "Field required"),
        ({"ours": {"column": "mse", "reduce": "sum"}}, "'mean', 'median', 'min' or 'max'"),
    ],
)
def test_claims_that_make_no_sense(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        claim(**changes)
    (error,) = caught.value.errors()
    assert sentence in error["msg"]


def test_an_id_stands_for_one_claim() -> None:
    assert check_claims([claim(), claim(id="two")])[1].id == "two"
    with pytest.raises(ValueError, match="the id 'one' is given twice"):
        check_claims([claim(), claim(id="two"), claim()])


STUDY = """study: quick
claims:
  - {id: faster, source: "[red]Hostile[/red]", says: adam beats momentum,
     ours: {where: {solver: adam, trial: preimage}, column: mse},
     against: {where: {solver: momentum}}, as: ratio, agree: {at_most: 1}}
  - id: number
    source: "A paper"
    paper: 5
    ours: {where: {solver: adam}, column: mse}
    agree: {within: 0.1}
  - {id: absent, source: ours, ours: {where: {solver: nobody}, column: mse}, agree: {at_most: 1}}
"""


def test_claims_of_a_study() -> None:
    assert of_study("") == of_study("study: quick") == of_study("claims:") == ()
    faster, number, _ = of_study(STUDY)
    assert (faster.compare, faster.says, faster.condition) == (
        "ratio",
        "adam beats momentum",
        "ratio at most 1",
    )
    assert number.paper == 5


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ("    paper: 5\n", "", ["study.yaml:6:5: claims[1]: agree: within needs the paper's number"]),
        ("id: number", "id: faster", ["study.yaml:2:1: claims: the id 'faster' is given twice"]),
        (
            "column: mse}\n    agree: {within: 0.1}",
            "col: mse}",
            ["ours.column", "ours.col", "agree: field required"],
        ),
    ],
)
def test_mistakes_in_a_study_name_the_place(old: str, new: str, places: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        of_study(STUDY.replace(old, new))
    for place in places:
        assert place in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = Folder(tmp_path_factory.mktemp("claims"))
    builder.add("adam", level=0.01)
    builder.add("momentum", level=0.1)
    return builder.finish(study=STUDY).folder


def test_the_command_prints_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = CliRunner().invoke(command, [str(folder)])
    assert outcome.exit_code == 0
    lines = outcome.output.splitlines()
    assert "[red]Hostile[/red]: adam beats momentum" in lines[1]
    for line, word in zip(lines[1:], ("reproduced", "differs", "not run"), strict=True):
        assert word in line
    assert "no row has solver = nobody" in lines[3]


def test_the_command_prints_json(folder: Path) -> None:
    outcome = CliRunner().invoke(command, [str(folder), "--json"])
    assert outcome.exit_code == 0
    first, second, third = json.loads(outcome.output)
    assert first["value"] == pytest.approx(first["ours"] / first["against"])
    assert (second["id"], second["paper"], second["against"]) == ("number", 5, None)
    assert (third["verdict"], third["ours"]) == ("not run", None)
    assert "basis" not in first


def test_a_study_without_claims(tmp_path: Path) -> None:
    builder = Folder(tmp_path)
    builder.finish()
    assert "makes no claims" in CliRunner().invoke(command, [str(tmp_path)]).output
    assert json.loads(CliRunner().invoke(command, [str(tmp_path), "--json"]).output) == []


def test_the_best_of_several_stands_for_all() -> None:
    side = {"where": {}, "column": "mse", "best": "solver", "reduce": "median"}
    result = verdict(ours=side)
    assert (result.ours, result.note) == (2.0, "the best is adam")
    ours = {"where": {"solver": "lbfgs"}, "column": "mse"}
    result = verdict(
        ours=ours, against={"where": {"solver": ["adam", "lbfgs"]}, "best": "solver"}, **{"as": "ratio"}
    )
    assert (result.ours, result.against) == (3.0, 3.0)
    table = TABLE.assign(ssim=-TABLE["mse"])
    result = verdict(table, ours={"where": {}, "column": "ssim", "best": "solver"})
    assert result.ours == -3.0, "of metrics where higher is better the highest counts"
    assert verdict(ours={"where": {}, "column": "mse", "best": "sovler"}).note == "there is no column sovler"


def psnr(solver: str, **values: float) -> list[dict[str, object]]:
    return [{"solver": solver, "psnr": value, "instance_name": name} for name, value in values.items()]


PSNR = rows(*psnr("ours", a=31, b=30, c=35, d=28), *psnr("theirs", a=30, b=28, c=36, e=9)).assign(mse=0.0)
PAIRED = {"ours": {"where": {"solver": "ours"}, "column": "psnr"}, "against": {"where": {"solver": "theirs"}}}


def test_wins_are_counted_image_by_image() -> None:
    """On a and b of the images that both sides have; of a metric where less is better it is the other way."""
    result = verdict(PSNR, **PAIRED, **{"as": "wins", "agree": {"at_least": 0.6}})
    assert result.value == pytest.approx(2 / 3)
    assert (result.verdict, result.agree) == ("reproduced", "wins at least 0.6")
    assert "lacks 1 instances" in result.note
    lower = PSNR.rename(columns={"psnr": "mse", "mse": "psnr"})
    paired = {"ours": {"where": {"solver": "ours"}, "column": "mse"}, "against": PAIRED["against"]}
    assert verdict(lower, **paired, **{"as": "wins"}).value == pytest.approx(1 / 3)


def test_a_sure_gain_is_the_lower_end_of_the_interval() -> None:
    result = verdict(PSNR, **PAIRED, **{"as": "sure_gain", "agree": {"at_least": 0}})
    interval = stats.ttest_1samp([1, 2, -1], 0).confidence_interval(0.95)
    assert result.value == pytest.approx(interval.low)
    assert (result.verdict, result.agree) == ("differs", "sure gain at least 0")


def test_what_goes_image_by_image_needs_images() -> None:
    with pytest.raises(ValidationError, match="image by image"):
        claim(**{"as": "wins", "paper": 1.0})
    alone = PSNR[(PSNR["solver"] == "ours") | (PSNR["instance_name"] == "a")]
    result = verdict(alone, **PAIRED, **{"as": "wins"})
    assert result.verdict == "not run"
    assert "1 instances in common" in result.note


def test_a_verdict_keeps_what_its_numbers_were_reduced_from() -> None:
    basis = verdict(PSNR, **PAIRED, **{"as": "difference"}).basis
    assert (basis.ours, basis.against, basis.matched) == ((31, 30, 35), (30, 28, 36), True), "a, b and c"
    assert verdict().basis.ours == (1, 2, 6)
    assert not verdict().basis.matched
    alone = PSNR[(PSNR["solver"] == "ours") | (PSNR["instance_name"] == "a")]
    basis = verdict(alone, **PAIRED, **{"as": "difference"}).basis
    assert (basis.ours, basis.against, basis.matched) == ((31, 30, 35, 28), (30,), False)
    assert verdict(TABLE.iloc[:0]).basis.ours == ()
    assert "basis" not in repr(verdict())
