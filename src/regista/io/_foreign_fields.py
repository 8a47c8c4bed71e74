"""Displacement fields of FSL and AFNI, as their own documentation defines them.

nitransforms negates the first component of FSL's vectors and takes the rest for world displacements, which holds
for images along the world's axes alone; FSL's vectors lead between coordinates that each image counts from its own
corner, along its own axes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, GeometryError, Grid
from regista.io._field_files import field_between, single_field
from regista.io._files import reading, suffix_of
from regista.io._nifti import INTENT_VECTOR, c_ordered, grid_of, load, save
from regista.transforms import DisplacementField, Transform

Matrix = NDArray[np.float64]
_log = logging.getLogger(__name__)

INTENT_FSL_FIELD = 2006
INTENTS_FSL_COEFFICIENTS = (2007, 2008, 2009, 2016, 2017)
_OBLIQUE_DEGREES = 0.01  # from here on AFNI calls a grid oblique


def fsl_mm(grid: Grid) -> Matrix:
    """Return the matrix from voxels to FSL's mm: along the array axes, the first mirrored in a right-handed grid."""
    matrix = np.diag([*grid.spacing, 1.0])
    if np.linalg.det(grid.grid2world[:3, :3]) > 0:
        matrix[0, 0] *= -1
        matrix[0, 3] = (grid.shape[0] - 1) * grid.spacing[0]
    return matrix


def read_fsl_field(
    path: Path, fixed: Grid | None, moving: Grid | None, *, absolute: bool
) -> DisplacementField:
    """Read a warp of fnirt or convertwarp: displacements, or coordinates, in FSL's mm of the moving image."""
    with reading(path, "an FSL warp"):
        header, data = load(path)
        intent = int(header["intent_code"])
        if intent in INTENTS_FSL_COEFFICIENTS:
            raise FormatError(
                "it holds spline coefficients, not a field: make one with FSL's fnirtfileutils "
                "--in=COEFFICIENTS --ref=FIXED --out=WARP --withaff"
            )
        if data.ndim != 4 or data.shape[3] != 3:
            raise FormatError(f"its size is {data.shape}; a warp of FSL is (I, J, K, 3)")
        grid = grid_of(header, 3, path)
        moving = _need_moving(path, moving)
        if fixed is not None and not fixed.same_as(grid):
            raise GeometryError(
                f"it lies on {grid.describe()}, the fixed image on {fixed.describe()}; an FSL warp counts from the "
                "corner of its own grid: give the image it was made for, or none"
            )
        vectors = np.moveaxis(c_ordered(data), -1, 0).astype(np.float64)
        _warn_of_the_other_kind(path, vectors, grid, moving, absolute)
        there = vectors if absolute else vectors + _fsl_places(grid)
        return field_between(_placed(moving.grid2world @ np.linalg.inv(fsl_mm(moving)), there), grid)


def write_fsl_field(
    path: Path, transform: Transform, fixed: Grid | None, moving: Grid | None, *, absolute: bool
) -> None:
    """Write a warp for applywarp and convertwarp."""
    field = _on_nifti(path, transform, fixed, "FSL")
    grid, moving = field.grid, _need_moving(path, moving)
    world = grid.coordinates_mm() + field.vectors_mm
    there = _placed(fsl_mm(moving) @ moving.world2grid, world)
    if not absolute:
        there -= _fsl_places(grid)
    save(path, np.moveaxis(there, 0, -1).astype(np.float32), grid, INTENT_FSL_FIELD)


def read_afni_field(path: Path) -> DisplacementField:
    """Read a warp of 3dQwarp in NIfTI: displacements in mm of AFNI's DICOM order, which is LPS."""
    with reading(path, "an AFNI warp"):
        header, data = load(path)
        shape = data.shape
        if data.ndim == 5 and shape[3] == 1:
            data = data[:, :, :, 0]
        if data.ndim != 4 or data.shape[3] != 3:
            raise FormatError(f"its size is {shape}; a warp of AFNI is (I, J, K, 1, 3) or (I, J, K, 3)")
        grid = grid_of(header, 3, path)
        _refuse_oblique(grid)
        vectors = np.moveaxis(c_ordered(data), -1, 0).astype(np.float32)
        vectors[:2] *= -1
        return DisplacementField(np.ascontiguousarray(vectors), grid)


