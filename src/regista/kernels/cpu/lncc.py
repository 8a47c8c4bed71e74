"""Local normalized cross-correlation, squared, and its exact gradient, in two streaming passes.

For the window around voxel y with n voxels, ``A = Σ(F−F̄)(W−W̄)``, ``B = Σ(F−F̄)²``, ``C = Σ(W−W̄)²``::

    cc²(y) = A² / (B C)
    ∂Σcc²/∂W(x) = Σ_{y∋x} a(y) (F(x) − F̄(y)) − b(y) (W(x) − W̄(y)),   a = 2A/(BC),  b = 2A²/(BC²)

so the gradient needs the box sums of ``a``, ``b`` and ``c = a F̄ − b W̄`` alone.
"""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit
from regista.kernels.cpu.filters import _add_plane, _filter_plane, _set_plane


def lncc_fixed(fixed, radius):
    """Return the window means and window sums of squares ``B`` of the fixed image, both (I, J, K) float32."""
    mean, spread = np.empty_like(fixed), np.empty_like(fixed)
    taps = _window(fixed.shape, radius)
    parallel_for(lambda a, b: _fixed_statistics(a, b, fixed, *taps, mean, spread), fixed.shape[0])
    return mean, spread


def lncc_coefficients(fixed, fixed_mean, fixed_spread, warped, weight, radius, floor, *, out):
    """Write ``a, b, c`` of the module's formula to `out` and return Σ weight · cc².

    Parameters
    ----------
    fixed, fixed_mean, fixed_spread, warped : (I, J, K) float32 ndarray
        Images and what `lncc_fixed` gave.
    weight : (I, J, K) float32 ndarray or None
        Weight of each window.
    radius : int
        Window radius, voxels.
    floor : float
        Variance per voxel below which a window counts as flat and is left out.
    out : (3, I, J, K) float32 ndarray
        Destination.
    """
    values = np.zeros(fixed.shape[0])
    taps = _window(fixed.shape, radius)
    w = np.ones((1, 1, 1), np.float32) if weight is None else weight
    parallel_for(
        lambda p, q: _coefficients(
            p, q, fixed, fixed_mean, fixed_spread, warped, w, weight is not None, *taps,
            np.float32(floor), out, values,
        ),
        fixed.shape[0],
    )  # fmt: skip
    return float(values.sum())


def lncc_gradient(fixed, warped, coefficients, radius, *, out):
    """Write ``∂Σcc²/∂warped`` to `out` (I, J, K)."""
    taps = _window(fixed.shape, radius)
    parallel_for(lambda p, q: _gradient(p, q, fixed, warped, coefficients, *taps, out), fixed.shape[0])
    return out


