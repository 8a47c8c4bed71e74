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
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n", encoding="utf-8")
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
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n", encoding="utf-8")
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
    told = call("info", warp)
    assert told.exit_code == 0
    assert "FSL warp" in told.stdout
    assert "26×31×17 voxels" in told.stdout
    assert "--moving MOVING" in told.stdout
    told = call("info", warp, "--format", format, "--moving", moving)
    assert "displacement (mm)" in told.stdout


def test_info_tells_kinds_apart(pair, registered, call, tmp_path) -> None:
    files = [pair / "fixed.nii.gz", registered / "fixed2moving.h5", registered / "record.json"]
    done = call("info", *files, "--json")
    assert done.exit_code == 0, done.output
    assert [entry["kind"] for entry in json.loads(done.stdout)["files"]] == ["image", "transform", "record"]
    plain = call("info", *files).stdout
    assert "26×31×17 voxels" in plain
    assert "fixed space: fixed" in plain


def test_info_goes_on_after_a_bad_file(pair, call, tmp_path) -> None:
    (tmp_path / "text.nii.gz").write_text("no image", encoding="utf-8")
    files = [
        tmp_path / "absent.nii.gz",
        pair / "fixed.nii.gz",
        tmp_path / "text.nii.gz",
        pair / "mask.nii.gz",
    ]
    done = call("info", *files)
    assert done.exit_code == 2
    assert done.stdout.count("26×31×17 voxels") == 2
    assert "absent.nii.gz does not exist" in done.stderr
    assert "text.nii.gz" in done.stderr
    done = call("info", *files, "--json")
    assert done.exit_code == 2
    told = json.loads(done.stdout)["files"]
    assert [entry["file"] for entry in told] == [str(path) for path in files]
    assert ["error" in entry for entry in told] == [True, False, True, False]


def test_info_knows_a_result_folder(pair, registered, call, tmp_path) -> None:
    done = call("info", registered)
    assert done.exit_code == 0, done.output
    for text in (
        "registered in",
        "similarity (NCC)",
        "plan: translation",
        "fixed2moving.h5",
        "moving space: moving",
    ):
        assert text in done.stdout
    told = json.loads(call("info", registered, "--json").stdout)["files"][0]
    assert told["kind"] == "result"
    assert told["moving2fixed.h5"][0]["fixed space"] == "moving"
    (tmp_path / "record.json").write_bytes((registered / "record.json").read_bytes())
    (tmp_path / "fixed2moving.h5").write_text("broken", encoding="utf-8")
    done = call("info", tmp_path)
    assert done.exit_code == 2
    assert "fixed2moving.h5" in done.stderr
    (tmp_path / "fixed2moving.h5").unlink()
    assert "fixed2moving.h5: missing" in call("info", tmp_path).stdout
    (tmp_path / "record.json").write_text("{}", encoding="utf-8")
    done = call("info", tmp_path)
    assert (done.exit_code, "not a record" in done.stderr) == (2, True)


@pytest.mark.parametrize("endian", "<>")
def test_info_says_what_coefficients_and_unmarked_fields_need(pair, call, tmp_path, endian) -> None:
    import nibabel as nib

    data = np.zeros((5, 6, 7, 3), np.float32)
    header = nib.Nifti1Header(endianness=endian)
    for name, intent in (("coefficients", 2009), ("warp", 2006), ("bare", 0)):
        image = nib.Nifti1Image(data, np.diag([2.0, 3, 4, 1]), header)
        image.header["intent_code"] = intent
        nib.save(image, tmp_path / f"{name}.nii.gz")
    assert "fnirtfileutils" in call("info", tmp_path / "coefficients.nii.gz").stdout
    assert "FSL warp" in call("info", tmp_path / "warp.nii.gz").stdout
    told = call("info", tmp_path / "bare.nii.gz").stdout
    assert "if they are displacements, name the tool: --format fsl" in told
    (tmp_path / "warp.m3z").write_bytes(b"x")
    done = call("info", tmp_path / "warp.m3z")
    assert (done.exit_code, "mri_warp_convert" in done.stderr) == (2, True)


