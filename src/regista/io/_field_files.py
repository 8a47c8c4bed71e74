"""Displacement fields as images: ANTs/ITK NIfTI fields, and voxel fields of Learn2Reg and VoxelMorph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, GeometryError, Grid
from regista.io._files import check_exists, reading, replacing, suffix_of
from regista.io._nifti import INTENT_DISPLACEMENT, INTENT_VECTOR, c_ordered, grid_of, load, save
from regista.transforms import (
    Composite,
    DisplacementField,
    ThinPlateSpline,
    Transform,
    VelocityField,
    to_displacement_field,
)


def single_field(transform: Transform, grid: Grid | None, path: Path) -> DisplacementField:
    """Return a transform as one displacement field, on `grid` or on that of the field applied first."""
    _refuse_splines(transform, grid, path)
    if grid is None:
        if isinstance(transform, DisplacementField):
            return transform
        first = Composite((transform,)).flatten().transforms[0]
        if not isinstance(first, DisplacementField | VelocityField):
            raise FormatError(
                f"{path}: a displacement field needs the fixed image's grid: --like FIXED (in Python fixed=), or write .h5"
            )
        grid = first.grid
    if isinstance(transform, DisplacementField) and transform.grid.same_as(grid, 1e-9):
        return transform
    return to_displacement_field(transform, grid)


def without_splines(transform: Transform, grid: Grid | None, path: Path) -> Transform:
    """Return a chain with its thin-plate splines, which no file holds, sampled as a displacement field on `grid`.

    The affine part of the last one stays apart: beyond the grid, where the field ends, it goes on.
    """
    _refuse_splines(transform, grid, path)
    parts = Composite((transform,)).flatten().transforms
    splines = [n for n, part in enumerate(parts) if isinstance(part, ThinPlateSpline)]
    if not splines:
        return transform
    last = parts[splines[-1]]
    assert isinstance(last, ThinPlateSpline)
    assert grid is not None
    bending, affine = last.split()
    field = to_displacement_field(Composite((*parts[: splines[-1]], bending)), grid)
    return Composite((field, affine, *parts[splines[-1] + 1 :]))


def _refuse_splines(transform: Transform, grid: Grid | None, path: Path) -> None:
    parts = Composite((transform,)).flatten().transforms
    if grid is None and any(isinstance(part, ThinPlateSpline) for part in parts):
        raise FormatError(
            f"{path}: a thin-plate spline is written as a displacement field on the fixed image's grid: --like FIXED "
            "(in Python fixed=)"
        )


def read_nifti_field(path: Path) -> DisplacementField:
    """Read a field of world displacements: NIfTI of 5 axes, vectors LPS as in ANTs, ITK and Greedy."""
    with reading(path, "a displacement field"):
        header, data = load(path)
        if data.ndim <= 3:
            size = "×".join(map(str, data.shape))
            raise FormatError(
                f"it is an image of {size}, not a displacement field: it has no axis of vectors"
            )
        if data.ndim != 5 or data.shape[3] != 1 or data.shape[4] not in (2, 3):
            raise FormatError(
                f"its size is {data.shape}; a displacement field of ANTs or ITK is (I, J, K, 1, 3). If it is another "
                "tool's, say so: --format fsl, fsl-absolute, afni, learn2reg or voxelmorph (in Python format=), with the "
                "images it belongs to"
            )
        ndim = data.shape[4]
        if ndim == 2 and data.shape[2] != 1:
            raise FormatError(f"its size is {data.shape}: vectors of 2 components need a single slice")
        intent = int(header["intent_code"])
        if intent not in (INTENT_VECTOR, INTENT_DISPLACEMENT, 0):
            raise FormatError(f"its NIfTI intent is {intent}, expected {INTENT_VECTOR} (vector)")
        grid = grid_of(header, ndim, path)
        parts = data.reshape(*grid.shape, ndim)
        vectors = np.stack([c_ordered(parts[..., axis]) for axis in range(ndim)]).astype(
            np.float32, copy=False
        )
        if intent != INTENT_DISPLACEMENT:  # that one is in the world of the file, RAS, by the standard
            vectors[:2] *= -1
        return DisplacementField(vectors, grid)


def write_nifti_field(path: Path, transform: Transform, grid: Grid | None = None) -> None:
    """Write a field as ANTs and ITK do: NIfTI of 5 axes, intent 1007, LPS."""
    field = single_field(transform, grid, path)
    shape, n = field.grid.shape, field.ndim
    lps = field.vectors_mm.copy()
    lps[:2] *= -1
    save(path, np.moveaxis(lps, 0, -1).reshape(*shape, *[1] * (4 - n), n), field.grid, INTENT_VECTOR)


def field_between(there_mm: NDArray[Any], fixed: Grid) -> DisplacementField:
    """Return the field that takes the voxels of `fixed` to places in the world, ``(ndim, *shape)`` mm."""
    if not np.isfinite(there_mm).all():
        raise FormatError("it holds NaN or Inf displacements")
    return DisplacementField((there_mm - fixed.coordinates_mm()).astype(np.float32), fixed)


def read_voxel_field(path: Path, fixed: Grid | None, moving: Grid | None, name: str) -> DisplacementField:
    """Read ``moving voxel = fixed voxel + d(fixed voxel)``, components first or last."""
    fixed, moving = _grids(path, fixed, moving, name)
    with reading(path, f"a {name} field"):
        data = _components_first(_array(path), fixed)
        index = np.indices(fixed.shape, dtype=np.float32) + data
        return field_between(np.moveaxis(moving.index2world(np.moveaxis(index, 0, -1)), -1, 0), fixed)


def write_voxel_field(
    path: Path, transform: Transform, fixed: Grid | None, moving: Grid | None, name: str
) -> None:
    """Write voxel displacements, components last; see `read_voxel_field`."""
    fixed, moving = _grids(path, fixed, moving, name)
    field = single_field(transform, fixed, path)
    world = np.moveaxis(fixed.coordinates_mm() + field.vectors_mm, 0, -1)
    data = (moving.world2index(world) - np.moveaxis(np.indices(fixed.shape), 0, -1)).astype(np.float32)
    if suffix_of(path) == ".npz":
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, vol=data)
    elif suffix_of(path) in (".nii", ".nii.gz"):
        save(path, data, fixed)
    else:
        raise FormatError(f"{path}: a {name} field is written as .nii.gz or .npz, not {suffix_of(path)!r}")


def _grids(path: Path, fixed: Grid | None, moving: Grid | None, name: str) -> tuple[Grid, Grid]:
    if fixed is None:
        raise FormatError(
            f"{path}: a {name} field counts in voxels: give the images whose voxels they are: "
            "--like FIXED --moving MOVING (in Python fixed= and moving=)"
        )
    moving = moving or fixed
    if fixed.ndim != moving.ndim:
        raise GeometryError(f"the fixed grid is {fixed.ndim}-D and the moving one {moving.ndim}-D")
    return fixed, moving


def _array(path: Path) -> NDArray[Any]:
    if suffix_of(path) in (".nii", ".nii.gz"):
        return load(path)[1]
    if suffix_of(path) not in (".npz", ".npy"):
        raise FormatError(f"voxel fields are .nii.gz, .npz or .npy, not {suffix_of(path)!r}")
    check_exists(path, "a field")
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1 and "vol" not in loaded.files:
            raise FormatError(f"it holds several arrays ({', '.join(loaded.files)}), expected one field")
        array: NDArray[Any] = loaded["vol" if "vol" in loaded.files else loaded.files[0]]
    return array


def _components_first(data: NDArray[Any], grid: Grid) -> NDArray[np.float32]:
    n, shape = grid.ndim, tuple(data.shape)
    kept = data.reshape([s for s in shape if s != 1]) if 1 in shape and 1 not in grid.shape else data
    if kept.shape == (*grid.shape, n):
        kept = np.moveaxis(kept, -1, 0)
    elif kept.shape != (n, *grid.shape):
        raise FormatError(
            f"its size is {shape}; on a fixed grid of {grid.shape} expected {(*grid.shape, n)} or {(n, *grid.shape)}"
        )
    if kept.dtype.kind not in "iuf":
        raise FormatError(f"it holds values of type {kept.dtype}, expected numbers")
    return kept.astype(np.float32)
