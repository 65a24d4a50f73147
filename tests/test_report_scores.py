import numpy as np
import pytest
from scipy import stats

from invbench import metrics
from invbench.report.comparisons import Method, compare, in_turns, kinds
from invbench.report.palette import styles
from invbench.report.quantities import higher_is_better, number, ordered, power
from invbench.report.scores import pool, score
from invbench.report.statistics import Curve, band, bootstrap, ranks, share
from invbench.report.tables import issues, overview, ranking
from tests.results_folder import POINTS, Folder, quick


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return quick(tmp_path_factory.mktemp("quick"))


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).gamma(2.0, size=(24, 1, 2))
    ours = bootstrap(values, draws=20_000)
    for k in range(2):
        theirs = stats.bootstrap(
            (values[:, 0, k],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        width = theirs.high - theirs.low
        assert ours.mean[k] == pytest.approx(values[:, 0, k].mean())
        assert ours.low[k] == pytest.approx(theirs.low, abs=0.03 * width)
        assert ours.high[k] == pytest.approx(theirs.high, abs=0.03 * width)


def test_bootstrap_over_images_and_seeds_has_the_variance_of_nested_resampling():
    rng = np.random.default_rng(4)
    instances, seeds = 50, 3
    values = (rng.normal(size=(instances, 1, 1)) + 2 * rng.normal(size=(instances, seeds, 1))).round(6)
    between = values.mean(1).var()
    within = values.var(1).mean()
    deviation = np.sqrt((between + within / seeds) / instances)
    found = bootstrap(values, draws=20_000)
    assert (found.high - found.low)[0] == pytest.approx(2 * 1.96 * deviation, rel=0.03)


def test_bootstrap_is_deterministic_and_leaves_global_randomness_alone():
    values = np.random.default_rng(5).normal(size=(6, 2, 3))
    before = np.random.get_state()[1].copy()
    first, second = bootstrap(values), bootstrap(values)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(before, np.random.get_state()[1])


def test_bootstrap_leaves_out_what_is_missing():
    values = np.array([[1.0, np.nan, 2.0], [3.0, np.nan, 2.0], [np.nan, np.nan, 2.0]])[:, None, :]
    found = bootstrap(values)
    assert found.mean.tolist()[::2] == [2.0, 2.0]
    assert np.isnan(found.mean[1]) and np.isnan(found.low[1])
    assert (found.low[0], found.high[0]) == (1.0, 3.0)
    assert np.isnan(found.low[2]), "what does not vary has no interval"


def test_methods_that_lost_instances_rank_last():
    values = np.array([0.3, 0.1, 0.2, 0.2, np.nan])
    assert ranks(values, np.array([0, 2, 0, 0, 0]), higher=False) == [3, 4, 1, 1, None]
    assert ranks(values, np.array([0, 2, 0, 0, 0]), higher=True) == [1, 4, 2, 2, None]


def test_band_is_the_quantile_where_curves_share_their_points():
    rng = np.random.default_rng(6)
    x, y = np.arange(1.0, 9.0), rng.normal(size=(7, 8))
    found = band([Curve(x, row, False) for row in y], np.inf)
    assert np.array_equal(found.x, x)
    assert np.allclose(found[1:], np.quantile(y, (0.25, 0.5, 0.75), axis=0))


def test_a_curve_holds_its_value_and_a_diverged_one_is_infinitely_bad():
    long = Curve(np.array([0.0, 1.0, 2.0, 3.0]), np.array([9.0, 5.0, 4.0, 3.0]), False)
    short = Curve(np.array([0.0, 1.5]), np.array([9.0, 1.0]), False)
    assert band([long, short], np.inf).middle.tolist() == [9, 7, 3, 2.5, 2]
    lost = band([long, short._replace(diverged=True), short._replace(diverged=True)], np.inf)
    assert lost.middle.tolist() == [9, 9, 1, np.inf, np.inf]
    assert band([long, short._replace(diverged=True)], -np.inf).low[-1] == -np.inf
    successes = [Curve(c.x, c.y < 4, c.diverged) for c in (long, short._replace(diverged=True))]
    assert share(successes).middle.tolist() == [0, 0, 0.5, 0, 0.5]


def test_bands_are_thinned_and_keep_their_ends():
    x = np.arange(1000.0)
    found = band([Curve(x, x, False)], np.inf, points=50)
    assert len(found.x) == 50 and found.x[0] == 0 and found.x[-1] == 999


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.0, "mse", "0"), (1.0, "ssim", "1.00"), (999.6, "mse", "1000"), (12345.0, "mse", "12345"),
        (-0.5, "objective", "−0.500"), (150e6, "work", "150 M"), (999_950.0, "work", "1.00 M"),
        (300.0, "iteration", "300"), (0.25, "work", "0.250"), (float("inf"), "mse", "∞"),
        (float("nan"), "mse", "–"), (-2e-7, "mse", "−2.00·10⁻⁷"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, column, text):
    assert number(value, column) == text


def test_decades_are_plain_near_one():
    values = (0.02, 1e-5, 2e-5, 1e6, 0, 15000, -2e-4)
    assert [power(value) for value in values] == ["0.02", "10⁻⁵", "2·10⁻⁵", "10⁶", "0", "1.5·10⁴", "−2·10⁻⁴"]


def test_the_report_and_the_metrics_agree_which_way_is_better():
    for name, metric in metrics.find().items():
        assert higher_is_better(name) == (metric.better == "higher"), name


def test_the_metric_that_ranks_comes_first_and_costs_last():
    present = ["work", "mse", "zeal", "objective", "seconds", "success"]
    assert ordered("success", present) == ["success", "objective", "mse", "zeal", "seconds", "work"]


def test_comparisons_follow_the_study_and_titles_name_what_differs(tmp_path):
    folder = Folder(tmp_path, 2)
    for layer in ("pool1", "fc1"):
        for start in ("noise", "grey"):
            folder.add("adam", layer, start=start)
            folder.add("lbfgs", layer, start=start)
    folder.add("adam", "", trial="adversarial", ranked_by="success")
    found = compare(folder.finish())
    assert [one.title for one in found] == [
        "preimage · pool1 · noise", "preimage · pool1 · grey",
        "preimage · fc1 · noise", "preimage · fc1 · grey", "adversarial",
    ]  # fmt: skip
    assert [len(one.cells) for one in found] == [2, 2, 2, 2, 1]
    assert [len(group) for group in kinds(found).values()] == [4, 1]
    assert [one.anchor for one in in_turns(found)] == ["c1", "c5", "c2", "c3", "c4"]


def test_oracles_are_flagged_wherever_titles_stand(tmp_path):
    folder = Folder(tmp_path, 1)
    folder.add("adam", oracle="pooling switches")
    folder.add("adam", "fc1")
    assert [one.title for one in compare(folder.finish())] == ["preimage · pool1 · oracle", "preimage · fc1"]


def test_scores_are_the_final_rows_of_the_table(results):
    comparison = compare(results)[0]
    scores = score(comparison)
    table = results.table
    final = table[table["final"] & (table["layer"] == "conv1")]
    means = final.groupby(final["solver"].astype(str))[["mse", "seconds", "work"]].mean()
    for m, method in enumerate(scores.methods):
        for name in means.columns:
            ours = scores.interval.mean[m, scores.columns.index(name)]
            assert ours == pytest.approx(means.loc[method.solver, name])
    assert scores.ranks[scores.order[0]] == 1
    assert scores.methods[scores.order[0]].solver == means["mse"].idxmin()
    assert "prepare_seconds" not in scores.columns and "peak_memory" not in scores.columns


def test_methods_with_terms_of_their_own_have_no_objective(results):
    preimage, *_, inversion, _ = compare(results)
    scores = score(preimage)
    objective = scores.interval.mean[:, scores.columns.index("objective")]
    assert [bool(np.isnan(value)) for value in objective] == list(scores.overriding)
    table = ranking(preimage, scores)
    column = [head.text for head in table.headings].index("objective")
    shown = {row.method.solver: row.entries[column] for row in table.rows}
    assert (shown["mv2015"].text, shown["mv2015"].note, shown["mv2015"].interval) == ("–", "†", "")
    assert shown["adam"].note == ""
    by_objective = ranking(inversion, score(inversion))
    assert {row.method.solver for row in by_objective.rows if row.rank == "–"} == {"mv2015", "mv2016"}
    assert [(one.method.solver, one.status) for one in by_objective.absent] == [("lbfgs", "refused")]


def test_a_diverged_method_ranks_last_and_is_never_the_best(tmp_path):
    folder = Folder(tmp_path, 4)
    folder.add("steady", level=0.5)
    folder.add("wild", level=0.001, status="diverged", diverged=(2,))
    comparison = compare(folder.finish())[0]
    scores = score(comparison)
    assert [scores.methods[m].solver for m in scores.order] == ["steady", "wild"]
    assert scores.best("mse") == {0}
    assert [row.finished for row in ranking(comparison, scores).rows] == ["4/4", "3/4"]
    curves = comparison.cells[1].curves("mse")
    assert [len(curve) for curve in curves] == [len(POINTS), len(POINTS), 12, len(POINTS)]


def test_nothing_is_best_where_all_are_equal(tmp_path):
    folder = Folder(tmp_path, 3)
    for solver in ("a", "b"):
        folder.add(solver, pace=0.01)
    scores = score(compare(folder.finish())[0])
    assert scores.best("seconds") == set()
    assert len(scores.best("mse")) == 1


def test_means_over_trials_need_results_in_every_trial(tmp_path):
    folder = Folder(tmp_path, 3)
    for layer in ("pool1", "fc1"):
        folder.add("whole", layer, level=0.1)
        folder.add(
            "half", layer, level=0.01, status="done" if layer == "pool1" else "refused", reason="too deep"
        )
    comparisons = compare(folder.finish())
    each = [score(one) for one in comparisons]
    pooled = pool(each)
    assert [pooled.methods[m].solver for m in pooled.order] == ["whole"]
    assert pooled.expected == 6 and pooled.missing.tolist() == [0, 3]
    separate = [one.values[0, :, 0, one.columns.index("mse")] for one in each]
    assert np.allclose(pooled.values[0, :, 0, pooled.columns.index("mse")], np.mean(separate, axis=0))
    rows = overview("x", comparisons, each).rows
    assert [(row.method.solver, row.rank) for row in rows] == [("half", "1.5"), ("whole", "1.5")][
        ::-1
    ] or rows[0].rank == "1.5"
    assert [entry.text for row in rows if row.method.solver == "half" for entry in row.entries][1] == "–"


def test_seeds_are_gathered_into_one_row(tmp_path):
    folder = Folder(tmp_path, 4)
    for seed in (0, 1, 2):
        folder.add("adam", seed=seed)
        folder.add("lbfgs", seed=seed, status="failed" if seed == 1 else "done", reason="boom")
    comparison = compare(folder.finish())[0]
    scores = score(comparison)
    assert scores.values.shape[:3] == (2, 4, 3)
    assert scores.expected == 12 and scores.missing.tolist() == [0, 4]
    assert ranking(comparison, scores).rows[1].finished == "8/12"


def test_issues_are_gathered_and_faults_come_first(results):
    found = issues(compare(results))
    assert [(issue.status, issue.method.solver) for issue in found] == [
        ("failed", "momentum"), ("diverged", "projected_gradient"), ("refused", "lbfgs"),
    ]  # fmt: skip
    assert found[1].instances == "photo-1, photo-3"
    assert "Traceback" in found[0].traceback


def test_styles_do_not_repeat_for_28_methods():
    looks = styles(Method(f"m{index}") for index in range(28)).values()
    assert len({(look.hue, look.dashes) for look in looks}) == 28
