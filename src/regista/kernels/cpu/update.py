"""The compositive update of a displacement field, as a stencil."""

from __future__ import annotations

import numpy as np

from regista.kernels.cpu._jit import njit
from regista.kernels.cpu.rows import all_rows, for_rows


def largest_component(disp, rows=None):
    """Return the largest absolute value in a field (in `rows` of it)."""
    peaks = np.zeros(disp.shape[1])
    rows = all_rows(disp.shape[1:]) if rows is None else rows
    for_rows(lambda a, b: _largest(a, b, disp, rows, peaks), rows)
    return float(peaks.max())


def compose_small(disp, update, factor, *, out, rows=None):
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
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`).
    """
    rows = all_rows(disp.shape[1:]) if rows is None else rows
    for_rows(lambda a, b: _compose(a, b, disp, update, np.float32(factor), rows, out), rows)
    return out


@njit
def _largest(start, stop, disp, rows, peaks):
    for i in range(start, stop):
        peak = np.float32(0)
        for j in range(disp.shape[2]):
            p, q = rows[0, i, j], rows[1, i, j]
            if p >= q:
                continue
            a, b, c = disp[0, i, j, p:q], disp[1, i, j, p:q], disp[2, i, j, p:q]
            for k in range(q - p):
                peak = max(peak, max(abs(a[k]), max(abs(b[k]), abs(c[k]))))
        peaks[i] = peak


@njit
def _compose(start, stop, disp, update, factor, rows, out):
    _, inn, jn, kn = disp.shape
    one, zero = np.float32(1), np.float32(0)
    weights = np.empty((9, kn), np.float32)
    mid, low, high = np.empty(kn, np.float32), np.empty(kn, np.float32), np.empty(kn, np.float32)
    total = np.empty(kn, np.float32)
    padded = np.zeros(kn + 2, np.float32)
    for i in range(start, stop):
        for j in range(jn):
            p, q = rows[0, i, j], rows[1, i, j]
            if p >= q:
                continue
            length = q - p
            vi, vj, vk = update[0, i, j, p:q], update[1, i, j, p:q], update[2, i, j, p:q]
            for k in range(length):
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
                own, target = update[comp, i, j, p:q], out[comp, i, j, p:q]
                for k in range(length):
                    total[k] = factor * own[k]
                for n in range(9):
                    row = disp[comp, min(max(i + n // 3 - 1, 0), inn - 1), min(max(j + n % 3 - 1, 0), jn - 1)]
                    # a copy with both neighbours: one base address, so that the sum below vectorizes
                    source = row[p:q]
                    for k in range(length):
                        padded[k + 1] = source[k]
                    padded[0], padded[length + 1] = row[max(p - 1, 0)], row[min(q, kn - 1)]
                    weight = weights[n]
                    for k in range(length):
                        total[k] += weight[k] * (
                            low[k] * padded[k] + mid[k] * padded[k + 1] + high[k] * padded[k + 2]
                        )
                for k in range(length):
                    target[k] = total[k]
