"""Slab by slab, where the voxels of a fixed grid lie in the moving image, through the whole chain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid
from regista.kernels.cpu.points import add_field, map_affine
from regista.kernels.cpu.sampling import pull_coords
from regista.transforms._base import Transform
from regista.transforms._bspline import BSplineField
from regista.transforms._composite import unpack
from regista.transforms._fields import DisplacementField, VelocityField
from regista.transforms._linear import Affine
from regista.transforms._tps import ThinPlateSpline

_SLAB_POINTS = 1 << 17


def places_mm(
    transform: Transform, grid: Grid
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield ``(flat range of the grid, fixed points, their images)``: mm, ``(N, 3)`` even in 2-D."""
    chain = _ready(transform, grid)
    row = grid.size // grid.shape[0]
    shape, matrix = grid.as_3d().shape, grid.as_3d().grid2world[:3]
    for first, stop in _slabs(grid):
        fixed = pull_coords(matrix, shape, first, stop)
        moving = fixed
        for element in chain:
            moving = _move(element, moving)
        yield slice(first * row, stop * row), fixed, moving


def places_vox(
    transform: Transform | None, grid: Grid, moving: Grid
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield ``(flat range of the grid, (N, 3) voxel coordinates in the moving grid)``.

    A linear map, and a field on the grid itself followed by linear maps, go through one fused kernel.
    """
    chain = [] if transform is None else _ready(transform, grid)
    field = _leading_field(chain, grid)
    rest = chain[1:] if field is not None else chain
    if not all(isinstance(t, Affine) for t in rest):
        to_vox = moving.as_3d().world2grid[:3]
        assert transform is not None
        for where, _, points in places_mm(transform, grid):
            yield where, map_affine(points, to_vox)
        return
    matrix = _homogeneous(moving.as_3d().world2grid, rest)
    affine = (matrix @ grid.as_3d().grid2world)[:3]
    shape, vectors, linear = grid.as_3d().shape, None, None
    if field is not None:
        vectors, linear = _as_3d(field), matrix[:3, :3]
    row = grid.size // grid.shape[0]
    for first, stop in _slabs(grid):
        coords = pull_coords(affine, shape, first, stop, vectors, linear)
        yield slice(first * row, stop * row), coords


def _ready(transform: Transform, grid: Grid) -> list[Transform]:
    """Return the elements of a chain, those that a dense field on the grid stands for at its voxels as such."""
    chain = [t.displacement() if isinstance(t, VelocityField) else t for t in unpack(transform)]
    if isinstance(chain[0], BSplineField):
        chain[0] = chain[0].displacement(grid)
    return chain


def _move(transform: Transform, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map ``(N, 3)`` points, in 2-D within the plane z = 0."""
    if isinstance(transform, Affine):
        return map_affine(points_mm, _embed(transform.matrix)[:3])
    if isinstance(transform, DisplacementField):
        return add_field(points_mm, _as_3d(transform), transform.grid.as_3d().world2grid[:3])
    if isinstance(transform, ThinPlateSpline):
        return transform.map_3d(points_mm)
    moved = points_mm.copy()
    moved[:, : transform.ndim] = transform.map_points(points_mm[:, : transform.ndim])
    return moved


def _slabs(grid: Grid) -> Iterator[tuple[int, int]]:
    step = max(1, _SLAB_POINTS * grid.shape[0] // grid.size)
    for first in range(0, grid.shape[0], step):
        yield first, min(first + step, grid.shape[0])


def _leading_field(chain: list[Transform], grid: Grid) -> DisplacementField | None:
    if chain and isinstance(chain[0], DisplacementField) and chain[0].grid.same_as(grid, 1e-6):
        return chain[0]
    return None


def _homogeneous(world2grid: NDArray[np.float64], rest: list[Transform]) -> NDArray[np.float64]:
    """Return the 4×4 matrix from world mm through the linear maps to moving voxels."""
    total = np.eye(4)
    for element in rest:
        assert isinstance(element, Affine)
        total = _embed(element.matrix) @ total
    return np.asarray(world2grid @ total)


def _embed(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(matrix) == 4:
        return matrix
    full = np.eye(4)
    full[:2, :2], full[:2, 3] = matrix[:2, :2], matrix[:2, 2]
    return full


def _as_3d(field: DisplacementField) -> NDArray[np.float32]:
    if field.ndim == 3:
        return field.vectors_mm
    vectors = np.concatenate([field.vectors_mm, np.zeros_like(field.vectors_mm[:1])])
    return np.ascontiguousarray(vectors[..., None])