def write_afni_field(path: Path, transform: Transform, fixed: Grid | None) -> None:
    """Write a warp for 3dNwarpApply: NIfTI with three sub-bricks."""
    field = _on_nifti(path, transform, fixed, "AFNI")
    with reading(path, "an AFNI warp"):
        _refuse_oblique(field.grid)
    lps = field.vectors_mm * np.array([-1, -1, 1], np.float32)[:, None, None, None]
    save(path, np.moveaxis(lps, 0, -1)[:, :, :, None], field.grid, INTENT_VECTOR)


def _on_nifti(path: Path, transform: Transform, fixed: Grid | None, tool: str) -> DisplacementField:
    if transform.ndim != 3:
        raise FormatError(f"{path}: {tool}'s warps are 3-D, got a {transform.ndim}-D transform; write .h5")
    if suffix_of(path) not in (".nii", ".nii.gz"):
        raise FormatError(f"{path}: {tool}'s warps are written as .nii.gz or .nii, not {suffix_of(path)!r}")
    return single_field(transform, fixed, path)


def _need_moving(path: Path, moving: Grid | None) -> Grid:
    if moving is None:
        raise FormatError(
            f"{path}: an FSL warp leads to mm counted from the moving image's corner: give that image: "
            "--moving MOVING (in Python moving=)"
        )
    if moving.ndim != 3:
        raise GeometryError(f"{path}: an FSL warp is 3-D, the moving image is {moving.ndim}-D")
    return moving


def _fsl_places(grid: Grid) -> Matrix:
    return _placed(fsl_mm(grid), np.indices(grid.shape, dtype=np.float64))


def _placed(matrix: Matrix, points: NDArray[Any]) -> Matrix:
    """Map points, components first."""
    shape = (-1, *[1] * (points.ndim - 1))
    return np.asarray(np.tensordot(matrix[:3, :3], points, 1) + matrix[:3, 3].reshape(shape))


def _warn_of_the_other_kind(path: Path, vectors: Matrix, grid: Grid, moving: Grid, absolute: bool) -> None:
    """Say so where the vectors change from voxel to voxel as those of the other kind do.

    Between scans of one orientation coordinates change by a mm for each mm and displacements hardly at all;
    between others as the change of axes says.
    """
    axes = [axis for axis in range(3) if grid.shape[axis] > 1]
    if not axes:
        return
    steps = fsl_mm(grid).diagonal()[axes]
    slopes = np.array([np.median(np.diff(vectors, axis=axis + 1), axis=(1, 2, 3)) for axis in axes]).T / steps
    coordinates = (fsl_mm(moving) @ moving.world2grid @ grid.grid2world @ np.linalg.inv(fsl_mm(grid)))[
        :3, axes
    ]
    displacements = coordinates - np.eye(3)[:, axes]
    nearer = np.linalg.norm(slopes - coordinates) < np.linalg.norm(slopes - displacements)
    if nearer == absolute:
        return
    told, other, name = (
        ("coordinates", "displacements", "fsl")
        if absolute
        else ("displacements", "coordinates", "fsl-absolute")
    )
    _log.warning("%s was read as %s but looks like %s: if so, say format %s", path, told, other, name)


def _refuse_oblique(grid: Grid) -> None:
    angle = float(np.degrees(np.arccos(np.minimum(1, np.abs(grid.direction).max(axis=0)))).max())
    if angle > _OBLIQUE_DEGREES:
        raise GeometryError(
            f"the grid is oblique ({angle:.2f} degrees), and AFNI applies warps as if it were not: make the fixed "
            "image straight first (3dWarp -deoblique), or write a format that knows oblique grids: .h5 or .nii.gz "
            "of ITK and ANTs, .x5, or FSL's (--to fsl)"
        )
