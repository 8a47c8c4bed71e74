"""Intervals, paired tests, corrections, and the tables made of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regista.core import FormatError, PlanError
from regista.evaluation import (
    bootstrap_interval,
    compare_methods,
    compare_table,
    higher_is_better,
    holm_correction,
    read_rows,
)


@pytest.fixture
def values(rng):
    """Return three methods over 25 cases: b worse than a by .02, c the same but for noise."""
    cases = [f"case {n}" for n in range(25)]
    a = rng.normal(0.7, 0.05, 25)
    spread = {
        "a": a,
        "b": a - 0.02 + rng.normal(0, 0.01, 25),
        "c": a + rng.normal(0, 0.01, 25) - 0.0005,
    }
    return {name: dict(zip(cases, data.tolist(), strict=True)) for name, data in spread.items()}


def test_tests_are_those_of_scipy(values):
    a, b, _ = compare_methods(values, reference="a", holm=False)
    one, other = (np.array(list(values[m].values())) for m in "ba")
    assert b.p_wilcoxon == stats.wilcoxon(one - other).pvalue
    assert b.p_t == stats.ttest_rel(one, other).pvalue
    assert b.effect_dz == pytest.approx((one - other).mean() / (one - other).std(ddof=1))
    assert (b.pairs, b.cases) == (25, 25)
    assert np.isnan(a.p_wilcoxon)
    assert a.sd == pytest.approx(other.std(ddof=1))


def test_rank_biserial_is_one_where_all_agree(values):
    lower = {c: v - 0.1 for c, v in values["a"].items()}
    (_, down) = compare_methods({"a": values["a"], "down": lower}, reference="a")
    assert down.effect_rank == -1
    assert down.p_t == 0 or down.p_t < 1e-10


def test_holm_against_statsmodels_and_by_hand(rng):
    assert holm_correction([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm_correction([np.nan, 0.5])[0])
    assert holm_correction([np.nan, 0.5])[1] == 0.5
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = rng.random(40) ** 3
    np.testing.assert_allclose(holm_correction(p), multitest.multipletests(p, method="holm")[1])


def test_intervals_are_seeded_and_cover(rng):
    data = rng.normal(2.0, 1.0, 60)
    assert bootstrap_interval(data, seed=4) == bootstrap_interval(data, seed=4)
    assert bootstrap_interval(data, seed=4) != bootstrap_interval(data, seed=5)
    low, high = bootstrap_interval(data)
    error = data.std(ddof=1) / np.sqrt(60)
    assert [low, high] == pytest.approx([data.mean() - 1.96 * error, data.mean() + 1.96 * error], abs=0.06)
    hits = [
        lo < 0 < hi for lo, hi in (bootstrap_interval(rng.normal(size=30), resamples=500) for _ in range(200))
    ]
    assert 0.87 < np.mean(hits) < 0.99


def test_missing_cases_are_left_out_of_pairs(values):
    del values["b"]["case 3"]
    values["b"]["case 4"] = float("nan")
    _, b, c = compare_methods(values, reference="a")
    assert (b.cases, b.pairs, c.pairs) == (23, 23, 25)


def test_degenerate_samples(values):
    same, one = dict(values["a"]), {"case 0": 0.5}
    _, s, o = compare_methods({"a": values["a"], "same": same, "one": one}, reference="a")
    assert (s.p_wilcoxon, s.p_t, s.effect_dz) == (1, 1, 0)
    assert np.isnan([o.sd, o.p_wilcoxon]).all()
    with pytest.raises(PlanError, match="no finite value"):
        compare_methods({"a": values["a"], "b": {"case 0": float("nan")}}, reference="a")
    with pytest.raises(PlanError, match="reference method is one of"):
        compare_methods(values, reference="z")


@pytest.fixture
def rows(values):
    """Return raw rows: two labels per case, a row before registration and a group besides."""
    found = []
    for method, cases in values.items():
        for case, dice in cases.items():
            common = {"method": method, "case": case, "stage": "after", "kind": "labels"}
            found += [
                {**common, "name": "GM", "dice": dice - 0.1, "hd95_mm": 3 - dice},
                {**common, "name": "WM", "dice": dice + 0.1, "hd95_mm": 1 - dice},
                {**common, "name": "WM", "dice": 0.01, "stage": "before"},
                {**common, "name": "both", "dice": 0.99, "kind": "groups"},
            ]
    return found


def test_rows_are_averaged_by_case_first(rows, values):
    table = compare_table(rows, ["dice"], resamples=200)
    (column,) = table.columns.values()
    direct = compare_methods(values, reference="a", resamples=200)
    assert {s.method: s.mean for s in column} == pytest.approx({s.method: s.mean for s in direct})
    assert column[0].cases == 25
    # the reference is the better of a and c; b is worse for certain
    assert table.references["dice"] in "ac"
    assert table.best["dice"] == table.references["dice"]


def test_regions_become_columns_and_correction_spans_the_table(rows):
    table = compare_table(rows, ["dice", "hd95_mm"], columns="name", resamples=200, reference="a")
    assert list(table.columns) == ["dice, GM", "dice, WM", "hd95_mm, GM", "hd95_mm, WM"]
    raw = [s.p_wilcoxon for column in table.columns.values() for s in column]
    fixed = [s.p_wilcoxon_holm for column in table.columns.values() for s in column]
    np.testing.assert_allclose(fixed, holm_correction(raw))
    assert table.best["hd95_mm, GM"] == table.best["dice, GM"]


def test_markdown(rows):
    text = compare_table(rows, ["dice"], resamples=200, reference="a").markdown()
    lines = text.splitlines()
    assert lines[0] == "| method | cases | dice |"
    b = next(line for line in lines if line.startswith("| b |"))
    assert r"\*" in b
    assert "[" in b
    assert r"\*" not in next(line for line in lines if line.startswith("| a |"))
    assert "Wilcoxon" in lines[-1]
    assert "Holm" in lines[-1]
    assert "95 % bootstrap" in lines[-1]


def test_too_few_pairs_are_pointed_out(rows):
    few = [r for r in rows if r["case"] in ("case 1", "case 2", "case 3")]
    note = compare_table(few, ["dice"], resamples=200).markdown().splitlines()[-1]
    assert "fewer than 6 pairs" in note
    assert "fewer" not in compare_table(rows, ["dice"], resamples=200).markdown()
    assert "fewer" not in compare_table(few, ["dice"], resamples=200, test="t").markdown()


def test_where(rows):
    table = compare_table(rows, ["dice"], where={"stage": ["before"]}, resamples=200)
    assert [s.mean for s in table.columns["dice"]] == pytest.approx([0.01] * 3)
    group = compare_table(rows, ["dice"], where={"kind": ["groups"]}, resamples=200)
    assert group.columns["dice"][0].mean == pytest.approx(0.99)
    stages = compare_table(rows, ["dice"], by="stage", where={"kind": ["labels"]}, resamples=200)
    assert [s.method for s in stages.columns["dice"]] == ["after", "before"]


def test_the_images_as_they_came_are_no_method():
    cases = range(8)
    rows = [
        {"method": m, "case": c, "dice": 0.5 + 0.1 * n + 0.01 * c}
        for n, m in enumerate(("unregistered", "old", "new"))
        for c in cases
    ]
    (column,) = compare_table(rows, ["dice"], resamples=200).columns.values()
    assert [s.method for s in column] == ["old", "new"]
    assert column[0].p_wilcoxon_holm == column[0].p_wilcoxon  # one comparison, nothing to correct
    for asked in ({"reference": "unregistered"}, {"where": {"method": ["unregistered", "old", "new"]}}):
        (column,) = compare_table(rows, ["dice"], resamples=200, **asked).columns.values()
        assert [s.method for s in column] == ["unregistered", "old", "new"]
    with pytest.raises(PlanError, match="--reference unregistered"):
        compare_table(rows[:16], ["dice"])


def test_a_method_that_lacks_cases_is_neither_best_nor_the_reference():
    rows = [
        {"method": m, "case": c, "dice": 0.9 - 0.1 * c + gain}
        for m, gain in (("a", 0.0), ("b", 0.02), ("c", 0.01))
        for c in range(3 if m == "b" else 7)
    ]
    table = compare_table(rows, ["dice"], resamples=200)
    assert (table.best, table.references, table.totals) == ({"dice": "c"}, {"dice": "c"}, {"dice": 7})
    text = table.markdown(intervals=False)
    assert "| b | 3 of 7 | 0.8" in text
    assert "| c | 7 | **0.6" in text
    assert "lacks cases" in text
    # no method has all cases: none is best
    few = [row for row in rows if (row["method"], row["case"]) not in {("a", 0), ("c", 1)}]
    table = compare_table(few, ["dice"], resamples=200)
    assert (table.best["dice"], table.references["dice"]) == (None, "c")


def test_smoothness_and_counts_have_no_best():
    unranked = ("sd_log_jacobian", "bending_energy_per_mm2", "inverse_voxels")
    assert [higher_is_better(m) for m in unranked] == [None] * 3
    assert higher_is_better("inverse_mean_mm") is False
    assert higher_is_better("seconds_stage") is False
    assert higher_is_better("secondary_outcome") is None


def test_which_way_measures_point():
    assert [higher_is_better(m) for m in ("dice", "DSC", "tre_mean", "ndv_percent", "age")] == [
        True,
        True,
        False,
        False,
        None,
    ]


def test_bad_tables(rows, tmp_path):
    with pytest.raises(FormatError, match="no column 'dise'"):
        compare_table(rows, ["dise"])
    with pytest.raises(FormatError, match="no finite number"):
        compare_table([{"method": "a", "case": "1", "dice": ""}], ["dice"])
    with pytest.raises(FormatError, match="expected numbers"):
        compare_table([{"method": "a", "case": "1", "dice": "good"}], ["dice"])
    with pytest.raises(PlanError, match="nothing to compare"):
        compare_table([r for r in rows if r["method"] == "a"], ["dice"])
    with pytest.raises(PlanError, match="no row"):
        compare_table(rows, ["dice"], where={"name": ["CSF"]})
    with pytest.raises(PlanError, match="test is"):
        compare_table(rows, ["dice"], test="anova")
    with pytest.raises(FormatError, match="row 2 of 2 has no 'case'"):
        compare_table([{"method": "a", "case": "1", "dice": 1}, {"method": "b", "dice": 1}], ["dice"])
    bad = tmp_path / "bad.csv"
    bad.write_text("method,case,dice\na,1\n", encoding="utf-8")
    with pytest.raises(FormatError, match="line 2"):
        read_rows(bad)
    bad.write_text("method,case,dice\n", encoding="utf-8")
    with pytest.raises(FormatError, match="no rows"):
        read_rows(bad)
    with pytest.raises(FormatError, match="does not exist"):
        read_rows(tmp_path / "absent.csv")


def test_rows_that_do_not_tell_their_stage_count_beside_those_that_do():
    told = [
        {"method": "mine", "case": c, "stage": s, "dice": v}
        for c in "ab"
        for s, v in (("before", 0.1), ("after", 0.8))
    ]
    untold = [{"method": "other", "case": c, "dice": 0.7} for c in "ab"]
    found = compare_table([*told, *untold], ["dice"])
    assert [(s.method, round(s.mean, 3)) for s in found.columns["dice"]] == [("mine", 0.8), ("other", 0.7)]
