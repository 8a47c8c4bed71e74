"""Reference of `regista.kernels.cpu.labels`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion


def overlap_counts(a: NDArray[Any], b: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Count voxels of each code in `a`, in `b`, and in both."""
    both = [np.count_nonzero((a == n) & (b == n)) for n in range(count)]
    return np.array([[np.count_nonzero(x == n) for n in range(count)] for x in (a, b)] + [both])


def border_voxels(codes: NDArray[Any], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Erode each code by its face neighbours; what goes is its border."""
    near = np.zeros((3, 3, 3), bool)
    near[1, 1, 1] = True
    for axis, size in enumerate(codes.shape):
        if size > 1 or codes.size == 1:
            place: list[Any] = [1, 1, 1]
            place[axis] = slice(None)
            near[tuple(place)] = True
    parts = [np.empty(0, np.int64)]
    for n in range(1, count):
        mask = codes == n
        parts.append(np.flatnonzero(mask & ~binary_erosion(mask, near)))
    return np.cumsum([0, *map(len, parts)]), np.concatenate(parts)


def surface_cells(
    codes: NDArray[Any], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Add up shifted copies of each code's mask, one bit per corner."""
    pads = [(1, 1) if size > 1 else (0, 1) for size in codes.shape]
    padded = np.pad(codes, pads)
    for axis, size in enumerate(codes.shape):
        if size == 1:
            padded = np.repeat(np.take(padded, [0], axis), 2, axis)
    parts, bits = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    shape = tuple(n - 1 for n in padded.shape)
    for n in range(1, count):
        cells = np.zeros(shape, np.int64)
        for c in range(8):
            i, j, k = c >> 2 & 1, c >> 1 & 1, c & 1
            part = padded[i : i + shape[0], j : j + shape[1], k : k + shape[2]]
            cells += (part == n) * (1 << (7 - c))
        crossed = np.flatnonzero((cells != 0) & (cells != 255))
        parts.append(crossed)
        bits.append(cells.ravel()[crossed].astype(np.uint8))
    return np.cumsum([0, *map(len, parts)]), np.concatenate(parts), np.concatenate(bits)
