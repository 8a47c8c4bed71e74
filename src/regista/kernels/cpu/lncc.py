"""Local normalized cross-correlation, squared, and its exact gradient, in two streaming passes.

For the window around voxel y with n voxels, ``A = Σ(F−F̄)(W−W̄)``, ``B = Σ(F−F̄)²``, ``C = Σ(W−W̄)²``::

    cc²(y) = A² / (B C)
    ∂Σcc²/∂W(x) = Σ_{y∋x} a(y) (F(x) − F̄(y)) − b(y) (W(x) − W̄(y)),   a = 2A/(BC),  b = 2A²/(BC²)

so the gradient needs the box sums of ``a``, ``b`` and ``c = a F̄ − b W̄`` alone.
"""

from __future__ import annotations

import numpy as np

from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.filters import _filter_plane, _sum_ring
from regista.kernels.cpu.rows import all_rows, for_rows


def lncc_fixed(fixed, radius):
    """Return the window means and window sums of squares ``B`` of the fixed image, both (I, J, K) float32."""
    fixed = np.ascontiguousarray(fixed)
    out = np.empty((2, *fixed.shape), np.float32)
    taps = _window(fixed.shape, radius)
    rows = all_rows(fixed.shape)
    for_rows(lambda a, b: _fixed_statistics(a, b, fixed, *taps, rows, out), rows)
    return out[0], out[1]


def lncc_coefficients(fixed, fixed_mean, fixed_spread, warped, weight, radius, floor, *, out, rows=None):
    """Write ``a, b, c`` of the module's formula to `out`; return Σ weight · cc² and Σ weight.

    Parameters
    ----------
    fixed, fixed_mean, fixed_spread, warped : (I, J, K) float32 ndarray
        Images and what `lncc_fixed` gave.
    weight : (I, J, K) float32 ndarray or None
        Weight of each window.
    radius : int
        Window radius, voxels.
    floor : float
        Variance per voxel below which a window counts as flat and is left out: of both sums where the fixed
        image is flat, of the first where the warped one is.
    out : (3, I, J, K) float32 ndarray
        Destination.
    rows : (4, I, J) int32 ndarray, optional
        Windows to compute (see `regista.kernels.cpu.rows`).
    """
    rows = all_rows(fixed.shape) if rows is None else rows
    values = np.zeros((2, fixed.shape[0]))
    taps = _window(fixed.shape, radius)
    w = np.ones((1, 1, 1), np.float32) if weight is None else weight
    for_rows(
        lambda p, q: _coefficients(
            p, q, fixed, fixed_mean, fixed_spread, warped, w, weight is not None, *taps,
            np.float32(floor), rows, out, values,
        ),
        rows,
    )  # fmt: skip
    total, weight_kept = values.sum(axis=1)
    return float(total), float(weight_kept)


def lncc_gradient(fixed, warped, coefficients, radius, *, out):
    """Write ``∂Σcc²/∂warped`` to `out` (I, J, K)."""
    taps = _window(fixed.shape, radius)
    rows = all_rows(fixed.shape)
    for_rows(lambda p, q: _gradient(p, q, fixed, warped, coefficients, *taps, rows, out), rows)
    return out


def lncc_force(fixed, warped, coefficients, radius, axis_scale, symmetric, *, out, rows=None):
    """Write the ascent force on a compositive update: ``∂Σcc²/∂W`` times a spatial gradient.

    Parameters
    ----------
    coefficients : (3, I, J, K) float32 ndarray
        From `lncc_coefficients`.
    axis_scale : (3,) float32 ndarray
        Factor per axis (for anisotropic voxels).
    symmetric : bool
        Use the mean of the gradients of `fixed` and `warped`, else that of `warped`.
    out : (3, I, J, K) float32 ndarray
        Destination.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`).
    """
    rows = all_rows(fixed.shape) if rows is None else rows
    taps = _window(fixed.shape, radius)
    scale = np.asarray(axis_scale, np.float32)
    for_rows(
        lambda p, q: _force(p, q, fixed, warped, coefficients, *taps, scale, symmetric, rows, out),
        rows,
    )
    return out


def _window(shape, radius):
    return tuple(np.ones(radius + 1 if n > 1 else 1, np.float32) for n in shape)


# Loops over channels run to the length of an argument: of a length known when compiled they would be unrolled, with
# every filter inlined in each turn, and take twice as long to compile for no speed.


@inlined
def _count(i, n, r):
    return min(i + r, n - 1) - max(i - r, 0) + 1


