"""`regista register`: what it leaves, what it says, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regista.core import Grid, Image, Status, hash_array
from regista.io import read, read_transform, write

SHIFT_MM = np.array([3.0, -2.0, 2.5])
FILES = ["fixed2moving.h5", "moving2fixed.h5", "record.json", "report.html", "warped.nii.gz"]


def test_leaves_its_files_and_the_right_map(registered) -> None:
    assert sorted(os.listdir(registered)) == FILES
    forward = read_transform(registered / "fixed2moving.h5")
    points = np.array([[20.0, -5.0, 50.0], [25.0, -10.0, 55.0]])
    assert np.abs(forward.map_points(points) - points - SHIFT_MM).max() < 0.1
    backward = read_transform(registered / "moving2fixed.h5")
    assert np.abs(backward.map_points(forward.map_points(points)) - points).max() < 1e-3
    assert (forward.fixed_space, forward.moving_space) == ("fixed", "moving")


def test_warped_is_the_moving_image_on_the_fixed_grid(pair, registered) -> None:
    fixed, warped = read(pair / "fixed.nii.gz"), read(registered / "warped.nii.gz")
    assert warped.grid.same_as(fixed.grid)
    assert warped.data.dtype == np.float32
    inner = (slice(5, -5),) * 3
    assert np.abs(warped.data[inner] - fixed.data[inner]).max() < 0.05 * np.ptp(fixed.data)


def test_record_tells_time_plan_and_inputs(pair, registered) -> None:
    record = json.loads((registered / "record.json").read_text(encoding="utf-8"))
    timings = record["timings"]
    assert {"load", "read", "registration", "write", "total"} <= set(timings)
    assert timings["total"] > timings["registration"]
    assert record["seed"] == 3
    assert record["threads"] == 2
    assert record["inputs"]["moving"]["path"] == str(pair / "moving.nii.gz")
    assert record["plan"]["name"] == "translation"


def test_the_summary_says_in_plain_words_how_it_went(pair, call, tmp_path) -> None:
    words = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "--preset", "translation", "-o")
    done = call(*words, tmp_path / "a", "--set", "stages.translation.steps=[60, 30, 1]")
    assert done.exit_code == 0
    record = json.loads((tmp_path / "a/record.json").read_text(encoding="utf-8"))
    assert record["status"] == "step limit"
    first, last = (-record["history"][-1]["values"][n] for n in (0, -1))
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"registered in {record['timings']['total']:.1f} s")
    assert "status step limit: the last level used all its steps, which is normal" in lines[1]
    assert f"similarity (NCC) {first:.4f} → {last:.4f}, higher is better" in lines[2]
    assert lines[3].strip().startswith(f"verdict {record['measures']['verdict']['outcome']}")
    assert [line.strip() for line in lines[4:]] == [str(tmp_path / "a" / name) for name in (
        "warped.nii.gz", "fixed2moving.h5", "moving2fixed.h5", "report.html", "record.json")]  # fmt: skip
    done = call(*words, tmp_path / "b", "--set", "stages.translation.similarity=ssd")
    assert "difference (SSD)" in done.stdout
    assert "lower is better" in done.stdout


def test_an_earlier_level_at_its_limit_is_told_as_such() -> None:
    from regista.cli._summary import failures_of, summary_of, why

    levels = [{"stage": "rigid", "level": n, "values": [-0.5, -0.75], "status": s} for n, s in enumerate(
        ("step limit", "converged"))]  # fmt: skip
    plan = {"stages": [{"model": "rigid", "similarity": {"mi": {}}, "shrink": [4, 2]}]}
    record = {"status": "step limit", "history": levels, "plan": plan, "measures": {"folded_percent": 0.25},
              "timings": {"registration": 2.0}, "peak_memory_bytes": 5e8}  # fmt: skip
    assert "a level before the last" in why(record)
    assert summary_of(record)[2] == "rigid, finest level: similarity (MI) 0.5000 → 0.7500, higher is better"
    for spec, text in (
        ({"mind": {"radius": 1}}, "difference (MIND) -0.5000 → -0.7500, lower is better"),
        (
            [{"weight": 1.0, "cr": {}}, {"weight": 2.0, "ngf": {}}],
            "difference (CR + NGF) -0.5000 → -0.7500, lower",
        ),
        (
            [{"weight": 0.5, "mi": {}}, {"weight": 2.0, "ngf": {}}],
            "similarity (MI + NGF) 0.5000 → 0.7500, higher",
        ),
    ):
        other = {"stages": [{"model": "rigid", "similarity": spec, "shrink": [4, 2]}]}
        assert text in summary_of({**record, "plan": other})[2]
    assert summary_of(record)[0] == "registered in 2.0 s, 0.2500 % of voxels folded, 0.50 GB at most"
    assert summary_of({**record, "status": "folded"})[:2] == [
        "FAILED its checks in 2.0 s, 0.2500 % of voxels folded, 0.50 GB at most",
        "status folded: 0.25 % of the voxels are folded",
    ]
    assert summary_of({**record, "status": "folded"}, reasons=False)[1] == "status folded"
    assert failures_of({**record, "status": "folded"}) == ["0.25 % of the voxels are folded"]
    verdict = {"outcome": "fail", "reasons": ["the map folds: 0.25 % of the voxels", "edges do not meet"]}
    failed = {**record, "status": "folded", "measures": {**record["measures"], "verdict": verdict}}
    assert failures_of(failed) == verdict["reasons"]  # the folds once
    assert summary_of(failed, reasons=False)[-1] == "verdict fail"
    assert summary_of(failed)[-1] == "verdict fail: the map folds: 0.25 % of the voxels; edges do not meet"
    look = {**record, "measures": {"verdict": {**verdict, "outcome": "look"}}}
    assert failures_of(look) is None
    assert summary_of(look, reasons=False)[-1].startswith("verdict look")
    assert "edges do not meet" in summary_of(look, reasons=False)[-1]


@pytest.mark.parametrize("given", ["", "fixed", "moving", "both"])
def test_a_plan_that_wants_masks_says_so_where_they_are_absent(pair, call, tmp_path, given) -> None:
    moving = read(pair / "moving.nii.gz")
    write(tmp_path / "moving.nii.gz", moving.with_data((moving.data > 5).astype(np.uint8)))
    masks = {"fixed": pair / "mask.nii.gz", "moving": tmp_path / "moving.nii.gz"}
    words = ["register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "o"]
    words += ["--preset", "translation", "--set", "wants_masks=true"]
    for role, path in masks.items():
        words += [f"--{role}-mask", path] if given in (role, "both") else []
    done = call(*words)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "o/record.json").read_text(encoding="utf-8"))
    warned = [line for line in record["warnings"] if "wants masks" in line]
    assert len(warned) == (given != "both")
    assert ("Warning: the plan 'translation' wants masks" in done.stderr) == (given != "both")
    absent = [role for role in masks if given not in (role, "both")]
    assert all(("--" + role + "-mask" in done.stderr) == (role in absent) for role in masks)
    assert "Python" not in done.stderr


def test_lung_ct_wants_masks_and_shows_it(call) -> None:
    assert "wants_masks = true" in call("presets", "show", "lung-ct").stdout
    assert "wants_masks = false" in call("presets", "show", "rigid").stdout


def test_json_is_one_object_and_nothing_else(pair, call, tmp_path) -> None:
    done = call(
        *("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "new" / "out"),
        *("--preset", "translation", "--json", "--dtype", "int16"),
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert all(os.path.exists(path) for path in told["outputs"].values())
    assert read(told["outputs"]["warped"]).data.dtype == np.int16
    assert os.listdir(tmp_path) == ["new"]


def test_other_files_in_the_folder_stay(pair, call, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "record.json").write_text("old", encoding="utf-8")
    words = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "--preset", "translation")
    assert call(*words, "-o", tmp_path).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, "notes.txt"])
    assert (tmp_path / "record.json").read_text(encoding="utf-8") != "old"


def test_a_result_that_fails_its_checks_is_written_and_exits_with_1(
    pair, call, tmp_path, monkeypatch
) -> None:
    import regista.registration as engine

    real = engine.register

    def folded(*args, **kwargs):
        result = real(*args, **kwargs)
        return replace(result, record=replace(result.record, status=Status.FOLDED))

    monkeypatch.setattr(engine, "register", folded)
    done = call(
        *("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out"),
        *("--preset", "translation"),
    )
    assert done.exit_code == 1
    assert "folded" in done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "nope"], "no preset 'nope'"),
        (["--set", "stages.rigid.nope=3"], "has no setting 'nope'"),
        (["--set", "nope"], "PATH=VALUE"),
        (["--preset", "rigid", "--plan", "a.toml"], "not both"),
        (["--plan", "absent.toml"], "absent.toml"),
        (["--plan", "rigid"], ".toml"),
        (["--dtype", "complex64"], "--dtype"),
        (["--non-finite", "ignore"], "mask"),
        (["--initial", "absent.h5"], "absent.h5"),
        (["--fixed-mask", "absent.nii.gz"], "absent.nii.gz"),
    ],
)
def test_wrong_options_exit_with_2_and_leave_nothing(pair, call, tmp_path, options, message) -> None:
    words = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "a" / "out")
    done = call(*words, *options)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_mask_on_another_grid_is_refused(pair, call, tmp_path) -> None:
    done = call(
        *("register", pair / "moving.nii.gz", pair / "fixed.nii.gz", "-o", tmp_path / "out"),
        *("--fixed-mask", pair / "mask.nii.gz", "--json"),
    )
    assert done.exit_code == 2
    assert "another grid" in json.loads(done.stdout)["error"]
    assert os.listdir(tmp_path) == []


def test_reversed_initial_is_refused(pair, registered, call, tmp_path) -> None:
    done = call(
        *("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out"),
        *("--preset", "translation", "--initial", registered / "moving2fixed.h5"),
    )
    assert done.exit_code == 2
    assert "invert" in done.stderr


@pytest.mark.parametrize("inside", ["", "sub", "sub/deeper"])
def test_output_that_is_a_file_or_in_one_is_found_out_first(pair, call, tmp_path, inside) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    output = tmp_path / "out" / inside
    done = call("register", pair / "absent.nii.gz", pair / "moving.nii.gz", "-o", output)
    assert done.exit_code == 2
    told = f"cannot be written to {output}: {tmp_path / 'out'} is a file, expected a folder; choose another folder with -o"
    assert told in done.stderr
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_a_disk_that_refuses_leaves_nothing(pair, call, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    done = call(
        *("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out"),
        *("--preset", "translation"),
    )
    assert done.exit_code == 2
    assert "disk is full" in done.stderr
    assert os.listdir(tmp_path) == []


def test_results_that_cannot_be_moved_in_the_end_are_kept(pair, call, tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.rename", refuse)
    done = call(
        *("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out"),
        *("--preset", "translation"),
    )
    assert done.exit_code == 2
    assert "Operation not permitted" in done.stderr
    (kept,) = os.listdir(tmp_path)
    assert kept in done.stderr
    assert sorted(os.listdir(tmp_path / kept)) == FILES


ENDLESS = (
    "shrink=[1]",
    "steps=[10000000]",
    "update_sigma_vox=[2.0]",
    "field_sigma_vox=[0.5]",
    "window=10000000",
)


@pytest.mark.parametrize("delay_s", [0.0, 2.5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(pair, tmp_path, number, delay_s) -> None:
    program = "from regista.cli import main; main()"
    words = ["register", str(pair / "fixed.nii.gz"), str(pair / "moving.nii.gz"), "-o", str(tmp_path / "o")]
    words += ["--preset", "deformable"]
    for setting in ENDLESS:
        words += ["--set", f"stages.0.{setting}"]
    running = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    until = time.monotonic() + 60
    while not os.listdir(tmp_path) and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(delay_s)
    assert running.poll() is None, running.communicate()
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == (130 if number == signal.SIGINT else 128 + number), err
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_a_missing_plan_says_how_to_get_one(pair, call, tmp_path) -> None:
    words = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out")
    done = call(*words, "--plan", tmp_path / "mine.toml")
    assert done.exit_code == 2
    assert "mine.toml does not exist" in done.stderr
    assert "regista presets show" in done.stderr
    assert "Errno" not in done.stderr
    assert call("presets", "show", tmp_path / "mine.toml").stderr == done.stderr


def test_a_series_is_refused_with_the_command_that_takes_a_frame(pair, call, tmp_path) -> None:
    fixed = read(pair / "fixed.nii.gz")
    series = np.stack([fixed.data, 2 * fixed.data, 3 * fixed.data])
    write(tmp_path / "bold.nii.gz", Image(series, fixed.grid, "series"))
    done = call("register", tmp_path / "bold.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "series of 3 frames" in done.stderr
    assert "regista convert bold.nii.gz frame.nii.gz --frame 0" in done.stderr
    done = call("convert", tmp_path / "bold.nii.gz", tmp_path / "frame.nii.gz", "--frame", 1)
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(read(tmp_path / "frame.nii.gz").data, 2 * fixed.data)
    assert call("convert", tmp_path / "bold.nii.gz", tmp_path / "f.nii.gz", "--frame", 3).exit_code == 2
    assert call("convert", tmp_path / "frame.nii.gz", tmp_path / "f.nii.gz", "--frame", 0).exit_code == 2


def test_a_penalty_mask_says_what_is_rigid(pair, call, tmp_path) -> None:
    words = [
        "register",
        pair / "fixed.nii.gz",
        pair / "moving.nii.gz",
        "--preset",
        "bspline-mi",
        "-o",
        tmp_path / "o",
    ]
    words += [
        "--set",
        "stages.bspline.penalties=[{local-rigidity = {weight = 0.5}}]",
        "--set",
        "stages.bspline.steps=[3, 3, 3]",
    ]
    refused = call(*words)
    assert refused.exit_code == 2
    assert "bspline: local-rigidity needs to know what is rigid: give --penalty-mask FILE" in refused.stderr
    assert not (tmp_path / "o" / "record.json").exists()
    done = call(*words, "--penalty-mask", pair / "mask.nii.gz")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "o/record.json").read_text(encoding="utf-8"))
    assert record["inputs"]["region"]["path"] == str(pair / "mask.nii.gz")


def test_guides_come_from_files_and_are_recorded(pair, call, tmp_path) -> None:
    mask = read(pair / "mask.nii.gz")
    there = read(pair / "moving.nii.gz").grid
    write(tmp_path / "moving_labels.nii.gz", Image(mask.data, there))
    places = np.array([[20.0, -5.0, 50.0], [25.0, -10.0, 55.0], [22.0, -8.0, 50.0]])
    for name, points in (("here", places), ("there", places + SHIFT_MM)):
        lines = ["x,y,z", *(",".join(map(str, p)) for p in points * (-1, -1, 1))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    words = ["register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "--preset", "translation"]
    labels = ["--fixed-labels", pair / "mask.nii.gz", "--moving-labels", tmp_path / "moving_labels.nii.gz"]
    points = ["--fixed-points", tmp_path / "here.csv", "--moving-points", tmp_path / "there.csv"]
    surface = ["--fixed-surface-mask", pair / "mask.nii.gz"]
    surface += ["--moving-surface-mask", tmp_path / "moving_labels.nii.gz", "--surface-weight", 0.2]
    done = call(*words, *labels, "--guide-labels", "1", *points, "--points-convention", "lps", *surface,
                "-o", tmp_path / "out", "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out/record.json").read_text(encoding="utf-8"))
    assert [(g["kind"], g["weight"]) for g in record["measures"]["guides"]] == [
        ("labels", 0.5), ("points", 0.01), ("surface", 0.2)]  # fmt: skip
    from regista.cli._summary import summary_of

    assert "cost (NCC + GUIDES)" in summary_of(record)[2]
    assert record["inputs"]["fixed_points"]["path"] == str(tmp_path / "here.csv")
    assert record["inputs"]["moving_surface"]["path"] == str(tmp_path / "moving_labels.nii.gz")
    forward = read_transform(tmp_path / "out/fixed2moving.h5")
    assert np.abs(forward.map_points(places) - places - SHIFT_MM).max() < 0.05
    for bad, text in (
        (labels[:2], "--fixed-labels guides only together with --moving-labels"),
        (points[2:], "--moving-points guides only together with --fixed-points"),
        (["--surface-weight", 2], "--surface-weight belongs to --fixed-surface-mask"),
        ([*points, "--points-convention", "ras"], "lie outside the fixed image"),
    ):
        done = call(*words, *bad, "-o", tmp_path / "bad")
        assert done.exit_code == 2
        assert text in " ".join(done.stderr.split())
        assert not (tmp_path / "bad").exists()


def test_landmarks_count_as_far_as_they_are_trusted(pair, call, tmp_path) -> None:
    places = np.array([[20.0, -5.0, 50.0], [25.0, -10.0, 55.0], [22.0, -8.0, 50.0]])
    wrong = places[[0, 1, 1]] + SHIFT_MM
    for name, points in (("here", places), ("there", wrong)):
        rows = [",".join(map(str, [*p, sure])) for p, sure in zip(points, (1.0, 0.7, 0.0), strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,y,z,Sure", *rows]), encoding="utf-8")
    words = ["register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "--preset", "translation", "--quiet"]
    words += ["--fixed-points", tmp_path / "here.csv", "--moving-points", tmp_path / "there.csv"]
    words += ["--points-convention", "ras", "--points-weight", 10, "--no-report", "-o", tmp_path / "out"]
    away = []
    for more in ([], ["--points-weights-column", "sure"]):
        assert call(*words, "--no-verdict", *more).exit_code == 0
        found = read_transform(tmp_path / "out/fixed2moving.h5")
        away.append(np.abs(found.map_points(places) - places - SHIFT_MM).max())
    assert away[0] > 1 > 0.1 > away[1]
    record = json.loads((tmp_path / "out/record.json").read_text(encoding="utf-8"))
    assert record["measures"]["guides"][0]["landmarks"] == 2
    assert record["inputs"]["fixed_points"]["weights_sha256"] == hash_array(np.array([1.0, 0.7, 0.0]))
    for bad, text in ((["--points-weights-column", "trust"], "no column 'trust', only x, y, z, Sure"),):
        done = call(*words, *bad)
        assert done.exit_code == 2
        assert text in done.stderr
    done = call(*words[:6], "-o", tmp_path / "bad", "--points-weights-column", "sure")
    assert "--points-weights-column belongs to --fixed-points and --moving-points" in done.stderr


def contrasts(pair, tmp_path) -> dict[str, Path]:
    """Write another contrast of both images of the pair."""
    files = {}
    for role in ("fixed", "moving"):
        image = read(pair / f"{role}.nii.gz")
        files[role] = tmp_path / f"{role}_2.nii.gz"
        write(files[role], image.with_data(np.sqrt(np.abs(image.data))))
    return files


def test_more_contrasts_are_compared_and_warped_as_channels(pair, call, tmp_path) -> None:
    more = contrasts(pair, tmp_path)
    words = ["register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "--preset", "translation"]
    words += ["--fixed-channel", more["fixed"], "--moving-channel", more["moving"], "-o", tmp_path / "out"]
    done = call(*words)
    assert done.exit_code == 0, done.stderr
    assert "2 channels, each compared with its like" in done.stdout
    assert "averaged" not in done.stdout + done.stderr
    assert read(tmp_path / "out/warped.nii.gz").data.shape == (2, *read(pair / "fixed.nii.gz").data.shape)
    record = json.loads((tmp_path / "out/record.json").read_text(encoding="utf-8"))
    assert record["measures"]["channels"]["compared"] == [0, 1]
    assert record["inputs"]["moving"]["channel_paths"] == [str(more["moving"])]
    moved = read_transform(tmp_path / "out/fixed2moving.h5").map_points(np.zeros((1, 3)))
    assert np.allclose(moved[0], (3.0, -2.0, 2.5), atol=0.1)


def test_contrasts_that_do_not_match_are_refused_with_the_mend(pair, call, tmp_path) -> None:
    more = contrasts(pair, tmp_path)
    words = [
        "register",
        pair / "fixed.nii.gz",
        pair / "moving.nii.gz",
        "-o",
        tmp_path / "out",
        "--fixed-channel",
    ]
    done = call(*words, more["fixed"])
    assert done.exit_code == 2
    assert "by --moving-channel" in done.stderr
    done = call(*words, more["moving"], "--moving-channel", more["moving"])
    assert done.exit_code == 2
    assert "--fixed-channel: image 1 (moving_2) lies on another grid" in done.stderr
    assert "regista apply" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_summary_tells_which_channels_were_compared() -> None:
    from regista.cli._summary import _channels

    def line(**told):
        return _channels({"measures": {"channels": told}})

    assert line(fixed=3, moving=1, compared="average") == [
        "the 3 channels of the fixed image averaged, to compare with one"
    ]
    assert line(fixed=2, moving=3, compared=[1]) == ["channel 1 compared, from 0"]
    assert _channels({"measures": {}}) == []


def test_pictures_without_a_preset_get_a_hint(call, tmp_path) -> None:
    blob = np.exp(-((np.indices((24, 20)) - 10.5) ** 2).sum(0) / 20).astype(np.float32)
    write(tmp_path / "a.mha", Image(blob, Grid(blob.shape, np.eye(3))))
    words = ["register", tmp_path / "a.mha", tmp_path / "a.mha", "-o", tmp_path / "out"]
    assert "try --preset 2d" in call(*words).stderr
    assert "--preset 2d" not in call(*words, "--preset", "translation").stderr
