"""Whole-image sums and per-voxel gradients: SSD, NCC, and the chain rule to a field or a linear map."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit
from regista.kernels.cpu.rows import all_rows, for_rows

_NONE = np.ones((1, 1, 1), np.float32)


def moments(fixed, warped, weight=None):
    """Return Σw, ΣwF, ΣwW, ΣwFF, ΣwWW, ΣwFW in float64, summed plane by plane in a fixed order."""
    sums = np.zeros((fixed.shape[0], 6))
    w = _NONE if weight is None else weight
    parallel_for(
        lambda a, b: _moments(a, b, fixed, warped, w, weight is not None, sums),
        fixed.shape[0],
        voxels=fixed.size,
    )
    return sums.sum(axis=0)


def combine(fixed, warped, weight, cf, cw, c0, *, out):
    """Write ``weight · (cf · fixed + cw · warped + c0)`` to `out`: the gradient of SSD and of NCC."""
    w = _NONE if weight is None else weight
    coefficients = np.array([cf, cw, c0], np.float32)
    parallel_for(
        lambda a, b: _combine(a, b, fixed, warped, w, weight is not None, coefficients, out),
        fixed.shape[0],
        voxels=fixed.size,
    )
    return out


def image_force(gradient, warped, fixed, axis_scale, symmetric, *, out, rows=None):
    """Write ``−dD/dW`` times a spatial gradient: the descent force on a compositive update.

    Parameters
    ----------
    gradient : (I, J, K) float32 ndarray
        ``dD/dW`` of a dissimilarity D.
    warped, fixed : (I, J, K) float32 ndarray
        Images whose gradients are used.
    axis_scale : (3,) array_like
        Factor per axis (for anisotropic voxels).
    symmetric : bool
        Use the mean of both images' gradients, else that of `warped`.
    out : (3, I, J, K) float32 ndarray
        Destination.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`).
    """
    scale = np.asarray(axis_scale, np.float32)
    rows = all_rows(warped.shape) if rows is None else rows
    for_rows(lambda a, b: _force(a, b, gradient, warped, fixed, scale, symmetric, rows, out), rows)
    return out


def add_weighted(out, other, own_weight, other_weight, *, rows=None):
    """Write ``own_weight · out + other_weight · other`` to `out`.

    Parameters
    ----------
    out, other : (C, I, J, K) float32 ndarray
        Volumes; `other` is not read where its weight is 0.
    own_weight, other_weight : float
        Factors.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`).
    """
    rows = all_rows(out.shape[1:]) if rows is None else rows
    a, b = np.float32(own_weight), np.float32(other_weight)
    for_rows(lambda p, q: _add_weighted(p, q, out, other, a, b, rows), rows)
    return out


def linear_gradient(gradient, warped):
    """Return ``Σ_x g(x) ∂_a W(x) (x, 1)_b``: the gradient of D for a linear update in voxels, (3, 4) float64."""
    sums = np.zeros((warped.shape[0], 3, 4))
    parallel_for(lambda a, b: _linear(a, b, gradient, warped, sums), warped.shape[0], voxels=warped.size)
    return sums.sum(axis=0)


@njit
def _moments(start, stop, fixed, warped, weight, has_weight, sums):
    _, jn, kn = fixed.shape
    for i in range(start, stop):
        for j in range(jn):
            f, w = fixed[i, j], warped[i, j]
            n0 = n1 = n2 = n3 = n4 = n5 = np.float32(0)
            if has_weight:
                q = weight[i, j]
                for k in range(kn):
                    a, b, p = f[k], w[k], q[k]
                    n0 += p
                    n1 += p * a
                    n2 += p * b
                    n3 += p * a * a
                    n4 += p * b * b
                    n5 += p * a * b
            else:
                n0 = np.float32(kn)
                for k in range(kn):
                    a, b = f[k], w[k]
                    n1 += a
                    n2 += b
                    n3 += a * a
                    n4 += b * b
                    n5 += a * b
            row = sums[i]
            row[0] += n0
            row[1] += n1
            row[2] += n2
            row[3] += n3
            row[4] += n4
            row[5] += n5


@njit
def _combine(start, stop, fixed, warped, weight, has_weight, coefficients, out):
    _, jn, kn = fixed.shape
    cf, cw, c0 = coefficients[0], coefficients[1], coefficients[2]
    for i in range(start, stop):
        for j in range(jn):
            f, w, o = fixed[i, j], warped[i, j], out[i, j]
            for k in range(kn):
                o[k] = cf * f[k] + cw * w[k] + c0
            if has_weight:
                q = weight[i, j]
                for k in range(kn):
                    o[k] *= q[k]


@njit
def _force(start, stop, gradient, warped, fixed, scale, symmetric, rows, out):
    inn, jn, kn = warped.shape
    share = np.float32(-0.5 if symmetric else -1.0)
    mix = np.float32(1.0 if symmetric else 0.0)
    for i in range(start, stop):
        il, ih = max(i - 1, 0), min(i + 1, inn - 1)
        wi = share * scale[0] / np.float32(max(ih - il, 1))
        for j in range(jn):
            jl, jh = max(j - 1, 0), min(j + 1, jn - 1)
            wj = share * scale[1] / np.float32(max(jh - jl, 1))
            for k in range(rows[0, i, j], rows[1, i, j]):
                kl, kh = max(k - 1, 0), min(k + 1, kn - 1)
                wk = share * scale[2] / np.float32(max(kh - kl, 1))
                g = gradient[i, j, k]
                di = warped[ih, j, k] - warped[il, j, k] + mix * (fixed[ih, j, k] - fixed[il, j, k])
                dj = warped[i, jh, k] - warped[i, jl, k] + mix * (fixed[i, jh, k] - fixed[i, jl, k])
                dk = warped[i, j, kh] - warped[i, j, kl] + mix * (fixed[i, j, kh] - fixed[i, j, kl])
                out[0, i, j, k] = wi * g * di
                out[1, i, j, k] = wj * g * dj
                out[2, i, j, k] = wk * g * dk


@njit
def _add_weighted(start, stop, out, other, own_weight, other_weight, rows):
    channels, _, jn, _ = out.shape
    for c in range(channels):
        for i in range(start, stop):
            for j in range(jn):
                p, q = rows[0, i, j], rows[1, i, j]
                if p >= q:
                    continue
                target, source = out[c, i, j, p:q], other[c, i, j, p:q]
                if other_weight == 0:
                    for k in range(q - p):
                        target[k] *= own_weight
                else:
                    for k in range(q - p):
                        target[k] = own_weight * target[k] + other_weight * source[k]


@njit
def _linear(start, stop, gradient, warped, sums):
    inn, jn, kn = warped.shape
    for i in range(start, stop):
        il, ih = max(i - 1, 0), min(i + 1, inn - 1)
        wi = np.float32(1) / np.float32(max(ih - il, 1))
        for j in range(jn):
            jl, jh = max(j - 1, 0), min(j + 1, jn - 1)
            wj = np.float32(1) / np.float32(max(jh - jl, 1))
            a0 = a1 = a2 = b0 = b1 = b2 = np.float32(0)
            g, row = gradient[i, j], warped[i, j]
            up_i, down_i, up_j, down_j = warped[ih, j], warped[il, j], warped[i, jh], warped[i, jl]
            for k in range(kn):
                p, fk = g[k], np.float32(k)
                di = p * (up_i[k] - down_i[k])
                dj = p * (up_j[k] - down_j[k])
                a0 += di
                a1 += dj
                b0 += di * fk
                b1 += dj * fk
            for k in range(1, kn - 1):
                dk = np.float32(0.5) * g[k] * (row[k + 1] - row[k - 1])
                a2 += dk
                b2 += dk * np.float32(k)
            if kn > 1:
                first = g[0] * (row[1] - row[0])
                last = g[kn - 1] * (row[kn - 1] - row[kn - 2])
                a2 += first + last
                b2 += last * np.float32(kn - 1)
            s = sums[i]
            a0, b0, a1, b1 = a0 * wi, b0 * wi, a1 * wj, b1 * wj
            s[0, 0] += a0 * i
            s[0, 1] += a0 * j
            s[0, 2] += b0
            s[0, 3] += a0
            s[1, 0] += a1 * i
            s[1, 1] += a1 * j
            s[1, 2] += b1
            s[1, 3] += a1
            s[2, 0] += a2 * i
            s[2, 1] += a2 * j
            s[2, 2] += b2
            s[2, 3] += a2
