"""`regista evaluate` as a user types it, with right and with wrong inputs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from regista.cli._evaluate_parts import for_json
from regista.core import Image, LabelImage, PointSet
from regista.io import read, read_labels, write, write_points
from regista.transforms import DisplacementField, Translation

SHIFT = np.array([2.0, -1.4, 2.3])


@pytest.fixture
def folder(tmp_path, make_grid, rng):
    """Return a folder with a pair that a known translation aligns."""
    grid = make_grid((22, 25, 14))
    moved = make_grid((22, 25, 14), origin=np.array([31.0, -18, 44]) + SHIFT)
    noise = np.stack([gaussian_filter(rng.normal(size=grid.shape), 2) for _ in range(4)])
    codes = noise.argmax(0).astype(np.uint8)
    for name, where in (("fixed", grid), ("moving", moved)):
        write(tmp_path / f"{name}.nii.gz", Image((noise[0] * 100).astype(np.float32), where))
        write(tmp_path / f"{name}_labels.nii.gz", LabelImage(codes, where))
    write(tmp_path / "shift.h5", Translation.by(SHIFT))
    write(tmp_path / "back.h5", Translation.by(-SHIFT))
    mask = np.zeros(grid.shape, np.uint8)
    mask[4:-4, 4:-4, 3:-3] = 1
    write(tmp_path / "mask.nii.gz", Image(mask, grid))
    points = grid.index2world(rng.uniform(3, 10, (8, 3)))
    write_points(tmp_path / "fixed.csv", PointSet(points), convention="ras")
    write_points(tmp_path / "moving.csv", PointSet(points + SHIFT), convention="ras")
    (tmp_path / "names.csv").write_text(
        "label,name,group\n1,one,odd\n2,two,\n3,three,odd\n", encoding="utf-8"
    )
    return tmp_path


def test_everything_at_once(folder, call):
    out = folder / "rows.csv"
    words = ["--fixed-labels", folder / "fixed_labels.nii.gz"]
    words += ["--moving-labels", folder / "moving_labels.nii.gz", "--names", folder / "names.csv"]
    words += ["--groups", folder / "names.csv", "--group", "even=2"]
    words += ["--fixed-points", folder / "fixed.csv", "--moving-points", folder / "moving.csv"]
    words += ["--convention", "ras", "-t", folder / "shift.h5", "--inverse", folder / "back.h5"]
    words += ["--fixed", folder / "fixed.nii.gz", "--moving", folder / "moving.nii.gz"]
    words += ["--mask", folder / "mask.nii.gz", "--tag", "method=known", "--tag", "case=1"]
    done = call("evaluate", *words, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    tree = json.loads(done.stdout)
    after = tree["labels"]["after"]
    assert after["mean"]["dice"] == pytest.approx(1, abs=0.01)
    assert tree["labels"]["before"]["mean"]["dice"] < 0.9
    assert [g["name"] for g in after["groups"]] == ["odd", "even"]
    assert [g["name"] for g in after["labels"]] == ["one", "two", "three"]
    assert tree["landmarks"]["before"]["tre_mean"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-4)
    assert tree["landmarks"]["after"]["tre_max"] < 1e-4
    assert tree["landmarks"]["after"]["rtre_mean"] < 1e-4
    assert tree["transform"]["after"]["inverse_max_mm"] < 1e-4
    assert tree["images"]["after"]["ncc"] > 0.999 > tree["images"]["before"]["ncc"]
    with open(out, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["kind"] for row in rows} == {"labels", "groups", "landmarks", "transform", "images"}
    assert {(row["method"], row["case"]) for row in rows} == {("known", "1")}
    assert len(rows) == 2 * (3 + 2) + 2 + 1 + 2


def test_the_screen(folder, call):
    words = ["--fixed-labels", folder / "fixed_labels.nii.gz"]
    words += ["--warped-labels", folder / "fixed_labels.nii.gz"]
    done = call("evaluate", *words)
    assert done.exit_code == 0, done.output
    assert "dice" in done.stdout
    assert "1.0000" in done.stdout
    assert call("evaluate", *words, "--quiet").stdout == ""
    plain = call("evaluate", *words, "--surface", "none", "--labels", "1-2", "--json")
    data = read_labels(folder / "fixed_labels.nii.gz")
    write(folder / "lost.nii.gz", data.with_data(np.where(data.data == 3, 0, data.data)))
    lost = call("evaluate", *words[:2], "--warped-labels", folder / "lost.nii.gz", "--json")
    assert "only the fixed map has 3" in lost.stderr
    assert json.loads(lost.stdout)["labels"]["after"]["mean"]["dice"] == pytest.approx(2 / 3)
    (one, two) = json.loads(plain.stdout)["labels"]["after"]["labels"]
    assert (one["label"], two["label"], one["hd_mm"]) == (1, 2, None)


def test_an_intensity_image_among_the_labels_is_doubted(folder, call, make_grid, rng):
    grid = make_grid((22, 25, 14))
    write(folder / "scan.nii.gz", LabelImage(rng.integers(1, 200, grid.shape), grid))
    words = ["--fixed-labels", folder / "fixed_labels.nii.gz", "--warped-labels", folder / "scan.nii.gz"]
    done = call("evaluate", *words, "--surface", "none")
    assert done.exit_code == 0
    assert "intensity image" in done.stderr


def test_warped_images_and_no_before(folder, call):
    done = call("evaluate", "--fixed", folder / "fixed.nii.gz", "--warped", folder / "fixed.nii.gz", "--json")
    assert json.loads(done.stdout)["images"]["after"]["ssim"] == pytest.approx(1)
    words = [
        "--fixed",
        folder / "fixed.nii.gz",
        "--moving",
        folder / "moving.nii.gz",
        "--no-before",
        "--json",
    ]
    done = call("evaluate", *words, "-t", folder / "shift.h5")
    assert list(json.loads(done.stdout)["images"]) == ["after"]


def test_landmarks_in_pixels_paired_by_their_unnamed_column(tmp_path, call):
    from regista.core import Grid

    (tmp_path / "a.csv").write_text(",X,Y\n1,10,20\n2,30,40\n4,5,5\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(",X,Y\n2,33,44\n1,10,20\n3,7,7\n", encoding="utf-8")
    write(
        tmp_path / "b.png",
        Image(np.zeros((60, 80), np.uint8), Grid.from_lps((60, 80), [1, 1], [0, 0], np.eye(2))),
    )
    words = ["--fixed-points", tmp_path / "a.csv", "--moving-points", tmp_path / "b.csv"]
    words += ["--convention", "lps", "--unit", "px", "--moving", tmp_path / "b.png", "--json"]
    done = call("evaluate", *words)
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)["landmarks"]["before"]
    assert (row["landmarks"], row["tre_mean"], row["tre_max"]) == (2, 2.5, 5)
    assert row["rtre_max"] == pytest.approx(5 / 100)


def test_a_field_is_measured_on_its_own_grid_only_where_it_leads(folder, call, make_grid):
    grid = make_grid((22, 25, 14))
    write(folder / "warp.h5", DisplacementField(np.zeros((3, *grid.shape)), grid))
    done = call("evaluate", "-t", folder / "warp.h5", "-t", folder / "shift.h5", "--json")
    assert json.loads(done.stdout)["transform"]["after"]["voxels"] == grid.size
    points = ["--fixed-points", folder / "fixed.csv", "--moving-points", folder / "moving.csv"]
    words = [*points, "--convention", "ras", "-t", folder / "shift.h5", "-t", folder / "warp.h5", "--json"]
    done = call("evaluate", *words)
    assert done.exit_code == 0, done.output
    assert "not measured" in done.stderr
    assert "transform" not in json.loads(done.stdout)


def test_labels_and_landmarks_that_are_left_out_are_told(folder, call):
    labels = folder / "fixed_labels.nii.gz"
    words = ["--fixed-labels", labels, "--warped-labels", labels, "--surface", "none", "--labels", "1,70-79"]
    done = call("evaluate", *words, "--json")
    (text,) = json.loads(done.stdout)["warnings"]
    assert text.startswith("neither map has 70, 71, 72, 73, 74 and 5 more")
    for file, names in (("a", "abcd"), ("b", "dx")):
        rows = [f"{name},{n},2,3" for n, name in enumerate(names)]
        (folder / f"{file}.csv").write_text("\n".join(["name,x,y,z", *rows]), encoding="utf-8")
    words = ["--fixed-points", folder / "a.csv", "--moving-points", folder / "b.csv", "--convention", "ras"]
    done = call("evaluate", *words, "-t", folder / "shift.h5", "--json")
    assert done.stderr.count("1 landmarks have a name in both files, of 4 fixed and 2 moving") == 1
    tree = json.loads(done.stdout)
    assert "the other 4 are left out" in tree["warnings"][0]
    assert tree["landmarks"]["before"]["tre_mean"] == 3


def test_json_tells_infinite_from_undefined():
    tree = for_json({"a": [float("nan"), float("inf")], "b": {"c": (-np.inf, np.float64("inf"), 1.5)}})
    assert tree == {"a": [None, "Infinity"], "b": {"c": ["-Infinity", "Infinity", 1.5]}}
    json.dumps(tree, allow_nan=False)  # as strict parsers want it


def wrong(folder) -> dict[str, tuple[list[object], str]]:
    labels, other = folder / "fixed_labels.nii.gz", folder / "moving_labels.nii.gz"
    fixed, moving, shift = folder / "fixed.nii.gz", folder / "moving.nii.gz", folder / "shift.h5"
    pair = ["--fixed-labels", labels, "--moving-labels", other, "-t", shift]
    return {
        "nothing": (["--quiet"], "nothing to measure"),
        "grids": (["--fixed-labels", labels, "--warped-labels", other], "different grids"),
        "floats": (["--fixed-labels", labels, "--warped-labels", fixed], "fractions"),
        "missing": (["--fixed-labels", labels, "--warped-labels", folder / "no.nii.gz"], "does not exist"),
        "half": (["--fixed-labels", labels], "goes with --warped-labels"),
        "both": ([*pair, "--warped-labels", labels], "give one of them"),
        "alone": (["--warped", fixed], "goes with --fixed"),
        "points": (["--fixed-points", folder / "fixed.csv"], "go together"),
        "inverse": (["--fixed", fixed, "--moving", moving, "--inverse", shift], "goes with --transform"),
        "convention": (
            ["--fixed-points", folder / "fixed.csv", "--moving-points", folder / "moving.csv"],
            "LPS or RAS",
        ),
        "surface": ([*pair, "--surface", "mesh"], "--surface is"),
        "unit": ([*pair, "--unit", "cm"], "--unit is"),
        "group": ([*pair, "--group", "GM"], "NAME=LABELS"),
        "tag": ([*pair, "--tag", "method"], "--tag is written"),
        "names": ([*pair, "--names", folder / "no.csv"], "does not exist"),
        "output": ([*pair, "-o", folder / "out.xlsx"], "ends in .csv"),
        "place": ([*pair, "-o", folder / "no" / "out.csv"], "folder"),
        "grid": (["-t", shift], "name the fixed image"),
        "mask": (["-t", shift, "--fixed", fixed, "--mask", folder / "empty.nii.gz"], "mask is empty"),
        "absent": (
            [*pair, "--labels", "77,78"],
            "neither label map has any of these; the fixed one has 1, 2, 3",
        ),
        "lost": (["-t", shift, "-t", folder / "warp.h5"], "name the fixed image"),
        "repeated": (
            [
                "--fixed-points",
                folder / "own.csv",
                "--moving-points",
                folder / "twice.csv",
                "--convention",
                "ras",
            ],
            "the name 'a' more than once",
        ),
        "empty": (["--fixed-labels", labels, "--warped-labels", folder / "empty.nii.gz"], "is empty"),
        "foreign": (
            ["--fixed-labels", labels, "--warped-labels", folder / "hundreds.nii.gz"],
            "share no label",
        ),
    }


@pytest.mark.parametrize("name", list(wrong(__import__("pathlib").Path())))
def test_wrong_inputs_exit_2_and_say_why(folder, call, name, make_grid):
    grid = make_grid((22, 25, 14))
    write(folder / "empty.nii.gz", LabelImage(np.zeros(grid.shape, np.uint8), grid))
    write(folder / "hundreds.nii.gz", LabelImage(np.full(grid.shape, 100, np.uint8), grid))
    write(folder / "warp.h5", DisplacementField(np.zeros((3, *grid.shape)), grid))
    for file, names in (("own", "abc"), ("twice", "caa")):
        rows = [f"{name},{n},2,3" for n, name in enumerate(names)]
        (folder / f"{file}.csv").write_text("\n".join(["name,x,y,z", *rows]), encoding="utf-8")
    words, text = wrong(folder)[name]
    done = call("evaluate", *words)
    assert done.exit_code == 2, done.output
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "out.csv").exists()


def test_compare(folder, call, rng):
    tables = []
    for method, gain in (("ours", 0.05), ("theirs", 0.0)):
        table = folder / f"{method}.csv"
        rows = [f"{method},{n},after,{0.7 + gain + 0.01 * rng.normal():.4f}" for n in range(12)]
        table.write_text("method,case,stage,dice\n" + "\n".join(rows) + "\n", encoding="utf-8")
        tables.append(table)
    done = call("evaluate", "compare", *tables, "-m", "dice")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("| method | cases | dice |")
    assert r"\*" in next(line for line in done.stdout.splitlines() if line.startswith("| theirs"))
    out = folder / "table.md"
    assert call("evaluate", "compare", *tables, "-m", "dice", "-o", out, "-q").stdout == ""
    assert out.read_text(encoding="utf-8") == done.stdout
    call("evaluate", "compare", *tables, "-m", "dice", "--test", "t", "-o", folder / "p.csv", "-q")
    assert "p_t_holm" in (folder / "p.csv").read_text(encoding="utf-8")
    tree = json.loads(call("evaluate", "compare", *tables, "-m", "dice", "--json").stdout)
    assert [row["star"] for row in tree["rows"]] == [False, True]
    for words, text in (
        (["-m", "dise"], "no column 'dise'"),
        (["-m", "dice", "--reference", "x"], "reference"),
        (["-m", "dice", "--where", "case"], "--where is written"),
        (["-m", "dice", "--test", "anova"], "test is"),
        (["-m", "dice", "-o", folder / "t.html"], ".md or .csv"),
    ):
        done = call("evaluate", "compare", *tables, *words)
        assert done.exit_code == 2, done.output
        assert text in done.stderr


def test_importing_the_package_stays_light():
    code = "import sys, regista.evaluation; print(any(m.startswith(('scipy', 'numba')) for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("text", ["1,x", "5-1", "labels=1"])
def test_labels_are_refused_in_words_about_labels(folder, call, text):
    words = [
        "--fixed-labels",
        folder / "fixed_labels.nii.gz",
        "--warped-labels",
        folder / "fixed_labels.nii.gz",
    ]
    done = call("evaluate", *words, "--labels", text)
    assert done.exit_code == 2
    assert "labels" in done.stderr
    assert "group" not in done.stderr


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_labels_off_their_image_are_refused(folder, call, make_grid, role):
    data = read_labels(folder / f"{role}_labels.nii.gz")
    write(folder / "cut.nii.gz", LabelImage(data.data[:, 2:], make_grid((22, 23, 14))))
    files = {f"{r}_labels": folder / f"{r}_labels.nii.gz" for r in ("fixed", "moving")}
    files[f"{role}_labels"] = folder / "cut.nii.gz"
    words = ["--fixed-labels", files["fixed_labels"], "--moving-labels", files["moving_labels"]]
    words += ["--fixed", folder / "fixed.nii.gz", "--moving", folder / "moving.nii.gz"]
    done = call("evaluate", *words, "-t", folder / "shift.h5")
    assert done.exit_code == 2
    assert f"the {role} labels lie on another grid" in done.stderr


def test_a_tag_cannot_take_the_name_of_a_measure(folder, call):
    words = [
        "--fixed-labels",
        folder / "fixed_labels.nii.gz",
        "--warped-labels",
        folder / "fixed_labels.nii.gz",
    ]
    done = call("evaluate", *words, "--tag", "dice=3", "-o", folder / "rows.csv")
    assert done.exit_code == 2
    assert "dice is a column of the measures" in done.stderr
    assert not (folder / "rows.csv").exists()


def test_voxels_left_out_are_told(folder, call, make_grid):
    image = read(folder / "fixed.nii.gz")
    holes = image.as_float32().copy()
    holes[10:12, 10, 6] = np.nan
    write(folder / "holes.nii.gz", image.with_data(holes))
    words = ["--fixed", folder / "fixed.nii.gz", "--warped", folder / "holes.nii.gz"]
    done = call("evaluate", *words, "-o", folder / "rows.csv", "--json")
    assert json.loads(done.stdout)["images"]["after"]["left_out_voxels"] == 2
    assert "images, after registration: 2 voxels are NaN or infinite" in done.stderr
    clean = call("evaluate", *words[:2], "--warped", folder / "fixed.nii.gz", "--json")
    assert "left_out_voxels" not in json.loads(clean.stdout)["images"]["after"]


def test_groups_of_absent_labels(folder, call):
    words = ["--fixed-labels", folder / "fixed_labels.nii.gz", "--surface", "none"]
    words += ["--warped-labels", folder / "fixed_labels.nii.gz"]
    done = call("evaluate", *words, "--group", "some=2,77")
    assert done.exit_code == 0
    assert "the group some: neither map has 77" in done.stderr
    refused = call("evaluate", *words, "--group", "none=77-78")
    assert refused.exit_code == 2
    assert "neither label map has any of 77, 78; there are 1, 2, 3" in refused.stderr


def test_a_large_inverse_error_at_the_faces_is_explained(folder, call, make_grid):
    grid = make_grid((22, 25, 14))
    vectors = np.zeros((3, *grid.shape), np.float32)
    vectors[:] = (3 * grid.grid2world[:3, 0]).reshape(3, 1, 1, 1)  # three voxels along the first axis
    write(folder / "there.h5", DisplacementField(vectors, grid))
    write(folder / "back_again.h5", DisplacementField(-vectors, grid))
    words = [
        "--fixed",
        folder / "fixed.nii.gz",
        "-t",
        folder / "there.h5",
        "--inverse",
        folder / "back_again.h5",
    ]
    wide = make_grid((40, 25, 14))
    write(folder / "wide.nii.gz", Image(np.zeros(wide.shape, np.float32), wide))
    done = call("evaluate", *words, "--moving", folder / "wide.nii.gz", "--json")
    found = json.loads(done.stdout)["transform"]["after"]
    assert found["inverse_max_mm"] == pytest.approx(3 * grid.spacing[0], rel=1e-5)
    assert found["inverse_inner_max_mm"] < 1e-4
    assert found["inverse_rim_percent"] == pytest.approx(100 * 3 / 22)
    assert "lies at the faces of the grid" in done.stderr
