import re

import numpy as np
import pytest

from invbench.report import depth, glance, pareto, profiles, render
from invbench.report.comparisons import Method, compare
from invbench.report.drawing import short_names
from invbench.report.offline import break_even, offline_costs
from invbench.report.palette import styles
from invbench.report.pareto import Point, front
from invbench.report.scores import score
from invbench.report.tables import overview
from invbench.report.tuning import setting, tunings
from invbench.report.verdicts import claims
from tests.results_folder import POINTS, Folder, rich, tuned

MARKS = {"✓": "reproduced", "✗": "differs", "○": "not run"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return rich(tmp_path_factory.mktemp("rich"))


@pytest.fixture(scope="module")
def scored(results):
    comparisons = compare(results)
    return comparisons, {one: score(one) for one in comparisons}


def test_the_front_is_what_no_other_beats_in_both():
    rng = np.random.default_rng(0)
    cost, quality = rng.random(40).round(1), rng.random(40).round(1)
    for higher in (False, True):
        points = [Point(Method(str(i)), cost[i], quality[i], i % 5 != 0) for i in range(40)]
        gain = quality if higher else -quality
        complete = [i for i in range(40) if i % 5 != 0]

        def beaten(i, gain=gain, complete=complete):
            return any(
                cost[j] <= cost[i] and gain[j] >= gain[i] and (cost[j], gain[j]) != (cost[i], gain[i])
                for j in complete
            )

        wanted = {(cost[i], quality[i]) for i in complete if not beaten(i)}
        assert {(point.cost, point.quality) for point in front(points, higher)} == wanted


def test_names_in_a_figure_do_not_overlap():
    rng = np.random.default_rng(1)
    points = [(float(x), float(y)) for x, y in rng.uniform(0.2, 0.8, (8, 2))]
    places = pareto.place(points, [0.15] * 8)
    spans = [
        (x if x > at[0] else x - 0.15, x + 0.15 if x > at[0] else x, y)
        for (x, y), at in zip(places, points, strict=True)
    ]
    for i, (left, right, y) in enumerate(spans):
        for other_left, other_right, other_y in spans[:i]:
            assert left > other_right or right < other_left or abs(y - other_y) > 0.04


def test_parameters_are_named_only_where_they_tell_methods_apart():
    methods = [
        Method("adam", "lr=1", "default"),
        Method("adam", "lr=1", "tuned"),
        Method("cg", "a=1"),
        Method("cg", "a=2"),
    ]
    assert list(short_names(methods).values()) == ["adam", "adam · tuned", "cg (a=1)", "cg (a=2)"]


def test_profile_by_its_definition():
    rng = np.random.default_rng(2)
    costs = rng.uniform(1, 9, (4, 30))
    costs[1, ::3] = np.inf
    ratios, shares = profiles.profile(costs)
    for tau in (1.0, 1.3, 2.0, 5.0, 100.0):
        wanted = (costs <= tau * costs.min(axis=0)).mean(axis=1)
        found = [shares[np.searchsorted(row, tau, side="right")] for row in ratios]
        assert found == pytest.approx(wanted)
    assert shares[np.isfinite(ratios[1]).sum()] == pytest.approx(2 / 3)


def test_profile_survives_zeros_and_problems_that_nobody_solved():
    costs = np.array([[0.0, 1.0, np.inf], [0.0, 2.0, np.inf], [1e-3, 2.0, np.inf]])
    ratios, _ = profiles.profile(costs)
    assert ratios[0].tolist() == [1, 1, np.inf]
    assert ratios[1].tolist() == [1, 2, np.inf]
    assert ratios[2, 0] == 2 and 1e3 < ratios[2, 1] < np.inf


def test_metrics_where_much_is_good_become_costs(tmp_path):
    folder = Folder(tmp_path, 3)
    folder.add("adam", status="diverged", diverged=(1,))
    folder.add("lbfgs", level=0.01)
    (comparison,) = compare(folder.finish())
    scores = score(comparison)
    ssim, psnr = (profiles.costs_of(comparison, scores, name) for name in ("ssim", "psnr"))
    assert np.isinf(ssim).tolist() == [[False, True, False], [False] * 3]
    assert ssim[1] == pytest.approx(1 - comparison.cells[1].final("ssim").astype(float))
    assert psnr[1] == pytest.approx(comparison.cells[1].final("mse").astype(float))


def test_a_success_costs_the_work_from_which_on_it_lasts(tmp_path):
    folder = Folder(tmp_path, 2)
    folder.add("adam", trial="adversarial", ranked_by="success")
    record = folder.store.find(folder.keys[0])
    success = np.zeros((len(POINTS), 2))
    success[3, 0] = success[6:, 0] = 1
    record["trace"]["series"]["success"] = success.tolist()
    folder.store.write(folder.keys[0], record)
    (comparison,) = compare(folder.finish())
    assert profiles.costs_of(comparison, score(comparison), "success").tolist() == [[POINTS[6] * 5e5, np.inf]]


def test_values_below_zero_get_no_profile(tmp_path):
    folder = Folder(tmp_path, 2)
    for solver in ("adam", "lbfgs"):
        key = folder.add(solver, trial="class_inversion", ranked_by="objective", truth=False)
        record = folder.store.find(key)
        record["trace"]["series"]["objective"][-1] = [-1.0, -2.0]
        folder.store.write(key, record)
    comparisons = compare(folder.finish())
    (panel,) = profiles.panels(comparisons, {one: score(one) for one in comparisons}, {})
    assert panel.plots == () and "negative" in panel.note


def test_stages_stand_in_the_order_of_the_network(tmp_path, results):
    folder = Folder(tmp_path, 1)
    for layer in ("fc1", "mystery", "conv2.1", "pool1"):
        folder.add("adam", layer)
    group = {one.conditions["layer"]: one for one in compare(folder.finish())}
    known = depth.in_order(group, results.environment)
    assert [one.conditions["layer"] for one in known] == ["pool1", "conv2.1", "fc1", "mystery"]
    assert list(group.values()) == depth.in_order(group, {})


def test_an_oracle_has_no_part_in_the_curves_and_means_of_others(scored, results):
    comparisons, scores = scored
    looks = styles(method for one in comparisons for method in one.methods)
    (panel,) = depth.panels(comparisons, scores, looks, results.environment)
    assert panel.title == "preimage · lenet"
    assert {one.kind[0] for one in comparisons} == {"preimage", "preimage · oracle"}


def test_offline_work_pays_off_where_the_definition_says(scored):
    rng = np.random.default_rng(3)
    for prepared, seconds, other, slower in rng.uniform(0.1, 9, (50, 4)).round(2):
        n = break_even(prepared, seconds, other, slower)
        holds = [prepared + k * seconds <= other + k * slower + 1e-9 for k in range(5000)]
        assert n == (holds.index(True) if any(holds) else np.inf)
    assert np.isnan(break_even(np.nan, 1, 0, 2)) and np.isnan(break_even(1, 1, 0, np.nan))
    found = offline_costs(*scored)
    assert [(one.title, one.method.solver, one.offline.clock) for one in found] == [
        (f"preimage · {layer}", "inverting_network", "75.0") for layer in ("conv1", "pool2", "fc1")
    ]
    comparison = scored[0][0]
    network = next(cell for cell in comparison.cells if cell.method.solver == "inverting_network")
    quality, seconds, work = network.final("mse").astype(float).mean(), 300 * 1e-4 / 8, 300 * 5e5
    assert (found[0].each.seconds, found[0].each.work) == (pytest.approx(seconds), work)
    for rival in found[0].rivals:
        cell = next(cell for cell in comparison.cells if cell.method == rival.method)
        means = np.mean([curve.astype(float) for curve in cell.curves("mse")], axis=0)
        steps = POINTS[np.flatnonzero(means <= quality)[0]]
        slower = steps * (0.006 if rival.method.solver == "lbfgs" else 0.002) / 8
        assert rival.each.seconds == pytest.approx(slower)
        assert rival.each.work == steps * 5e5
        assert np.isfinite(rival.images) == (slower > seconds)
        if slower > seconds:
            assert rival.images == pytest.approx(np.ceil(75.0 / (slower - seconds)), abs=1)
            assert rival.by_time == f"{rival.images:,.0f}"
        assert np.isfinite(rival.images_of_work) == (steps * 5e5 > work)
    assert {np.isfinite(rival.images) for rival in found[0].rivals} == {True, False}


def test_every_rival_of_offline_work_is_named(scored):
    comparisons, _ = scored
    for one, comparison in zip(offline_costs(*scored), comparisons, strict=False):
        named = [*(rival.method for rival in one.rivals), *one.never, *one.lost]
        assert {one.method, *named} == set(comparison.methods)
        assert len(named) == len(set(named)) == len(comparison.methods) - 1
        assert "projected_gradient" in {method.solver for method in one.never}
        assert one.lost == ()


def test_offline_work_that_was_not_counted_is_a_dash(tmp_path):
    folder = Folder(tmp_path, 2)
    folder.add("adam", level=0.01)
    folder.add("counted", prepare_seconds=60.0, prepare_work=4.5e10)
    folder.add("older", prepare_seconds=30.0)
    folder.add("torn", status="diverged", diverged=(1,))
    results = folder.finish()
    first, second = offline_costs(*_scored(results))
    assert (first.offline.counted, second.offline.counted) == ("45.0 G", "–")
    assert [method.solver for method in first.lost] == ["torn"]
    (adam,) = [rival for rival in first.rivals if rival.method.solver == "adam"]
    # 45 G once and 150 M an image, against some steps of 500 k.
    assert adam.images_of_work == np.inf and adam.by_work == "never"
    (adam,) = [rival for rival in second.rivals if rival.method.solver == "adam"]
    assert np.isnan(adam.images_of_work) and adam.by_work == "–"
    html = render(results)
    table = html[html.index('<table class="offline">') :].split("</table>")[0]
    assert "45.0 G" in table and "nothing compares with: torn" in table


def test_offline_work_pays_off_by_multiply_adds(tmp_path):
    folder = Folder(tmp_path, 1)
    # The network ends after as many steps as the rival takes to be as good, so that its work is greater.
    folder.add("network", level=0.3, prepare_seconds=1.0, prepare_work=1e9)
    key = folder.keys[0]
    record = folder.store.find(key)
    record["trace"]["series"]["work"] = [[1e6] for _ in record["trace"]["series"]["work"]]
    folder.store.write(key, record)
    folder.order = 0  # the same noise
    folder.add("adam", level=0.3)
    (one,) = offline_costs(*_scored(folder.finish()))
    (adam,) = one.rivals
    assert (one.each.work, adam.each.work) == (1e6, 300 * 5e5)
    assert adam.images_of_work == np.ceil(1e9 / (300 * 5e5 - 1e6)) == 7


def test_no_offline_work_no_table(tmp_path):
    folder = Folder(tmp_path, 1)
    folder.add("adam", prepare_seconds=None)
    comparisons = compare(folder.finish())
    assert offline_costs(comparisons, {one: score(one) for one in comparisons}) == ()


def test_tuning_is_told_row_by_row(scored):
    rows = tunings(scored[0])
    assert len(rows) == 18
    adam, momentum = rows[0], rows[3]
    assert (adam.title, str(adam.method)) == ("preimage · conv1", "adam (lr=0.03 · tuned)")
    assert (adam.tried, adam.lost, adam.chosen, adam.unchanged) == (3, "", "lr=0.1", False)
    assert (adam.before, adam.after, adam.gain, adam.seconds) == ("0.400", "0.250", "−38 %", "3.50")
    assert momentum.lost == "1 diverged"
    assert rows[6].unchanged and rows[6].gain == "", "on the second layer the default was the best"


def test_seeds_that_share_a_tuning_share_its_row(tmp_path):
    folder = Folder(tmp_path, 1)
    for seed in (0, 1):
        folder.add("adam", seed=seed, variant="tuned", tuning=tuned())
    folder.add("adam", seed=2, variant="tuned", tuning=tuned(values=(None, None, 1.0)))
    first, second = tunings(compare(folder.finish()))
    assert (first.seeds, second.seeds, second.before) == ("0, 1", "2", "diverged")
    assert setting({"a": 1e-7, "b": "x", "c": True}) == "a=1e-07, b=x, c=True"


def test_variants_stand_side_by_side(scored):
    comparisons, scores = scored
    plain = [one for one in comparisons if not one.oracle]
    table = overview("x", plain, [scores[one] for one in plain])
    assert table.variants == ("default", "tuned")
    rows = {row.method.solver: row for row in table.rows}
    assert len(rows) == len(table.rows) == 7
    assert [entry.text for entry in rows["inverting_network"].entries][1::2] == ["–"] * 3
    first = scores[plain[0]]
    by_name = {(m.solver, m.variant): rank for m, rank in zip(first.methods, first.ranks, strict=True)}
    assert [entry.rank for entry in rows["adam"].entries[:2]] == [
        str(by_name["adam", variant]) for variant in ("default", "tuned")
    ]
    looks = styles(first.methods)
    pair = [looks[m] for m in first.methods if m.solver == "lbfgs"]
    assert pair[0].hue == pair[1].hue and pair[0].dashes != pair[1].dashes


def test_the_answer_comes_first(scored):
    lines = glance.glances(*scored)
    assert glance.variants(scored[0]) == ("default", "tuned")
    default, best = lines[0].winners
    assert (default.methods[0].solver, default.best) == ("lbfgs", False)
    assert (best.methods[0].solver, best.methods[0].variant, best.best) == ("lbfgs", "tuned", True)
    assert lines[3].title.endswith("oracle") and lines[3].winners[1] is None


def test_a_lead_is_clear_only_where_the_images_agree(tmp_path):
    folder = Folder(tmp_path, 8)
    for solver, level in (("a", 0.1), ("b", 0.1001), ("c", 0.5)):
        folder.order = 0  # the same noise for all
        key = folder.add(solver, level=level)
        record = folder.store.find(key)
        if solver == "b":
            last = record["trace"]["series"]["mse"][-1]
            record["trace"]["series"]["mse"][-1] = [v * (1.5 if i % 2 else 0.6) for i, v in enumerate(last)]
            folder.store.write(key, record)
    folder.add("d", "fc1"), folder.add("e", "fc1", level=0.5)
    folder.add("f", "fc2")
    unclear, clear, alone = glance.glances(*_scored(folder.finish()))
    assert unclear.winners[0].clear is False
    assert clear.winners[0].clear is True and clear.winners[0].runner_up.solver == "e"
    assert alone.winners[0].clear is None and alone.winners[0].runner_up is None


def test_a_tie_names_all(tmp_path):
    folder = Folder(tmp_path, 2)
    for solver in ("a", "b"):
        folder.order = 0
        folder.add(solver)
    ((line,),) = (glance.glances(*_scored(folder.finish())),)
    assert [method.solver for method in line.winners[0].methods] == ["a", "b"]
    assert line.winners[0].clear is None


def test_claims_keep_their_verdicts_and_the_missed_ones_stay(results):
    found = claims(results)
    assert [(one.id, one.mark, one.verdict) for one in found.rows] == [
        ("second-order", "✓", "reproduced"), ("table-1", "✗", "differs"), ("speed", "○", "not run"),
    ]  # fmt: skip
    assert found.counts == {"reproduced": 1, "differs": 1, "not run": 1}
    html = render(results)
    assert re.findall(r'<section id="(\w+)"', html) == [
        "ranking", "outcome", "claims", "tuning", "speed", "profiles", "convergence", "depth", "offline",
        "images", "environment", "definitions", "data",
    ]  # fmt: skip
    assert all(f'aria-hidden="true">{mark}</span> {word}' in html for mark, word in MARKS.items())
    assert 'fc1 · pooling switches <span class="flag">oracle</span>' in html


def test_claims_that_cannot_be_read_are_told_and_none_are_no_section(tmp_path):
    folder = Folder(tmp_path, 1)
    folder.add("adam")
    assert "unheard" in claims(folder.finish("study: x\nclaims: [{unheard: of}]\n")).problem
    assert claims(folder.finish("study: x\n")) is None


def _scored(results):
    comparisons = compare(results)
    return comparisons, {one: score(one) for one in comparisons}
