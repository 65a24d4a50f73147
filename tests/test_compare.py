import io

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import wilcoxon

from invbench import cli
from invbench.report.changes import changes, holm, signed_rank
from invbench.report.pairs import aligned, pair, status_changes
from invbench.report.versus import csv_of, print_versus, render_versus, versus
from invbench.store import load
from tests.results_folder import Folder, quick
from tests.test_report import HOSTILE, Page, references

LEVELS = {"adam": 0.02, "lbfgs": 0.015, "momentum": 0.03}


def folder(
    path, *, factor=None, pace=1.0, seeds=(0, 1), layers=("pool1", "pool2", "fc1"), skip=(), **special
):
    """Some methods whose error and pace can be scaled; noise depends on the cell's place only."""
    built = Folder(path, 8)
    for seed in seeds:
        for layer in layers:
            for solver, level in LEVELS.items():
                if (solver, layer) in skip:
                    built.order += 1
                    continue
                scale = (factor or {}).get(solver, 1.0)
                built.add(solver, layer, seed=seed, level=level * scale, pace=0.002 * pace)
    return built


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    environment = {"python": "3.12", "torch": "2.6"}
    return folder(tmp_path_factory.mktemp("results") / "old").finish(environment=environment)


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    built = folder(
        tmp_path_factory.mktemp("results") / "new",
        factor={"adam": 1.3, "lbfgs": 0.6},
        pace=1.25,
        skip={("momentum", "fc1")},
    )
    built.add("newcomer", "pool1")
    return built.finish("study: quick\n# more\n", {"python": "3.12", "torch": "2.7"})


def of(found, solver, column, title="preimage · pool1"):
    (one,) = [c for c in found if (c.method.solver, c.column, c.title) == (solver, column, title)]
    return one


def test_nothing_differs_between_a_folder_and_itself(before):
    found = versus(before, load(before.folder))
    assert found.nothing
    assert found.changes and {change.verdict for change in found.changes} == {"same"}
    page = render_versus(found)
    assert "Nothing differs" in Page(page).words()
    assert 'id="regressions"' not in page and 'id="improvements"' not in page


def test_two_empty_folders_do_not_differ(tmp_path):
    first, second = Folder(tmp_path / "a").finish(), Folder(tmp_path / "b").finish()
    assert versus(first, second).nothing
    Page(render_versus(versus(first, second)))


def test_cells_are_matched_whatever_their_keys(before, after):
    pairing = pair(before, after)
    assert len(pairing.pairs) == 16
    assert {(p.cell.method.solver, p.title) for p in pairing.only_before} == {("momentum", "preimage · fc1")}
    assert [p.cell.method.solver for p in pairing.only_after] == ["newcomer"]
    for one in pairing.pairs:
        assert one.before.cell.method == one.after.cell.method
        assert one.before.cell.seed == one.after.cell.seed
        assert one.before.conditions["layer"] == one.after.conditions["layer"]


def test_variants_and_seeds_are_no_match(tmp_path):
    first, second = Folder(tmp_path / "a", 2), Folder(tmp_path / "b", 2)
    first.add(seed=0)
    second.add(seed=1)
    second.add(seed=0, variant="tuned")
    second.add(seed=0, budget="iterations=9")
    pairing = pair(first.finish(), second.finish())
    assert not pairing.pairs and len(pairing.only_before) == 1 and len(pairing.only_after) == 3


def test_instances_are_matched_by_name(tmp_path):
    first, second = Folder(tmp_path / "a", 3), Folder(tmp_path / "b", 3)
    first.add(names=["x", "y", "z"])
    second.add(names=["z", "w", "x"])
    (one,) = pair(first.finish(), second.finish()).pairs
    old, new = aligned([one], "mse")
    by_name = dict(zip(("x", "y", "z"), one.before.cell.final("mse"), strict=True))
    assert old[:3, 0].tolist() == [by_name[name] for name in "xyz"] and np.isnan(old[3, 0])
    assert new[[2, 3, 0], 0].tolist() == one.after.cell.final("mse").tolist() and np.isnan(new[1, 0])


