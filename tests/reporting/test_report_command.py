"""``register`` judges and shows what it did; ``report`` does so again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from regista.cli import app
from regista.core import Grid, Image, LabelImage, PointSet
from regista.io import write

QUICK = ("--preset", "rigid", "--set", "start.search=centers")


@pytest.fixture
def call():
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def files(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write(folder / "fixed.nii.gz", pair.fixed)
    write(folder / "moving.nii.gz", pair.moving)
    noise = np.random.default_rng(0).normal(100, 30, pair.moving.grid.shape).astype(np.float32)
    write(folder / "noise.nii.gz", pair.moving.with_data(noise))
    for role, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        write(folder / f"{role}_labels.nii.gz", LabelImage((image.data > 60).astype(np.uint8), image.grid))
    here = pair.fixed.grid.center_mm + np.random.default_rng(1).uniform(-6, 6, (5, 3))
    write(folder / "fixed_points.mrk.json", PointSet(here))
    write(folder / "moving_points.mrk.json", PointSet(pair.truth.map_points(here)))
    words = [
        "register",
        folder / "fixed.nii.gz",
        folder / "moving.nii.gz",
        "-o",
        folder / "run",
        *QUICK,
    ]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return folder


def test_register_leaves_a_page_and_the_verdict(files) -> None:
    text = (files / "run/report.html").read_text(encoding="utf-8")
    record = json.loads((files / "run/record.json").read_text(encoding="utf-8"))
    assert record["measures"]["verdict"]["outcome"] in ("pass", "look")
    assert record["timings"]["report"] > 0
    assert "moving → fixed" in text
    words = shlex.split(record["command"])
    assert words[:2] == ["regista", "register"]
    assert words[2:4] == [str(files / "fixed.nii.gz"), str(files / "moving.nii.gz")]
    assert words[words.index("--preset") + 1] == "rigid"
    assert "--threads" not in words  # not given
    assert record["working_folder"] == str(Path.cwd())


def test_the_command_in_the_record_repeats_the_run(files, call, tmp_path) -> None:
    words = shlex.split(json.loads((files / "run/record.json").read_text(encoding="utf-8"))["command"])
    words[words.index("--output") + 1] = str(tmp_path / "again")
    assert call(*words[1:]).exit_code == 0
    assert (tmp_path / "again/fixed2moving.h5").read_bytes() == (files / "run/fixed2moving.h5").read_bytes()


def test_register_without_a_page_removes_that_of_an_earlier_run(files, call, tmp_path) -> None:
    words = (
        "register",
        files / "fixed.nii.gz",
        files / "moving.nii.gz",
        "-o",
        tmp_path,
        "--preset",
        "translation",
    )
    (tmp_path / "report.html").write_text("of an earlier run", encoding="utf-8")
    done = call(*words, "--no-report", "--no-verdict")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "report.html").exists()
    assert "verdict" not in json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["measures"]


def test_a_failed_verdict_is_exit_code_1_with_reasons_and_the_files_are_there(files, call, tmp_path) -> None:
    words = ("register", files / "fixed.nii.gz", files / "noise.nii.gz", "-o", tmp_path / "o", *QUICK)
    done = call(*words, "--json")
    assert done.exit_code == 1
    assert "failed its checks" in done.stderr
    tree = json.loads(done.stdout)
    assert tree["verdict"]["outcome"] == "fail"
    assert tree["verdict"]["reasons"][0] in done.stderr
    assert (tmp_path / "o/warped.nii.gz").exists()
    assert "Fail" in (tmp_path / "o/report.html").read_text(encoding="utf-8")
    for command in (words, ("report", tmp_path / "o")):
        for option in ((), ("--quiet",)):
            done = call(*command, *option)
            assert done.exit_code == 1
            assert done.output.count("failed its checks:\n") == 1
            for reason in tree["verdict"]["reasons"]:  # once, where errors stand
                assert done.output.count(reason) == done.stderr.count(f"\n  {reason}\n") == 1
            assert ("verdict fail\n" in done.stdout) == (not option)
    assert "reasons" in json.loads(call("report", tmp_path / "o", "--json").stdout)["verdict"]
    done = call(*words, "--no-verdict")
    assert done.exit_code == 0, done.output
    assert "verdict fail" not in done.output
    page = (tmp_path / "o/report.html").read_text(encoding="utf-8")
    assert "probability of failure" not in page
    assert "What the verdict measured" not in page
    assert "Checkerboard" in page
    again = ("report", tmp_path / "o")
    assert call(*again, "--no-verdict", "--json").exit_code == 0
    assert "probability of failure" not in (tmp_path / "o/report.html").read_text(encoding="utf-8")
    listed = call("report", "--cohort", tmp_path / "o", "-o", tmp_path / "list.html", "--json")
    assert json.loads(listed.stdout)["verdicts"]["fail"] == 1  # a list judges what has not been judged
    assert call(*again).exit_code == 1


def test_the_demo_fails_as_register_does(files, call, tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib", reason="the demo draws a picture")
    monkeypatch.setattr("regista.demo._run.warmup", lambda: 0.0)  # as in tests/test_demo.py; here three times
    words = ("demo", "--fixed", files / "fixed.nii.gz", "-o", tmp_path / "o", "--preset", "rigid", "--moving")
    done = call(*words, files / "noise.nii.gz")
    assert done.exit_code == 1, done.output
    assert "verdict fail\n" in done.stdout
    assert done.output.count("failed its checks:\n  ") == 1
    assert (tmp_path / "o/warped.nii.gz").exists()
    done = call(*words, files / "noise.nii.gz", "--json")
    assert done.exit_code == 1
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["outcome"] == "fail"
    for reason in verdict["reasons"]:
        assert f"\n  {reason}\n" in done.stderr
    assert call(*words, files / "moving.nii.gz").exit_code == 0


def test_report_makes_the_page_again_with_labels_and_landmarks(files, call, tmp_path) -> None:
    words = ["report", files / "run", "-o", tmp_path / "page.html"]
    words += ["--labels", files / "fixed_labels.nii.gz", files / "moving_labels.nii.gz"]
    words += ["--landmarks", files / "fixed_points.mrk.json", files / "moving_points.mrk.json"]
    done = call(*words)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "TRE, mean, mm (5 landmarks)" in text
    assert "Dice, mean of 1 labels" in text
    assert 'value="landmarks"' in text


def test_lengths_of_pictures_are_in_pixels(files, call, tmp_path) -> None:
    shape = (48, 40)
    blob = 200 * np.exp(-((np.indices(shape) - np.array([[[22.0]], [[18.0]]])) ** 2).sum(0) / 60)
    for name, shift in (("fixed", 0), ("moving", 4)):
        write(
            tmp_path / f"{name}.png", Image(np.roll(blob, shift, 0).astype(np.uint8), Grid(shape, np.eye(3)))
        )
        (tmp_path / f"{name}.csv").write_text(
            f"x,y\n{-22.0 - shift},-18\n{-19.0 - shift},-15\n", encoding="utf-8"
        )
    run = tmp_path / "pictures"
    words = (tmp_path / "fixed.png", tmp_path / "moving.png", "-o", run)
    done = call("register", *words, "--preset", "translation", "--no-verdict")
    assert done.exit_code == 0, done.output
    marks = ("--landmarks", tmp_path / "fixed.csv", tmp_path / "moving.csv", "--convention", "ras")
    done = call("report", run, *marks)
    assert "mean TRE, pixels: 4.000 before" in done.stdout, done.output
    done = call("report", "--cohort", run, files / "run", "-o", tmp_path / "cohort.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "cohort.html").read_text(encoding="utf-8")
    for column in ("tre mean pixels", "displace\u00adment p50 pixels", "displace\u00adment p50 mm"):
        assert f">{column}</button>" in text
    assert ">tre mean mm</button>" not in text


def test_report_tells_what_is_wrong(files, call, tmp_path) -> None:
    (files / "a.html").write_text("not a page", encoding="utf-8")
    for words, text in (
        (("report", tmp_path), "record.json"),
        (("report", files / "absent"), "is no folder"),
        (("report", files / "run", files / "run"), "--cohort"),
        (("report", files / "run", "-o", tmp_path / "page.txt"), ".html"),
        (("report", files / "run", "--cohort"), "-o FILE.html"),
        (
            ("report", files / "run", "--cohort", "-o", tmp_path / "c.html", "--fixed", "a.nii"),
            "--fixed belongs",
        ),
        (
            ("report", files / "run", "--cohort", "-o", tmp_path / "c.html", "--no-verdict"),
            "--no-verdict belongs",
        ),
        (("report", files / "run", "-o", files / "run/record.json"), "destroy"),
        (("report", files / "run", "--cohort", "-o", files / "run/report.html"), "destroy"),
        (
            ("report", files / "run", "--labels", files / "a.html", files / "b", "-o", files / "a.html"),
            "destroy",
        ),
    ):
        done = call(*words)
        assert done.exit_code == 2, (words, done.output)
        assert text in done.stderr, (words, done.stderr)


@pytest.mark.parametrize("command", ["report", "view"])
@pytest.mark.parametrize("option", ["labels", "landmarks"])
@pytest.mark.parametrize("after", ["nothing", "an option", "the run"])
def test_one_file_where_both_images_need_one_is_told(files, call, command, option, after) -> None:
    one, run = files / "fixed_labels.nii.gz", files / "run"
    words = {
        "nothing": (run, f"--{option}", one),
        "an option": (run, f"--{option}", one, "--fixed", files / "fixed.nii.gz"),
        "the run": (f"--{option}", one, run),
    }
    done = call(command, *words[after])
    assert done.exit_code == 2
    told = "".join(done.stderr.replace("│", "").split())  # lines are broken anywhere
    for text in (f"{option} of both images are needed, got {one} alone", f"give --{option} FIXED MOVING"):
        assert text.replace(" ", "") in told


def test_a_page_of_many_runs(files, call, tmp_path) -> None:
    done = call("report", "--cohort", files, "-o", tmp_path / "cohort.html", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["runs"] == 1
    assert "run: moving → fixed" in (tmp_path / "cohort.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_does_not_cost_the_results(files, call, tmp_path, monkeypatch) -> None:
    import regista.reporting

    def broken(*_args, **_options):
        raise RuntimeError("no ink")

    monkeypatch.setattr(regista.reporting, "make_report", broken)
    words = (
        "register",
        files / "fixed.nii.gz",
        files / "fixed.nii.gz",
        "-o",
        tmp_path / "o",
        "--preset",
        "translation",
    )
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "no ink" in done.stderr
    record = json.loads((tmp_path / "o/record.json").read_text(encoding="utf-8"))
    assert record["measures"]["verdict"]["outcome"] in ("pass", "look", "fail")  # judged all the same
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "fixed2moving.h5",
        "moving2fixed.h5",
        "record.json",
        "warped.nii.gz",
    ]
