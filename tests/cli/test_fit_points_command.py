"""`regista fit-points`, and what its transforms are used for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image, PointSet
from regista.io import read, read_points, read_transform, write
from regista.transforms import Affine, DisplacementField, Rigid, Similarity, ThinPlateSpline

SHIFT_MM = np.array([3.0, -2.0, 2.5])


@pytest.fixture
def points(pair, tmp_path, rng):
    """Return a folder with landmarks of both images, RAS CSV, and their true map."""
    grid = read(pair / "fixed.nii.gz").grid
    fixed = grid.index2world(rng.uniform(0.1, 0.9, (20, 3)) * (np.array(grid.shape) - 1))
    turn = Rotation.from_euler("xyz", (4, -7, 12), degrees=True).as_matrix()
    moving = (fixed - grid.center_mm) @ turn.T + grid.center_mm + SHIFT_MM
    save(tmp_path / "fixed.csv", fixed)
    save(tmp_path / "moving.csv", moving)
    return tmp_path, fixed, moving


def save(path, xyz, **columns) -> None:
    """Write a CSV of points with further columns."""
    head = ",".join(["x", "y", "z"][: xyz.shape[1]] + list(columns))
    rows = np.column_stack([xyz, *columns.values()])
    path.write_text(
        "\n".join([head, *(",".join(repr(float(v)) for v in row) for row in rows)]) + "\n", encoding="utf-8"
    )


def fit(call, folder, *words, **names):
    return call(
        *("fit-points", folder / names.get("fixed", "fixed.csv"), folder / names.get("moving", "moving.csv")),
        *("-o", folder / names.get("out", "t.h5"), *words),
    )


@pytest.mark.parametrize(
    ("model", "kind"), [("rigid", Rigid), ("similarity", Similarity), ("affine", Affine)]
)
@pytest.mark.parametrize("convention", ["ras", "lps"])
def test_points_land_where_they_belong(call, points, model, kind, convention):
    folder, _, moving = points
    done = fit(call, folder, "--model", model, "--convention", convention)
    assert done.exit_code == 0, done.output
    assert f"t.h5: {model} through 20 landmarks" in done.stdout
    assert "residual: mean 0.000 mm" in done.stdout
    assert done.stderr == ""
    words = ("apply-points", folder / "t.h5", folder / "fixed.csv", "-o", folder / "out.csv")
    assert call(*words, "--convention", convention).exit_code == 0
    found = read_points(folder / "out.csv", convention="ras").points_mm
    np.testing.assert_allclose(found, moving, atol=1e-6)
    back = ("apply-points", folder / "t.h5", folder / "moving.csv", "-o", folder / "out.csv")
    wrong = call(*back, "--convention", convention)
    assert (wrong.exit_code, "wrong way round" in wrong.stderr) == (2, True)


def test_files_of_slicer_tell_their_convention_and_names(call, points):
    folder, fixed, moving = points
    names = tuple(f"F-{n}" for n in range(20))
    write(folder / "fixed.fcsv", PointSet(fixed, names))
    write(folder / "moving.mrk.json", PointSet(moving[::-1], names[::-1]))
    done = fit(call, folder, fixed="fixed.fcsv", moving="moving.mrk.json", out="t.tfm")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(read_transform(folder / "t.tfm").map_points(fixed), moving, atol=1e-6)
    beside = fit(call, folder, "--convention", "ras", fixed="fixed.fcsv")  # moving.csv must be told
    assert beside.exit_code == 0, beside.output
    wrong = fit(call, folder, "--convention", "ras", fixed="fixed.fcsv", moving="moving.mrk.json")
    assert (wrong.exit_code, "leave the convention out" in wrong.stderr) == (2, True)
    write(folder / "some.fcsv", PointSet(moving[:9], names[:9]))
    some = fit(call, folder, "--json", fixed="fixed.fcsv", moving="some.fcsv")
    found = json.loads(some.stdout)
    assert found["landmarks"] == 9
    assert found["names"] == list(names[:9])
    assert "9 landmarks have a name in both files, of 20 fixed and 9 moving ones" in found["warnings"][0]


def test_a_spline_lies_on_the_fixed_image(call, pair, points, rng):
    folder, fixed, moving = points
    moving = moving + rng.normal(0, 0.5, moving.shape)
    save(folder / "moving.csv", moving)
    words = ("--model", "tps", "--convention", "ras")
    done = fit(call, folder, *words)
    assert done.exit_code == 2
    assert "--like FIXED" in done.stderr
    assert not (folder / "t.h5").exists()
    done = fit(call, folder, *words, "--like", pair / "fixed.nii.gz", "--moving", pair / "moving.nii.gz")
    assert done.exit_code == 0, done.output
    transform, image = read_transform(folder / "t.h5"), read(pair / "fixed.nii.gz")
    assert (transform.fixed_space, transform.moving_space) == ("fixed", "moving")
    truth = ThinPlateSpline.through(fixed, moving)
    centres = image.grid.coordinates_mm().reshape(3, -1).T
    np.testing.assert_allclose(transform.map_points(centres), truth.map_points(centres), atol=1e-3)
    assert fit(call, folder, *words, "--like", pair / "fixed.nii.gz", out="t.nii.gz").exit_code == 0
    assert isinstance(read_transform(folder / "t.nii.gz"), DisplacementField)
    assert call("invert", folder / "t.h5", "-o", folder / "back.h5").exit_code == 0
    back = read_transform(folder / "back.h5").map_points(moving)
    assert np.linalg.norm(back - fixed, axis=1).mean() < 0.25  # between voxels of 1.7 mm
    words += ("--like", pair / "fixed.nii.gz", "--json", "--smoothing")
    tight, loose = (json.loads(fit(call, folder, *words, s).stdout) for s in (0, 10))
    assert tight["residual_max_mm"] < 1e-6
    missed = np.linalg.norm(transform.map_points(fixed) - moving, axis=1)
    assert tight["field_residual_mean_mm"] == pytest.approx(missed.mean(), abs=1e-3)
    assert tight["field_residual_max_mm"] == pytest.approx(missed.max(), abs=1e-3)
    assert tight["warnings"] == []
    assert loose["residual_mean_mm"] > 0.3
    assert tight["left_out_mean_mm"] > 0.3


def test_outliers_and_weights(call, points):
    folder, fixed, moving = points
    moving[[3, 11]] = moving[[11, 3]]
    save(folder / "moving.csv", moving)
    plain = json.loads(fit(call, folder, "--convention", "ras", "--json").stdout)
    assert plain["residual_mean_mm"] > 0.5
    assert plain["outliers"] == 0
    done = fit(call, folder, "--convention", "ras", "--robust")
    assert "rigid through 18 landmarks" in done.stdout
    assert "outlier: landmark 4, " in done.stdout
    assert "outlier: landmark 12, " in done.stdout
    np.testing.assert_allclose(
        np.delete(read_transform(folder / "t.h5").map_points(fixed) - moving, [3, 11], 0), 0, atol=1e-6
    )
    sure = np.ones(20)
    sure[[3, 11]] = 0
    save(folder / "fixed.csv", fixed, sure=sure)
    found = json.loads(fit(call, folder, "--convention", "ras", "--weights-column", "sure", "--json").stdout)
    assert found["weights"] == sure.tolist()
    np.testing.assert_allclose(np.delete(found["residuals_mm"], [3, 11]), 0, atol=1e-6)
    assert found["residuals_mm"][3] > 5
    done = fit(call, folder, "--convention", "ras", "--weights-column", "trust")
    assert (done.exit_code, "no column 'trust'" in done.stderr) == (2, True)


def test_json_says_what_was_found(call, points):
    folder, _, _ = points
    found = json.loads(fit(call, folder, "--convention", "ras", "--json", "--model", "affine").stdout)
    assert found["output"].endswith("t.h5")
    assert np.shape(found["matrix"]) == (4, 4)
    assert len(found["residuals_mm"]) == len(found["left_out_mm"]) == 20
    assert (found["fixed_space"], found["moving_space"]) == ("fixed", "moving")
    save(folder / "fixed.csv", points[1][:3])
    save(folder / "moving.csv", points[2][:3])
    found = json.loads(fit(call, folder, "--convention", "ras", "--json").stdout)
    assert found["left_out_mean_mm"] is None  # three landmarks are what a rigid map needs
    shown = fit(call, folder, "--convention", "ras")
    assert "left one out: not known" in shown.stdout
    assert fit(call, folder, "--convention", "ras", "--quiet").stdout == ""


def test_files_of_one_name_are_told_apart(call, points):
    folder, _, _ = points
    for side in ("fixed", "moving"):
        (folder / side).mkdir()
        (folder / f"{side}.csv").rename(folder / side / "marks.csv")
    done = fit(call, folder, "--convention", "ras", fixed="fixed/marks.csv", moving="moving/marks.csv")
    assert done.exit_code == 0, done.output
    transform = read_transform(folder / "t.h5")
    assert (transform.fixed_space, transform.moving_space) == ("fixed/marks", "moving/marks")


def test_a_fit_starts_a_registration(call, pair, points):
    folder, fixed, _ = points
    save(folder / "moving.csv", fixed + SHIFT_MM)
    assert fit(call, folder, "--convention", "ras", "--model", "affine").exit_code == 0
    images = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "--quiet", "--initial")
    done = call(*images, folder / "t.h5", "-o", folder / "a", "--preset", "rigid")
    assert done.exit_code == 0, done.output
    found = read_transform(folder / "a/fixed2moving.h5").map_points(fixed)
    np.testing.assert_allclose(found, fixed + SHIFT_MM, atol=0.1)
    words = ("--convention", "ras", "--model", "tps", "--like", pair / "fixed.nii.gz")
    assert fit(call, folder, *words, out="s.h5").exit_code == 0
    done = call(*images, folder / "s.h5", "-o", folder / "b", "--preset", "deformable")
    assert done.exit_code == 0, done.output
    found = read_transform(folder / "b/fixed2moving.h5").map_points(fixed)
    np.testing.assert_allclose(found, fixed + SHIFT_MM, atol=0.2)


def test_a_picture_s_points_have_two_coordinates(call, points):
    folder, fixed, _ = points
    image = Image(np.zeros((40, 50), np.float32), Grid((40, 50), np.diag([0.8, 1.7, 1.0])))
    write(folder / "flat.nii.gz", image)
    flat = np.pad(fixed[:, :2], ((0, 0), (0, 1)))  # as ANTs writes them
    save(folder / "fixed.csv", flat)
    save(folder / "moving.csv", flat * [1.1, 0.9, 1.0] + [5.0, 7.0, 0.0])
    words = ("--model", "affine", "--convention", "lps")
    done = fit(call, folder, *words)
    assert (done.exit_code, "in one plane" in done.stderr, "--like IMAGE" in done.stderr) == (2, True, True)
    assert fit(call, folder, *words, "--like", folder / "flat.nii.gz").exit_code == 0
    assert read_transform(folder / "t.h5").ndim == 2


def test_the_wrong_convention_is_noticed(call, pair, points):
    folder, _, _ = points
    words = ("--like", pair / "fixed.nii.gz", "--moving", pair / "moving.nii.gz", "--convention")
    assert fit(call, folder, *words, "ras").stderr == ""
    done = fit(call, folder, *words, "lps")
    assert "20 of 20 fixed landmarks lie outside the fixed image" in done.stderr
    assert "20 of 20 moving landmarks lie outside the moving image" in done.stderr


def test_what_is_wrong_is_said_and_nothing_written(call, pair, points):
    folder, _, moving = points
    save(folder / "mirrored.csv", moving * [-1.0, 1.0, 1.0])
    save(folder / "few.csv", moving[:7])
    save(folder / "flat.csv", moving[:, :2])
    (folder / "bad.csv").write_text("x,y,z\n1,2,3\n4,nan,6\n", encoding="utf-8")
    ras = ("--convention", "ras")
    save(folder / "flat_too.csv", moving[:, :2])
    volume = ("--like", pair / "fixed.nii.gz")
    cases = (
        (fit(call, folder), "LPS or RAS"),
        (
            fit(call, folder, *ras, *volume, fixed="flat.csv", moving="flat_too.csv"),
            "2-D points, but the image is 3-D",
        ),
        (fit(call, folder, *ras, moving="absent.csv"), "does not exist"),
        (fit(call, folder, *ras, moving="few.csv"), "20 fixed landmarks but 7 moving ones"),
        (fit(call, folder, *ras, moving="flat.csv"), "cannot correspond"),
        (fit(call, folder, *ras, moving="bad.csv"), "NaN"),
        (fit(call, folder, *ras, moving="mirrored.csv"), "left and right"),
        (fit(call, folder, *ras, "--model", "spline"), "translation, rigid, similarity, affine, tps"),
        (fit(call, folder, *ras, "--smoothing", 0.1), "belongs to the model 'tps'"),
        (fit(call, folder, *ras, out="t.xyz"), "'.xyz'"),
        (fit(call, folder, *ras, out="absent/t.h5"), "make it first"),
        (
            fit(call, folder, *ras, "--model", "tps", "--like", pair / "fixed.nii.gz", out="t.mat"),
            "write it as a field, .h5 or .nii.gz",
        ),
    )
    for done, words in cases:
        assert done.exit_code == 2, done.output
        assert words in done.stderr
        assert "in Python" not in done.stderr
    assert not list(folder.glob("t.*"))


def test_folds_are_warned_of(call, pair, points, rng):
    folder, _, moving = points
    save(folder / "moving.csv", moving + rng.normal(0, 9, moving.shape))
    words = ("--convention", "ras", "--model", "tps", "--like", pair / "fixed.nii.gz")
    done = fit(call, folder, *words)
    assert done.exit_code == 0
    assert "Warning: the spline folds" in done.stderr
    assert json.loads(fit(call, folder, *words, "--json").stdout)["folded_percent"] > 0.1


@pytest.mark.data
def test_lung_landmarks_on_the_command_line(call, data_dir, tmp_path):
    folder = data_dir / "lung_ct"
    words = [folder / "baseline_landmarks.txt", folder / "followup_landmarks.txt"]
    out = tmp_path / "t.h5"
    done = call(
        *("fit-points", *words, "-o", out, "--model", "tps", "--like", folder / "baseline.mha", "--json")
    )
    found = json.loads(done.stdout)
    assert found["landmarks"] == 51
    assert found["left_out_mean_mm"] < 3
    assert found["folded_percent"] == 0
    here, there = (read_points(path).points_mm for path in words)
    np.testing.assert_allclose(read_transform(out).map_points(here), there, atol=0.1)
