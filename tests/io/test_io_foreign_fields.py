"""Warps of FSL and AFNI on analytic maps: what the vectors mean, by those tools' own definitions."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest

from regista.core import FormatError, GeometryError, Grid
from regista.io import read_transform, write_transform
from regista.transforms import Affine, Composite, DisplacementField

TURN = np.array([[0.96, 0.1, 0.02, 4.0], [-0.08, 1.05, 0.1, -3.0], [0.03, -0.06, 0.98, 2.0], [0, 0, 0, 1]])


def analytic(points):
    """Map world points, (…, 3): an affine map and a smooth wave."""
    moved = points @ TURN[:3, :3].T + TURN[:3, 3]
    return moved + 2.0 * np.sin(points[..., [1, 2, 0]] / 9.0)


def handed(grid: Grid, right: bool) -> Grid:
    """Return the grid, its first axis turned round where that gives the handedness wanted."""
    if (np.linalg.det(grid.grid2world[:3, :3]) > 0) == right:
        return grid
    matrix = grid.grid2world.copy()
    matrix[:, 0] *= -1
    return Grid(grid.shape, matrix)


@pytest.fixture(params=[(True, True), (True, False), (False, True), (False, False)], ids=str)
def scene(request, make_grid):
    """Oblique, anisotropic fixed and moving grids of either handedness, and the map on the fixed one."""
    fixed = handed(make_grid(), request.param[0])
    moving = handed(make_grid((12, 10, 15), (0.9, 1.3, 1.1), (-14, 9, 4), (-12, 25, -7)), request.param[1])
    here = np.moveaxis(fixed.coordinates_mm(), 0, -1)
    vectors = np.moveaxis(analytic(here) - here, -1, 0).astype(np.float32)
    return fixed, moving, DisplacementField(vectors, fixed)


def fsl_place(grid: Grid, index):
    """Return FSL's coordinates of voxels: mm from a corner, from the other end of x in right-handed grids."""
    place = np.asarray(index, float) * grid.spacing
    if np.linalg.det(grid.grid2world[:3, :3]) > 0:
        place[..., 0] = (grid.shape[0] - 1 - np.asarray(index)[..., 0]) * grid.spacing[0]
    return place


@pytest.mark.parametrize("format", ["fsl", "fsl-absolute"])
def test_fsl_vectors_lead_from_corner_mm_to_corner_mm(tmp_path, scene, format):
    fixed, moving, field = scene
    write_transform(tmp_path / "w.nii.gz", field, format=format, fixed=fixed, moving=moving)
    image = nib.load(tmp_path / "w.nii.gz")
    assert image.shape == (*fixed.shape, 3)
    assert int(image.header["intent_code"]) == 2006
    index = np.array([[0, 0, 0], [3, 7, 2], [10, 13, 8], [5, 1, 6]])
    value = np.asarray(image.dataobj)[tuple(index.T)]
    in_moving = moving.world2index(analytic(fixed.index2world(index)))
    expected = fsl_place(moving, in_moving)
    if format == "fsl":
        expected = expected - fsl_place(fixed, index)
    np.testing.assert_allclose(value, expected, atol=1e-4)


@pytest.mark.parametrize("format", ["fsl", "fsl-absolute"])
def test_fsl_warps_come_back(tmp_path, scene, format, caplog):
    fixed, moving, field = scene
    chain = Composite((field, Affine(np.linalg.inv(TURN))))  # composed into one field
    write_transform(tmp_path / "w.nii.gz", chain, format=format, moving=moving)
    with caplog.at_level(logging.WARNING):
        back = read_transform(tmp_path / "w.nii.gz", format=format, moving=moving)
    assert caplog.records == []
    index = np.array([[1, 2, 3], [8, 11, 6]])
    points = fixed.index2world(index)
    np.testing.assert_allclose(back.map_points(points), chain.map_points(points), atol=1e-3)


def test_the_wrong_kind_of_fsl_warp_is_noticed(tmp_path, scene, caplog):
    fixed, moving, field = scene
    for written, read in (("fsl", "fsl-absolute"), ("fsl-absolute", "fsl")):
        write_transform(tmp_path / "w.nii.gz", field, format=written, moving=moving)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read_transform(tmp_path / "w.nii.gz", format=read, fixed=fixed, moving=moving)
        assert f"say format {written}" in caplog.text


def test_the_kind_is_told_between_scans_of_any_orientation(tmp_path, scene, caplog):
    _, moving, field = scene
    for order in ((1, 2, 0), (2, 0, 1), (0, 2, 1)):
        for signs in ((1, 1, 1), (-1, 1, -1)):
            matrix = moving.grid2world[:, [*order, 3]] * (*signs, 1)
            other = Grid(tuple(moving.shape[axis] for axis in order), matrix)
            for format in ("fsl", "fsl-absolute"):
                write_transform(tmp_path / "w.nii", field, format=format, moving=other)
                with caplog.at_level(logging.WARNING):
                    back = read_transform(tmp_path / "w.nii", format=format, moving=other)
                np.testing.assert_allclose(back.vectors_mm, field.vectors_mm, atol=1e-3)
    assert caplog.records == []