def lncc_force(fixed, warped, coefficients, radius, axis_scale, symmetric, *, out):
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
    """
    taps = _window(fixed.shape, radius)
    scale = np.asarray(axis_scale, np.float32)
    parallel_for(
        lambda p, q: _force(p, q, fixed, warped, coefficients, *taps, scale, symmetric, out), fixed.shape[0]
    )
    return out


def _window(shape, radius):
    return tuple(np.ones(radius + 1 if n > 1 else 1, np.float32) for n in shape)


@njit
def _count(i, n, r):
    return min(i + r, n - 1) - max(i - r, 0) + 1


@njit
def _sum_ring(ring, i, inn, ri, width, total):
    _set_plane(total, ring[i % width], np.float32(1))
    for t in range(1, ri + 1):
        if i - t >= 0:
            _add_plane(total, ring[(i - t) % width], np.float32(1))
        if i + t < inn:
            _add_plane(total, ring[(i + t) % width], np.float32(1))


@njit
def _fixed_statistics(start, stop, fixed, ti, tj, tk, mean, spread):
    inn, jn, kn = fixed.shape
    ri, rj, rk = ti.shape[0] - 1, tj.shape[0] - 1, tk.shape[0] - 1
    width = 2 * ri + 1
    ring_f = np.empty((width, jn, kn), np.float32)
    ring_ff = np.empty((width, jn, kn), np.float32)
    square = np.empty((jn, kn), np.float32)
    padded = np.empty(kn + 2 * rk, np.float32)
    done = max(start - ri, 0)
    for i in range(start, stop):
        while done <= min(i + ri, inn - 1):
            _filter_plane(fixed[done], tj, tk, False, padded, ring_f[done % width])
            flat, sq = fixed[done].ravel(), square.ravel()
            for n in range(flat.shape[0]):
                sq[n] = flat[n] * flat[n]
            _filter_plane(square, tj, tk, False, padded, ring_ff[done % width])
            done += 1
        _sum_ring(ring_f, i, inn, ri, width, mean[i])
        _sum_ring(ring_ff, i, inn, ri, width, spread[i])
        for j in range(jn):
            nij = _count(i, inn, ri) * _count(j, jn, rj)
            for k in range(kn):
                inverse = np.float32(1) / np.float32(nij * _count(k, kn, rk))
                s = mean[i, j, k]
                mean[i, j, k] = s * inverse
                spread[i, j, k] = max(spread[i, j, k] - s * s * inverse, np.float32(0))


@njit
def _coefficients(
    start, stop, fixed, fmean, fspread, warped, weight, has_weight, ti, tj, tk, floor, out, values
):
    inn, jn, kn = fixed.shape
    ri, rj, rk = ti.shape[0] - 1, tj.shape[0] - 1, tk.shape[0] - 1
    width = 2 * ri + 1
    ring_w = np.empty((width, jn, kn), np.float32)
    ring_ww = np.empty((width, jn, kn), np.float32)
    ring_fw = np.empty((width, jn, kn), np.float32)
    product = np.empty((jn, kn), np.float32)
    padded = np.empty(kn + 2 * rk, np.float32)
    sum_w = np.empty((jn, kn), np.float32)
    sum_ww = np.empty((jn, kn), np.float32)
    sum_fw = np.empty((jn, kn), np.float32)
    counts = np.empty(kn, np.float32)
    for k in range(kn):
        counts[k] = np.float32(_count(k, kn, rk))
    zero, one = np.float32(0), np.float32(1)
    done = max(start - ri, 0)
    for i in range(start, stop):
        while done <= min(i + ri, inn - 1):
            slot = done % width
            w, f, p = warped[done].ravel(), fixed[done].ravel(), product.ravel()
            _filter_plane(warped[done], tj, tk, False, padded, ring_w[slot])
            for n in range(p.shape[0]):
                p[n] = w[n] * w[n]
            _filter_plane(product, tj, tk, False, padded, ring_ww[slot])
            for n in range(p.shape[0]):
                p[n] = w[n] * f[n]
            _filter_plane(product, tj, tk, False, padded, ring_fw[slot])
            done += 1
        _sum_ring(ring_w, i, inn, ri, width, sum_w)
        _sum_ring(ring_ww, i, inn, ri, width, sum_ww)
        _sum_ring(ring_fw, i, inn, ri, width, sum_fw)
        plane_value = 0.0
        for j in range(jn):
            nij = np.float32(_count(i, inn, ri) * _count(j, jn, rj))
            row_value = zero
            rw, rww, rfw = sum_w[j], sum_ww[j], sum_fw[j]
            mf, bf = fmean[i, j], fspread[i, j]
            oa, ob, oc = out[0, i, j], out[1, i, j], out[2, i, j]
            for k in range(kn):
                n = nij * counts[k]
                wmean = rw[k] / n
                a = rfw[k] - mf[k] * rw[k]
                b = bf[k]
                c = rww[k] - rw[k] * wmean
                low = floor * n
                keep = b > low and c > low
                c = c if keep else one
                ratio = a / (b * c if keep else one)
                ratio = ratio if keep else zero
                if has_weight:
                    ratio *= weight[i, j, k]
                cc = a * ratio
                row_value += cc
                ca = np.float32(2) * ratio
                cb = np.float32(2) * cc / c
                oa[k] = ca
                ob[k] = cb
                oc[k] = ca * mf[k] - cb * wmean
            plane_value += row_value
        values[i] = plane_value


@njit
def _box_coefficients(start, done, i, inn, ri, width, coefficients, tj, tk, padded, ring, sums):
    while done <= min(i + ri, inn - 1):
        for c in range(3):
            _filter_plane(coefficients[c, done], tj, tk, False, padded, ring[c, done % width])
        done += 1
    for c in range(3):
        _sum_ring(ring[c], i, inn, ri, width, sums[c])
    return done


@njit
def _gradient(start, stop, fixed, warped, coefficients, ti, tj, tk, out):
    inn, jn, kn = fixed.shape
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    width = 2 * ri + 1
    ring = np.empty((3, width, jn, kn), np.float32)
    sums = np.empty((3, jn, kn), np.float32)
    padded = np.empty(kn + 2 * rk, np.float32)
    done = max(start - ri, 0)
    for i in range(start, stop):
        done = _box_coefficients(start, done, i, inn, ri, width, coefficients, tj, tk, padded, ring, sums)
        for j in range(jn):
            for k in range(kn):
                out[i, j, k] = sums[0, j, k] * fixed[i, j, k] - sums[1, j, k] * warped[i, j, k] - sums[2, j, k]


@njit
def _force(start, stop, fixed, warped, coefficients, ti, tj, tk, scale, symmetric, out):
    inn, jn, kn = fixed.shape
    ri, rk = ti.shape[0] - 1, tk.shape[0] - 1
    width = 2 * ri + 1
    ring = np.empty((3, width, jn, kn), np.float32)
    sums = np.empty((3, jn, kn), np.float32)
    padded = np.empty(kn + 2 * rk, np.float32)
    g = np.empty(kn, np.float32)
    own = np.float32(0.5 if symmetric else 1.0)
    done = max(start - ri, 0)
    for i in range(start, stop):
        done = _box_coefficients(start, done, i, inn, ri, width, coefficients, tj, tk, padded, ring, sums)
        il, ih = max(i - 1, 0), min(i + 1, inn - 1)
        wi = own * scale[0] / np.float32(max(ih - il, 1))
        for j in range(jn):
            jl, jh = max(j - 1, 0), min(j + 1, jn - 1)
            wj = own * scale[1] / np.float32(max(jh - jl, 1))
            wk = own * scale[2] * np.float32(0.5)
            sa, sb, sc = sums[0, j], sums[1, j], sums[2, j]
            f, w = fixed[i, j], warped[i, j]
            oi, oj, ok = out[0, i, j], out[1, i, j], out[2, i, j]
            for k in range(kn):
                g[k] = sa[k] * f[k] - sb[k] * w[k] - sc[k]
            w0, w1, w2, w3 = warped[il, j], warped[ih, j], warped[i, jl], warped[i, jh]
            for k in range(kn):
                oi[k] = wi * g[k] * (w1[k] - w0[k])
                oj[k] = wj * g[k] * (w3[k] - w2[k])
            for k in range(1, kn - 1):
                ok[k] = wk * g[k] * (w[k + 1] - w[k - 1])
            if kn > 1:
                ok[0] = np.float32(2) * wk * g[0] * (w[1] - w[0])
                ok[kn - 1] = np.float32(2) * wk * g[kn - 1] * (w[kn - 1] - w[kn - 2])
            else:
                ok[0] = np.float32(0)
            if symmetric:
                f0, f1, f2, f3 = fixed[il, j], fixed[ih, j], fixed[i, jl], fixed[i, jh]
                for k in range(kn):
                    oi[k] += wi * g[k] * (f1[k] - f0[k])
                    oj[k] += wj * g[k] * (f3[k] - f2[k])
                for k in range(1, kn - 1):
                    ok[k] += wk * g[k] * (f[k + 1] - f[k - 1])
                if kn > 1:
                    ok[0] += np.float32(2) * wk * g[0] * (f[1] - f[0])
                    ok[kn - 1] += np.float32(2) * wk * g[kn - 1] * (f[kn - 1] - f[kn - 2])