@njit
def _fixed_statistics(start, stop, fixed, ti, tj, tk, rows, out):
    inn, jn, kn = fixed.shape
    ri, rj, rk = ti.shape[0] - 1, tj.shape[0] - 1, tk.shape[0] - 1
    width, channels = 2 * ri + 1, out.shape[0]
    ring = np.empty((channels, width, jn, kn), np.float32)
    square = np.empty((jn, kn), np.float32)
    padded = np.zeros((jn, kn + 2 * rk), np.float32)
    mean, spread = out[0], out[1]
    done = max(start - ri, 0)
    for i in range(start, stop):
        while done <= min(i + ri, inn - 1):
            low, high = rows[2, done], rows[3, done]
            for j in range(jn):
                for k in range(kn):
                    square[j, k] = fixed[done, j, k] * fixed[done, j, k]
            for c in range(channels):
                plane = fixed[done] if c == 0 else square
                _filter_plane(plane, tj, tk, False, low, high, padded, ring[c, done % width])
            done += 1
        low, high = rows[0, i], rows[1, i]
        for c in range(channels):
            _sum_ring(out[c, i], ring[c], i, inn, ti, False, low, high)
        for j in range(jn):
            nij = _count(i, inn, ri) * _count(j, jn, rj)
            for k in range(low[j], high[j]):
                inverse = np.float32(1) / np.float32(nij * _count(k, kn, rk))
                s = mean[i, j, k]
                mean[i, j, k] = s * inverse
                spread[i, j, k] = max(spread[i, j, k] - s * s * inverse, np.float32(0))


@inlined
def _products(fixed, warped, rj, rk, low, high, square, cross):
    """Write W² and F·W wherever a window of the given rows reaches."""
    jn, kn = fixed.shape
    for j in range(jn):
        a, b = kn, 0
        for t in range(max(j - rj, 0), min(j + rj, jn - 1) + 1):
            if high[t] > low[t]:
                a, b = min(a, low[t]), max(b, high[t])
        p, q = max(a - rk, 0), min(b + rk, kn)
        if p >= q:
            continue
        f, w, s, c = fixed[j, p:q], warped[j, p:q], square[j, p:q], cross[j, p:q]
        for k in range(q - p):
            s[k] = w[k] * w[k]
            c[k] = w[k] * f[k]


@njit
def _coefficients(
    start, stop, fixed, fmean, fspread, warped, weight, has_weight, ti, tj, tk, floor, rows, out, values
):
    inn, jn, kn = fixed.shape
    ri, rj, rk = ti.shape[0] - 1, tj.shape[0] - 1, tk.shape[0] - 1
    width, channels = 2 * ri + 1, out.shape[0]
    ring = np.empty((channels, width, jn, kn), np.float32)
    square = np.empty((jn, kn), np.float32)
    cross = np.empty((jn, kn), np.float32)
    padded = np.zeros((jn, kn + 2 * rk), np.float32)
    sums = np.empty((channels, jn, kn), np.float32)  # of W, W² and F·W
    counts = np.empty(kn, np.float32)
    for k in range(kn):
        counts[k] = np.float32(_count(k, kn, rk))
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    done = max(start - ri, 0)
    for i in range(start, stop):
        while done <= min(i + ri, inn - 1):
            low, high = rows[2, done], rows[3, done]
            _products(fixed[done], warped[done], rj, rk, low, high, square, cross)
            for c in range(channels):
                plane = warped[done] if c == 0 else (square if c == 1 else cross)
                _filter_plane(plane, tj, tk, False, low, high, padded, ring[c, done % width])
            done += 1
        low, high = rows[0, i], rows[1, i]
        for c in range(channels):
            _sum_ring(sums[c], ring[c], i, inn, ti, False, low, high)
        plane_value, plane_weight = 0.0, 0.0
        for j in range(jn):
            p, q = low[j], high[j]
            if p >= q:
                continue
            nij = np.float32(_count(i, inn, ri) * _count(j, jn, rj))
            row_value, row_weight = zero, zero
            rw, rww, rfw = sums[0, j, p:q], sums[1, j, p:q], sums[2, j, p:q]
            mf, bf, nk = fmean[i, j, p:q], fspread[i, j, p:q], counts[p:q]
            oa, ob, oc = out[0, i, j, p:q], out[1, i, j, p:q], out[2, i, j, p:q]
            weights = weight[i, j, p:q] if has_weight else nk
            for k in range(q - p):
                n = nij * nk[k]
                wmean = rw[k] / n
                a = rfw[k] - mf[k] * rw[k]
                b = bf[k]
                c = rww[k] - rw[k] * wmean
                least = floor * n
                keep = b > least and c > least
                c = c if keep else one
                ratio = a / (b * c if keep else one)
                ratio = ratio if keep else zero
                share = weights[k] if has_weight else one
                row_weight += share if b > least else zero
                ratio *= share
                cc = a * ratio
                row_value += cc
                ca = two * ratio
                cb = two * cc / c
                oa[k] = ca
                ob[k] = cb
                oc[k] = ca * mf[k] - cb * wmean
            plane_value += row_value
            plane_weight += row_weight
        values[0, i], values[1, i] = plane_value, plane_weight


