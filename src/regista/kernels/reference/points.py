"""Reference of `regista.kernels.cpu.points`."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.sampling import sample_points


def map_affine(points: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Return ``affine(p)``."""
    matrix = np.asarray(affine, np.float64)
    return np.asarray(np.asarray(points, np.float64) @ matrix[:, :3].T + matrix[:, 3])


def add_field(points: ArrayLike, field: ArrayLike, to_vox: ArrayLike) -> NDArray[np.float64]:
    """Return ``p + field(to_vox(p))``, zero outside the lattice."""
    vectors = sample_points(np.asarray(field), map_affine(points, to_vox), "linear", 0.0)
    return np.asarray(np.asarray(points, np.float64) + vectors.T)


def field_at(field: ArrayLike, points_vox: ArrayLike) -> NDArray[np.float64]:
    """Read the field at places moved onto the lattice."""
    vectors = np.asarray(field, np.float64)
    places = np.clip(np.asarray(points_vox, np.float64), 0, np.array(vectors.shape[1:]) - 1)
    return np.asarray(sample_points(vectors, places, "linear", 0.0).T)


def spread(points_vox: ArrayLike, vectors: ArrayLike, *, out: NDArray[np.floating]) -> NDArray[np.floating]:
    """Add each vector to the voxels less than one away, by their hat functions."""
    top = np.array(out.shape[1:]) - 1
    for place, vector in zip(
        np.clip(np.asarray(points_vox, float), 0, top), np.asarray(vectors), strict=True
    ):
        for corner in product((0, 1), repeat=3):
            at = np.floor(place).astype(int) + corner
            share = np.maximum(1 - np.abs(at - place), 0).prod()
            if share > 0:
                out[(slice(None), *at)] += share * vector
    return out


def value_and_slope(
    volume: ArrayLike, points_vox: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the volume; the slope by its differences along each axis of the cell."""
    voxels, places = np.asarray(volume, np.float64), np.asarray(points_vox, np.float64)
    top = np.array(voxels.shape) - 1
    held = np.clip(places, 0, top)
    value = sample_points(voxels, held, "linear", 0.0)
    slope = np.zeros(held.shape)
    for axis in range(3):
        free = (places[:, axis] >= 0) & (places[:, axis] <= top[axis]) & (top[axis] > 0)
        ends = []
        for step in (0, 1):
            at = held.copy()
            at[:, axis] = np.minimum(np.floor(held[:, axis]), max(top[axis] - 1, 0)) + step
            ends.append(sample_points(voxels, np.minimum(at, top), "linear", 0.0))
        slope[:, axis] = np.where(free, ends[1] - ends[0], 0)
    return value, slope
