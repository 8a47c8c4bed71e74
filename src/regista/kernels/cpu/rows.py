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


@lru_cache(maxsize=16)
def all_rows(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the rows of a volume in full."""
    rows = np.zeros((4, *shape[:2]), np.int32)
    rows[1::2] = shape[2]
    return rows


def for_rows(body: Callable[[int, int], object], rows: np.ndarray) -> None:
    """Call ``body(start, stop)`` over ranges of the first axis with equal numbers of voxels, one per thread."""
    work = np.maximum(rows[1] - rows[0], 0).sum(axis=1) + 1
    parallel_for(body, rows.shape[1], work=work)


def rows_of(active: np.ndarray, margin: int, reach: int) -> np.ndarray:
    """Return the rows that hold the True voxels of `active`, grown by a margin.

    Parameters
    ----------
    active : (I, J, K) bool ndarray
        Voxels that matter.
    margin : int
        Voxels to grow by along each axis.
    reach : int
        Largest filter radius along the first axis.
    """
    depth = active.shape[2]
    some = active.any(axis=2)
    low = np.where(some, active.argmax(axis=2), depth).astype(np.int32)
    high = np.where(some, depth - active[:, :, ::-1].argmax(axis=2), 0).astype(np.int32)
    size = 2 * margin + 1
    low = np.maximum(ndimage.minimum_filter(low, size, mode="nearest") - margin, 0)
    high = ndimage.maximum_filter(high, size, mode="nearest")
    high = np.where(high > 0, np.minimum(high + margin, depth), 0)
    wide_low = ndimage.minimum_filter1d(low, 2 * reach + 1, axis=0, mode="nearest")
    wide_high = ndimage.maximum_filter1d(high, 2 * reach + 1, axis=0, mode="nearest")
    return np.ascontiguousarray(np.stack([low, high, wide_low, wide_high]), np.int32)
