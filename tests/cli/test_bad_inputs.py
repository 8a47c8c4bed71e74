"""What cannot be registered: a message that names the trouble, exit code 2, nothing written."""

from __future__ import annotations

import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from regista.core import Grid, Image
from regista.io import _files, read, write


def edited(path, target, **fields):
    """Copy a NIfTI file with other header fields."""
    image = nib.load(path)
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    body = np.asarray(image.dataobj).tobytes(order="F")
    target.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4 + body, 1))


def truncated(pair, folder):
    raw = (pair / "fixed.nii.gz").read_bytes()
    (folder / "a.nii.gz").write_bytes(raw[: len(raw) // 2])


def truncated_inside(pair, folder):
    raw = gzip.decompress((pair / "fixed.nii.gz").read_bytes())
    (folder / "a.nii.gz").write_bytes(gzip.compress(raw[: len(raw) // 2]))


def text(pair, folder):
    (folder / "a.nii.gz").write_text("subject,age\n1,44\n" * 90, encoding="utf-8")


def empty(pair, folder):
    (folder / "a.nii.gz").write_bytes(b"")


def folder_without_slices(pair, folder):
    (folder / "a.nii.gz").mkdir()


def no_voxels(pair, folder):
    raw = bytearray(gzip.decompress((pair / "fixed.nii.gz").read_bytes()))
    raw[40:48] = struct.pack("<4h", 3, 26, 0, 17)
    (folder / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))


def altered(change):
    def make(pair, folder):
        fixed = read(pair / "fixed.nii.gz")
        data = np.array(fixed.data)
        write(folder / "a.nii.gz", fixed.with_data(change(data)))

    return make


def not_a_number(data):
    data[3:5, 4, 5] = np.nan
    return data


def plane(pair, folder):
    fixed = read(pair / "fixed.nii.gz")
    write(folder / "a.nii.gz", Image(fixed.data[:, :, 8], Grid(fixed.grid.shape[:2], np.eye(3))))


def singular(pair, folder):
    zero = dict.fromkeys(("srow_x", "srow_y"), (1.0, 1.0, 0.0, 0.0))
    edited(pair / "fixed.nii.gz", folder / "a.nii.gz", qform_code=0, **zero)


def not_finite(pair, folder):
    edited(pair / "fixed.nii.gz", folder / "a.nii.gz", qform_code=0, srow_x=(np.nan, 0, 0, 0))


def complex_numbers(pair, folder):
    image = nib.load(pair / "fixed.nii.gz")
    data = np.asarray(image.dataobj).astype(np.complex64)
    nib.save(nib.Nifti1Image(data, image.affine), folder / "a.nii.gz")


CASES = {
    "missing": (lambda pair, folder: None, "does not exist"),
    "empty file": (empty, "empty (0 bytes)"),
    "truncated": (truncated, "truncated"),
    "truncated voxels": (truncated_inside, "truncated"),
    "not an image": (text, "not NIfTI"),
    "a folder": (folder_without_slices, "no DICOM series"),
    "no voxels": (no_voxels, "empty image"),
    "NaN": (altered(not_a_number), "--non-finite mask"),
    "Inf": (altered(lambda data: np.where(data > 9, np.inf, data)), "NaN or Inf"),
    "constant": (altered(lambda data: np.full_like(data, 7)), "constant"),
    "2-D with 3-D": (plane, "2-D"),
    "singular header": (singular, "singular"),
    "header that is not finite": (not_finite, "not finite"),
    "complex": (complex_numbers, "complex"),
}


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("case", CASES)
def test_register_refuses(pair, call, tmp_path, case, role):
    make, message = CASES[case]
    (tmp_path / "in").mkdir()
    make(pair, tmp_path / "in")
    files = {"fixed": pair / "fixed.nii.gz", "moving": pair / "moving.nii.gz"}
    files[role] = tmp_path / "in" / "a.nii.gz"
    words = ("register", files["fixed"], files["moving"], "-o", tmp_path / "new" / "out")
    done = call(*words, "--preset", "translation")
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert role in done.stderr or "a.nii.gz" in done.stderr  # which of the two it is
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert os.listdir(tmp_path) == ["in"]


def test_nan_voxels_can_be_left_out(pair, call, tmp_path):
    CASES["NaN"][0](pair, tmp_path)
    words = ("register", tmp_path / "a.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out", "-q")
    assert call(*words, "--preset", "translation", "--non-finite", "mask").exit_code == 0


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_masks_that_cannot_serve(pair, call, tmp_path, role):
    image = read(pair / f"{role}.nii.gz")
    write(tmp_path / "none.nii.gz", image.with_data(np.zeros(image.data.shape, np.uint8)))
    moved = image.grid.grid2world.copy()
    moved[0, 3] += 5
    ones = np.ones(image.data.shape, np.uint8)
    write(tmp_path / "moved.nii.gz", Image(ones, Grid(image.grid.shape, moved)))
    write(tmp_path / "flat.nii.gz", Image(ones[..., 0], Grid(image.grid.shape[:2], np.eye(3))))
    words = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out", "-q")
    for name, message in (("none", "empty"), ("moved", "another grid"), ("flat", "3-D")):
        done = call(*words, f"--{role}-mask", tmp_path / f"{name}.nii.gz", "--preset", "translation")
        assert done.exit_code == 2, done.output
        assert f"{role} mask" in done.stderr
        assert message in done.stderr
        assert not (tmp_path / "out").exists()


def test_scans_far_apart_are_found_or_refused(pair, call, tmp_path):
    far = read(pair / "moving.nii.gz")
    matrix = far.grid.grid2world.copy()
    matrix[:3, 3] += (900.0, -700.0, 400.0)
    write(tmp_path / "far.nii.gz", Image(far.data, Grid(far.grid.shape, matrix)))
    words = ("register", pair / "fixed.nii.gz", tmp_path / "far.nii.gz", "-o", tmp_path / "out")
    done = call(*words, "--preset", "translation")  # which does not search for a start
    assert done.exit_code == 2
    assert "do not overlap" in done.stderr
    assert not (tmp_path / "out").exists()
    done = call(*words, "--preset", "translation", "--set", "start.search=rotations")
    assert done.exit_code == 0, done.output
    assert "do not overlap in world space" in done.stderr  # a warning


def test_a_scan_too_large_for_memory_is_told_before_it_is_read(pair, call, tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "available_bytes", lambda: 50_000)
    done = call("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "GB of memory" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_written_is_found_out_first(pair, call, tmp_path, monkeypatch):
    import tempfile

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)  # root may write anywhere
    done = call("register", pair / "absent.nii.gz", pair / "moving.nii.gz", "-o", tmp_path / "a" / "out")
    assert done.exit_code == 2
    assert "Permission denied; choose another folder" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way_of_a_result_is_found_out_before_any_is_moved(pair, call, tmp_path):
    (tmp_path / "warped.nii.gz").mkdir()
    words = ("register", pair / "fixed.nii.gz", pair / "moving.nii.gz", "-o", tmp_path, "-q")
    done = call(*words, "--preset", "translation")
    assert done.exit_code == 2
    assert "is a folder" in done.stderr
    assert os.listdir(tmp_path) == ["warped.nii.gz"]
