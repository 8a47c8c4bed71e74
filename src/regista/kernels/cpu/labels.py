"""All labels of a map at once: overlap counts, border voxels, surface elements.

Labels come as codes 0 … n − 1, 0 being background, in ``(I, J, K)`` arrays. What lies outside the array counts
as background. An axis of a single voxel is flat: no border crosses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit


def overlap_counts(a: NDArray[Any], b: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Count voxels of each code in `a`, in `b`, and in both at the same place.

    Parameters
    ----------
    a, b : (I, J, K) integer ndarray
        Codes below `count`.
    count : int
        Number of codes.

    Returns
    -------
    (3, count) int64 ndarray
        Voxels in `a`, in `b`, in both.
    """
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    parts = np.zeros((len(a), 3, count), np.int64) if count * len(a) < 1 << 24 else None
    if parts is None:  # too many labels for a table per slab
        total = np.zeros((3, count), np.int64)
        for i in range(len(a)):
            _overlap(i, i + 1, a, b, total[None], 1)
        return total
    parallel_for(lambda s, e: _overlap(s, e, a, b, parts, 0), len(a))
    return np.asarray(parts.sum(axis=0))


def border_voxels(codes: NDArray[Any], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the voxels of each code that have a face neighbour of another code.

    Parameters
    ----------
    codes : (I, J, K) integer ndarray
        Codes below `count`.
    count : int
        Number of codes.

    Returns
    -------
    starts : (count + 1,) int64 ndarray
        Voxels of code n are ``index[starts[n]:starts[n + 1]]``; code 0 has none.
    index : (N,) int64 ndarray
        Flat positions, rising within a code.
    """
    codes = np.ascontiguousarray(codes)
    counts = np.zeros((len(codes), count), np.int64)
    parallel_for(lambda s, e: _count_borders(s, e, codes, counts), len(codes))
    starts, places = _places(counts)
    index = np.empty(starts[-1], np.int64)
    parallel_for(lambda s, e: _fill_borders(s, e, codes, places, index), len(codes))
    return starts, index


def surface_cells(
    codes: NDArray[Any], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Find the cells of eight neighbouring voxels that each code's surface crosses.

    Parameters
    ----------
    codes : (I, J, K) integer ndarray
        Codes below `count`.
    count : int
        Number of codes.

    Returns
    -------
    starts : (count + 1,) int64 ndarray
        Cells of code n are ``index[starts[n]:starts[n + 1]]``; code 0 has none.
    index : (N,) int64 ndarray
        Flat positions in the lattice of cells, ``(I + 1, J + 1, K + 1)``: cell (p, q, r) has the corners
        p − 1 … p, q − 1 … q, r − 1 … r. Along a flat axis there is one cell, both of whose layers are the slice.
    corners : (N,) uint8 ndarray
        Bit ``7 − (4 i + 2 j + k)`` tells whether corner (i, j, k) of the cell has the code.
    """
    codes = np.ascontiguousarray(codes)
    rows = len(codes) + (len(codes) > 1)
    counts = np.zeros((rows, count), np.int64)
    parallel_for(lambda s, e: _count_cells(s, e, codes, counts), rows)
    starts, places = _places(counts)
    index, corners = np.empty(starts[-1], np.int64), np.empty(starts[-1], np.uint8)
    parallel_for(lambda s, e: _fill_cells(s, e, codes, places, index, corners), rows)
    return starts, index, corners


def _places(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each code begins, and where each row's share of it begins."""
    starts = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
    before = np.cumsum(counts, axis=0) - counts
    return starts, np.ascontiguousarray(before + starts[:-1])


@njit
def _overlap(start, stop, a, b, out, shared):
    for i in range(start, stop):
        table = out[0] if shared else out[i]
        for j in range(a.shape[1]):
            for k in range(a.shape[2]):
                p, q = a[i, j, k], b[i, j, k]
                table[0, p] += 1
                table[1, q] += 1
                if p == q:
                    table[2, p] += 1


@inlined
def _is_border(codes, i, j, k):
    here = codes[i, j, k]
    ni, nj, nk = codes.shape
    if ni > 1 and (i == 0 or i == ni - 1 or codes[i - 1, j, k] != here or codes[i + 1, j, k] != here):
        return True
    if nj > 1 and (j == 0 or j == nj - 1 or codes[i, j - 1, k] != here or codes[i, j + 1, k] != here):
        return True
    if nk > 1 and (k == 0 or k == nk - 1 or codes[i, j, k - 1] != here or codes[i, j, k + 1] != here):
        return True
    return ni == 1 and nj == 1 and nk == 1


@njit
def _count_borders(start, stop, codes, counts):
    for i in range(start, stop):
        for j in range(codes.shape[1]):
            for k in range(codes.shape[2]):
                if codes[i, j, k] != 0 and _is_border(codes, i, j, k):
                    counts[i, codes[i, j, k]] += 1


@njit
def _fill_borders(start, stop, codes, places, index):
    for i in range(start, stop):
        for j in range(codes.shape[1]):
            for k in range(codes.shape[2]):
                here = codes[i, j, k]
                if here != 0 and _is_border(codes, i, j, k):
                    index[places[i, here]] = (i * codes.shape[1] + j) * codes.shape[2] + k
                    places[i, here] += 1


@inlined
def _corner(codes, i, j, k):
    if i < 0 or j < 0 or k < 0 or i >= codes.shape[0] or j >= codes.shape[1] or k >= codes.shape[2]:
        return np.int64(0)
    return np.int64(codes[i, j, k])


@inlined
def _corners(codes, p, q, r, out):
    """Write the codes at the corners of a cell; return whether they differ."""
    differ = False
    for c in range(8):
        i = p - 1 + ((c >> 2) & 1) if codes.shape[0] > 1 else 0
        j = q - 1 + ((c >> 1) & 1) if codes.shape[1] > 1 else 0
        k = r - 1 + (c & 1) if codes.shape[2] > 1 else 0
        out[c] = _corner(codes, i, j, k)
        differ = differ or out[c] != out[0]
    return differ


@inlined
def _first_of(corner, c):
    """Tell whether corner c holds a label that no earlier corner holds."""
    fresh = corner[c] != 0
    for e in range(c):
        fresh = fresh and corner[e] != corner[c]
    return fresh


@njit
def _count_cells(start, stop, codes, counts):
    corner = np.empty(8, np.int64)
    for p in range(start, stop):
        for q in range(codes.shape[1] + (codes.shape[1] > 1)):
            for r in range(codes.shape[2] + (codes.shape[2] > 1)):
                if _corners(codes, p, q, r, corner):
                    for c in range(8):
                        if _first_of(corner, c):
                            counts[p, corner[c]] += 1


@njit
def _fill_cells(start, stop, codes, places, index, corners):
    corner = np.empty(8, np.int64)
    nq = codes.shape[1] + (codes.shape[1] > 1)
    nr = codes.shape[2] + (codes.shape[2] > 1)
    for p in range(start, stop):
        for q in range(nq):
            for r in range(nr):
                if not _corners(codes, p, q, r, corner):
                    continue
                for c in range(8):
                    if not _first_of(corner, c):
                        continue
                    bits = 0
                    for e in range(8):
                        if corner[e] == corner[c]:
                            bits |= 1 << (7 - e)
                    at = places[p, corner[c]]
                    index[at] = (p * nq + q) * nr + r
                    corners[at] = bits
                    places[p, corner[c]] += 1
