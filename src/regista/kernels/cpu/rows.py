"""Which voxels of a volume are worth computing: a range along the last axis for each row.

A skull-stripped scan is half empty. `rows` is an int32 array ``(4, I, J)``: kernels write the voxels
``rows[0, i, j] <= k < rows[1, i, j]`` and leave the others as they are; ``rows[2:]`` are the same ranges widened
along the first axis, for the planes a filter reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import ndimage

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit


@lru_cache(maxsize=16)
def all_rows(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the rows of a volume in full."""
    rows = np.zeros((4, *shape[:2]), np.int32)
    rows[1::2] = shape[2]
    return rows


def for_rows(body: Callable[[int, int], object], rows: np.ndarray) -> None:
    """Call ``body(start, stop)`` over ranges of the first axis with equal numbers of voxels, one per thread."""
    work = np.maximum(rows[1] - rows[0], 0).sum(axis=1) + 1
    parallel_for(body, rows.shape[1], work=work, voxels=int(work.sum()))


def ranges_of(volume, surround, tolerance):
    """Return where each row differs from its surround: ``(2, I, J)`` int32, first and last+1 voxel.

    Parameters
    ----------
    volume : (I, J, K) float32 ndarray
        Image.
    surround, tolerance : float
        Voxels further than `tolerance` from `surround` count. A row without any has the range (K, 0).
    """
    ranges = np.empty((2, *volume.shape[:2]), np.int32)
    value, limit = np.float32(surround), np.float32(tolerance)
    parallel_for(lambda a, b: _ranges(a, b, volume, value, limit, ranges), volume.shape[0])
    return ranges


def rows_of(ranges: np.ndarray, depth: int, margin: int, reach: int) -> np.ndarray:
    """Return the rows that hold given ranges, grown by a margin.

    Parameters
    ----------
    ranges : (2, I, J) int32 ndarray
        From `ranges_of`.
    depth : int
        Voxels along the last axis.
    margin : int
        Voxels to grow by along each axis.
    reach : int
        Largest filter radius along the first axis.
    """
    low, high = ranges
    size = 2 * margin + 1
    low = np.maximum(ndimage.minimum_filter(low, size, mode="nearest") - margin, 0)
    high = ndimage.maximum_filter(high, size, mode="nearest")
    high = np.where(high > 0, np.minimum(high + margin, depth), 0)
    wide_low = ndimage.minimum_filter1d(low, 2 * reach + 1, axis=0, mode="nearest")
    wide_high = ndimage.maximum_filter1d(high, 2 * reach + 1, axis=0, mode="nearest")
    return np.ascontiguousarray(np.stack([low, high, wide_low, wide_high]), np.int32)


@njit
def _ranges(start, stop, volume, value, limit, ranges):
    depth = volume.shape[2]
    for i in range(start, stop):
        for j in range(volume.shape[1]):
            row = volume[i, j]
            low, high = 0, depth
            while low < depth and abs(row[low] - value) <= limit:
                low += 1
            while high > low and abs(row[high - 1] - value) <= limit:
                high -= 1
            ranges[0, i, j] = low
            ranges[1, i, j] = high if low < depth else 0
