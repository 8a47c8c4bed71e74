"""`apply`, `apply-points`, `invert`, `compose`, `convert`, `info`."""

import json

import numpy as np
import pytest

from regista.core import Image
from regista.io import read, read_points, read_transform, write
from regista.transforms import Translation

SHIFT_MM = np.array([3.0, -2.0, 2.5])


def test_apply_repeats_warped(pair, registered, call, tmp_path) -> None:
    out = tmp_path / "again.nii.gz"
    done = call(
        *("apply", registered / "fixed2moving.h5", pair / "moving.nii.gz"),
        *("--like", pair / "fixed.nii.gz", "-o", out),
    )
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(read(out).data, read(registered / "warped.nii.gz").data, atol=1e-3)


def test_apply_labels_invents_none(pair, registered, call, tmp_path) -> None:
    labels = (np.indices(read(pair / "moving.nii.gz").data.shape).sum(0) // 9 % 3 * 7).astype(np.int16)
    write(tmp_path / "labels.nii.gz", Image(labels, read(pair / "moving.nii.gz").grid))
    for method in ("nearest", "smooth"):
        done = call(
            *("apply", registered / "fixed2moving.h5", tmp_path / "labels.nii.gz", "--labels"),
            *("--like", pair / "fixed.nii.gz", "-o", tmp_path / "out.nii.gz", "--interpolation", method),
        )
        assert done.exit_code == 0, done.output
        assert set(np.unique(read(tmp_path / "out.nii.gz").data)) == {0, 7, 14}


def test_apply_in_the_wrong_direction_is_refused(pair, registered, call, tmp_path) -> None:
    words = ["apply", registered / "moving2fixed.h5", pair / "moving.nii.gz"]
    words += ["--like", pair / "fixed.nii.gz", "-o", tmp_path / "out.nii.gz"]
    done = call(*words)
    assert done.exit_code == 2
    assert "inverse" in done.stderr
    assert not (tmp_path / "out.nii.gz").exists()
    assert call(*words, "--ignore-spaces").exit_code == 0


def test_apply_without_overlap_suggests_the_inverse(pair, call, tmp_path) -> None:
    far = read(pair / "moving.nii.gz")
    moved = far.grid.grid2world.copy()
    moved[:3, 3] += [500.0, 0.0, 0.0]
    write(tmp_path / "far.nii.gz", Image(far.data, type(far.grid)(far.grid.shape, moved)))
    write(tmp_path / "back.mat", Translation.by([-500.0, 0.0, 0.0]))
    write(tmp_path / "there.mat", Translation.by([500.0, 0.0, 0.0]))
    words = [tmp_path / "far.nii.gz", "--like", pair / "fixed.nii.gz", "-o", tmp_path / "out.nii.gz"]
    done = call("apply", tmp_path / "back.mat", *words)
    assert done.exit_code == 2
    assert "the inverse does overlap" in done.stderr
    assert call("apply", tmp_path / "there.mat", *words).exit_code == 0
    assert call("apply", *words).exit_code == 2  # no transform: the identity


def test_transforms_act_in_the_order_given(call, tmp_path) -> None:
    quarter = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    from regista.transforms import Rigid

    write(tmp_path / "turn.h5", Rigid(quarter))
    write(tmp_path / "shift.h5", Translation.by([10.0, 0.0, 0.0]))
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    for names, expected in ((("turn", "shift"), [8.0, 1.0, 3.0]), (("shift", "turn"), [-2.0, 11.0, 3.0])):
        files = [tmp_path / f"{name}.h5" for name in names]
        out = tmp_path / "out.csv"
        done = call("apply-points", *files, tmp_path / "points.csv", "-o", out, "--convention", "ras")
        assert done.exit_code == 0, done.output
        np.testing.assert_allclose(read_points(out, convention="ras").points_mm, [expected], atol=1e-9)
        assert call("compose", *files, "-o", tmp_path / "chain.mat").exit_code == 0
        joined = read_transform(tmp_path / "chain.mat").map_points([[1.0, 2.0, 3.0]])
        np.testing.assert_allclose(joined, [expected], atol=1e-9)


def test_points_without_a_convention_are_refused(registered, call, tmp_path) -> None:
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    words = (
        "apply-points",
        registered / "fixed2moving.h5",
        tmp_path / "points.csv",
        "-o",
        tmp_path / "o.csv",
    )
    done = call(*words)
    assert done.exit_code == 2
    assert "--convention" in done.stderr
    assert call(*words, "--convention", "lps").exit_code == 0
    mapped = read_points(tmp_path / "o.csv", convention="lps").points_mm
    np.testing.assert_allclose(mapped - [[-1.0, -2.0, 3.0]], [SHIFT_MM], atol=0.1)


def test_spaces_that_do_not_meet_are_refused(registered, call, tmp_path) -> None:
    forward = registered / "fixed2moving.h5"
    done = call("compose", forward, forward, "-o", tmp_path / "twice.h5")
    assert done.exit_code == 2
    assert "--ignore-spaces" in done.stderr
    assert call("compose", forward, forward, "-o", tmp_path / "twice.h5", "--ignore-spaces").exit_code == 0


def test_compose_into_one_field_and_invert_it(pair, registered, call, tmp_path) -> None:
    field, back = tmp_path / "field.nii.gz", tmp_path / "back.h5"
    done = call("compose", registered / "fixed2moving.h5", "-o", field, "--like", pair / "fixed.nii.gz")
    assert done.exit_code == 0, done.output
    assert call("invert", field, "-o", back, "--quiet").exit_code == 0
    center = read(pair / "fixed.nii.gz").grid.center_mm[None]
    there = read_transform(field).map_points(center)
    np.testing.assert_allclose(there, center + SHIFT_MM, atol=0.1)
    np.testing.assert_allclose(read_transform(back).map_points(there), center, atol=0.02)


def test_convert_between_linear_formats(call, tmp_path) -> None:
    write(tmp_path / "shift.h5", Translation.by([1.0, 2.0, 3.0]))
    for target in ("a.tfm", "a.lta", "a.mat"):
        done = call("convert", tmp_path / "shift.h5", tmp_path / target)
        assert done.exit_code == 0, (target, done.output)
        mapped = read_transform(tmp_path / target).map_points([[0.0, 0.0, 0.0]])
        np.testing.assert_allclose(mapped, [[1.0, 2.0, 3.0]], atol=1e-5)
    done = call("convert", tmp_path / "shift.h5", tmp_path / "a.greedy", "--to", "greedy")
    assert done.exit_code == 0, done.output
    assert np.loadtxt(tmp_path / "a.greedy")[:3, 3].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("format", ["fsl", "fsl-absolute"])
def test_an_fsl_warp_does_what_the_transform_does(pair, registered, call, tmp_path, format) -> None:
    fixed, moving, warp = pair / "fixed.nii.gz", pair / "moving.nii.gz", tmp_path / "warp.nii.gz"
    done = call(
        *("convert", registered / "fixed2moving.h5", warp),
        *("--to", format, "--like", fixed, "--moving", moving),
    )
    assert done.exit_code == 0, done.output
    words = ("apply", warp, moving, "--like", fixed, "-o", tmp_path / "again.nii.gz")
    assert call(*words).exit_code == 2
    done = call(*words, "--format", format)
    assert done.exit_code == 0, done.output
    warped = read(registered / "warped.nii.gz").data
    assert np.abs(read(tmp_path / "again.nii.gz").data - warped).max() < 1e-3 * np.ptp(warped)
    told = call("info", warp).stderr
    assert "--format fsl" in told


def test_info_tells_kinds_apart(pair, registered, call, tmp_path) -> None:
    files = [pair / "fixed.nii.gz", registered / "fixed2moving.h5", registered / "record.json"]
    done = call("info", *files, "--json")
    assert done.exit_code == 0, done.output
    assert [entry["kind"] for entry in json.loads(done.stdout)["files"]] == ["image", "transform", "record"]
    plain = call("info", *files).stdout
    assert "26×31×17 voxels" in plain
    assert "fixed space: fixed" in plain


@pytest.mark.parametrize("content", [b"", b"not an image at all" * 40, b"\x1f\x8b\x08\x00broken"])
def test_damaged_files_give_a_message(call, tmp_path, content) -> None:
    for name in ("a.nii.gz", "a.h5", "a.mha", "a.mat", "a.csv", "a.lta", "a.png"):
        (tmp_path / name).write_bytes(content)
        done = call("info", tmp_path / name)
        assert done.exit_code == 2, (name, done.output)
        assert name in done.stderr
        assert "bug" not in done.stderr


@pytest.mark.parametrize(("grid", "image"), [("here", "other"), ("other", "there")])
def test_one_name_is_enough_to_prove_the_wrong_way(grid, image):
    from types import SimpleNamespace

    from regista.cli._chains import check_direction
    from regista.core import GeometryError

    backward = SimpleNamespace(fixed_space="there", moving_space="here")
    with pytest.raises(GeometryError, match="give the inverse"):
        check_direction(backward, SimpleNamespace(space=grid), SimpleNamespace(space=image))
    forward = SimpleNamespace(fixed_space="here", moving_space="there")
    check_direction(forward, SimpleNamespace(space=grid), SimpleNamespace(space=image))