def test_differences_are_means_over_pairs(before, after):
    found = changes(pair(before, after))
    worse, better = of(found, "adam", "mse"), of(found, "lbfgs", "mse")
    values = [
        results.table.query("final and solver == 'adam' and layer == 'pool1'")["mse"].to_numpy(float)
        for results in (before, after)
    ]
    assert worse.before == pytest.approx(values[0].mean())
    assert worse.effect == pytest.approx((values[1] - values[0]).mean())
    per_image = (values[1] - values[0]).reshape(2, 8).mean(0)
    assert worse.p == pytest.approx(wilcoxon(per_image).pvalue)
    assert worse.verdict == "worse" and worse.units == 8
    assert 0 < worse.low < worse.effect < worse.high
    assert better.verdict == "better" and better.low < better.effect < better.high < 0
    assert of(found, "adam", "psnr").verdict == "worse" and of(found, "adam", "psnr").effect < 0
    assert of(found, "momentum", "mse").verdict == "same"


def test_seconds_are_ratios_and_need_several_readings(before, after):
    found = changes(pair(before, after))
    alone = of(found, "adam", "seconds")
    assert alone.effect == pytest.approx(1.25) and alone.units == 2
    assert alone.verdict == "unclear" and np.isnan(alone.low)
    pooled = of(found, "adam", "seconds", "all 3 trials")
    assert pooled.effect == pytest.approx(1.25) and pooled.units == 3
    assert pooled.verdict == "worse" and pooled.low == pytest.approx(1.25)
    assert of(found, "adam", "work").verdict == "same"


def test_geometric_means_of_costs(tmp_path):
    first, second = Folder(tmp_path / "a", 2), Folder(tmp_path / "b", 2)
    for seed, (old, new) in enumerate([(1, 2), (1, 8), (4, 4)]):
        first.add(seed=seed, pace=old)
        second.add(seed=seed, pace=new)
    one = of(changes(pair(first.finish(), second.finish())), "adam", "seconds")
    assert one.effect == pytest.approx((2 * 8 * 1) ** (1 / 3))
    assert one.before == pytest.approx(300 * 4 ** (1 / 3)) and one.after / one.before == pytest.approx(
        one.effect
    )
    assert one.units == 3 and one.verdict == "unclear", "the interval reaches down to no change"
    assert one.low == pytest.approx(1.0) and one.high == pytest.approx(8.0)


def test_work_gets_no_verdict_where_seconds_end_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "_series", _more_work(Folder._series))
    verdicts = []
    for name, budget in (("fixed", "300 iterations"), ("timed", "300 iterations, 1 seconds")):
        first, second = Folder(tmp_path / f"{name}-a", 4), Folder(tmp_path / f"{name}-b", 4)
        first.add(budget=budget)
        second.order += 1
        second.add(budget=budget)
        verdicts.append(of(changes(pair(first.finish(), second.finish())), "adam", "work").verdict)
    assert verdicts == ["worse", "unclear"]


def _more_work(series):
    def changed(self, rng, *rest):
        found = series(self, rng, *rest)
        return found | {"work": (np.array(found["work"]) * (1 + self.order)).tolist()}

    return changed


def test_rounding_is_no_change(tmp_path):
    first, second = (
        folder(tmp_path / "a").finish(),
        folder(tmp_path / "b", factor={"adam": 1 + 1e-8}).finish(),
    )
    assert versus(first, second).nothing


def test_holm_by_hand():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    assert holm(p)[[0, 2, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm(p)[1])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).size == 0


def test_signed_rank_guards():
    assert signed_rank(np.zeros(5)) == 1.0
    assert np.isnan(signed_rank(np.ones(1)))
    assert signed_rank(np.array([1.0, 2, 3, 0, 0])) == pytest.approx(0.25), "zeros are left out"
    assert signed_rank(np.arange(1.0, 9)) == pytest.approx(2 / 2**8)


def test_status_changes_tell_what_got_worse_first(tmp_path):
    first, second = Folder(tmp_path / "a", 4), Folder(tmp_path / "b", 4)
    first.add("adam", status="failed", reason="odd")
    second.add("adam")
    first.add("lbfgs")
    second.add("lbfgs", status="diverged", diverged=(1, 2))
    first.add("momentum")
    second.add("momentum")
    old, new = first.finish(), second.finish()
    worse, better = status_changes(pair(old, new).pairs)
    assert (worse.before, worse.after, worse.worse) == ("done 4/4", "diverged 2/4", True)
    assert (better.before, better.after, better.worse) == ("failed", "done 4/4", False)
    assert better.reason == "odd"
    assert not versus(old, new).nothing


