"""Joint histogram with a cubic B-spline Parzen window on the warped image, and its gradient (Mattes 2003)."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit

_CHUNKS = 16  # fixed, so that sums do not depend on the number of threads
_NONE = np.ones((1, 1, 1), np.float32)


def joint_histogram(fixed_bins, warped, weight, bins, low, width):
    """Return the weighted joint histogram, ``(bins, bins)`` float64: rows fixed, columns warped.

    Parameters
    ----------
    fixed_bins : (I, J, K) uint8 ndarray
        Bin of each fixed voxel; 255 leaves a voxel out.
    warped : (I, J, K) float32 ndarray
        Warped image.
    weight : (I, J, K) float32 ndarray or None
        Weight of each voxel.
    bins : int
        Number of bins.
    low, width : float
        Warped intensity at the centre of column 1.5 padding bins in, and the bin width.
    """
    planes = fixed_bins.shape[0]
    chunks = min(_CHUNKS, planes)
    parts = np.zeros((chunks, bins, bins))
    w = _NONE if weight is None else weight
    parallel_for(
        lambda a, b: _histogram(
            a, b, chunks, fixed_bins, warped, w, weight is not None, np.float32(low), np.float32(width), parts
        ),
        chunks,
    )
    return parts.sum(axis=0)


def histogram_gradient(fixed_bins, warped, weight, table, low, width, *, out):
    """Write ``dD/dW`` where ``table[f, b] = dD/dh[f, b]`` for the histogram of `joint_histogram`."""
    w = _NONE if weight is None else weight
    table = np.ascontiguousarray(table, np.float32)
    parallel_for(
        lambda a, b: _gradient(
            a, b, fixed_bins, warped, w, weight is not None, np.float32(low), np.float32(width), table, out
        ),
        fixed_bins.shape[0],
    )
    return out


@njit
def _histogram(start, stop, chunks, fixed_bins, warped, weight, has_weight, low, width, parts):
    planes, jn, kn = fixed_bins.shape
    bins = parts.shape[1]
    inverse, sixth = np.float32(1) / width, np.float32(1 / 6)
    one, half = np.float32(1), np.float32(0.5)
    top = np.float32(bins - 3)
    for chunk in range(start, stop):
        part = parts[chunk]
        for i in range(planes * chunk // chunks, planes * (chunk + 1) // chunks):
            for j in range(jn):
                for k in range(kn):
                    f = fixed_bins[i, j, k]
                    if f == 255:
                        continue
                    w = weight[i, j, k] if has_weight else one
                    if w == 0:
                        continue
                    # two padding bins on each side keep all four spline weights inside
                    x = min(max((warped[i, j, k] - low) * inverse + np.float32(1.5), one), top + half)
                    b = min(int(x), bins - 3)
                    t = x - np.float32(b)
                    s = one - t
                    part[f, b - 1] += w * sixth * s * s * s
                    part[f, b] += w * (np.float32(2 / 3) - half * t * t * (np.float32(2) - t))
                    part[f, b + 1] += w * (np.float32(2 / 3) - half * s * s * (np.float32(2) - s))
                    part[f, b + 2] += w * sixth * t * t * t


@njit
def _gradient(start, stop, fixed_bins, warped, weight, has_weight, low, width, table, out):
    _, jn, kn = fixed_bins.shape
    bins = table.shape[1]
    inverse = np.float32(1) / width
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    top = np.float32(bins - 3)
    for i in range(start, stop):
        for j in range(jn):
            for k in range(kn):
                f = fixed_bins[i, j, k]
                w = weight[i, j, k] if has_weight else one
                x = (warped[i, j, k] - low) * inverse + np.float32(1.5)
                if f == 255 or w == 0 or x < one or x > top + half:
                    out[i, j, k] = zero
                    continue
                b = min(int(x), bins - 3)
                t = x - np.float32(b)
                s = one - t
                d0 = -half * s * s
                d1 = t * (np.float32(1.5) * t - np.float32(2))
                d2 = -s * (np.float32(1.5) * s - np.float32(2))
                d3 = half * t * t
                row = table[f]
                out[i, j, k] = (
                    w * inverse * (d0 * row[b - 1] + d1 * row[b] + d2 * row[b + 1] + d3 * row[b + 2])
                )
