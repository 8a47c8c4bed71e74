"""The compositive update of a displacement field, as a stencil."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit


def largest_norm(disp, axis_scale=(1.0, 1.0, 1.0)):
    """Return the largest Euclidean length of a field's vectors, each axis multiplied by `axis_scale`."""
    peaks = np.zeros(disp.shape[1])
    scale = np.asarray(axis_scale, np.float32)
    parallel_for(lambda a, b: _largest(a, b, disp, scale, peaks), disp.shape[1])
    return float(np.sqrt(peaks.max()))


def compose_small(disp, update, factor, *, out):
    """Write ``u'(x) = s v(x) + u(x + s v(x))`` to `out`, for steps of at most one voxel per axis.

    For such steps linear interpolation is a stencil of 27 neighbours with hat-function weights, which
    streams through memory instead of gathering.

    Parameters
    ----------
    disp, update : (3, I, J, K) float32 ndarray
        The field ``u`` and the update ``v``, voxels; ``|factor · v| ≤ 1`` along each axis.
    factor : float
        ``s``.
    out : (3, I, J, K) float32 ndarray
        Destination; must not be `disp` or `update`.
    """
    parallel_for(lambda a, b: _compose(a, b, disp, update, np.float32(factor), out), disp.shape[1])
    return out


@njit
def _largest(start, stop, disp, scale, peaks):
    _, _, jn, kn = disp.shape
    s0, s1, s2 = scale[0] * scale[0], scale[1] * scale[1], scale[2] * scale[2]
    for i in range(start, stop):
        peak = np.float32(0)
        for j in range(jn):
            a, b, c = disp[0, i, j], disp[1, i, j], disp[2, i, j]
            for k in range(kn):
                peak = max(peak, s0 * a[k] * a[k] + s1 * b[k] * b[k] + s2 * c[k] * c[k])
        peaks[i] = peak


@njit
def _compose(start, stop, disp, update, factor, out):
    _, inn, jn, kn = disp.shape
    one, zero = np.float32(1), np.float32(0)
    weights = np.empty((9, kn), np.float32)
    mid, low, high = np.empty(kn, np.float32), np.empty(kn, np.float32), np.empty(kn, np.float32)
    line = np.zeros((3, kn + 2), np.float32)
    for i in range(start, stop):
        for j in range(jn):
            vi, vj, vk = update[0, i, j], update[1, i, j], update[2, i, j]
            for k in range(kn):
                a, b, c = factor * vi[k], factor * vj[k], factor * vk[k]
                ai, al, ah = one - abs(a), max(-a, zero), max(a, zero)
                bi, bl, bh = one - abs(b), max(-b, zero), max(b, zero)
                weights[0, k] = al * bl
                weights[1, k] = al * bi
                weights[2, k] = al * bh
                weights[3, k] = ai * bl
                weights[4, k] = ai * bi
                weights[5, k] = ai * bh
                weights[6, k] = ah * bl
                weights[7, k] = ah * bi
                weights[8, k] = ah * bh
                mid[k], low[k], high[k] = one - abs(c), max(-c, zero), max(c, zero)
            for comp in range(3):
                target, own = out[comp, i, j], update[comp, i, j]
                for k in range(kn):
                    target[k] = factor * own[k]
                for n in range(9):
                    p = min(max(i + n // 3 - 1, 0), inn - 1)
                    q = min(max(j + n % 3 - 1, 0), jn - 1)
                    row, w = disp[comp, p, q], weights[n]
                    padded = line[0]
                    for k in range(kn):
                        padded[k + 1] = row[k]
                    padded[0], padded[kn + 1] = row[0], row[kn - 1]
                    before, here, after = padded[0:kn], padded[1 : kn + 1], padded[2 : kn + 2]
                    for k in range(kn):
                        target[k] += w[k] * (low[k] * before[k] + mid[k] * here[k] + high[k] * after[k])
