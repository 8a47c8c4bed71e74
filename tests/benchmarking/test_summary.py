"""Tables from rows whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from regista.benchmarking import Setup, Tally, _plots, find_methods, write_report
from regista.benchmarking._store import Store, write_table
from regista.benchmarking._tables import accuracy_tables, other_tables, repeat_table, time_table


def make_rows(cases: int = 8) -> list[dict]:
    """Return rows in which greedy is worse by .05 in every case, and demons has half the cases."""
    rng, rows = np.random.default_rng(1), []
    for n in range(cases):
        level = 0.6 + 0.02 * rng.normal()
        gains = {"unregistered": -0.4, "regista:fast": 0.0, "greedy": -0.05 - 0.001 * n, "sitk:demons": -0.1}
        for m, (method, gain) in enumerate(gains.items()):
            if method == "sitk:demons" and n % 2:
                continue
            base = {"case": f"c{n}", "method": method, "status": "done"}
            for label, name in ((1, "CSF"), (2, "GM")):
                dice = level + gain + 0.1 * label
                labels = {"kind": "labels", "set": "tissues", "label": label, "name": name}
                rows.append({**base, **labels, "dice": dice, "assd_mm": 1 - dice})
            rows.append({**base, "kind": "landmarks", "unit": "mm", "tre_mean": 3 - gain, "tre_max": 9.0})
            if m:
                run = {
                    "kind": "run",
                    "seconds_stage": 10.0 * m,
                    "seconds_process": 12.0 * m,
                    "peak_mb": 100 * m,
                }
                rows += [{**base, **run}, {**base, "kind": "transform", "folded_percent": 0.01 * m}]
    return rows


def table_named(tables, title):
    return next(table for table in tables if table.title == title)


def cells(table):
    return {row[0]: dict(zip(table.head, row, strict=True)) for row in table.body}


def test_tissues_get_columns_of_their_own_and_stars():
    tables = accuracy_tables(make_rows(), None, "wilcoxon", 0.05)
    found = cells(table_named(tables, "Labels: tissues, one by one"))
    head = table_named(tables, "Labels: tissues, one by one").head
    assert head[2:] == ("Dice CSF", "Dice GM", "ASSD CSF, mm", "ASSD GM, mm")
    assert found["regista:fast"]["Dice GM"].startswith("**0.8")
    assert found["greedy"]["cases"] == "8"
    assert found["sitk:demons"]["cases"] == "4 of 8"
    assert not found["unregistered"]["Dice GM"].endswith("*")
    stars = cells(table_named(accuracy_tables(make_rows(16), None, "t", 0.05), "Labels: tissues, one by one"))
    assert stars["greedy"]["Dice GM"].endswith(" *")
    assert not stars["regista:fast"]["Dice GM"].endswith("*")


def test_a_method_that_failed_on_the_hard_cases_is_not_best():
    rows = []
    for n in range(8):
        for method, gain in (("a", 0.0), ("b", 0.02), ("c", 0.01)):
            if method == "b" and n >= 4:
                continue
            row = {"kind": "labels", "set": "labels", "label": 1, "name": "x", "dice": 0.9 - 0.1 * n + gain}
            rows.append({"case": str(n), "method": method, **row})
    (table,) = accuracy_tables(rows, None, "t", 0.05)
    found = cells(table)
    assert [found[m]["Dice"][:2] for m in "abc"] == ["0.", "0.", "**"]
    assert [found[m]["cases"] for m in "abc"] == ["8", "4 of 8", "8"]
    assert "differs from c," in table.note
    assert "lacks cases" in table.note
    (table,) = accuracy_tables(rows, "b", "t", 0.05)  # asked for
    assert "differs from b," in table.note


def test_too_few_cases_are_told():
    (mean, *_) = accuracy_tables(make_rows(5), None, "wilcoxon", 0.05)
    assert "no difference can be significant" in mean.note
    (mean, *_) = accuracy_tables(make_rows(16), "greedy", "wilcoxon", 0.05)
    assert "differs from greedy" in mean.note


def test_seconds_are_compared_with_the_reference():
    found = cells(time_table(make_rows(), "greedy"))
    assert found["regista:fast"]["registration, ratio"] == "0.50"
    assert found["sitk:demons"]["process, ratio"] == "1.50"
    assert cells(time_table(make_rows(), None))["greedy"]["registration, ratio"] == "2.00"


def test_seconds_are_of_runs_that_ended_well_and_no_linear_method_is_their_base():
    rows = make_rows()
    failed = {"case": "c1", "method": "sitk:demons", "status": "failed", "kind": "run"}
    rows.append({**failed, "seconds_stage": 1e4, "seconds_process": 1e4, "peak_mb": 1.0})
    assert cells(time_table(rows, None))["sitk:demons"]["cases"] == "4"
    rows = [{**row, "method": row["method"].replace("greedy", "regista:syn")} for row in rows]
    assert "ratio to regista:fast" in time_table(rows, None).note
    assert "ratio to regista:syn" in time_table(rows, None, {"regista:fast"}).note


def test_only_methods_with_an_inverse_are_in_its_table():
    rows = [
        {"case": str(n), "method": m, "kind": "transform", "folded_percent": 0.1, "inverse_mean_mm": error}
        for n in range(3)
        for m, error in (("a", 0.25), ("b", None))
    ]
    quality, inverse = other_tables(rows, None, "t", 0.05)
    assert set(cells(quality)) == {"a", "b"}
    assert {m: row["mean"] for m, row in cells(inverse).items()} == {"a": "0.250 (0.000)"}


def test_runs_of_a_case_are_one_sample_and_their_spread_is_told():
    rows = [
        {**row, "repeat": run, "dice": row["dice"] + 0.1 * run, "assd_mm": 1.0}
        for row in make_rows(8)
        if row["kind"] == "labels"
        for run in (1, 2)
    ]
    found = cells(table_named(accuracy_tables(rows, None, "t", 0.05), "Labels: tissues, mean over 2"))
    assert found["greedy"]["cases"] == "8"
    spread = cells(repeat_table(rows))["greedy"]
    assert spread["Dice (tissues): SD over runs"] == f"{0.1 / 2**0.5:.4f}"
    assert spread["Dice (tissues): largest range"] == "0.1000"
    assert repeat_table(make_rows()) is None


def test_what_prints_alike_is_best_alike_and_smoothness_has_no_best():
    rows = []
    for n in range(8):
        for m, method in enumerate(("a", "b", "c")):
            row = {"folded_percent": 0.5 * (m == 2), "sd_log_jacobian": 0.1 * m + 0.01 * n}
            rows.append({"case": str(n), "method": method, "kind": "transform", **row})
    found = cells(other_tables(rows, None, "t", 0.05)[0])
    assert [row["folded, %"][:2] for row in found.values()] == ["**", "**", "0."]
    assert not any("*" in row["SD log J"] for row in found.values())


def test_a_single_method_and_failures_only_still_make_tables(tmp_path):
    rows = [row for row in make_rows() if row["method"] == "greedy"]
    assert cells(accuracy_tables(rows, None, "wilcoxon", 0.05)[0])["greedy"]["Dice"].startswith("0.7")
    assert cells(other_tables(rows, None, "t", 0.05)[0])["greedy"]["folded, %"] == "0.0200 (0.0000)"
    failed = {"case": "a|b", "method": "greedy", "status": "failed", "kind": "run", "error": "no"}
    setup = Setup(output=tmp_path)
    tally = Tally(
        rows=(failed,),
        done=0,
        failed=1,
        kept=0,
        failures=(("a|b", "greedy", "no"),),
        raw=tmp_path / "raw.csv",
    )
    paths = write_report(tally, find_methods(["greedy"]), setup)
    assert r"| a\|b | greedy | no |" in paths["summary"].read_text(encoding="utf-8")


def test_the_whole_report_draws_every_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="the plots need Matplotlib")
    setup = Setup(output=tmp_path)
    tally = Tally(rows=tuple(make_rows()), done=20, failed=0, kept=0, failures=(), raw=tmp_path / "raw.csv")
    paths = write_report(tally, find_methods(["fast", "greedy", "sitk:demons"]), setup)
    assert {"box_tissues_dice", "time_tissues_dice", "regions_tissues_dice", "box_landmarks_tre_mean"} <= set(
        paths
    )
    page = paths["html"].read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(list((tmp_path / "plots").iterdir()))
    regions = paths["regions"].read_text(encoding="utf-8").splitlines()
    assert {"kind", "set", "name", "method", "dice_mean"} <= set(regions[0].split(","))
    assert len(regions) == 1 + 2 * 4


def test_tables_are_written_though_plots_fail(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the plots need Matplotlib")

    def fails(rows, folder):
        assert (folder.parent / "summary.html").is_file()  # tables first
        raise ValueError("no font")

    monkeypatch.setattr(_plots, "draw", fails)
    told = []
    tally = Tally(rows=tuple(make_rows()), done=20, failed=0, kept=0, failures=(), raw=tmp_path / "raw.csv")
    paths = write_report(tally, find_methods(["greedy"]), Setup(output=tmp_path), tell=told.append)
    assert told == ["The plots could not be drawn: ValueError: no font"]
    text = paths["summary"].read_text(encoding="utf-8")
    assert told[0] in text
    assert "## Landmark error, mm" in text
    assert paths["regions"].is_file()


def test_damaged_results_are_not_kept(tmp_path):
    store = Store(tmp_path)
    store.write("a b", "x:y", {"key": "k", "status": "done", "rows": [{"dice": float("nan")}]})
    assert store.read("a b", "x:y")["key"] == "k"
    assert store.place("a b", "m") != store.place("a_b", "m")
    (store.place("a b", "x:y") / "result.json").write_text('{"key": "k", "sta', encoding="utf-8")
    assert store.read("a b", "x:y") is None
    write_table(tmp_path / "t.csv", [{"x": float("nan"), "case": "c"}, {"method": "m"}])
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == "case,method,x\nc,,\n,m,\n"
