"""Figures of claims."""

import re

import numpy as np
import pytest

from invbench.claims import Claim
from invbench.claims.verdict import Basis, Verdict
from invbench.report import render
from invbench.report.claim_figures import DOTS, _abscissae, _shade, agreed, chosen, figure
from invbench.report.verdicts import claims
from tests.results_folder import rich


def claim(compare="value", agree=None, against=None, **changes):
    return Claim.model_validate(
        {
            "id": "one",
            "source": "Nobody 2030",
            "ours": {"column": "mse"},
            "as": compare,
            "agree": agree or {"at_most": 1},
        }
        | ({"against": against} if against is not None else {})
        | changes
    )


def verdict(ours, against=None, matched=False):
    return Verdict(
        id="one", source="", says="", paper=None, value=1.0, agree="", verdict="reproduced", note="",
        ours=float(np.mean(ours)),
        against=None if against is None else float(np.mean(against)),
        basis=Basis(tuple(ours), tuple(against or ()), matched),
    )  # fmt: skip


def paths(plot):
    """Points of every path, in units of the figure."""
    return [
        np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", data), dtype=float)
        for data in re.findall(r'<path d="([^"]*)"[^>]*round', plot.svg)
    ]


@pytest.mark.parametrize(
    ("compare", "agree", "paper"),
    [
        ("ratio", {"at_most": 0.5}, None),
        ("ratio", {"at_least": 0.9, "at_most": 1.1}, None),
        ("ratio", {"within": 0.3, "relative": True}, 0.7),
        ("difference", {"at_least": 0.25}, None),
        ("difference", {"within": 0.5}, -0.2),
    ],
)
def test_what_is_shaded_is_where_the_claim_holds(compare, agree, paper):
    """Brute force: the claim's own judgement of many pairs of numbers."""
    rng = np.random.default_rng(0)
    stated = claim(compare, agree, {"where": {"solver": "x"}}, paper=paper)
    seen = set()
    for ours, other in rng.uniform(-2, 2, (400, 2)):
        low, high = agreed(stated, other)
        holds = stated.agree.holds(ours / other if compare == "ratio" else ours - other, paper)
        assert (low <= ours <= high) == holds
        seen.add(holds)
    assert seen == {True, False}


def test_shaded_where_there_is_no_other_side():
    assert agreed(claim(paper=2, agree={"within": 0.1, "relative": True}), None) == pytest.approx((1.8, 2.2))
    assert agreed(claim("ratio", {"at_most": 3}, paper=2), None) == (-np.inf, 6)
    assert agreed(claim("difference", {"at_least": -1}, paper=2), None) == (1, np.inf)
    assert np.isnan(agreed(claim("ratio", {"at_most": 3, "at_least": 1}, {"column": "x"}), 0.0)).all()


@pytest.mark.parametrize("compare", ["wins", "sure_gain"])
def test_image_by_image_the_better_side_is_shaded(compare):
    against = {"where": {"solver": "x"}}
    assert agreed(claim(compare, against=against), 3.0) == (-np.inf, 3)
    assert agreed(claim(compare, against=against, ours={"column": "psnr"}), 3.0) == (3, np.inf)
    plot = figure(claim(compare, against=against), verdict([1, 2, 3], [2, 2, 2], True), "x")
    assert "ours is better (1 of 3)" in plot.caption, "to be equal is not enough"


def test_matched_sides_are_a_scatter_with_the_right_dots():
    ours, against = [1.0, 2.0, 4.0, 3.0], [2.0, 1.5, 2.5, 1.0]
    stated = claim("ratio", {"at_most": 1.0}, {"where": {"solver": "x"}}, paper=0.4)
    plot = figure(stated, verdict(ours, against, True), "x")
    (dots,) = [points for points in paths(plot) if len(points) == 8]
    dots = dots[::2]
    order = np.argsort(ours)  # by rank; the axes are logarithmic, the ordinate of an SVG points down
    for axis, values, way in ((0, against, 1), (1, ours, -1)):
        assert np.corrcoef(dots[:, axis], np.log(np.array(values)[order]))[0, 1] == pytest.approx(
            way, abs=1e-4
        )
    assert "(1 of 4)" in plot.caption and "the printed ratio, 0.400" in plot.caption
    assert f'aria-label="one: {plot.caption}"' in plot.svg
    assert "against: MSE" in plot.svg and "ours: MSE" in plot.svg