@inlined
def _box_coefficients(done, i, inn, coefficients, ti, tj, tk, rows, padded, ring, sums):
    width, channels = ring.shape[1], coefficients.shape[0]
    while done <= min(i + ti.shape[0] - 1, inn - 1):
        for c in range(channels):
            _filter_plane(
                coefficients[c, done],
                tj,
                tk,
                False,
                rows[2, done],
                rows[3, done],
                padded,
                ring[c, done % width],
            )
        done += 1
    for c in range(channels):
        _sum_ring(sums[c], ring[c], i, inn, ti, False, rows[0, i], rows[1, i])
    return done


@njit
def _gradient(start, stop, fixed, warped, coefficients, ti, tj, tk, rows, out):
    inn, jn, kn = fixed.shape
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    ring = np.empty((3, 2 * ri + 1, jn, kn), np.float32)
    sums = np.empty((3, jn, kn), np.float32)
    padded = np.zeros((jn, kn + 2 * rk), np.float32)
    done = max(start - ri, 0)
    for i in range(start, stop):
        done = _box_coefficients(done, i, inn, coefficients, ti, tj, tk, rows, padded, ring, sums)
        for j in range(jn):
            for k in range(kn):
                out[i, j, k] = (
                    sums[0, j, k] * fixed[i, j, k] - sums[1, j, k] * warped[i, j, k] - sums[2, j, k]
                )


@njit
def _force(start, stop, fixed, warped, coefficients, ti, tj, tk, scale, symmetric, rows, out):
    inn, jn, kn = fixed.shape
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    ring = np.empty((3, 2 * ri + 1, jn, kn), np.float32)
    sums = np.empty((3, jn, kn), np.float32)
    padded = np.zeros((jn, kn + 2 * rk), np.float32)
    g = np.empty(kn, np.float32)
    own, two = np.float32(0.5 if symmetric else 1.0), np.float32(2)
    done = max(start - ri, 0)
    for i in range(start, stop):
        done = _box_coefficients(done, i, inn, coefficients, ti, tj, tk, rows, padded, ring, sums)
        il, ih = max(i - 1, 0), min(i + 1, inn - 1)
        wi = own * scale[0] / np.float32(max(ih - il, 1))
        wk = own * scale[2] * np.float32(0.5)
        for j in range(jn):
            a, b = rows[0, i, j], rows[1, i, j]
            if a >= b:
                continue
            jl, jh = max(j - 1, 0), min(j + 1, jn - 1)
            wj = own * scale[1] / np.float32(max(jh - jl, 1))
            sa, sb, sc = sums[0, j, a:b], sums[1, j, a:b], sums[2, j, a:b]
            f, w = fixed[i, j, a:b], warped[i, j, a:b]
            oi, oj, ok = out[0, i, j, a:b], out[1, i, j, a:b], out[2, i, j, a:b]
            for k in range(b - a):
                g[k] = sa[k] * f[k] - sb[k] * w[k] - sc[k]
            _set_product(oi, g, warped[ih, j, a:b], warped[il, j, a:b], wi)
            _set_product(oj, g, warped[i, jh, a:b], warped[i, jl, a:b], wj)
            p, q = max(a, 1), min(b, kn - 1)
            if p < q:
                inner, push = out[2, i, j, p:q], g[p - a :]
                _set_product(inner, push, warped[i, j, p + 1 : q + 1], warped[i, j, p - 1 : q - 1], wk)
            if symmetric:
                _add_product(oi, g, fixed[ih, j, a:b], fixed[il, j, a:b], wi)
                _add_product(oj, g, fixed[i, jh, a:b], fixed[i, jl, a:b], wj)
                if p < q:
                    _add_product(inner, push, fixed[i, j, p + 1 : q + 1], fixed[i, j, p - 1 : q - 1], wk)
            for k in (0, kn - 1):  # one-sided differences at the ends
                if a <= k < b:
                    k0, k1 = max(k - 1, 0), min(k + 1, kn - 1)
                    d = warped[i, j, k1] - warped[i, j, k0]
                    if symmetric:
                        d += fixed[i, j, k1] - fixed[i, j, k0]
                    ok[k - a] = two * wk * g[k - a] * d


@inlined
def _set_product(target, push, high, low, weight):
    for n in range(target.shape[0]):
        target[n] = weight * push[n] * (high[n] - low[n])


@inlined
def _add_product(target, push, high, low, weight):
    for n in range(target.shape[0]):
        target[n] += weight * push[n] * (high[n] - low[n])
