"""Running: truth found, crashes survived, kept and resumed; summaries written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from regista.benchmarking import (
    Setup,
    _machine,
    _run,
    find_methods,
    read_cases,
    run_benchmark,
    write_report,
)
from regista.benchmarking._process import Outcome
from regista.benchmarking._store import Store
from regista.cli import app
from regista.core import FormatError, Image, PlanError
from regista.io import read, read_labels, write

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "wait4"), reason="benchmarks run on Unix"),
    pytest.mark.long,
]


def regista(*words, code=0):
    """Run the command in this process; return what it printed."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.stdout + done.stderr
    return done


def wait_for_end(process_id):
    """Tell whether a process ends within a few seconds."""
    for _ in range(100):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{process_id}/stat", encoding="ascii") as stream:
            if stream.read().split()[2] == "Z":  # dead, but nobody has asked yet
                return True
        time.sleep(0.05)
    return False


def rows_of(folder):
    with (folder / "raw.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_truth_scores_one_and_whatever_fails_fails_alone(workplace):
    names = ["my:truth", "my:crash", "my:sleep", "my:fail", "my:nothing"]
    methods = find_methods(names, workplace.own)
    setup = Setup(output=workplace.out, threads=2, limit_s=2.0, surface=None)
    cases = read_cases(workplace.table, convention="ras")[:1]
    told = []
    tally = run_benchmark(cases, methods, setup, tell=told.append)
    assert (tally.done, tally.failed, tally.kept) == (1, 4, 0)
    assert workplace.words()[0] == "truth 2 2"

    rows = rows_of(workplace.out)
    truth = [row for row in rows if row["method"] == "my:truth"]
    labels = [float(row["dice"]) for row in truth if row["kind"] == "labels"]
    assert len(labels) == 2
    assert min(labels) > 0.8  # nearest neighbours between grids unlike each other
    (landmarks,) = (row for row in truth if row["kind"] == "landmarks")
    assert float(landmarks["tre_max"]) < 1e-3
    (before,) = (r for r in rows if r["method"] == "unregistered" and r["kind"] == "landmarks")
    assert float(before["tre_mean"]) == pytest.approx(np.linalg.norm([4, -3, 2.5]), abs=1e-3)
    (field,) = (row for row in truth if row["kind"] == "transform")
    assert float(field["folded_percent"]) == 0

    errors = {r["method"]: r["error"] for r in rows if r["status"] == "failed" and r["kind"] == "run"}
    assert "SIGSEGV" in errors["my:crash"]
    assert "about to crash" in errors["my:crash"]
    assert "time limit of 2 s" in errors["my:sleep"]
    assert "code 3" in errors["my:fail"]
    assert "runs/one/my--fail/_register.log" in errors["my:fail"]
    assert "left no map.tfm" in errors["my:nothing"]
    run = next(row for row in truth if row["kind"] == "run")
    assert float(run["seconds_stage"]) <= float(run["seconds_process"])
    assert 5 < float(run["peak_mb"]) < 300  # not the memory of the program that started it

    paths = write_report(tally, methods, setup, title="trial")
    text = paths["summary"].read_text(encoding="utf-8")
    assert all(f"| my:{name} |" in text for name in ("truth", "crash", "sleep", "fail", "nothing"))
    assert "1 case by 5 methods: 1 done, 4 failed" in text
    assert "<table>" in paths["html"].read_text(encoding="utf-8")

    again = run_benchmark(cases, methods, setup)
    assert again.kept == 5
    assert len(workplace.calls()) == 5
    assert [{**r, "error": ""} for r in again.rows] == [{**r, "error": ""} for r in tally.rows]
    run_benchmark(cases, methods[:1], replace(setup, redo=("my:truth",)))
    assert workplace.calls()[5:] == ["truth"]


def test_changed_files_and_threads_run_again(workplace):
    (method,) = find_methods(["my:truth"], workplace.own)
    setup = Setup(output=workplace.out, threads=1, surface=None)
    cases = read_cases(workplace.table, convention="ras")
    assert run_benchmark(cases, [method], setup).kept == 0
    points = workplace.folder / "two" / "moving.csv"
    points.write_text(points.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # another content
    tally = run_benchmark(cases, [method], setup)
    assert (tally.kept, workplace.calls()) == (1, ["truth"] * 3)
    (workplace.folder / "moved").mkdir()
    for name in ("one", "two"):
        (workplace.folder / name).rename(workplace.folder / "moved" / name)
    moved = read_cases(workplace.table, root=workplace.folder / "moved", convention="ras")
    assert run_benchmark(moved, [method], setup).kept == 2  # the same content elsewhere


def test_shared_start_reaches_every_method(workplace):
    methods = find_methods(["my:truth", "my:nothing", "deformable"], workplace.own)
    shared = find_methods(["my:truth"], workplace.own)[0]
    setup = Setup(output=workplace.out, threads=2, equal_affine=shared, surface=None)
    cases = read_cases(workplace.table, convention="ras")[:1]
    tally = run_benchmark(cases, methods, setup)
    tre = {r["method"]: r["tre_mean"] for r in tally.rows if r["kind"] == "landmarks"}
    assert tre["regista:deformable"] < 0.8  # of 5.6 mm, with no search and no linear stage of its own
    assert tre["my:truth"] < 1e-3
    inverse = {r["method"]: r.get("inverse_mean_mm") for r in tally.rows if r["kind"] == "transform"}
    assert 0 < inverse["regista:deformable"] < 0.05
    assert inverse["my:truth"] is None
    with pytest.raises(PlanError, match="deformable"):
        replace(setup, equal_affine=find_methods(["fast"])[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are ended by Linux only")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_was_stopped_half_way_is_taken_up(workplace, how, code):
    words = [workplace.table, "-o", workplace.out, "-m", "my:truth", "-m", "my:sleep", "--first", 1]
    words += ["--methods-file", workplace.own, "--convention", "ras", "--surface", "none", "--threads", 1]
    program = [sys.executable, "-c", "from regista.cli import main; main()", "benchmark", *map(str, words)]
    process = subprocess.Popen(
        program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    sleeper = workplace.folder / "calls.txt.pid"
    deadline = time.monotonic() + 60
    while not sleeper.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    locked = regista("benchmark", *words, code=2)
    assert "another benchmark is running" in locked.stderr
    os.killpg(process.pid, how)
    assert process.wait() == code
    assert sleeper.exists()
    rows = rows_of(workplace.out)  # whole, up to what was finished
    assert {row["method"] for row in rows} == {"unregistered", "my:truth"}
    assert wait_for_end(int(sleeper.read_text(encoding="utf-8")))  # nothing goes on unseen
    assert not (workplace.out / "summary.md").exists()
    done = regista("benchmark", *words, "--time-limit", 1, "--json", code=1)
    report = json.loads(done.stdout)
    assert (report["done"], report["failed"], report["kept"]) == (1, 1, 1)
    assert workplace.calls() == ["truth", "sleep", "sleep"]
    assert "| my:truth |" in (workplace.out / "summary.md").read_text(encoding="utf-8")


def test_bad_rows_are_found_before_the_first_registration(workplace):
    text = workplace.table.read_text(encoding="utf-8")
    lines = [text.splitlines()[1].replace("one,", f"c{n},", 1) for n in range(3, 38)]
    lines[34] = lines[34].replace("one/moving.nii.gz", "one/lost.nii.gz")
    workplace.table.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    words = [
        "benchmark",
        workplace.table,
        "-o",
        workplace.out,
        "-m",
        "my:truth",
        "--methods-file",
        workplace.own,
    ]
    words += ["--convention", "ras", "--surface", "none"]
    refused = regista(*words, code=2)
    assert "row 38" in refused.stderr
    assert "lost.nii.gz" in refused.stderr
    assert workplace.calls() == []
    assert not workplace.out.exists()
    assert "there is no method 'greedi'" in regista(*words, "-m", "greedi", code=2).stderr
    head, *rows = workplace.table.read_text(encoding="utf-8").splitlines()
    workplace.table.write_text(
        "\n".join([f"{head},age", *(f"{row},7" for row in rows)]) + "\n", encoding="utf-8"
    )
    assert "that are not read: age\n" in regista(*words, code=2).stderr
    whole = [*words, "--names", "tissues=1:CSF,2:GM"]
    assert "'tissues'; the table has labels" in regista(*whole, code=2).stderr


def test_one_bad_file_spoils_its_own_case_only(workplace, make_grid):
    grid = make_grid((26, 30, 22), (1.5, 1.3, 1.9))
    write(
        workplace.folder / "two" / "moving_labels.nii.gz", Image(np.full(grid.shape, 0.5, np.float32), grid)
    )
    text = workplace.table.read_text(encoding="utf-8")
    lost = text.splitlines()[1].replace("one,", "three,", 1).replace("one/moving.nii.gz", "gone.nii.gz")
    workplace.table.write_text(text + lost + "\n", encoding="utf-8")
    words = [
        "benchmark",
        workplace.table,
        "-o",
        workplace.out,
        "-m",
        "my:truth",
        "--methods-file",
        workplace.own,
    ]
    words += ["--convention", "ras", "--surface", "none", "--keep-going", "--json"]
    report = json.loads(regista(*words, code=1).stdout)
    assert (report["done"], report["failed"]) == (1, 2)
    errors = {f["case"]: f["error"] for f in report["failures"]}
    assert "fractions" in errors["two"]
    assert "gone.nii.gz" in errors["three"]
    assert workplace.calls() == ["truth"]


def test_bad_voxels_and_an_empty_mask_are_found_before_any_method_runs(workplace, make_grid):
    head, one, two = workplace.table.read_text(encoding="utf-8").splitlines()
    folder = workplace.folder / "one"
    image = read(folder / "fixed.nii.gz")
    data = image.as_float32().copy()
    data[3, 4, 5] = np.nan
    write(folder / "nan.nii.gz", Image(data, image.grid))
    write(folder / "empty.nii.gz", Image(np.zeros(image.grid.shape, np.uint8), image.grid))
    lost = one.replace("one,", "gone,", 1).replace("one/moving.nii.gz", "gone.nii.gz")
    rows = [
        f"{head},fixed_mask",
        f"{one.replace('one/fixed.nii.gz', 'one/nan.nii.gz')},",
        f"{two},",
        f"{lost},",
    ]
    rows.append(one.replace("one,", "empty,", 1) + ",one/empty.nii.gz")
    workplace.table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = ["benchmark", workplace.table, "-o", workplace.out, "-m", "my:truth", "--convention", "ras"]
    words += ["--methods-file", workplace.own, "--surface", "none", "--threads", 1, "--keep-going", "--json"]
    report = json.loads(regista(*words, code=1).stdout)
    errors = {f["case"]: f["error"] for f in report["failures"]}
    assert "the fixed image has 1 NaN" in errors["one"]
    assert "empty.nii.gz is empty" in errors["empty"]
    assert workplace.calls() == ["truth"]
    with (workplace.out / "raw.csv").open(newline="", encoding="utf-8") as stream:
        kinds = [(r["case"], r["kind"]) for r in csv.DictReader(stream) if r["method"] == "unregistered"]
    assert kinds.count(("gone", "run")) == 1
    assert ("empty", "images") not in kinds


def test_bad_voxels_are_left_out_where_asked(workplace):
    _, one, _ = workplace.table.read_text(encoding="utf-8").splitlines()
    folder = workplace.folder / "one"
    image = read(folder / "fixed.nii.gz")
    data = image.as_float32().copy()
    data[3, 4, 5:7] = np.nan, np.inf
    write(folder / "nan.nii.gz", Image(data, image.grid))
    text = workplace.table.read_text(encoding="utf-8").splitlines()[0]
    workplace.table.write_text(
        f"{text}\n{one.replace('one/fixed.nii.gz', 'one/nan.nii.gz')}\n", encoding="utf-8"
    )
    (method, translation) = find_methods(["my:truth", "translation"], workplace.own)
    cases = read_cases(workplace.table, convention="ras")
    setup = Setup(output=workplace.out, threads=2, surface=None, non_finite="mask")
    tally = run_benchmark(cases, [method, translation], setup)
    assert tally.failed == 0, tally.failures
    images = [row for row in tally.rows if row["kind"] == "images"]
    assert {row["left_out_voxels"] for row in images} == {2}
    job = json.loads(
        (Store(workplace.out).place("one", "my:truth") / "_register.json").read_text(encoding="utf-8")
    )
    given, mask = read(job["fixed"]), read(job["fixed_mask"]) if job["fixed_mask"] else None
    assert mask is None  # a command says whether it uses masks, and this one does not
    np.testing.assert_array_equal(given.as_float32()[3, 4, 5:7], np.nanmin(image.data))
    assert np.isfinite(given.data).all()
    looked = Store(workplace.out).read("one", "unregistered")["pair"]
    assert np.argwhere(read(looked["fixed_mask"]).data == 0).tolist() == [[3, 4, 5], [3, 4, 6]]
    assert looked["moving_mask"] is None
    with pytest.raises(PlanError, match="'error' or 'mask'"):
        replace(setup, non_finite="skip")


def test_points_without_a_convention_are_refused_before_anything_runs(workplace):
    words = [
        "benchmark",
        workplace.table,
        "-o",
        workplace.out,
        "-m",
        "my:truth",
        "--methods-file",
        workplace.own,
    ]
    assert "give --convention lps" in regista(*words, code=2).stderr
    assert not workplace.out.exists()


def test_a_table_of_names_in_the_folder_of_results_is_kept(workplace):
    workplace.out.mkdir()
    names = workplace.out / "regions.csv"
    names.write_text("label,name\n1,one\n", encoding="utf-8")
    words = ["benchmark", workplace.table, "-o", workplace.out, "-m", "my:truth", "--convention", "ras"]
    words += ["--methods-file", workplace.own]
    for text in (names, f"labels={names}"):
        assert "would destroy the input" in regista(*words, "--names", text, code=2).stderr
    assert names.read_text(encoding="utf-8") == "label,name\n1,one\n"


def test_row_three_of_four_is_lost_and_row_four_has_labels_elsewhere(workplace):
    head, one, two = workplace.table.read_text(encoding="utf-8").splitlines()
    three = one.replace("one,", "three,", 1).replace("one/moving.nii.gz", "gone.nii.gz")
    # of the right person, on the other image's grid
    four = one.replace("one,", "four,", 1).replace("one/fixed_labels", "one/moving_labels")
    workplace.table.write_text("\n".join([head, one, two, three, four]) + "\n", encoding="utf-8")
    words = ["benchmark", workplace.table, "-o", workplace.out, "-m", "my:truth", "--convention", "ras"]
    words += ["--methods-file", workplace.own, "--surface", "none", "--threads", 1]
    assert "row 4, case three: no such file" in regista(*words, code=2).stderr
    report = json.loads(regista(*words, "--keep-going", "--json", code=1).stdout)
    assert (report["done"], report["failed"]) == (2, 2)
    errors = {f["case"]: f["error"] for f in report["failures"]}
    assert "row 4, case three: no such file" in errors["three"]
    assert "one/moving_labels.nii.gz lies on another grid" in errors["four"]
    assert workplace.calls() == ["truth", "truth"]
    lines = (workplace.out / "summary.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith(("| three |", "| four |")) for line in lines) == 2


def test_distances_are_counted_in_voxels_where_asked(workplace):
    (method,) = find_methods(["my:nothing"], workplace.own)
    cases = read_cases(workplace.table, convention="ras")[:1]
    setup = Setup(output=workplace.out, threads=1, unit="px")
    tally = run_benchmark(cases, [method], setup)
    (found,) = (row for row in tally.rows if row["kind"] == "landmarks")
    assert found["unit"] == "px"
    assert np.linalg.norm([4, -3, 2.5]) / 1.8 < found["tre_mean"] < np.linalg.norm([4, -3, 2.5]) / 1.4
    labels = [row for row in tally.rows if row["kind"] == "labels"]
    # voxels of (1.5, 1.3, 1.9) mm: squared distances in voxels are whole
    assert all(float(row["hd_px"]) ** 2 == pytest.approx(round(row["hd_px"] ** 2)) for row in labels)
    assert all(row["hd_px"] > 1 and "hd_mm" not in row for row in labels)
    paths = write_report(tally, [method], setup)
    text = paths["summary"].read_text(encoding="utf-8")
    assert "ASSD, px" in text
    assert "Landmark error, px" in text


def test_every_repeat_is_run_and_measured(workplace):
    (method,) = find_methods(["my:truth"], workplace.own)
    cases = read_cases(workplace.table, convention="ras")[:1]
    setup = Setup(output=workplace.out, threads=1, surface=None, repeats=2)
    tally = run_benchmark(cases, [method], setup)
    assert workplace.calls() == ["truth", "truth"]
    found = [row.get("repeat") for row in tally.rows if row["kind"] == "landmarks"]
    assert found == [None, 1, 2]  # the images as they came once
    (run,) = (row for row in tally.rows if row["kind"] == "run")
    assert run["seconds_stage_min"] <= run["seconds_stage"] <= run["seconds_stage_max"]
    text = write_report(tally, [method], setup)["summary"].read_text(encoding="utf-8")
    assert "| my:truth | 0.0000 | 0.0000 | 0.00 | 0.00 |" in text


@pytest.mark.parametrize("preset", ["demons", "svf", "bspline-mi", "convex", "syn", "fast"])
def test_seconds_are_told_apart_by_the_kind_of_stage(preset):
    from regista.benchmarking._register import parts_of
    from regista.registration import load_plan

    plan = load_plan(preset)
    if (
        preset != "svf"
    ):  # two stages of one model, timed as one; a velocity cannot start from a map that bends
        plan = replace(plan, stages=(*plan.stages, plan.stages[-1]))
    linear = {s.model for s in plan.stages} & {"translation", "rigid", "similarity", "affine"}
    dense = {s.model for s in plan.stages} - linear
    assert dense
    timings = {"prepare": 1e3, "start": 1.0, "inverse and resampling": 1e4, "registration": 1e5}
    timings |= dict.fromkeys(linear, 2.0) | dict.fromkeys(dense, 30.0)
    assert parts_of(plan, timings) == (1.0 + 2 * len(linear), 30.0 * len(dense))


def test_labels_are_chosen_among_those_measured(workplace, make_grid):
    path = workplace.folder / "two" / "moving_labels.nii.gz"
    labels = read_labels(path)
    data = labels.data.copy()
    data[0, 0, 0] = 7  # in one map only
    write(path, labels.with_data(data))
    (method,) = find_methods(["my:truth"], workplace.own)
    cases = read_cases(workplace.table, convention="ras")
    setup = Setup(output=workplace.out, threads=1, surface=None)

    def chosen(**labels):
        tally = run_benchmark(cases, [method], replace(setup, labels=labels))
        text = write_report(tally, [method], replace(setup, labels=labels))["summary"].read_text("utf-8")
        rows = [row for row in tally.rows if row["kind"] == "labels" and row["method"] == "my:truth"]
        return {case: [row["label"] for row in rows if row["case"] == case] for case in ("one", "two")}, text

    assert chosen()[0] == {"one": [1, 2], "two": [1, 2, 7]}
    found, text = chosen(labels="common")
    assert found == {"one": [1, 2], "two": [1, 2]}
    assert "2 count: those that every map has" in text
    assert "Labels, mean over 2" in text
    assert chosen(labels=[2, 7])[0] == {"one": [2], "two": [2, 7]}
    with pytest.raises(PlanError, match="no map of the set 'labels' has 9; there are 1, 2, 7"):
        chosen(labels=[1, 9])
    assert workplace.calls() == ["truth"] * 2  # none ran again
    words = ["benchmark", workplace.table, "-o", workplace.out, "-m", "my:truth", "--convention", "ras"]
    words += [
        "--methods-file",
        workplace.own,
        "--surface",
        "none",
        "--threads",
        1,
        "--labels",
        "1-2",
        "--json",
    ]
    assert json.loads(regista(*words).stdout)["kept"] == 2
    assert {row["label"] for row in rows_of(workplace.out) if row["label"]} == {"1", "2"}


@pytest.fixture
def jobs(monkeypatch):
    """Return the jobs that would run: none does, and all end well."""
    asked = []

    def run_job(module, job, folder, threads, limit_s=None):
        folder.mkdir(parents=True, exist_ok=True)
        asked.append((module, job.get("tool"), limit_s))
        content = {"rows": [], "pair": {"ndim": 3}, "transforms": [], "seconds": {"stage": 1.0}}
        return Outcome(seconds=1.0, peak_mb=1.0, error="", content=content)

    monkeypatch.setattr(_run, "run_job", run_job)
    return asked


def test_results_of_other_sources_are_kept_and_told_apart(workplace, jobs, monkeypatch):
    methods = find_methods(["translation", "my:truth"], workplace.own)
    setup = Setup(output=workplace.out, threads=1)
    cases = read_cases(workplace.table, convention="ras")

    def done(tally):
        rows = [row for row in tally.rows if row["kind"] == "run"]
        return tally.kept, [row["sources"] for row in rows if row["method"] == "regista:translation"]

    now = _machine.sources()
    first = run_benchmark(cases, methods, setup)
    assert done(first) == (0, [now] * 2)
    assert "Origin of the results" not in write_report(first, methods, setup)["summary"].read_text("utf-8")
    for path in workplace.out.glob("runs/one/*/result.json"):  # one case as an earlier version left it
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("machine", None)
        path.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(_machine, "sources", lambda: "other")
    kept = run_benchmark(cases, methods, setup)
    assert done(kept) == (4, ["not recorded", now])
    assert kept.warnings[0].startswith("2 kept results of Regista")
    page = write_report(kept, methods, setup)["summary"].read_text("utf-8")
    assert "| 2 | not recorded |" in page
    assert f"sources of Regista {now}" in page
    assert done(run_benchmark(cases, methods, replace(setup, retry_changed=True))) == (2, ["other"] * 2)
    assert run_benchmark(cases, methods, replace(setup, retry_changed=True)).kept == 4


def test_every_process_has_a_time_limit(workplace, jobs):
    methods = find_methods(["translation"])
    cases = read_cases(workplace.table, convention="ras")[:1]
    run_benchmark(cases, methods, Setup(output=workplace.out, threads=1, limit_s=50))
    run_benchmark(cases, methods, Setup(output=workplace.out, threads=2, limit_s=5000))
    expected = [("_measure", None), ("_register", "warmup"), ("_register", "regista"), ("_measure", None)]
    assert [job[:2] for job in jobs] == expected * 2
    # a limit too short to compile the measures in would fail every method
    assert [job[2] for job in jobs] == [600, 600, 50, 600, 5000, 5000, 5000, 5000]


def test_transforms_that_were_not_kept_are_told(workplace, jobs):
    (method,) = find_methods(["my:truth"], workplace.own)
    cases = read_cases(workplace.table, convention="ras")
    setup = Setup(output=workplace.out, threads=1)
    assert run_benchmark(cases, [method], setup).warnings == ()
    (Store(workplace.out).place("one", "my:truth") / "map.tfm").touch()
    assert run_benchmark(cases, [method], setup).warnings == ()
    (told,) = run_benchmark(cases, [method], replace(setup, keep_transforms=True)).warnings
    assert told.startswith("1 kept results have no transforms")


def test_a_folder_of_another_start_is_refused(workplace, jobs):
    (method,) = find_methods(["my:truth"], workplace.own)
    cases = read_cases(workplace.table, convention="ras")
    plain = Setup(output=workplace.out, threads=1)
    equal = replace(plain, equal_affine=method)
    run_benchmark(cases, [method], plain)
    table = (workplace.out / "raw.csv").read_bytes()
    with pytest.raises(
        FormatError, match=r"methods start by themselves; in this one they start from my:truth.*-o"
    ):
        run_benchmark(cases, [method], equal)
    assert (workplace.out / "raw.csv").read_bytes() == table
    assert run_benchmark(cases, [method], plain).kept == 2
    other = replace(equal, output=workplace.folder / "other")
    run_benchmark(cases, [method], other)
    with pytest.raises(
        FormatError, match="methods start from my:truth; in this one they start by themselves"
    ):
        run_benchmark(cases, [method], replace(plain, output=other.output))
    content = json.loads((workplace.out / "machine.json").read_text(encoding="utf-8"))
    del content["equal_affine"]  # as earlier versions left it: nothing is known, nothing refused
    (workplace.out / "machine.json").write_text(json.dumps(content), encoding="utf-8")
    assert run_benchmark(cases, [method], plain).kept == 2


def test_files_of_the_users_own_are_not_written_over(workplace, jobs):
    (method,) = find_methods(["my:truth"], workplace.own)
    cases = read_cases(workplace.table, convention="ras")
    workplace.out.mkdir()
    (workplace.out / "summary.md").write_text("my notes", encoding="utf-8")
    with pytest.raises(FormatError, match=r"summary\.md exists, and not from a benchmark"):
        run_benchmark(cases, [method], Setup(output=workplace.out, threads=1))
    assert [p.name for p in workplace.out.iterdir()] == ["summary.md"]
    (workplace.out / "summary.md").rename(workplace.out / "notes.md")
    assert run_benchmark(cases, [method], Setup(output=workplace.out, threads=1)).done == 2


def test_one_thread_is_told_as_one():
    made = {"processor": "p", "cores": 2, "memory_gb": None, "system": "s", "versions": {}}
    assert "; 1 thread for each method;" in _machine.describe({**made, "threads": 1})
    assert "; 2 threads for each method;" in _machine.describe({**made, "threads": 2})


def test_the_folder_and_the_settings_are_checked(workplace, tmp_path):
    (method,) = find_methods(["my:truth"], workplace.own)
    cases = read_cases(workplace.table)
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="cannot be written"):
        run_benchmark(cases, [method], Setup(output=tmp_path / "file" / "out"))
    with pytest.raises(PlanError, match="one of my:truth"):
        run_benchmark(cases, [method], Setup(output=tmp_path / "o", redo=("x",)))
    for wrong in ({"limit_s": 0}, {"repeats": 0}, {"threads": 0}, {"surface": "x"}, {"unit": "cm"}):
        with pytest.raises(PlanError):
            Setup(output=tmp_path, **wrong)
