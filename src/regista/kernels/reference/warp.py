"""Reference of `regista.kernels.cpu.warp`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.rows import Rows, put
from regista.kernels.reference.sampling import sample_points


def warp(
    moving: ArrayLike,
    affine: ArrayLike,
    disp: ArrayLike | None = None,
    *,
    shape: tuple[int, int, int],
    out: NDArray[np.floating] | None = None,
    inside: NDArray[np.floating] | None = None,
    rows: Rows | None = None,
) -> NDArray[np.floating]:
    """Sample `moving` at ``affine(x + disp(x))``; places outside take the nearest edge value."""
    voxels, matrix = np.asarray(moving, np.float64), np.asarray(affine, np.float64)
    places = np.indices(shape, dtype=np.float64)
    if disp is not None:
        places = places + np.asarray(disp, np.float64)
    coords = matrix[:, :3] @ places.reshape(3, -1) + matrix[:, 3:]
    top = np.array(voxels.shape)[:, None] - 1.0
    if inside is not None:
        flags = ((coords >= -0.5) & (coords <= top + 0.5)).all(axis=0)
        put(np.asarray(flags, np.float64).reshape(shape), inside, rows)
    warped = sample_points(voxels, np.clip(coords, 0, top).T, "linear", 0.0)
    return put(warped.reshape(shape), out, rows)


def warp_gradient(
    moving: ArrayLike,
    affine: ArrayLike,
    disp: ArrayLike,
    gradient: ArrayLike,
    *,
    out: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Return ``g(x) ∂W/∂u(x)`` of the warped image, by the derivative of its linear interpolant."""
    voxels, matrix = np.asarray(moving, np.float64), np.asarray(affine, np.float64)
    slope = np.asarray(gradient, np.float64)
    places = np.indices(slope.shape, dtype=np.float64) + np.asarray(disp, np.float64)
    coords = matrix[:, :3] @ places.reshape(3, -1) + matrix[:, 3:]
    coords = np.where(np.abs(coords - np.rint(coords)) < 1e-5, np.rint(coords), coords)
    top = np.array(voxels.shape)[:, None] - 1.0
    free = (coords >= 0) & (coords <= top) & (top > 0)
    coords = np.clip(coords, 0, top)
    low = np.minimum(coords.astype(int), np.maximum(top.astype(int) - 1, 0))
    part = coords - low
    along = np.zeros_like(coords)
    for corner in np.ndindex(2, 2, 2):
        at = np.minimum(low + np.array(corner)[:, None], top.astype(int))
        weight = np.where(np.array(corner)[:, None] == 1, part, 1 - part)
        sign = np.where(np.array(corner)[:, None] == 1, 1.0, -1.0)
        value = voxels[tuple(at)]
        for axis in range(3):
            others = [a for a in range(3) if a != axis]
            along[axis] += sign[axis] * weight[others[0]] * weight[others[1]] * value
    moved = matrix[:, :3].T @ (along * free)
    result = moved.reshape(3, *slope.shape) * slope
    return put(result, out, None)


def warp_adjoint(
    gradient: ArrayLike, affine: ArrayLike, disp: ArrayLike, *, moving_shape: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Return the derivative by the moving image: the transpose of the linear interpolation."""
    slope, matrix = np.asarray(gradient, np.float64), np.asarray(affine, np.float64)
    places = np.indices(slope.shape, dtype=np.float64) + np.asarray(disp, np.float64)
    coords = matrix[:, :3] @ places.reshape(3, -1) + matrix[:, 3:]
    top = np.array(moving_shape)[:, None] - 1
    coords = np.clip(coords, 0, top)
    low = np.minimum(coords.astype(int), np.maximum(top - 1, 0))
    part = coords - low
    out = np.zeros(moving_shape)
    for corner in np.ndindex(2, 2, 2):
        side = np.array(corner)[:, None]
        at = np.minimum(low + side, top)
        weight = np.where(side == 1, part, 1 - part).prod(axis=0)
        np.add.at(out, tuple(at), weight * slope.ravel())
    return out