def test_a_label_map_without_labels_is_told(pair, registered, call, tmp_path) -> None:
    moving = read(pair / "moving.nii.gz")
    labels = np.indices(moving.data.shape).sum(0) // 19 * 7
    ct = np.where(moving.data > 5, moving.data * 10, -1024)
    scans = {"labels": labels.astype(np.int16), "whole": labels.astype(np.float32), "image": moving.data,
             "ct": ct.astype(np.int16), "ones": np.ones_like(labels, np.uint8)}  # fmt: skip
    words = (
        "apply",
        registered / "fixed2moving.h5",
        "--like",
        pair / "fixed.nii.gz",
        "-o",
        tmp_path / "o.nii.gz",
    )
    for name, data in scans.items():
        write(tmp_path / f"{name}.nii.gz", moving.with_data(data))
        done = call(*words, tmp_path / f"{name}.nii.gz")
        assert done.exit_code == 0
        assert ("looks like a label map" in done.stderr) == (name in ("labels", "whole")), name
        assert ("--labels" in done.stderr) == (name in ("labels", "whole"))
    for extra in (["--labels"], ["--interpolation", "nearest"], ["--quiet"]):
        assert call(*words, tmp_path / "labels.nii.gz", *extra).stderr == ""


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
    from regista.cli._chains import check_direction
    from regista.core import GeometryError

    backward = Translation.by([1.0, 2.0, 3.0], "there", "here")
    with pytest.raises(GeometryError, match="give the inverse"):
        check_direction(backward, grid, image)
    check_direction(Translation.by([1.0, 2.0, 3.0], "here", "there"), grid, image)


def test_scans_of_one_file_name_are_told_apart_by_their_folders(pair, call, tmp_path) -> None:
    for folder, name in (("one", "fixed"), ("two", "moving")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "t1.nii.gz", read(pair / f"{name}.nii.gz"))
    scans = [tmp_path / folder / "t1.nii.gz" for folder in ("one", "two")]
    assert call("register", *scans, "-o", tmp_path / "out", "--preset", "translation").exit_code == 0
    words = (scans[1], "--like", scans[0], "-o", tmp_path / "again.nii.gz")
    wrong = call("apply", tmp_path / "out/moving2fixed.h5", *words)
    assert wrong.exit_code == 2, wrong.output
    assert "wrong way round" in wrong.stderr
    assert not (tmp_path / "again.nii.gz").exists()
    assert call("apply", tmp_path / "out/fixed2moving.h5", *words).exit_code == 0


def test_points_of_the_moving_image_are_not_sent_the_wrong_way(registered, call, tmp_path) -> None:
    from regista.core import Mesh, PointSet

    write(tmp_path / "moving.mrk.json", PointSet(np.array([[1.0, 2.0, 3.0]])))
    write(tmp_path / "moving.gii", Mesh(np.eye(3), np.array([[0, 1, 2]])))
    for name in ("moving.mrk.json", "moving.gii"):
        out = tmp_path / f"out{name.removeprefix('moving')}"
        words = ("apply-points", registered / "fixed2moving.h5", tmp_path / name, "-o", out)
        done = call(*words)
        assert done.exit_code == 2, done.output
        assert "leads from 'fixed' to 'moving'" in done.stderr
        assert "regista invert" in done.stderr
        assert not out.exists()
        assert call(*words, "--ignore-spaces").exit_code == 0
        back = ("apply-points", registered / "moving2fixed.h5", tmp_path / name, "-o", out)
        assert call(*back).exit_code == 0


@pytest.fixture
def ct(pair, tmp_path):
    """Return the moving image as CT: Hounsfield units, -1024 around."""
    moving = read(pair / "moving.nii.gz")
    data = np.clip(moving.data * 10 - 1024, -1024, None).astype(np.int16)
    data[0, :, :] = data[-1, :, :] = -1024
    data[5, 5, 5] = -2000  # a bad voxel: the smallest, but not the background
    write(tmp_path / "ct.nii.gz", moving.with_data(data))
    return tmp_path / "ct.nii.gz"


