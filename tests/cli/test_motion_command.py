"""``regista motion``: files, header, replay, errors, nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from regista.core import Grid, Image
from regista.io import read, read_transform, write
from regista.registration import framewise_displacement
from regista.transforms import Composite, resample

SHIFTS_VOX = (0.0, 1.0, -1.0, 2.0)
FILES = ["corrected.nii.gz", "motion.csv", "motion.png", "record.json", "reference.nii.gz", "transforms"]


@pytest.fixture(scope="module")
def series(tmp_path_factory, pair):
    """Return a file of four volumes shifted along their first axis, 1.25 s apart."""
    scan = read(pair / "fixed.nii.gz")
    volumes = [np.roll(gaussian_filter(scan.data, 1), int(shift), axis=0) for shift in SHIFTS_VOX]
    path = tmp_path_factory.mktemp("series") / "bold.nii.gz"
    write(path, Image(np.stack(volumes), scan.grid, "series", frame_seconds=1.25))
    return path


@pytest.fixture(scope="module")
def done(series):
    """Return what the command printed, and its folder."""
    from typer.testing import CliRunner

    from regista.cli import app

    folder = series.parent / "out"
    words = ["motion", series, "-o", folder, "--reference", "first", "--threads", 2, "--json"]
    return CliRunner().invoke(app, [str(word) for word in words]), folder


def test_files_and_json(done) -> None:
    told, folder = done
    assert told.exit_code == 0, told.output
    tree = json.loads(told.stdout)
    assert tree["ok"]
    assert tree["volumes"] == 4
    assert tree["failed"] == []
    assert sorted(os.listdir(folder)) == FILES
    assert sorted(os.listdir(folder / "transforms")) == [f"vol000{n}.mat" for n in range(4)]
    assert all(os.path.exists(path) for path in tree["outputs"].values())
    assert (folder / "motion.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert record["inputs"]["series"]["path"].endswith("bold.nii.gz")
    assert record["measures"]["frame_seconds"] == 1.25
    assert [entry["status"] for entry in record["measures"]["volumes"]].count("converged") == 4


def test_the_time_between_volumes_stays_in_the_header(done, series) -> None:
    _, folder = done
    for path in (series, folder / "corrected.nii.gz"):
        header = nibabel.load(path).header
        assert header.get_zooms()[3] == 1.25
        assert header.get_xyzt_units() == ("mm", "sec")
        assert header.get_data_shape()[3] == 4
    assert read(folder / "corrected.nii.gz").frame_seconds == 1.25
    assert sitk.ReadImage(str(folder / "corrected.nii.gz")).GetSpacing()[3] == pytest.approx(1.25)


def test_the_table_says_how_the_volumes_moved(done, series) -> None:
    _, folder = done
    with open(folder / "motion.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["volume"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["time_s"]) for row in rows] == [0, 1.25, 2.5, 3.75]
    axis = read(series).grid.grid2world[:3, 0]
    table = np.array([[float(row[f"{a}_mm"]) for a in "xyz"] for row in rows])
    np.testing.assert_allclose(table, np.outer(SHIFTS_VOX, axis), atol=0.1)
    names = ("x_mm", "y_mm", "z_mm", "x_deg", "y_deg", "z_deg")
    parameters = [[float(row[name]) for name in names] for row in rows]
    moved = [float(row["framewise_mm"]) for row in rows]
    np.testing.assert_allclose(moved, framewise_displacement(parameters), atol=1e-4)
    assert {row["status"] for row in rows} <= {"converged", "step limit"}


def test_transforms_replay_to_the_corrected_volumes(done, series) -> None:
    _, folder = done
    corrected, before = read(folder / "corrected.nii.gz"), read(series)
    for number, frame in enumerate(before.frames()):
        transform = read_transform(folder / "transforms" / f"vol{number:04d}.mat")
        again = resample(frame, corrected.grid, transform, interpolation="cubic")
        np.testing.assert_allclose(again.data, corrected.data[number], atol=1e-3 * before.data.max())


def test_info_knows_the_folder_and_the_series(done, series, call) -> None:
    _, folder = done
    told = call("info", folder, series)
    assert told.exit_code == 0, told.output
    assert "transforms: 4" in told.stdout
    assert "corrected.nii.gz: there" in told.stdout
    assert "seconds per frame: 1.25" in told.stdout


def test_a_shorter_series_leaves_no_earlier_transforms(series, call, tmp_path) -> None:
    out = tmp_path / "out"
    words = ("-o", out, "--reference", 1, "--preset", "translation", "--quiet")
    assert call("motion", series, *words).exit_code == 0
    (out / "transforms" / "notes.txt").write_text("mine", encoding="utf-8")
    (out / "transforms" / "vol0001.h5").write_text("earlier, of a deformable plan", encoding="utf-8")
    image = read(series)
    write(tmp_path / "short.nii.gz", image.with_data(image.data[:2]))
    told = call("motion", tmp_path / "short.nii.gz", *words)
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "")
    assert sorted(os.listdir(out / "transforms")) == ["notes.txt", "vol0000.mat", "vol0001.mat"]
    assert sorted(os.listdir(out)) == FILES
    assert len(read(out / "corrected.nii.gz").data) == 2


def test_fields_are_written_as_chains(series, call, tmp_path) -> None:
    words = ("--preset", "fast", "--set", "stages.diffeomorphic.steps=[3,2,1]", "--reference", "first")
    told = call("motion", series, "-o", tmp_path, *words, "--quiet")
    assert told.exit_code == 0, told.output
    assert sorted(os.listdir(tmp_path / "transforms"))[1:] == [f"vol000{n}.h5" for n in (1, 2, 3)]
    chain = read_transform(tmp_path / "transforms/vol0001.h5")
    assert isinstance(chain, Composite)
    assert (chain.fixed_space, chain.moving_space) == ("reference", "bold")


def test_options_reach_the_run(series, pair, call, tmp_path) -> None:
    words = ("--mask", pair / "mask.nii.gz", "--dtype", "int16", "--passes", 3, "--seed", 5, "--fill", -7)
    told = call("motion", series, "-o", tmp_path, "--reference", "median", *words)
    assert told.exit_code == 0, told.output
    assert "4 volumes corrected" in told.stdout
    assert "framewise displacement" in told.stdout
    corrected = read(tmp_path / "corrected.nii.gz")
    assert corrected.data.dtype == np.int16
    assert (corrected.data == -7).any()
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["seed"] == 5
    assert (record["measures"]["passes"], record["measures"]["reference"]) == (3, "median")
    assert record["inputs"]["mask"]["path"].endswith("mask.nii.gz")


def broken(series, tmp_path, what):
    image = read(series)
    data = image.data.copy()
    if what == "NaN":
        data[2, 4, 4, 4] = np.nan
    if what == "constant":
        data[1] = 3
    if what == "one":
        write(tmp_path / "bad.nii.gz", image.frames()[0])
    else:
        write(tmp_path / "bad.nii.gz", image.with_data(data))
    return tmp_path / "bad.nii.gz"


@pytest.mark.parametrize(
    ("what", "words", "message"),
    [
        ("one", (), "one 3-D scalar image, expected a series"),
        ("NaN", (), "--non-finite mask"),
        ("constant", (), "volume 1 of the series is constant"),
        ("", ("--reference", "last"), "--reference is mean"),
        ("", ("--reference", "4"), "0 to 3"),
        ("", ("--reference", "-1"), "--reference is mean"),
        ("", ("--passes", "1"), "at least 2"),
        ("", ("--preset", "rigid", "--plan", "a.toml"), "--preset or --plan"),
        ("", ("--preset", "nope"), "no preset 'nope'"),
        ("", ("--dtype", "text"), "--dtype is one of"),
        ("", ("--mask", "absent.nii.gz"), "absent.nii.gz"),
    ],
)
def test_errors_leave_nothing(series, call, tmp_path, what, words, message) -> None:
    file = broken(series, tmp_path, what)
    told = call("motion", file, "-o", tmp_path / "out", *words)
    assert told.exit_code == 2, told.output
    assert message in told.stderr
    assert "in Python" not in told.stderr
    assert os.listdir(tmp_path) == ["bad.nii.gz"]


def test_a_mask_on_another_grid_is_refused(series, pair, call, tmp_path) -> None:
    mask = read(pair / "mask.nii.gz")
    matrix = mask.grid.grid2world.copy()
    matrix[:3, 3] += 2
    write(tmp_path / "mask.nii.gz", Image(mask.data, Grid(mask.grid.shape, matrix)))
    told = call("motion", series, "-o", tmp_path / "out", "--mask", tmp_path / "mask.nii.gz", "--json")
    assert told.exit_code == 2
    assert "another grid" in json.loads(told.stdout)["error"]
    assert os.listdir(tmp_path) == ["mask.nii.gz"]


@pytest.mark.parametrize("name", ["corrected.nii.gz", "transforms/vol0002.mat"])
def test_inputs_are_kept(series, call, tmp_path, name) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(series.read_bytes())
    words = [tmp_path / name] if name.endswith(".gz") else [series, "--mask", tmp_path / name]
    told = call("motion", *words, "-o", tmp_path)
    assert told.exit_code == 2
    assert "would destroy the input" in told.stderr
    assert (tmp_path / name).read_bytes() == series.read_bytes()


def test_a_file_in_the_place_of_the_folder_is_told_before_the_work(series, call, tmp_path) -> None:
    (tmp_path / "transforms").write_text("mine", encoding="utf-8")
    told = call("motion", series, "-o", tmp_path)
    assert told.exit_code == 2
    assert "is a file where a folder is to be made" in told.stderr
    assert os.listdir(tmp_path) == ["transforms"]


def test_a_failed_volume_gives_exit_code_1(series, call, tmp_path, monkeypatch) -> None:
    from regista.core import Status
    from regista.registration import _motion

    real = _motion.gist
    monkeypatch.setattr(_motion, "gist", lambda record: {**real(record), "status": Status.FOLDED})
    told = call("motion", series, "-o", tmp_path, "--reference", "first", "--quiet")
    assert told.exit_code == 1
    assert "3 of 4 volumes failed its checks (1, 2, 3: folded)" in told.stderr
    assert sorted(os.listdir(tmp_path)) == FILES


def test_without_matplotlib_there_is_no_picture(series, call, tmp_path, monkeypatch) -> None:
    from regista.cli import _motion_picture

    monkeypatch.setattr(_motion_picture, "available", lambda: False)
    told = call("motion", series, "-o", tmp_path, "--reference", "first", "--preset", "translation")
    assert told.exit_code == 0
    assert "motion.png" not in os.listdir(tmp_path)
    assert "motion.png" not in told.stdout


@pytest.mark.parametrize("exists", [False, True])
def test_ctrl_c_leaves_what_there_was(series, tmp_path, exists) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "record.json").write_text("old", encoding="utf-8")
    program = """
import os, signal
import regista.registration._motion as module
real, count = module.register, 0
def stop(*args, **kwargs):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGINT)
    return real(*args, **kwargs)
module.register = stop
from regista.cli import main
main()
"""
    words = [str(word) for word in ("motion", series, "-o", out, "--quiet")]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
    )
    assert (ended.returncode, ended.stderr) == (
        128 + signal.SIGINT,
        "Stopped; nothing half-written is left.\n",
    )
    assert os.listdir(tmp_path) == (["out"] if exists else [])
    if exists:
        assert {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()} == {
            "record.json": "old"
        }
