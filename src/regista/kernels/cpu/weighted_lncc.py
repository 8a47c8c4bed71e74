"""Squared local cross-correlation whose window statistics leave out what has no weight, in one streaming pass.

For the window around voxel y, with weights ω and ``N = Σω``, means are ``F̄ = ΣωF / N`` and ``W̄ = ΣωW / N``, and::

    A = Σω(F−F̄)(W−W̄),   B = Σω(F−F̄)²,   C = Σω(W−W̄)²,   cc²(y) = A² / (B C)
    ∂Σq(y)cc²(y)/∂W(x) = ω(x) Σ_{y∋x} a(y) (F(x) − F̄(y)) − b(y) (W(x) − W̄(y)),   a = 2qA/(BC),  b = 2qA²/(BC²)

This is `regista.kernels.cpu.lncc` where all weights are 1. There windows weigh, and within one all voxels count alike.

A window weighs ``q = g ω(y)``. Weights move with the map, and a window that loses sight of its voxels must not vanish at
a stroke: g falls from 1 to 0 meanwhile (`LEAST_SHARE`, `FULL_SHARE`).
"""

from __future__ import annotations

import numpy as np

from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.filters import _filter_plane, _sum_ring
from regista.kernels.cpu.lncc import _count, _window
from regista.kernels.cpu.rows import all_rows, for_rows

LEAST_SHARE, FULL_SHARE = 0.16, 0.2
"""Windows whose weight is a share of what it would be, were all voxels' that of its centre, count for nothing below the
first and in full from the second on: a correlation of a few voxels is near 1 whatever they show."""


def weighted_lncc_coefficients(fixed, warped, weight, radius, floor, *, out, rows=None):
    """Write ``a``, ``b`` and ``c = a F̄ − b W̄`` to `out`; return Σ q cc² and Σ q.

    `regista.kernels.cpu.lncc.lncc_gradient` and ``lncc_force`` make the sum over windows of them, which `apply_weight`
    then multiplies by ω(x).

    Parameters
    ----------
    fixed, warped : (I, J, K) float32 ndarray
        Images.
    weight : (I, J, K) float32 ndarray
        Weight ω of each voxel, and of the window around it.
    radius : int
        Window radius, voxels.
    floor : float
        Weighted variance below which a window counts as flat and is left out: of both sums where the fixed image is
        flat, of the first where the warped one is.
    out : (3, I, J, K) float32 ndarray
        Destination.
    rows : (4, I, J) int32 ndarray, optional
        Windows to compute (see `regista.kernels.cpu.rows`).
    """
    rows = all_rows(fixed.shape) if rows is None else rows
    values = np.zeros((2, fixed.shape[0]))
    taps = _window(fixed.shape, radius)
    given = fixed, warped, weight, *taps, np.float32(floor), np.float32(LEAST_SHARE), np.float32(FULL_SHARE)
    for_rows(lambda p, q: _coefficients(p, q, *given, rows, out, values), rows)
    total, weight_kept = values.sum(axis=1)
    return float(total), float(weight_kept)


def apply_weight(out, weight, *, rows=None):
    """Multiply a force or gradient by the weight of its voxels, in place.

    Parameters
    ----------
    out : (C, I, J, K) float32 ndarray
        What is multiplied.
    weight : (I, J, K) float32 ndarray
        By what.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`).
    """
    rows = all_rows(weight.shape) if rows is None else rows
    for_rows(lambda p, q: _apply_weight(p, q, out, weight, rows), rows)
    return out


@inlined
def _products(fixed, warped, weight, rj, rk, low, high, planes):
    """Write ω, ωF, ωW, ωF², ωW² and ωFW wherever a window of the given rows reaches."""
    jn, kn = fixed.shape
    for j in range(jn):
        a, b = kn, 0
        for t in range(max(j - rj, 0), min(j + rj, jn - 1) + 1):
            if high[t] > low[t]:
                a, b = min(a, low[t]), max(b, high[t])
        p, q = max(a - rk, 0), min(b + rk, kn)
        if p >= q:
            continue
        f, w, u = fixed[j, p:q], warped[j, p:q], weight[j, p:q]
        n, uf, uw = planes[0, j, p:q], planes[1, j, p:q], planes[2, j, p:q]
        for k in range(q - p):
            n[k] = u[k]
            uf[k] = u[k] * f[k]
            uw[k] = u[k] * w[k]
        ff, ww, fw = planes[3, j, p:q], planes[4, j, p:q], planes[5, j, p:q]
        for k in range(q - p):
            ff[k] = uf[k] * f[k]
            ww[k] = uw[k] * w[k]
            fw[k] = uf[k] * w[k]


