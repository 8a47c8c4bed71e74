"""Reference of `regista.kernels.cpu.ngf`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.intensity import spatial_gradient

Volume = NDArray[np.floating]


def mean_gradient(volume: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Return the weighted mean magnitude of an image's gradient."""
    size = np.linalg.norm(spatial_gradient(volume), axis=0)
    q = np.ones_like(size) if weight is None else np.asarray(weight, np.float64)
    return float((q * size).sum() / q.sum()) if q.sum() > 0 else 0.0


def ngf_field(volume: ArrayLike, edge: float) -> NDArray[np.float64]:
    """Return the normalized gradient field."""
    slope = spatial_gradient(volume)
    return np.asarray(slope / np.sqrt((slope**2).sum(axis=0) + edge**2))


def least_of_neighbours(weight: ArrayLike, *, out: Volume | None = None) -> Volume:
    """Return the least weight of every voxel and its neighbours along the axes."""
    given = np.asarray(weight, np.float64)
    least = given.copy()
    for axis in range(given.ndim):
        target, source = np.moveaxis(least, axis, 0), np.moveaxis(given, axis, 0)
        np.minimum(target[1:], source[:-1], out=target[1:])
        np.minimum(target[:-1], source[1:], out=target[:-1])
    if out is None:
        return least
    out[...] = least
    return out


def difference_matrix(n: int) -> NDArray[np.float64]:
    """Return the matrix that takes differences along an axis of n voxels."""
    return np.asarray(spatial_gradient(np.eye(n)[:, :, None])[0, :, :, 0])


def ngf_gradient(
    field: ArrayLike, warped: ArrayLike, weight: ArrayLike | None, edge: float, scale: float, *, out: Volume
) -> float:
    """Return the weighted likeness of the directions and write ``scale`` times its derivative to `out`."""
    normal, slope = np.asarray(field, np.float64), spatial_gradient(warped)
    q = np.ones(slope.shape[1:]) if weight is None else np.asarray(weight, np.float64)
    along, size = (normal * slope).sum(axis=0), (slope**2).sum(axis=0) + edge**2
    by_slope = q * (2 * along / size * normal - 2 * along**2 / size**2 * slope)
    out[...] = 0
    for axis, n in enumerate(slope.shape[1:]):
        back = np.tensordot(difference_matrix(n).T, by_slope[axis], axes=(1, axis))
        out += scale * np.moveaxis(back, 0, axis)
    return float((q * along**2 / size).sum())
