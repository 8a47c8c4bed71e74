"""Images: what is written is read back, on oblique, flipped, two-dimensional and damaged files."""

from __future__ import annotations

import gzip
import logging
import os

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regista.core import FormatError, GeometryError, Grid, Image, LabelImage, stack_channels, threads
from regista.io import non_finite_count, read, read_labels, write
from regista.io._gzip import compress, decompress
from regista.transforms import resample

EXACT = (".mha", ".nrrd")
ROUNDED = (".nii", ".nii.gz", ".mgz")


def same_places(a: Grid, b: Grid, tolerance_mm: float = 1e-4) -> bool:
    return a.shape == b.shape and bool(np.abs(a.corners_mm() - b.corners_mm()).max() < tolerance_mm)


@pytest.mark.parametrize("suffix", [*EXACT, *ROUNDED])
def test_oblique_volume_comes_back(tmp_path, grid, rng, suffix):
    image = Image(rng.normal(size=grid.shape).astype(np.float32), grid)
    write(tmp_path / f"scan{suffix}", image)
    back = read(tmp_path / f"scan{suffix}")
    assert back.space == "scan"
    assert back.data.dtype == np.float32
    assert back.data.flags.c_contiguous
    assert back.data.flags.writeable
    np.testing.assert_array_equal(back.data, image.data)
    assert same_places(back.grid, grid, 1e-9 if suffix in EXACT else 1e-4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 7), min_size=2, max_size=3),
    dtype=st.sampled_from(["uint8", "int16", "int32", "uint16", "float32", "float64"]),
    angles=st.tuples(*[st.floats(-170, 170)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 5)] * 3),
    kind=st.sampled_from(["scalar", "series", "channels"]),
    seed=st.integers(0, 2**31),
)
def test_nifti_round_trip(tmp_path, make_grid, shape, dtype, angles, spacing, kind, seed):
    grid = make_grid(tuple(shape), spacing, angles)
    lead = () if kind == "scalar" else (4,)
    data = np.random.default_rng(seed).integers(0, 200, (*lead, *shape)).astype(dtype)
    write(tmp_path / "a.nii.gz", Image(data, grid, kind))
    back = read(tmp_path / "a.nii.gz")
    assert (back.kind, back.data.dtype.name) == (kind, dtype)
    np.testing.assert_array_equal(back.data, data)
    assert same_places(back.grid, grid, 2e-4)


def test_itk_sees_the_same_voxels_in_the_same_places(tmp_path, grid, rng):
    image = Image(rng.normal(size=grid.shape).astype(np.float32), grid)
    write(tmp_path / "a.nii.gz", image)
    itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    index = (3, 11, 7)
    lps = np.array(itk.TransformIndexToPhysicalPoint(index))
    np.testing.assert_allclose(lps * [-1, -1, 1], grid.index2world(index), atol=1e-4)
    assert itk[index] == image.data[index]


def test_plane_keeps_two_axes_and_agrees_with_itk(tmp_path, grid_2d, rng):
    image = Image(rng.integers(0, 255, grid_2d.shape).astype(np.uint8), grid_2d)
    write(tmp_path / "slice.nii.gz", image)
    back = read(tmp_path / "slice.nii.gz")
    assert back.ndim == 2
    assert same_places(back.grid, grid_2d)
    itk = sitk.ReadImage(str(tmp_path / "slice.nii.gz"))
    lps = np.array(itk.TransformIndexToPhysicalPoint((9, 4)))
    np.testing.assert_allclose(-lps, grid_2d.index2world((9, 4)), atol=1e-4)