def test_fsl_warps_as_nitransforms_reads_them_where_it_can(tmp_path, make_grid):
    from nitransforms.io.fsl import FSLDisplacementsField

    grid = make_grid((11, 14, 9), (1.0, 0.7, 2.3), (0.0, 0.0, 0.0))  # LAS along the world's axes
    here = np.moveaxis(grid.coordinates_mm(), 0, -1)
    field = DisplacementField(np.moveaxis(analytic(here) - here, -1, 0).astype(np.float32), grid)
    write_transform(tmp_path / "w.nii.gz", field, format="fsl", moving=grid)
    theirs = FSLDisplacementsField.from_image(nib.load(tmp_path / "w.nii.gz"))
    np.testing.assert_allclose(np.moveaxis(theirs.get_fdata(), -1, 0), field.vectors_mm, atol=1e-4)


def test_fsl_warps_that_cannot_be_read_are_refused(tmp_path, scene):
    _, moving, field = scene
    path = tmp_path / "w.nii.gz"
    write_transform(path, field, format="fsl", moving=moving)
    with pytest.raises(FormatError, match=r"--moving MOVING"):
        read_transform(path, format="fsl")
    with pytest.raises(GeometryError, match="counts from the corner of its own grid"):
        read_transform(path, format="fsl", fixed=moving, moving=moving)
    with pytest.raises(FormatError, match=r"--format fsl, fsl-absolute, afni"):
        read_transform(path)
    image = nib.load(path)
    image.header["intent_code"] = 2007
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), tmp_path / "c.nii.gz")
    with pytest.raises(FormatError, match="fnirtfileutils"):
        read_transform(tmp_path / "c.nii.gz", format="fsl", moving=moving)
    with pytest.raises(FormatError, match=r"written as \.nii\.gz"):
        write_transform(tmp_path / "w.txt", field, format="fsl-absolute", moving=moving)
    with pytest.raises(FormatError, match=r"3-D, got a 2-D.*write \.h5"):
        write_transform(path, Affine(np.eye(3)), format="fsl", moving=moving)


def straight(order: str) -> Grid:
    """Return an anisotropic grid along the world's axes in any order and direction, such as ``'LPS'``."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, letter in enumerate(order):
        world = next(n for n, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        matrix[world, axis] = (1.0, 0.7, 2.3)[axis] * (1 if letter in "RAS" else -1)
    matrix[:3, 3] = (31.0, -18.0, 44.0)
    return Grid((11, 14, 9), matrix)


@pytest.mark.parametrize("order", ["RAS", "LPS", "ASR", "ILP"])
def test_afni_vectors_are_lps_mm(tmp_path, order):
    from nitransforms.io.afni import AFNIDisplacementsField

    grid = straight(order)
    here = np.moveaxis(grid.coordinates_mm(), 0, -1)
    field = DisplacementField(np.moveaxis(analytic(here) - here, -1, 0).astype(np.float32), grid)
    write_transform(tmp_path / "w.nii.gz", field, format="afni")
    image = nib.load(tmp_path / "w.nii.gz")
    assert image.shape == (11, 14, 9, 1, 3)
    index = np.array([3, 7, 2])
    point = grid.index2world(index)
    np.testing.assert_allclose(
        np.asarray(image.dataobj)[3, 7, 2, 0], (analytic(point) - point) * (-1, -1, 1), atol=1e-5
    )
    theirs = AFNIDisplacementsField.from_image(image)
    np.testing.assert_allclose(np.moveaxis(theirs.get_fdata(), -1, 0), field.vectors_mm, atol=1e-6)
    np.testing.assert_array_equal(
        read_transform(tmp_path / "w.nii.gz", format="afni").vectors_mm, field.vectors_mm
    )
    four = nib.Nifti1Image(np.asarray(image.dataobj)[:, :, :, 0], image.affine)
    nib.save(four, tmp_path / "four.nii")
    back = read_transform(tmp_path / "four.nii", format="afni")
    np.testing.assert_array_equal(back.vectors_mm, field.vectors_mm)


def test_afni_warps_on_oblique_grids_are_refused(tmp_path, scene):
    _, _, field = scene
    with pytest.raises(GeometryError, match=r"oblique .* write a format that knows oblique grids: \.h5"):
        write_transform(tmp_path / "w.nii.gz", field, format="afni")
    assert list(tmp_path.iterdir()) == []
    write_transform(tmp_path / "itk.nii.gz", field)
    with pytest.raises(GeometryError, match="oblique"):
        read_transform(tmp_path / "itk.nii.gz", format="afni")
    with pytest.raises(FormatError, match="holds a linear transform, got a field"):
        write_transform(tmp_path / "w.1D", field)