@pytest.mark.parametrize(
    ("fill", "value"), [(None, -1024), ("auto", -1024), ("min", -2000), ("-77", -77), ("edge", None)]
)
def test_what_lies_outside_is_filled_as_asked(pair, registered, call, ct, tmp_path, fill, value) -> None:
    far = read(pair / "fixed.nii.gz").grid
    moved = far.grid2world.copy()
    moved[:3, 3] += far.direction @ np.array([0, 13.0, 0])  # half of it beyond the image
    write(tmp_path / "like.nii.gz", Image(np.zeros(far.shape, np.uint8), type(far)(far.shape, moved)))
    words = ("apply", ct, "--like", tmp_path / "like.nii.gz", "-o", tmp_path / "out.nii.gz", "--json")
    done = call(*words, *([] if fill is None else ["--fill", fill]))
    assert done.exit_code == 0, done.output
    out = read(tmp_path / "out.nii.gz")
    inside = read(ct).grid.contains(np.moveaxis(out.grid.coordinates_mm(), 0, -1))
    assert 0.1 < inside.mean() < 0.9
    assert json.loads(done.stdout)["fill"] == ("edge" if value is None else value)
    if value is not None:
        assert (out.data[~inside] == value).all()
    else:
        assert out.data[~inside].std() > 1  # what the border holds, place by place
        assert out.data[~inside].min() >= -2000


def test_fill_of_labels_and_other_words_are_refused(pair, call, ct, tmp_path) -> None:
    words = ("apply", ct, "--like", pair / "fixed.nii.gz", "-o", tmp_path / "out.nii.gz")
    done = call(*words, "--fill", "air")
    assert (done.exit_code, "number, auto, min or edge, got 'air'" in done.stderr) == (2, True)
    done = call(*words, "--labels", "--fill", "3")
    assert (done.exit_code, "background" in done.stderr) == (2, True)
    done = call(*words, "--fill", "-1024", "--dtype", "uint8")
    assert (done.exit_code, "does not fit" in done.stderr) == (2, True)
    assert call(*words, "--dtype", "uint8").exit_code == 0  # the value found is clipped as voxels are
    assert read(tmp_path / "out.nii.gz").data.min() == 0
    assert "Python" not in done.stderr


def test_register_fills_as_apply_does(pair, call, ct, tmp_path) -> None:
    fixed = read(pair / "fixed.nii.gz")
    matrix = fixed.grid.grid2world.copy()
    matrix[:3, 3] = fixed.grid.index2world([-4, -4, -4])
    data = np.pad(fixed.data, 4)
    write(tmp_path / "wide.nii.gz", Image(data, type(fixed.grid)(data.shape, matrix)))
    words = ("register", tmp_path / "wide.nii.gz", ct, "--preset", "translation", "-q", "-o")
    assert call(*words, tmp_path / "a").exit_code == 0
    assert call(*words, tmp_path / "b", "--fill", "-5").exit_code == 0
    for name, value in (("a", -1024), ("b", -5)):
        record = json.loads((tmp_path / name / "record.json").read_text(encoding="utf-8"))
        assert record["measures"]["fill"] == value
        assert (read(tmp_path / name / "warped.nii.gz").data == value).sum() > 100
    words = (
        "apply",
        tmp_path / "a/fixed2moving.h5",
        ct,
        "--like",
        tmp_path / "wide.nii.gz",
        "--dtype",
        "float32",
    )
    assert call(*words, "-o", tmp_path / "c.nii.gz").exit_code == 0
    warped = read(tmp_path / "a/warped.nii.gz").data
    np.testing.assert_allclose(read(tmp_path / "c.nii.gz").data, warped, atol=1e-2)