def test_picture_has_pixels_of_1_mm_and_channels(tmp_path, rng):
    rgb = rng.integers(0, 255, (10, 13, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(tmp_path / "p.png"))
    image = read(tmp_path / "p.png")
    assert (image.kind, image.data.shape) == ("channels", (3, 13, 10))
    np.testing.assert_array_equal(image.data[1], rgb[:, :, 1].T)
    np.testing.assert_allclose(image.grid.spacing, 1)
    np.testing.assert_allclose(read(tmp_path / "p.png", spacing=[0.5, 2]).grid.spacing, [0.5, 2])


def test_voxelmorph_archive(tmp_path, rng):
    vol = rng.random((5, 6, 7)).astype(np.float32)
    np.savez(tmp_path / "v.npz", vol=vol[None, ..., None], seg=np.rint(vol * 3).astype(np.uint8))
    np.testing.assert_array_equal(read(tmp_path / "v.npz").data, vol)
    assert read_labels(tmp_path / "v.npz").labels == [1, 2, 3]
    with pytest.raises(FormatError, match=r"no array 'x'.*vol, seg"):
        read(tmp_path / "v.npz", key="x")


def test_gzip_is_one_ordinary_stream_whatever_the_threads(rng):
    data = rng.integers(0, 9, 3_500_000).astype(np.uint8).tobytes()
    files = []
    for count in (1, 2):
        with threads(count):
            files.append(b"".join(compress(data)))
    assert files[0] == files[1]
    assert gzip.decompress(files[0]) == data
    assert decompress(gzip.compress(data[:99]) + gzip.compress(b"tail")) == data[:99] + b"tail"


def test_labels_refuse_fractions_and_read_whole_floats(tmp_path, grid):
    data = np.full(grid.shape, 2.0, np.float32)
    write(tmp_path / "l.nii.gz", Image(data, grid))
    labels = read_labels(tmp_path / "l.nii.gz", {2: "white matter"})
    assert isinstance(labels, LabelImage)
    assert (labels.labels, labels.names) == ([2], {2: "white matter"})
    write(tmp_path / "p.nii.gz", Image(data / 3, grid))
    with pytest.raises(FormatError, match=r"p\.nii\.gz.*fractions"):
        read_labels(tmp_path / "p.nii.gz")


def test_non_finite_voxels_are_counted(grid):
    data = np.zeros(grid.shape, np.float32)
    data[1, 2, 3], data[4, 5, 6] = np.nan, -np.inf
    assert non_finite_count(Image(data, grid)) == 2


def _header_edit(path, edit):
    import nibabel as nib

    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]))
    edit(header)
    raw[:348] = header.binaryblock
    path.write_bytes(raw)


def test_missing_geometry_is_assumed_aloud_as_itk_assumes_it(tmp_path, grid, caplog):
    path = tmp_path / "a.nii"
    write(path, Image(np.zeros(grid.shape, np.int16), grid))

    def strip(header):
        header["sform_code"] = header["qform_code"] = 0

    _header_edit(path, strip)
    with caplog.at_level(logging.WARNING):
        image = read(path)
    assert "neither sform nor qform" in caplog.text
    np.testing.assert_allclose(
        image.grid.grid2world, np.diag([*grid.spacing, 1]) * [[-1], [-1], [1], [1]], rtol=1e-6
    )
    itk = sitk.ReadImage(str(path))
    lps = np.array(itk.TransformIndexToPhysicalPoint((3, 2, 1)))
    np.testing.assert_allclose(lps * [-1, -1, 1], image.grid.index2world((3, 2, 1)), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("a.nii.gz", True),
        ("a.mha", True),
        ("a.nrrd", True),
        ("a.mgz", True),
        ("a.vtk", False),
        ("a.npz", False),
    ],
)
def test_a_file_tells_whether_it_states_an_orientation(tmp_path, grid, rng, name, states):
    image = Image(rng.normal(size=grid.shape).astype(np.float32), grid)
    assert not image.oriented
    if name == "a.vtk":
        sitk.WriteImage(sitk.GetImageFromArray(image.data), str(tmp_path / name))
    else:
        write(tmp_path / name, image)
    back = read(tmp_path / name)
    assert back.oriented is states


