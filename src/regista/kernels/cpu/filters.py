"""Separable filters that stream once through memory: Gaussian smoothing and box sums.

Each thread walks its planes along the first axis, filters a plane along the other two axes while it is in
cache, keeps the last few filtered planes in a ring, and writes the weighted sum of the ring. Sums are taken
directly, not by running additions, so a result does not depend on how the planes were shared out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from regista.kernels.cpu._jit import inlined, njit
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
    stack, out = _contiguous(stack, out)
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
    stack, out = _contiguous(stack, out)
    ti, tj, tk = (np.ones(radius + 1 if n > 1 else 1, np.float32) for n in stack.shape[1:])
    rows = all_rows(stack.shape[1:])
    for_rows(lambda a, b: _separable(a, b, stack, ti, tj, tk, False, rows, out), rows)
    return out


_BLOCK = 32
"""Rows filtered together: few enough to stay in the innermost cache from one pass over them to the next."""


def _contiguous(stack, out):
    """Return stack and destination in C order: the loops walk through memory."""
    if out is None:
        out = np.empty(stack.shape, np.float32)
    if not out.flags.c_contiguous:
        raise ValueError("out must be C-contiguous")
    return np.ascontiguousarray(stack), out


# Loops run over slices from 0 so that the compiler knows their indices are not negative and vectorizes them. Several
# taps at a time: the target is then read and written less often. Whole planes at a time: a call costs as much as a
# short row.


@inlined
def _weigh(
    target,
    target_offset,
    target_stride,
    source,
    starts,
    source_stride,
    weights,
    lows,
    highs,
    grow,
    first,
    last,
):
    """Write weighted sums of stretches of memory, row by row of a plane: 1, 3, 5, … of them.

    Row j takes its values ``lows[j] - grow <= k < highs[j] + grow``, cut to ``0 <= k < source_stride``, from
    ``source[starts + j * source_stride + k]`` and puts them at ``target[target_offset + j * target_stride + k]``.
    """
    taps = starts.shape[0]
    done = 1 if taps == 1 else (3 if taps % 4 == 3 else 5)
    e, f, g, h, i = starts[0], starts[0], starts[0], starts[0], starts[0]
    v, w, x, y, z = weights[0], weights[0], weights[0], weights[0], weights[0]
    if done >= 3:
        f, g, w, x = starts[1], starts[2], weights[1], weights[2]
    if done == 5:
        h, i, y, z = starts[3], starts[4], weights[3], weights[4]
    for j in range(first, last):
        p, q = max(lows[j] - grow, 0), min(highs[j] + grow, source_stride)
        if lows[j] >= highs[j]:
            continue
        o, size = j * source_stride + p, q - p
        row = target[target_offset + j * target_stride + p : target_offset + j * target_stride + q]
        if done == 1:
            a = source[e + o : e + o + size]
            for n in range(size):
                row[n] = v * a[n]
        elif done == 3:
            a, b, c = source[e + o : e + o + size], source[f + o : f + o + size], source[g + o : g + o + size]
            for n in range(size):
                row[n] = v * a[n] + w * b[n] + x * c[n]
        else:
            a, b, c = source[e + o : e + o + size], source[f + o : f + o + size], source[g + o : g + o + size]
            d, k = source[h + o : h + o + size], source[i + o : i + o + size]
            for n in range(size):
                row[n] = v * a[n] + w * b[n] + x * c[n] + y * d[n] + z * k[n]
    while done < taps:
        e, f, g, h = starts[done], starts[done + 1], starts[done + 2], starts[done + 3]
        v, w, x, y = weights[done], weights[done + 1], weights[done + 2], weights[done + 3]
        for j in range(first, last):
            p, q = max(lows[j] - grow, 0), min(highs[j] + grow, source_stride)
            if lows[j] >= highs[j]:
                continue
            o, size = j * source_stride + p, q - p
            row = target[target_offset + j * target_stride + p : target_offset + j * target_stride + q]
            a, b = source[e + o : e + o + size], source[f + o : f + o + size]
            c, d = source[g + o : g + o + size], source[h + o : h + o + size]
            for n in range(size):
                row[n] += v * a[n] + w * b[n] + x * c[n] + y * d[n]
        done += 4


@inlined
def _filter_plane(plane, tj, tk, nearest, lows, highs, padded, out):
    """Filter the rows ``lows[j] <= k < highs[j]`` of one (J, K) plane along both axes into `out`.

    `padded` is a (J, K + 2 R) buffer of zeros, with R the radius along the last axis.
    """
    jn, kn = plane.shape
    rj, rk = tj.shape[0] - 1, tk.shape[0] - 1
    wide = kn + 2 * rk
    source, lines, target = plane.ravel(), padded.ravel(), out.ravel()
    starts, weights = np.empty(2 * rj + 1, np.int64), np.empty(2 * rj + 1, np.float32)
    along, kernel = np.empty(2 * rk + 1, np.int64), np.empty(2 * rk + 1, np.float32)
    _taps(rk, 2 * rk + 1, tk, True, 1, 0, along, kernel)
    first = 0
    while first < jn:
        inner = rj <= first < jn - rj
        last = min(first + _BLOCK, jn - rj) if inner else first + 1
        _taps(first, jn, tj, nearest, kn, -first * kn, starts, weights)
        _weigh(lines, rk, wide, source, starts, kn, weights, lows, highs, rk, first, last)
        if nearest:
            for j in range(first, last):
                for t in range(rk):
                    padded[j, t], padded[j, rk + kn + t] = padded[j, rk], padded[j, rk + kn - 1]
        _weigh(target, 0, kn, lines, along, wide, kernel, lows, highs, 0, first, last)
        first = last


@inlined
def _taps(index, count, taps, nearest, stride, offset, starts, weights):
    """Write where the `count` neighbours read at `index` begin, and their weights: none beyond a border of zeros."""
    radius = taps.shape[0] - 1
    for n in range(starts.shape[0]):
        wanted = index + n - radius
        place = min(max(wanted, 0), count - 1)
        starts[n] = place * stride + offset
        weights[n] = taps[abs(n - radius)] if nearest or place == wanted else np.float32(0)


@inlined
def _sum_ring(total, ring, i, inn, ti, nearest, lows, highs):
    """Write the weighted sum of the planes around plane `i` in `ring` to the rows of `total` (J, K)."""
    width, jn, kn = ring.shape
    starts, weights = np.empty(2 * ti.shape[0] - 1, np.int64), np.empty(2 * ti.shape[0] - 1, np.float32)
    _taps(i, inn, ti, nearest, 1, 0, starts, weights)
    for n in range(starts.shape[0]):
        starts[n] = starts[n] % width * jn * kn
    target, source = total.ravel(), ring.ravel()
    for first in range(0, jn, _BLOCK):
        _weigh(target, 0, kn, source, starts, kn, weights, lows, highs, 0, first, min(first + _BLOCK, jn))


@njit
def _separable(start, stop, stack, ti, tj, tk, nearest, rows, out):
    channels, inn, jn, kn = stack.shape
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    width = 2 * ri + 1
    ring = np.empty((width, jn, kn), np.float32)
    padded = np.zeros((jn, kn + 2 * rk), np.float32)
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
