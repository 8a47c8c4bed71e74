"""``regista register-slices``: files, table, replay, errors, nothing half-written."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

from regista.core import Grid, Image
from regista.io import read, read_transform, write
from regista.transforms import resample

FILES = ["record.json", "slices.csv", "transforms", "warped.nii.gz"]
SHIFTS_VOX = (0, 2, -1)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """Return a folder with two stacks of three slices, those of the second shifted along the first axis."""
    folder = tmp_path_factory.mktemp("stacks")
    index = np.indices((28, 24))
    slices = []
    for n in range(3):
        middle = np.array([12.0 + n, 11.0 - n])[:, None, None]
        blob = np.exp(-((index - middle) ** 2).sum(0) / (30 + 5 * n))
        slices.append(100 * (blob + 0.5 * np.exp(-((index - middle - [[[5]], [[2]]]) ** 2).sum(0) / 6)))
    grid = Grid((28, 24, 3), np.array([[-1.0, 0, 0, 9], [0, 0.8, 0, -4], [0, 0, 5, 2], [0, 0, 0, 1]]))
    write(folder / "fixed.nii.gz", Image(np.stack(slices, -1).astype(np.float32), grid))
    moved = [np.roll(one, shift, axis=0) for one, shift in zip(slices, SHIFTS_VOX, strict=True)]
    write(folder / "moving.nii.gz", Image(np.stack(moved, -1).astype(np.int16), grid))
    return folder


@pytest.fixture(scope="module")
def done(stacks):
    """Return what the command printed, and its folder."""
    from typer.testing import CliRunner

    from regista.cli import app

    words = ["register-slices", stacks / "fixed.nii.gz", stacks / "moving.nii.gz", "-o", stacks / "out"]
    words += [
        "--preset",
        "translation",
        "--json",
    ]
    return CliRunner().invoke(app, [str(word) for word in words]), stacks / "out"


def test_files_and_json(done) -> None:
    told, folder = done
    assert told.exit_code == 0, told.output
    tree = json.loads(told.stdout)
    assert (tree["slices"], tree["failed"], tree["constant"]) == (3, [], [])
    assert tree["ncc_after_mean"] > tree["ncc_before_mean"]
    assert sorted(os.listdir(folder)) == FILES
    assert sorted(os.listdir(folder / "transforms")) == [f"slice000{n}.mat" for n in range(3)]
    assert all(os.path.exists(path) for path in tree["outputs"].values())
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert record["inputs"]["moving"]["path"].endswith("moving.nii.gz")
    assert len(record["measures"]["slices"]) == 3


def test_the_table_says_how_each_slice_moved(done) -> None:
    _, folder = done
    with open(folder / "slices.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["slice"] for row in rows] == ["0", "1", "2"]
    np.testing.assert_allclose([float(row["x_mm"]) for row in rows], [0, -2, 1], atol=0.1)  # L is to R
    np.testing.assert_allclose([float(row["y_mm"]) for row in rows], 0, atol=0.1)
    assert {row["status"] for row in rows} <= {"converged", "step limit"}
    assert all(float(row["ncc_after"]) > 0.98 for row in rows)


def test_transforms_replay_on_slices_of_the_files(done, stacks) -> None:
    """An axial slice, written as a 2-D image of its own, has the world's x and y: no more is needed."""
    _, folder = done
    moving, warped = read(stacks / "moving.nii.gz"), read(folder / "warped.nii.gz")
    plane = Grid((28, 24), moving.grid.grid2world[np.ix_([0, 1, 3], [0, 1, 3])])
    for number in range(3):
        transform = read_transform(folder / "transforms" / f"slice{number:04d}.mat")
        again = resample(Image(moving.data[..., number], plane), plane, transform, dtype=np.float32)
        np.testing.assert_allclose(again.data, warped.data[..., number], atol=0.1)


def test_info_knows_the_folder(done, call) -> None:
    _, folder = done
    told = call("info", folder)
    assert told.exit_code == 0, told.output
    assert "slices: 3" in told.stdout
    assert "transforms: 3" in told.stdout
    assert "warped.nii.gz: there" in told.stdout


