"""Separable filters that stream once through memory: Gaussian smoothing and box sums.

Each thread walks its planes along the first axis, filters a plane along the other two axes while it is in
cache, keeps the last few filtered planes in a ring, and writes the weighted sum of the ring. Sums are taken
directly, not by running additions, so a result does not depend on how the planes were shared out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from regista.kernels.cpu._jit import njit
from regista.kernels.cpu.rows import all_rows, for_rows

_TAIL_SIGMAS = 2.81
"""Standard deviations beyond which 0.5 % of a Gaussian lies: what the taps leave out."""


@lru_cache(maxsize=64)
def gaussian_taps(sigma_vox: float) -> np.ndarray:
    """Return the taps ``w[0 … R]`` of a symmetric, normalized, sampled Gaussian (``w[0]`` is the centre)."""
    if sigma_vox <= 0:
        return np.ones(1, np.float32)
    radius = max(1, int(np.ceil(_TAIL_SIGMAS * sigma_vox - 0.5)))
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma_vox) ** 2)
    return np.asarray(taps / (taps[0] + 2 * taps[1:].sum()), np.float32)


def gaussian_filter(stack, sigma_vox, *, out=None, border="zero", rows=None):
    """Smooth each volume of a stack with a Gaussian.

    Parameters
    ----------
    stack : (C, I, J, K) float32 ndarray
        Volumes, for instance the components of a displacement field.
    sigma_vox : float or sequence of 3 floats
        Standard deviation along each axis, voxels; 0 leaves an axis alone.
    out : (C, I, J, K) float32 ndarray, optional
        Destination; must not be `stack`.
    border : {'zero', 'nearest'}
        Value assumed outside.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`); the others of `out` are left as they are.

    Returns
    -------
    (C, I, J, K) float32 ndarray
    """
    out = np.empty_like(stack) if out is None else out
    sigmas = np.broadcast_to(np.asarray(sigma_vox, dtype=np.float64), (3,))
    ti, tj, tk = (
        gaussian_taps(float(s) if n > 1 else 0.0) for s, n in zip(sigmas, stack.shape[1:], strict=True)
    )
    nearest = border == "nearest"
    rows = all_rows(stack.shape[1:]) if rows is None else rows
    for_rows(lambda a, b: _separable(a, b, stack, ti, tj, tk, nearest, rows, out), rows)
    return out


def box_filter(stack, radius, *, out=None):
    """Sum each volume of a stack over a window of ``2 radius + 1`` voxels a side (zero outside).

    Parameters
    ----------
    stack : (C, I, J, K) float32 ndarray
        Volumes.
    radius : int
        Window radius, voxels (0 along an axis of one voxel).
    out : (C, I, J, K) float32 ndarray, optional
        Destination; must not be `stack`.

    Returns
    -------
    (C, I, J, K) float32 ndarray
    """
    out = np.empty_like(stack) if out is None else out
    ti, tj, tk = (np.ones(radius + 1 if n > 1 else 1, np.float32) for n in stack.shape[1:])
    rows = all_rows(stack.shape[1:])
    for_rows(lambda a, b: _separable(a, b, stack, ti, tj, tk, False, rows, out), rows)
    return out


# Loops run over slices from 0 so that the compiler knows their indices are not negative and vectorizes them.


@njit
def _set(target, source, weight):
    for n in range(target.shape[0]):
        target[n] = weight * source[n]


@njit
def _add(target, source, weight):
    for n in range(target.shape[0]):
        target[n] += weight * source[n]


@njit
def _add_both(target, one, other, weight):
    for n in range(target.shape[0]):
        target[n] += weight * (one[n] + other[n])


@njit
def _filter_plane(plane, tj, tk, nearest, lows, highs, padded, out):
    """Filter the rows ``lows[j] <= k < highs[j]`` of one (J, K) plane along both axes into `out`."""
    jn, kn = plane.shape
    rj, rk = tj.shape[0] - 1, tk.shape[0] - 1
    for j in range(jn):
        a, b = lows[j], highs[j]
        if a >= b:
            continue
        p, q = max(a - rk, 0), min(b + rk, kn)
        line = padded[rk + p : rk + q]
        _set(line, plane[j, p:q], tj[0])
        for t in range(1, rj + 1):
            lo, hi = j - t, j + t
            if nearest:
                lo, hi = max(lo, 0), min(hi, jn - 1)
            if lo >= 0 and hi < jn:
                _add_both(line, plane[lo, p:q], plane[hi, p:q], tj[t])
            elif lo >= 0:
                _add(line, plane[lo, p:q], tj[t])
            elif hi < jn:
                _add(line, plane[hi, p:q], tj[t])
        left = padded[rk] if nearest and p == 0 else np.float32(0)
        right = padded[rk + kn - 1] if nearest and q == kn else np.float32(0)
        for t in range(rk):
            padded[t] = left
            padded[rk + kn + t] = right
        target = out[j, a:b]
        _set(target, padded[rk + a : rk + b], tk[0])
        for t in range(1, rk + 1):
            _add_both(target, padded[rk + a - t : rk + b - t], padded[rk + a + t : rk + b + t], tk[t])


@njit
def _sum_ring(total, ring, i, inn, ti, nearest, lows, highs):
    """Write the weighted sum of the planes around plane `i` in `ring` to the rows of `total` (J, K)."""
    ri, width = ti.shape[0] - 1, ring.shape[0]
    for j in range(total.shape[0]):
        a, b = lows[j], highs[j]
        if a >= b:
            continue
        target = total[j, a:b]
        _set(target, ring[i % width, j, a:b], ti[0])
        for t in range(1, ri + 1):
            lo, hi = i - t, i + t
            if nearest:
                lo, hi = max(lo, 0), min(hi, inn - 1)
            if lo >= 0 and hi < inn:
                _add_both(target, ring[lo % width, j, a:b], ring[hi % width, j, a:b], ti[t])
            elif lo >= 0:
                _add(target, ring[lo % width, j, a:b], ti[t])
            elif hi < inn:
                _add(target, ring[hi % width, j, a:b], ti[t])


@njit
def _separable(start, stop, stack, ti, tj, tk, nearest, rows, out):
    channels, inn, jn, kn = stack.shape
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    width = 2 * ri + 1
    ring = np.empty((width, jn, kn), np.float32)
    padded = np.empty(kn + 2 * rk, np.float32)
    for c in range(channels):
        volume = stack[c]
        done = max(start - ri, 0)
        for i in range(start, stop):
            while done <= min(i + ri, inn - 1):
                _filter_plane(
                    volume[done], tj, tk, nearest, rows[2, done], rows[3, done], padded, ring[done % width]
                )
                done += 1
            _sum_ring(out[c, i], ring, i, inn, ti, nearest, rows[0, i], rows[1, i])