@pytest.mark.parametrize(("low", "high", "logarithmic"), [(-1, 2, False), (3, 8, False), (1e-3, 10, True)])
@pytest.mark.parametrize("compare", ["ratio", "difference", "wins"])
def test_the_shade_is_where_a_dot_would_agree(low, high, logarithmic, compare):
    """Points of the frame against the polygon, whose ends are joined by straight lines on the screen."""
    rng = np.random.default_rng(1)
    screen, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
    for agree in ({"at_most": 0.4}, {"at_least": 1.5}, {"at_least": -0.5, "at_most": 0.75}):
        told = 0
        stated = claim(compare, agree, {"where": {"solver": "x"}})
        x = _abscissae(stated, low, high, logarithmic)
        lower, upper = (screen(ends) for ends in _shade(stated, x, low, high, logarithmic))
        for across, up in rng.uniform(screen(low), screen(high), (200, 2)):
            bottom, top = (np.interp(across, screen(x), ends) for ends in (lower, upper))
            step = (screen(high) - screen(low)) / 32  # a curve is as coarse as that
            near = [agreed(stated, back(across + by)) for by in (-step, 0, step)]
            holds = {ends[0] <= back(up) <= ends[1] for ends in near}
            if len(holds) == 1:
                assert holds == {bool(bottom <= up <= top)}
                told += 1
        assert told > 100


def test_unmatched_sides_are_strips_and_one_value_has_a_figure_too():
    alone = figure(claim(paper=0.5), verdict([1.0, 2.0, 6.0]), "x")
    assert alone.caption == "3 values. Bar: the mean. Shaded: where ours agrees. Dashed: the printed 0.500."
    assert ">ours<" in alone.svg and ">against<" not in alone.svg
    both = figure(claim("ratio", against={"column": "x"}), verdict([1.0, 2.0], [3.0]), "x")
    assert both.caption.startswith("2 and 1 values, not matched.")
    assert ">ours<" in both.svg and ">against<" in both.svg
    single = figure(claim(paper=0.5), verdict([1.0]), "x")
    assert single.caption.startswith("One value. Shaded") and len(single.svg) < 4500
    constant = figure(claim(), verdict([0.0, 0.0]), "x")
    assert constant is not None, "no warning, though nothing spreads"


def test_what_was_not_run_has_no_figure():
    nothing = Verdict("one", "", "", None, None, None, None, "", "not run", "there are no rows")
    assert figure(claim(), nothing, "x") is None


def test_many_instances_are_thinned_evenly_by_rank():
    values = np.random.default_rng(0).random(1000)
    ranks = np.sort(values.argsort().argsort()[chosen(values)])
    assert len(ranks) == DOTS and (ranks[0], ranks[-1]) == (0, 999)
    assert set(np.diff(ranks)) <= {5, 6}
    assert sorted(chosen(values[:7])) == list(range(7))
    plot = figure(
        claim("ratio", against={"column": "x"}), verdict(values.tolist(), values[::-1].tolist(), True), "x"
    )
    assert "1000 instances" in plot.caption and f"of which {DOTS} evenly by rank are drawn" in plot.caption
    assert max(map(len, paths(plot))) == 2 * DOTS
    assert len(plot.svg) < 16_000


def test_axes_across_zero_and_over_decades_are_drawn():
    against = {"where": {"solver": "x"}}
    for ours, other in (([-1.0, 2.0, 0.0], [1.0, -2.0, 3.0]), ([1e-9, 1e-3, 1.0], [1e-6, 1e-2, 10.0])):
        for compare in ("ratio", "difference", "wins"):
            for agree in ({"at_most": 0.0}, {"at_least": 0.5}, {"at_least": -1, "at_most": 2}):
                plot = figure(claim(compare, agree, against), verdict(ours, other, True), "x")
                assert "nan" not in plot.svg and "inf" not in plot.svg


def test_the_page_folds_one_figure_into_each_claim_that_was_run(tmp_path):
    results = rich(tmp_path, layers=("conv1",))
    found = claims(results)
    assert [one.plot is not None for one in found.rows] == [one.verdict != "not run" for one in found.rows]
    html = render(results)
    section = html[html.index('<section id="claims">') :].split("</section>")[0]
    assert section.count("<details><summary>figure</summary>") == 2
    assert "of which" not in section
    assert [one.plot for one in claims(results).rows] == [one.plot for one in found.rows], "the same bytes"