def test_the_page_puts_regressions_first_and_folds_the_rest(before, after):
    page = render_versus(versus(before, after))
    parsed = Page(page)
    places = [page.index(f'<section id="{name}"') for name in ("regressions", "improvements", "rest")]
    assert places == sorted(places)
    assert page.index('<details class="fold">') > places[2]
    words = parsed.words()
    for wanted in (
        "old → new", "old holds 18 cells, new 17; 16 are in both.", "preimage · fc1: momentum × 2",
        "preimage · pool1: newcomer", "+# more",
    ):  # fmt: skip
        assert wanted in words, wanted
    assert '<th scope="row">torch</th><td>2.6</td><td>2.7</td>' in page
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    assert all(reference.startswith(("data:", "#")) for reference in references(parsed))
    assert "http://" not in page and "https://" not in page and "script" not in parsed.tags
    assert "prefers-color-scheme: dark" in page


def test_same_folders_same_bytes(before, after):
    again = versus(load(before.folder), load(after.folder))
    assert render_versus(again) == render_versus(versus(before, after))


def test_code_and_threads_of_the_cells_are_compared(tmp_path):
    first, second = Folder(tmp_path / "a", 2), Folder(tmp_path / "b", 2)
    first.add(version="1", threads=1)
    second.add(version="2", threads=8)
    found = versus(first.finish(), second.finish())
    facts = {one.name: (one.before, one.after) for one in found.environment}
    assert facts == {"version of the cells": ("1", "2"), "threads of the cells": ("1", "8")}
    assert found.cells == (1, 1, 1) and not found.nothing


def test_hostile_names_stay_text(tmp_path):
    found = []
    for name, status in (("a", "done"), ("<i>", "failed")):
        built = Folder(tmp_path / name, 3)
        options = {"parameters": HOSTILE, "network": HOSTILE, "images": HOSTILE}
        built.add(HOSTILE, HOSTILE, **options)
        built.add(HOSTILE, "x", status=status, reason=HOSTILE, level=0.1 + (status == "done"), **options)
        built.add(HOSTILE, f"{HOSTILE}{name}", **options)
        found.append(built.finish(HOSTILE + name, {HOSTILE: HOSTILE + name}))
    both = versus(*found)
    parsed = Page(render_versus(both))
    assert not {"script", "i"} & set(parsed.tags)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert HOSTILE in "".join(parsed.text)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(print_versus(both))
    assert HOSTILE in console.export_text()


def test_the_terminal_tells_the_largest_changes(before, after):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(print_versus(versus(before, after)))
    text = console.export_text()
    assert "Only in old:" in text and "torch: 2.6 → 2.7" in text
    assert text.index(" worse, ") < text.index(" better, ")
    assert "× 1.25" in text


def test_the_csv_has_a_line_for_every_figure(before, after):
    found = versus(before, after)
    lines = csv_of(found).splitlines()
    assert len(lines) == 1 + len(found.changes)
    assert lines[0].startswith("solver,parameters,variant,title,column,units,before,after,effect,low,high,p,")


def test_report_of_two_folders_on_the_command_line(tmp_path, monkeypatch, capsys):
    quick(tmp_path / "a", layers=("pool1",), instances=3)
    quick(tmp_path / "b", layers=("pool1",), instances=3)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["invbench", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    code, out, _ = call(tmp_path / "a", tmp_path / "b", "--csv", tmp_path / "changes.csv")
    assert code == 0 and "Nothing differs" in out.replace("\n", " ")
    assert "Nothing differs" in (tmp_path / "b" / "compare.html").read_text()
    assert (tmp_path / "changes.csv").read_text().startswith("solver,")
    code, _, error = call(tmp_path / "a", tmp_path / "b", "--latex", tmp_path / "x.tex")
    assert code == 2 and "single results folder" in error and len(error.splitlines()) == 1
    code, _, error = call(tmp_path / "a", tmp_path / "nowhere")
    assert code == 2 and "holds no results" in error
