"""Reference of `regista.kernels.cpu.rows`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.int32]


def all_rows(shape: tuple[int, int, int]) -> Rows:
    """Return the rows of a volume in full."""
    return np.array([np.zeros(shape[:2]), np.full(shape[:2], shape[2])] * 2, np.int32)


def ranges_of(volume: ArrayLike, surround: float, tolerance: float) -> Rows:
    """Return where each row differs from its surround."""
    active = np.abs(np.asarray(volume, np.float64) - surround) > tolerance
    ranges = np.zeros((2, *active.shape[:2]), np.int32)
    ranges[0] = active.shape[2]
    for i, j, k in np.argwhere(active):
        ranges[0, i, j] = min(ranges[0, i, j], k)
        ranges[1, i, j] = max(ranges[1, i, j], k + 1)
    return ranges


def rows_of(ranges: Rows, depth: int, margin: int, reach: int) -> Rows:
    """Return the rows that hold given ranges, grown by a margin: every row in turn."""
    (_, inn, jn), kn = ranges.shape, depth
    rows = np.zeros((4, inn, jn), np.int32)
    rows[0], rows[2] = kn, kn
    for i, j in np.argwhere(ranges[1] > ranges[0]):
        near = np.s_[max(i - margin, 0) : i + margin + 1, max(j - margin, 0) : j + margin + 1]
        rows[0][near] = np.minimum(rows[0][near], max(ranges[0, i, j] - margin, 0))
        rows[1][near] = np.maximum(rows[1][near], min(ranges[1, i, j] + margin, kn))
    rows[0][rows[1] == 0] = max(kn - margin, 0)
    for i in range(inn):
        planes = slice(max(i - reach, 0), i + reach + 1)
        rows[2, i], rows[3, i] = rows[0][planes].min(axis=0), rows[1][planes].max(axis=0)
    return rows


def within(shape: tuple[int, ...], rows: Rows | None) -> NDArray[np.bool_]:
    """Return which voxels of a volume a kernel writes."""
    if rows is None:
        return np.ones(shape, bool)
    k = np.arange(shape[2])
    return np.asarray((k >= rows[0, ..., None]) & (k < rows[1, ..., None]))


def put(
    result: NDArray[np.float64], out: NDArray[np.floating] | None, rows: Rows | None
) -> NDArray[np.floating]:
    """Write the voxels of `rows` to `out` and leave the others; without `out`, the result itself."""
    if out is None:
        return result
    here = within(result.shape[-3:], rows)
    out[..., here] = result[..., here]
    return out