def test_headers_without_codes_and_pictures_state_no_orientation(tmp_path, grid, rng):
    bare = nibabel.Nifti1Image(rng.normal(size=(4, 5, 6)).astype(np.float32), None)
    nibabel.save(bare, tmp_path / "bare.nii")
    assert not read(tmp_path / "bare.nii").oriented
    sitk.WriteImage(sitk.Image(5, 4, sitk.sitkUInt8), str(tmp_path / "picture.png"))
    assert not read(tmp_path / "picture.png").oriented
    (tmp_path / "plain.nrrd").write_bytes(
        b"NRRD0004\ntype: uint8\ndimension: 3\nspace: 3D-right-handed\nsizes: 2 2 2\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n12345678"
    )
    assert not read(tmp_path / "plain.nrrd").oriented


def test_what_a_header_leaves_out_is_not_stated(tmp_path, rng):
    data = rng.normal(size=(4, 5)).astype(np.float32)
    coronal = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(data, coronal), tmp_path / "coronal.nii")
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "axial.nii")
    assert not read(tmp_path / "coronal.nii").oriented  # its directions are left out
    assert read(tmp_path / "axial.nii").oriented
    data.tofile(tmp_path / "a.raw")
    text = (
        "ObjectType = Image\nNDims = 2\nDimSize = 5 4\nElementType = MET_FLOAT\n{}ElementDataFile = a.raw\n"
    )
    for name, line in (("bare", ""), ("full", "TransformMatrix = 1 0 0 1\n")):
        (tmp_path / f"{name}.mhd").write_text(text.format(line), encoding="utf-8")
        assert read(tmp_path / f"{name}.mhd").oriented is (name == "full")


def test_orientation_stays_with_what_is_made_of_an_image(grid, rng):
    series = Image(rng.normal(size=(2, *grid.shape)).astype(np.float32), grid, "series", oriented=True)
    first = series.frames()[0]
    assert first.oriented
    assert stack_channels([first, first]).oriented
    assert not stack_channels([first, first.with_data(first.data, oriented=False)]).oriented
    assert resample(first, grid).oriented


