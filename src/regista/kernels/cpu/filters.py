"""Separable filters that stream once through memory: Gaussian smoothing and box sums.

Each thread walks its planes along the first axis, filters a plane along the other two axes while it is in
cache, keeps the last few filtered planes in a ring, and writes the weighted sum of the ring. Sums are taken
directly, not by running additions, so a result does not depend on how the planes were shared out.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit


@lru_cache(maxsize=64)
def gaussian_taps(sigma_vox: float, truncate: float = 3.0) -> np.ndarray:
    """Return the taps ``w[0 … R]`` of a symmetric, normalized, sampled Gaussian (``w[0]`` is the centre)."""
    if sigma_vox <= 0:
        return np.ones(1, np.float32)
    radius = max(1, int(np.ceil(truncate * sigma_vox)))
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma_vox) ** 2)
    return (taps / (taps[0] + 2 * taps[1:].sum())).astype(np.float32)


def gaussian_filter(stack, sigma_vox, *, out=None, border="zero", scale=1.0):
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
    scale : float
        Factor applied to the result.

    Returns
    -------
    (C, I, J, K) float32 ndarray
    """
    out = np.empty_like(stack) if out is None else out
    sigmas = np.broadcast_to(np.asarray(sigma_vox, dtype=np.float64), (3,))
    ti, tj, tk = (
        gaussian_taps(float(s) if n > 1 else 0.0) for s, n in zip(sigmas, stack.shape[1:], strict=True)
    )
    ti = (ti * np.float32(scale)).astype(np.float32)
    nearest = border == "nearest"
    parallel_for(lambda a, b: _separable(a, b, stack, ti, tj, tk, nearest, out), stack.shape[1])
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
    parallel_for(lambda a, b: _separable(a, b, stack, ti, tj, tk, False, out), stack.shape[1])
    return out


@njit
def _filter_plane(plane, tj, tk, nearest, padded, out):
    """Filter one (J, K) plane along both axes into `out`; `padded` is (K + 2 Rk) scratch."""
    jn, kn = plane.shape
    rj, rk = tj.shape[0] - 1, tk.shape[0] - 1
    line = padded[rk : rk + kn]
    for j in range(jn):
        row = plane[j]
        for k in range(kn):
            line[k] = tj[0] * row[k]
        for t in range(1, rj + 1):
            w = tj[t]
            lo, hi = j - t, j + t
            if nearest:
                lo, hi = max(lo, 0), min(hi, jn - 1)
            if lo >= 0 and hi < jn:
                below, above = plane[lo], plane[hi]
                for k in range(kn):
                    line[k] += w * (below[k] + above[k])
            elif lo >= 0:
                below = plane[lo]
                for k in range(kn):
                    line[k] += w * below[k]
            elif hi < jn:
                above = plane[hi]
                for k in range(kn):
                    line[k] += w * above[k]
        left = line[0] if nearest else np.float32(0)
        right = line[kn - 1] if nearest else np.float32(0)
        for t in range(rk):
            padded[t] = left
            padded[rk + kn + t] = right
        target = out[j]
        for k in range(kn):
            target[k] = tk[0] * line[k]
        for t in range(1, rk + 1):
            w = tk[t]
            before, after = padded[rk - t : rk - t + kn], padded[rk + t : rk + t + kn]
            for k in range(kn):
                target[k] += w * (before[k] + after[k])


@njit
def _add_plane(total, plane, weight):
    a, b = total.ravel(), plane.ravel()
    for n in range(a.shape[0]):
        a[n] += weight * b[n]


@njit
def _set_plane(total, plane, weight):
    a, b = total.ravel(), plane.ravel()
    for n in range(a.shape[0]):
        a[n] = weight * b[n]


@njit
def _add_two(total, plane, other, weight):
    a, b, c = total.ravel(), plane.ravel(), other.ravel()
    for n in range(a.shape[0]):
        a[n] += weight * (b[n] + c[n])


@njit
def _separable(start, stop, stack, ti, tj, tk, nearest, out):
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
                _filter_plane(volume[done], tj, tk, nearest, padded, ring[done % width])
                done += 1
            target = out[c, i]
            _set_plane(target, ring[i % width], ti[0])
            for t in range(1, ri + 1):
                lo, hi = i - t, i + t
                if nearest:
                    lo, hi = max(lo, 0), min(hi, inn - 1)
                if lo >= 0 and hi < inn:
                    _add_two(target, ring[lo % width], ring[hi % width], ti[t])
                elif lo >= 0:
                    _add_plane(target, ring[lo % width], ti[t])
                elif hi < inn:
                    _add_plane(target, ring[hi % width], ti[t])