@njit
def _coefficients(
    start, stop, fixed, warped, weight, ti, tj, tk, floor, least_share, full, rows, out, values
):
    inn, jn, kn = fixed.shape
    ri, rj, rk = ti.shape[0] - 1, tj.shape[0] - 1, tk.shape[0] - 1
    width = 2 * ri + 1
    ring = np.empty((6, width, jn, kn), np.float32)
    planes, sums = np.empty((6, jn, kn), np.float32), np.empty((6, jn, kn), np.float32)
    padded = np.zeros((jn, kn + 2 * rk), np.float32)
    counts = np.empty(kn, np.float32)
    for k in range(kn):
        counts[k] = np.float32(_count(k, kn, rk))
    zero, one, two, tiny = np.float32(0), np.float32(1), np.float32(2), np.float32(1e-12)
    steep = one / (full - least_share)
    done = max(start - ri, 0)
    for i in range(start, stop):
        while done <= min(i + ri, inn - 1):
            slot, low, high = done % width, rows[2, done], rows[3, done]
            _products(fixed[done], warped[done], weight[done], rj, rk, low, high, planes)
            for s in range(6):
                _filter_plane(planes[s], tj, tk, False, low, high, padded, ring[s, slot])
            done += 1
        low, high = rows[0, i], rows[1, i]
        for s in range(6):
            _sum_ring(sums[s], ring[s], i, inn, ti, False, low, high)
        plane_value, plane_weight = 0.0, 0.0
        for j in range(jn):
            p, q = low[j], high[j]
            if p >= q:
                continue
            nij = np.float32(_count(i, inn, ri) * _count(j, jn, rj))
            row_value, row_weight = zero, zero
            sn, sf, sw = sums[0, j, p:q], sums[1, j, p:q], sums[2, j, p:q]
            sff, sww, sfw = sums[3, j, p:q], sums[4, j, p:q], sums[5, j, p:q]
            oa, ob, oc = out[0, i, j, p:q], out[1, i, j, p:q], out[2, i, j, p:q]
            own, nk = weight[i, j, p:q], counts[p:q]
            for k in range(q - p):
                u, n = own[k], sn[k]
                shown = u > tiny
                inverse = one / (n if shown else one)
                seen = n / (nij * nk[k] * u if shown else one)
                share = u * min(max((seen - least_share) * steep, zero), one) if shown else zero
                fmean, wmean = sf[k] * inverse, sw[k] * inverse
                a = sfw[k] - fmean * sw[k]
                b = sff[k] - fmean * sf[k]
                c = sww[k] - wmean * sw[k]
                least = floor * n
                varies = shown and b > least
                keep = varies and c > least
                c = c if keep else one
                ratio = a / (b * c if keep else one)
                ratio = ratio * share if keep else zero
                row_weight += share if varies else zero
                row_value += a * ratio
                ca = two * ratio
                cb = ca * a / c
                oa[k] = ca
                ob[k] = cb
                oc[k] = ca * fmean - cb * wmean
            plane_value += row_value
            plane_weight += row_weight
        values[0, i], values[1, i] = plane_value, plane_weight


@njit
def _apply_weight(start, stop, out, weight, rows):
    for c in range(out.shape[0]):
        for i in range(start, stop):
            for j in range(out.shape[2]):
                p, q = rows[0, i, j], rows[1, i, j]
                if p >= q:
                    continue
                target, source = out[c, i, j, p:q], weight[i, j, p:q]
                for k in range(q - p):
                    target[k] *= source[k]
