"""Reference of `regista.kernels.cpu.samples`: the dense functions, read at the voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.bspline import Axis, spline_expand, spline_reduce
from regista.kernels.reference.warp import warp, warp_gradient

Array = NDArray[np.float64]
Voxels = NDArray[np.int64]


def spline_at(control: ArrayLike, axes: Sequence[Axis], voxels: Voxels) -> Array:
    """Return the dense field of control points, ``(C, N)``, at flat voxels."""
    field = spline_expand(control, axes)
    return field.reshape(len(field), -1)[:, voxels]


def spline_spread(values: ArrayLike, axes: Sequence[Axis], voxels: Voxels) -> Array:
    """Return the adjoint of `spline_at`."""
    values = np.asarray(values, np.float64)
    dense = np.zeros((len(values), *(len(axis) for axis in axes)))
    for one, flat in zip(values, dense.reshape(len(values), -1), strict=True):
        np.add.at(flat, voxels, one)
    return spline_reduce(dense, axes)


def warp_at(
    moving: ArrayLike, affine: ArrayLike, disp: ArrayLike, voxels: Voxels, shape: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Return warped values, their derivative by the displacement, and whether places lie inside."""
    one = np.ones((1, 1, 1))
    values, slopes, inside = [], [], []
    for voxel, vector in zip(voxels, np.asarray(disp, np.float64).T, strict=True):
        place = (np.array(np.unravel_index(voxel, shape)) + vector).reshape(3, 1, 1, 1)  # seen from voxel 0
        within = np.empty((1, 1, 1))
        values.append(warp(moving, affine, place, shape=(1, 1, 1), inside=within).item())
        slopes.append(warp_gradient(moving, affine, place, one).ravel())
        inside.append(within.item())
    return np.array(values), np.array(slopes).T, np.array(inside)