def test_options_reach_the_run_and_earlier_transforms_go(stacks, call, tmp_path) -> None:
    (tmp_path / "transforms").mkdir()
    for name in ("slice0003.mat", "slice0001.h5", "notes.txt"):
        (tmp_path / "transforms" / name).write_text("earlier", encoding="utf-8")
    fixed = read(stacks / "fixed.nii.gz")
    mask = (fixed.data > 10).astype(np.uint8)
    mask[..., 2] = 0
    write(tmp_path / "mask.nii.gz", Image(mask, fixed.grid))
    told = call(
        "register-slices", stacks / "fixed.nii.gz", stacks / "moving.nii.gz", "-o", tmp_path, "--axis", 2,
        "--set", "stages.affine.steps=[5, 5, 5]", "--set", "stages.diffeomorphic.shrink=[4]", "--dtype", "same",
        "--fixed-mask", tmp_path / "mask.nii.gz", "--fill", -7, "--seed", 4,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "2 slices registered" in told.stdout
    assert "left in place: 2" in told.stderr
    assert sorted(os.listdir(tmp_path / "transforms")) == [
        "notes.txt", "slice0000.h5", "slice0001.h5", "slice0002.mat",
    ]  # fmt: skip
    assert read(tmp_path / "warped.nii.gz").data.dtype == np.int16
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["measures"]["fill"], record["measures"]["axis"]) == (4, -7, 2)
    assert (tmp_path / "slices.csv").read_text(encoding="utf-8").splitlines()[-1].endswith(",constant")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--axis", "0"), "28 slices and the moving one 27 along array axis 0"),
        (("--axis", "3"), "--axis"),
        (("--preset", "nope"), "no preset 'nope'"),
        (("--dtype", "text"), "--dtype is one of"),
        (("--moving-mask", "absent.nii.gz"), "absent.nii.gz"),
    ],
)
def test_errors_leave_nothing(stacks, call, tmp_path, words, message) -> None:
    moving = read(stacks / "moving.nii.gz")
    write(tmp_path / "m.nii.gz", Image(moving.data[:-1], Grid((27, 24, 3), moving.grid.grid2world)))
    told = call(
        "register-slices", stacks / "fixed.nii.gz", tmp_path / "m.nii.gz", "-o", tmp_path / "out", *words
    )
    assert told.exit_code == 2, told.output
    assert message in told.stderr
    assert "in Python" not in told.stderr
    assert os.listdir(tmp_path) == ["m.nii.gz"]


@pytest.mark.parametrize("role", ["fixed", "moving", "--fixed-mask"])
def test_inputs_are_kept(stacks, call, tmp_path, role) -> None:
    name = "transforms/slice0001.mat" if role.startswith("-") else "warped.nii.gz"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    places = {one: stacks / f"{one}.nii.gz" for one in ("fixed", "moving")}
    extra = [role, tmp_path / name] if role.startswith("-") else []
    places |= {} if extra else {role: tmp_path / name}
    told = call("register-slices", *places.values(), *extra, "-o", tmp_path)
    assert told.exit_code == 2
    assert "would destroy the input" in told.stderr
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_a_failed_slice_gives_exit_code_1(stacks, call, tmp_path, monkeypatch) -> None:
    from regista.core import Status
    from regista.registration import _slices

    real = _slices.gist
    monkeypatch.setattr(_slices, "gist", lambda record: {**real(record), "status": Status.FOLDED})
    told = call(
        "register-slices", stacks / "fixed.nii.gz", stacks / "moving.nii.gz", "-o", tmp_path, "--quiet",
        "--preset", "translation",
    )  # fmt: skip
    assert told.exit_code == 1
    assert "3 of 3 slices failed its checks (0, 1, 2: folded)" in told.stderr
    assert sorted(os.listdir(tmp_path)) == FILES


def test_a_slice_that_cannot_be_registered_is_named(stacks, call, tmp_path, monkeypatch) -> None:
    from regista.core import RegistrationError
    from regista.registration import _slices

    real, calls = _slices.register, []

    def second_fails(*images: object, **options: object) -> object:
        calls.append(images)
        if len(calls) == 2:
            raise RegistrationError("only 2 % of the images overlap")
        return real(*images, **options)

    monkeypatch.setattr(_slices, "register", second_fails)
    told = call(
        "register-slices", stacks / "fixed.nii.gz", stacks / "moving.nii.gz", "-o", tmp_path, "--json",
        "--preset", "translation",
    )  # fmt: skip
    assert told.exit_code == 1
    assert (
        "slice 1 could not be registered and was left in place: only 2 % of the images overlap" in told.stderr
    )
    assert "1 of 3 slices failed its checks (1: error)" in told.stderr
    tree = json.loads(told.stdout)
    assert (tree["failed"], tree["errors"]) == ([1], {"1": "only 2 % of the images overlap"})
    assert sorted(os.listdir(tmp_path)) == FILES
    assert sorted(os.listdir(tmp_path / "transforms")) == [f"slice000{n}.mat" for n in range(3)]
    rows = (tmp_path / "slices.csv").read_text(encoding="utf-8").splitlines()
    assert [row.rsplit(",", 1)[1] == "error" for row in rows[1:]] == [False, True, False]
