"""Slab by slab, where the voxels of a fixed grid lie in the moving image, through the whole chain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid
from regista.kernels.cpu.sampling import pull_coords
from regista.transforms._base import Transform
from regista.transforms._composite import unpack
from regista.transforms._fields import DisplacementField, VelocityField
from regista.transforms._linear import Affine

_SLAB_POINTS = 1 << 17


def places_mm(
    transform: Transform, grid: Grid
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield ``(first flat index, fixed points, their images)``, both in mm and ``(N, ndim)``."""
    for first, stop in _slabs(grid):
        block = np.indices((stop - first, *grid.shape[1:]), dtype=np.float64).reshape(grid.ndim, -1)
        block[0] += first
        fixed = grid.index2world(block.T)
        yield first * (grid.size // grid.shape[0]), fixed, transform.map_points(fixed)


def places_vox(
    transform: Transform | None, grid: Grid, moving: Grid
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield ``(flat range of the grid, (N, 3) voxel coordinates in the moving grid)``.

    A linear map, and a field on the grid itself followed by linear maps, go through one fused kernel.
    """
    chain = [] if transform is None else unpack(transform)
    chain = [t.displacement() if isinstance(t, VelocityField) else t for t in chain]
    field = _leading_field(chain, grid)
    rest = chain[1:] if field is not None else chain
    if not all(isinstance(t, Affine) for t in rest):
        yield from _through_points(chain, grid, moving)
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


def _through_points(
    chain: list[Transform], grid: Grid, moving: Grid
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    row = grid.size // grid.shape[0]
    for first, stop in _slabs(grid):
        block = np.indices((stop - first, *grid.shape[1:]), dtype=np.float64).reshape(grid.ndim, -1)
        block[0] += first
        points = grid.index2world(block.T)
        for element in chain:
            points = element.map_points(points)
        coords = moving.world2index(points)
        if grid.ndim == 2:
            coords = np.pad(coords, ((0, 0), (0, 1)))
        yield slice(first * row, stop * row), coords


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
