"""Reference of `regista.kernels.cpu.sampling`."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

LANCZOS_RADIUS = 5


def _inside(shape: tuple[int, ...], coords: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(((coords >= -0.5) & (coords <= np.array(shape) - 0.5)).all(axis=1))


def spline_coefficients(image: ArrayLike) -> NDArray[np.float64]:
    """Return cubic B-spline coefficients, edges mirrored."""
    coefficients = np.asarray(image, np.float64)
    for axis in range(-3, 0):
        if coefficients.shape[axis] > 1:
            coefficients = ndimage.spline_filter1d(coefficients, 3, axis, np.float64, "mirror")
    return coefficients


def sample_points(
    image: ArrayLike, coords_vox: ArrayLike, order: str = "linear", fill: float = 0.0
) -> NDArray[np.float64]:
    """Interpolate ``(I, J, K)`` or ``(C, I, J, K)`` voxels at ``(N, 3)`` places."""
    voxels = np.asarray(image, np.float64)
    coords = np.asarray(coords_vox, np.float64)
    if voxels.ndim == 4:
        return np.stack([sample_points(channel, coords, order, fill) for channel in voxels])
    read = {"nearest": _nearest, "linear": _linear, "cubic": _cubic, "lanczos": _lanczos}[order]
    out = np.full(len(coords), fill, np.float64)
    inside = _inside(voxels.shape, coords)
    out[inside] = read(voxels, coords[inside])
    return out


def nearest_index(shape: tuple[int, ...], coords_vox: ArrayLike) -> NDArray[np.int64]:
    """Return the flat index of the nearest voxel, −1 outside."""
    coords = np.asarray(coords_vox, np.float64)
    inside = _inside(shape, coords)
    near = np.clip(np.floor(np.where(inside[:, None], coords, 0) + 0.5).astype(int), 0, np.array(shape) - 1)
    return np.where(inside, np.ravel_multi_index(tuple(near.T), shape), -1)


def vote_labels(labels: ArrayLike, coords_vox: ArrayLike, background: int = 0) -> NDArray[np.int32]:
    """Interpolate each label's indicator image and take the largest; the smaller label among equals."""
    voxels = np.asarray(labels)
    values = np.unique(voxels)
    weights = np.stack([sample_points(voxels == value, coords_vox) for value in values])
    best = values[np.argmax(weights, axis=0)]
    inside = _inside(voxels.shape, np.asarray(coords_vox, np.float64))
    return np.where(inside, best, background).astype(np.int32)


def pull_coords(
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    start: int,
    stop: int,
    field: NDArray[np.float32] | None = None,
    linear: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return ``affine(x) + linear · field(x)`` at voxels ``start <= i < stop``."""
    index = np.indices(shape, dtype=np.float64)[:, start:stop].reshape(3, -1)
    coords = affine[:, :3] @ index + affine[:, 3:]
    if field is not None and linear is not None:
        coords += linear @ np.asarray(field, np.float64)[:, start:stop].reshape(3, -1)
    return np.ascontiguousarray(coords.T)


def _nearest(voxels: NDArray[np.float64], coords: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(voxels.reshape(-1)[nearest_index(voxels.shape, coords)])


def _linear(voxels: NDArray[np.float64], coords: NDArray[np.float64]) -> NDArray[np.float64]:
    top = np.array(voxels.shape) - 1
    coords = np.clip(coords, 0, top)
    low = np.floor(coords).astype(int)
    fraction = coords - low
    total = np.zeros(len(coords))
    for corner in itertools.product((0, 1), repeat=3):
        at = np.minimum(low + corner, top)
        weight = np.prod(np.where(np.array(corner) == 1, fraction, 1 - fraction), axis=1)
        total += weight * voxels[tuple(at.T)]
    return total


def _cubic(voxels: NDArray[np.float64], coords: NDArray[np.float64]) -> NDArray[np.float64]:
    single = np.array(voxels.shape) == 1
    places = np.where(single, 0, coords)
    return np.asarray(ndimage.map_coordinates(voxels, places.T, order=3, mode="mirror"))


def _lanczos(voxels: NDArray[np.float64], coords: NDArray[np.float64]) -> NDArray[np.float64]:
    radius = LANCZOS_RADIUS
    values = np.empty(len(coords))
    for n, place in enumerate(coords):
        block, offsets = voxels, np.arange(1 - radius, radius + 1)
        for x, size in zip(place, voxels.shape, strict=True):
            taps = int(np.floor(x)) + offsets
            weight = np.sinc(x - taps) * np.sinc((x - taps) / radius)
            line = np.take(block, np.clip(taps, 0, size - 1), axis=0)
            block = np.tensordot(weight / weight.sum(), line, axes=1)
        values[n] = block
    return values
