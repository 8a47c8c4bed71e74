"""The page of many runs: the worst first, nothing lost, nothing run."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
from scenes import result_of, turned

from regista.core import FormatError, hash_array
from regista.io import write
from regista.reporting import find_runs, read_run, write_cohort, write_report
from regista.reporting._cohort import CohortRow, cohort_html, cohort_row, strip_of


def _leave(folder, pair, result, *, page: bool = True) -> None:
    folder.mkdir(parents=True)
    for name, thing in (
        ("fixed.nii.gz", pair.fixed),
        ("moving.nii.gz", pair.moving),
        ("warped.nii.gz", result.warped),
        ("fixed2moving.h5", result.transform),
        ("moving2fixed.h5", result.inverse),
    ):
        write(folder / name, thing)
    tree = result.record.to_dict()
    tree["inputs"] = {
        role: {"path": str(folder / f"{role}.nii.gz"), "space": role} for role in ("fixed", "moving")
    }
    (folder / "record.json").write_text(json.dumps(tree, default=str), encoding="utf-8")
    if page:
        write_report(folder / "report.html", pair.fixed, pair.moving, result)


@pytest.fixture(scope="module")
def runs(pair, good, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    _leave(folder / "good", pair, good)
    wrong = result_of(pair.fixed, pair.moving, turned(70, (9, -6, 4), pair.fixed.grid.center_mm))
    _leave(folder / "wrong", pair, wrong, page=False)
    (folder / "broken").mkdir()
    (folder / "broken" / "record.json").write_text("{", encoding="utf-8")
    return folder


def test_a_run_is_read_again_as_it_was(runs, pair, good) -> None:
    run = read_run(runs / "good")
    points = pair.fixed.grid.center_mm + np.random.default_rng(0).uniform(-5, 5, (9, 3))
    assert np.allclose(run.result.transform.map_points(points), good.transform.map_points(points), atol=1e-3)
    assert run.result.record.status == good.record.status
    assert run.result.record.warnings == ()


def test_a_changed_image_and_missing_files_are_told(runs, pair, good, tmp_path) -> None:
    _leave(tmp_path / "run", pair, good, page=False)
    record = json.loads((tmp_path / "run/record.json").read_text(encoding="utf-8"))
    record["inputs"]["fixed"]["sha256"] = "0123"
    (tmp_path / "run/record.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(FormatError, match=r"is not the fixed image that was registered.*--fixed"):
        read_run(tmp_path / "run")
    named = read_run(tmp_path / "run", fixed=tmp_path / "run/fixed.nii.gz")
    assert "its hash differs" in named.result.record.warnings[0]
    del record["inputs"]["fixed"]["sha256"]
    (tmp_path / "run/record.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "run/moving.nii.gz").unlink()
    with pytest.raises(FormatError, match=r"moving image .* is not there.*--moving"):
        read_run(tmp_path / "run")
    assert read_run(tmp_path / "run", moving=runs / "good/moving.nii.gz").moving.ndim == 3
    (tmp_path / "run/warped.nii.gz").unlink()
    with pytest.raises(FormatError, match=r"lacks warped\.nii\.gz"):
        read_run(tmp_path / "run")
    with pytest.raises(FormatError, match="another grid"):
        read_run(runs / "good", fixed=runs / "good/moving.nii.gz")


def test_a_file_of_the_same_name_is_not_taken_for_the_registered_one(
    pair, good, tmp_path, monkeypatch
) -> None:
    # every subject's folder has a t1.nii.gz, and runs name it without its folder
    mine, other = tmp_path / "mine", tmp_path / "other"
    _leave(mine / "out", pair, good, page=False)
    other.mkdir()
    record = json.loads((mine / "out/record.json").read_text(encoding="utf-8"))
    for role, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        record["inputs"][role] |= {"path": f"{role}.nii.gz", "sha256": hash_array(image.data)}
        write(other / f"{role}.nii.gz", image.with_data(image.data + 1))
        (mine / f"out/{role}.nii.gz").rename(mine / f"{role}.nii.gz")
    record["working_folder"] = str(mine)
    (mine / "out/record.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.chdir(other)
    assert np.array_equal(read_run(mine / "out").fixed.data, pair.fixed.data)
    assert read_run(mine / "out").result.fixed_mask is None
    mask = pair.fixed.with_data((pair.fixed.data > 50).astype(np.uint8))
    record["inputs"]["fixed_mask"] = {"path": "mask.nii.gz", "sha256": hash_array(mask.data)}
    (mine / "out/record.json").write_text(json.dumps(record), encoding="utf-8")
    assert "mask.nii.gz" in read_run(mine / "out").result.record.warnings[-1]
    write(mine / "mask.nii.gz", mask)
    found = read_run(mine / "out").result
    assert found.fixed_mask is not None
    assert np.array_equal(found.fixed_mask.data, mask.data)
    assert not found.record.warnings
    record["working_folder"] = ""
    (mine / "out/record.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(FormatError, match="is not the fixed image that was registered"):
        read_run(mine / "out")


def test_runs_of_one_name_are_told_apart(pair, good, tmp_path) -> None:
    for subject in ("sub1", "sub2"):
        _leave(tmp_path / subject / "out", pair, good)
    rows = write_cohort(tmp_path / "page.html", find_runs([tmp_path]))
    assert {row.name.split(":")[0] for row in rows} == {"sub1/out", "sub2/out"}


def test_the_worst_come_first_and_a_broken_run_does_not_stop_the_others(runs, tmp_path) -> None:
    rows = write_cohort(tmp_path / "page.html", find_runs([runs]))
    assert [row.outcome for row in rows][:2] == ["unreadable", "fail"]
    assert rows[2].outcome in ("look", "pass")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "cannot be read" in text
    assert "good/report.html" in text
    assert rows[1].thumbnail  # made anew, without a page of its own
    assert rows[1].link == ""


def test_runs_are_found_in_folders_and_tables(runs, tmp_path) -> None:
    table = runs / "table.csv"
    table.write_text("case,folder\n1,good\n2,wrong\n", encoding="utf-8")
    assert [path.name for path in find_runs([table])] == ["good", "wrong"]
    assert [path.name for path in find_runs([runs, runs / "good"])] == ["broken", "good", "wrong"]
    other = tmp_path / "other.csv"
    other.write_text("case,dice\n1,2\n", encoding="utf-8")
    with pytest.raises(FormatError, match="has no column folder"):
        find_runs([other])
    other.write_bytes("case,folder\nSch\xe4del,good\n".encode("latin-1"))
    with pytest.raises(FormatError, match="is not text"):
        find_runs([other])
    (tmp_path / ".regista-half").mkdir()  # what a command that was killed leaves
    (tmp_path / ".regista-half/record.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FormatError, match="and its folders hold no"):
        find_runs([tmp_path])
    with pytest.raises(FormatError, match="neither a folder"):
        find_runs([tmp_path / "absent"])


def _row(number: int, rng) -> CohortRow:
    return CohortRow(
        name=f"run {number} <script>",
        outcome=("pass", "look", "fail")[number % 3],
        reasons=("a reason & another",),
        probability=float(rng.uniform()),
        measures={"ncc": float(rng.normal(0.9, 0.02)), "dice": float(rng.normal(0.7, 0.05))},
        thumbnail="data:image/jpeg;base64," + "A" * 8000,
    )


def test_200_runs_take_little_time_and_room() -> None:
    rng = np.random.default_rng(0)
    began = time.process_time()
    text = cohort_html([_row(n, rng) for n in range(200)], "many <b>")
    assert time.process_time() - began < 30
    assert len(text) < 20e6
    assert text.count("<tr id=") == 200
    assert "run 7 &lt;script&gt;" in text
    assert text.count("<script>") == 1
    assert "http://" not in text
    assert "https://" not in text


def test_nothing_is_told_of_the_failure_of_a_run_that_cannot_be_read() -> None:
    page = cohort_html([CohortRow(name="gone", outcome="unreadable", reasons=("not there",))], "one")
    assert '<td class="n" data-value="">–</td>' in page
    assert "1.00" not in page


def test_outliers_are_found_and_lead_to_their_run() -> None:
    rows = [CohortRow(name=str(n), outcome="pass", measures={"ncc": 0.9 + 0.001 * n}) for n in range(20)]
    rows.append(CohortRow(name="odd", outcome="fail", measures={"ncc": 0.1}))
    strip = strip_of("ncc", rows)
    assert [dot[2] for dot in strip.outliers] == [20]
    assert strip.low == 0.1
    assert '<a href="#run-20">' in cohort_html(rows, "some")
    assert strip_of("absent", rows) is None


def test_a_page_that_was_tampered_with_brings_no_foreign_picture(runs, tmp_path, pair, good) -> None:
    _leave(tmp_path / "run", pair, good)
    page = tmp_path / "run/report.html"
    page.write_text(
        page.read_text(encoding="utf-8").replace("data:image/jpeg;base64,", "https://example.org/"),
        encoding="utf-8",
    )
    assert cohort_row(tmp_path / "run").thumbnail == ""


def test_a_page_that_tells_an_unknown_verdict_is_unreadable(tmp_path, pair, good) -> None:
    _leave(tmp_path / "run", pair, good)
    page = tmp_path / "run/report.html"
    text = page.read_text(encoding="utf-8")
    changed = re.sub(r'"outcome": "\w+"', '"outcome": "splendid"', text)
    assert changed != text
    page.write_text(changed, encoding="utf-8")
    row = cohort_row(tmp_path / "run")
    assert row.outcome == "unreadable"
    assert "no verdict that is known" in row.reasons[0]


def test_a_run_whose_results_are_gone_is_unreadable_and_they_are_named(tmp_path, pair, good) -> None:
    _leave(tmp_path / "run", pair, good)
    assert cohort_row(tmp_path / "run").outcome == "pass"
    (tmp_path / "run/warped.nii.gz").unlink()
    (tmp_path / "run/fixed2moving.h5").unlink()
    row = cohort_row(tmp_path / "run")
    assert row.outcome == "unreadable"
    assert "lacks warped.nii.gz, fixed2moving.h5" in row.reasons[0]
    assert row.thumbnail == ""


@pytest.mark.parametrize("mark", ["seconds", "fixed"])
def test_a_page_of_another_run_does_not_speak_for_this_one(tmp_path, pair, good, mark) -> None:
    _leave(tmp_path / "run", pair, good)
    path = tmp_path / "run/record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    told = {"outcome": "fail", "reasons": ["it folds"], "probability": 0.97}
    record["measures"]["verdict"] = told
    path.write_text(json.dumps(record), encoding="utf-8")
    assert cohort_row(tmp_path / "run").outcome == "pass"  # a newer page of the same run
    if mark == "seconds":
        record["timings"]["registration"] += 1e-9
    else:
        record["inputs"]["fixed"]["sha256"] = "1"
    path.write_text(json.dumps(record), encoding="utf-8")
    row = cohort_row(tmp_path / "run", "run/report.html")
    assert (row.outcome, row.probability, row.link, row.thumbnail) == ("fail", 0.97, "", "")
    assert row.reasons[0] == "it folds"
    assert "report.html is of another run" in row.reasons[1]
    if mark == "seconds":  # without a verdict in the record it is judged
        del record["measures"]["verdict"]
        path.write_text(json.dumps(record), encoding="utf-8")
        row = cohort_row(tmp_path / "run", "run/report.html")
        assert (row.outcome, row.link) == ("pass", "")
        assert "report.html is of another run" in row.reasons[-1]