def test_singular_geometry_is_refused(tmp_path, grid):
    path = tmp_path / "a.nii"
    write(path, Image(np.zeros(grid.shape, np.int16), grid))

    def flatten(header):
        header["srow_x"], header["srow_y"] = header["srow_z"], header["srow_z"]

    _header_edit(path, flatten)
    with pytest.raises(GeometryError, match=r"a\.nii.*singular"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.nii.gz", None, "does not exist"),
        ("zero.nii.gz", b"", "empty"),
        ("text.nii", b"not an image " * 60, "not NIfTI"),
        ("text.nii.gz", b"not an image " * 60, "not NIfTI"),
        ("text.mha", b"not an image " * 60, "cannot be read"),
        ("text.mgz", b"not an image " * 60, "cannot be read"),
        ("text.npz", b"not an image " * 60, "cannot be read"),
        ("text.png", b"not an image " * 60, "cannot be read"),
        ("text.docx", b"not an image", "no image format"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mgz"])
def test_truncated_files_are_refused(tmp_path, grid, rng, suffix, keep):
    path = tmp_path / f"a{suffix}"
    write(path, Image(rng.normal(size=grid.shape).astype(np.float32), grid))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(FormatError, match=f"a{suffix}"):
        read(path)


def test_dicom_series_are_told_apart(tmp_path, rng):
    volumes = {}
    for number, name in enumerate(("axial", "other"), start=1):
        volume = rng.integers(0, 1000, (4, 6, 5)).astype(np.int16)
        _write_dicom(tmp_path, volume, f"1.2.3.{number}", name)
        volumes[name] = volume
    with pytest.raises(FormatError, match=r"2 DICOM series.*axial: 1\.2\.3\.1.*other"):
        read(tmp_path)
    image = read(tmp_path, series="other")
    np.testing.assert_array_equal(image.data, volumes["other"].transpose(2, 1, 0))
    np.testing.assert_allclose(image.grid.spacing, [0.5, 0.8, 2.0], atol=1e-6)
    assert image.oriented
    with pytest.raises(FormatError, match="no DICOM series called"):
        read(tmp_path, series="third")


def _write_dicom(folder, volume, uid, name):
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in reversed(range(len(volume))):  # file names are not in slice order
        piece = sitk.GetImageFromArray(volume[k])
        piece.SetSpacing([0.5, 0.8])
        tags = {
            "0008|0060": "MR",
            "0008|103e": name,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{k + 1}",
            "0020|0032": f"1\\2\\{k * 2.0}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
            "0018|0050": "2",
        }
        for key, value in tags.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{name}{9 - k}.dcm"))
        writer.Execute(piece)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, grid, monkeypatch):
    path = tmp_path / "a.nii.gz"
    image = Image(np.ones(grid.shape, np.int16), grid)
    write(path, image)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FormatError, match=r"a\.nii\.gz.*disk is full"):
        write(path, image.with_data(image.data + 1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_bytes() == before


def test_write_into_a_missing_folder_says_so(tmp_path, grid):
    with pytest.raises(FormatError, match="does not exist; make it first"):
        write(tmp_path / "no" / "a.nii.gz", Image(np.ones(grid.shape, np.int16), grid))


def test_real_images(data_dir):
    brain = read(data_dir / "brain_t1" / "1000_t1.nii.gz")
    itk = sitk.ReadImage(str(data_dir / "brain_t1" / "1000_t1.nii.gz"))
    assert (brain.grid.orientation, brain.space) == ("LAS", "1000_t1")
    np.testing.assert_array_equal(brain.data, sitk.GetArrayViewFromImage(itk).transpose(2, 1, 0))
    plane = read(data_dir / "t1t2_slices_2d" / "S10_t1.nii.gz")
    itk = sitk.ReadImage(str(data_dir / "t1t2_slices_2d" / "S10_t1.nii.gz"))
    lps = np.array(itk.TransformIndexToPhysicalPoint((20, 70)))
    np.testing.assert_allclose(-lps, plane.grid.index2world((20, 70)), atol=1e-3)


@pytest.mark.parametrize("seconds", [None, 0.8, 1.0, 2.25])
def test_the_time_between_frames_comes_back(tmp_path, grid, rng, seconds):
    image = Image(rng.normal(size=(3, *grid.shape)).astype(np.float32), grid, "series", frame_seconds=seconds)
    write(tmp_path / "bold.nii.gz", image)
    assert read(tmp_path / "bold.nii.gz").frame_seconds == seconds
    assert sitk.ReadImage(str(tmp_path / "bold.nii.gz")).GetSpacing()[3] == pytest.approx(seconds or 1.0)


@pytest.mark.parametrize(
    ("unit", "step", "seconds"),
    [
        ("msec", 800, 0.8),
        ("usec", 2e6, 2.0),
        ("unknown", 2.5, 2.5),
        ("unknown", 1, None),
        ("hz", 2, None),
        ("sec", 0, None),
    ],
)
def test_the_time_between_frames_has_a_unit(tmp_path, grid, unit, step, seconds):
    nifti = nibabel.Nifti1Image(np.zeros((*grid.shape, 3), np.float32), grid.grid2world)
    nifti.header.set_xyzt_units("mm", unit)
    nifti.header["pixdim"][4] = step
    nifti.to_filename(tmp_path / "bold.nii")
    assert read(tmp_path / "bold.nii").frame_seconds == seconds


def test_only_a_series_has_time_between_frames(grid):
    with pytest.raises(GeometryError, match="frame_seconds"):
        Image(np.zeros(grid.shape), grid, frame_seconds=2.0)
    with pytest.raises(GeometryError, match="frame_seconds"):
        Image(np.zeros((2, *grid.shape)), grid, "series", frame_seconds=0.0)
