"""The compositive update of a displacement field, as a stencil."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.rows import all_rows, for_rows


def largest_component(disp, rows=None):
    """Return the largest absolute value in a field (in `rows` of it)."""
    peaks = np.zeros(disp.shape[1])
    rows = all_rows(disp.shape[1:]) if rows is None else rows
    for_rows(lambda a, b: _largest(a, b, disp, rows, peaks), rows)
    return float(peaks.max())


def saturate(update, strength, largest, rows=None):
    """Divide each vector v of a field by ``1 + strength |v| / largest``; return the largest component of the result.

    Parameters
    ----------
    update : (3, I, J, K) float32 ndarray
        Changed in place.
    strength : float
        0 leaves the field as it is; at 3 a vector of length `largest` is cut to a quarter.
    largest : float
        Length that counts as large.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`).
    """
    peaks = np.zeros(update.shape[1])
    rows = all_rows(update.shape[1:]) if rows is None else rows
    scale = np.float32(strength / largest)
    for_rows(lambda a, b: _saturate(a, b, update, scale, rows, peaks), rows)
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


def resist(gradient, disp, scale, *, out):
    """Take from a force on a compositive update what a gradient by the displacement gives: ``s (I + Du)ᵀ g``.

    To first order an update v changes u by ``(I + Du) v``, so this is the gradient by the update, scaled per axis.

    Parameters
    ----------
    gradient : (3, I, J, K) float32 ndarray
        Derivative ``g`` of a cost by the displacement.
    disp : (3, I, J, K) float32 ndarray
        The displacement ``u``, voxels; ``Du`` is by central differences, one-sided at the border.
    scale : (3,) float32 ndarray
        Factor ``s`` per axis.
    out : (3, I, J, K) float32 ndarray
        The force, changed in place.
    """
    parallel_for(lambda a, b: _resist(a, b, gradient, disp, scale, out), out.shape[1])
    return out


@njit
def _resist(start, stop, gradient, u, scale, out):
    inn, jn, kn = out.shape[1:]
    for i in range(start, stop):
        a, b = max(i - 1, 0), min(i + 1, inn - 1)
        for j in range(jn):
            c, d = max(j - 1, 0), min(j + 1, jn - 1)
            for k in range(kn):
                x, y, z = gradient[0, i, j, k], gradient[1, i, j, k], gradient[2, i, j, k]
                if x == 0 and y == 0 and z == 0:
                    continue
                e, f = max(k - 1, 0), min(k + 1, kn - 1)
                p, q, r = x, y, z
                for n in range(3):
                    g, v = gradient[n, i, j, k], u[n]
                    p += g * (v[b, j, k] - v[a, j, k]) / max(b - a, 1)
                    q += g * (v[i, d, k] - v[i, c, k]) / max(d - c, 1)
                    r += g * (v[i, j, f] - v[i, j, e]) / max(f - e, 1)
                out[0, i, j, k] -= scale[0] * p
                out[1, i, j, k] -= scale[1] * q
                out[2, i, j, k] -= scale[2] * r


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
def _saturate(start, stop, update, scale, rows, peaks):
    one = np.float32(1)
    for i in range(start, stop):
        peak = np.float32(0)
        for j in range(update.shape[2]):
            p, q = rows[0, i, j], rows[1, i, j]
            if p >= q:
                continue
            a, b, c = update[0, i, j, p:q], update[1, i, j, p:q], update[2, i, j, p:q]
            for k in range(q - p):
                factor = one / (one + scale * np.sqrt(a[k] * a[k] + b[k] * b[k] + c[k] * c[k]))
                a[k], b[k], c[k] = factor * a[k], factor * b[k], factor * c[k]
                peak = max(peak, max(abs(a[k]), max(abs(b[k]), abs(c[k]))))
        peaks[i] = peak


_CHUNK = 256
"""Voxels of a row worked on together: a buffer of constant width lets the compiler see that its lines do not overlap,
so that the sum over the stencil vectorizes."""


@njit
def _compose(start, stop, disp, update, factor, rows, out):
    inn, jn, kn = disp.shape[1:]
    one, zero = np.float32(1), np.float32(0)
    lines = np.empty((10, _CHUNK + 8), np.float32)
    for i in range(start, stop):
        for j in range(jn):
            first, last = rows[0, i, j], rows[1, i, j]
            for k in (0, kn - 1):  # the ends of a row lack a neighbour
                if first <= k < last:
                    _at_end(disp, update, factor, i, j, k, out)
            last = min(last, kn - 1)
            before, after = max(j - 1, 0), min(j + 1, jn - 1)
            for p in range(max(first, 1), last, _CHUNK):
                q = min(p + _CHUNK, last)
                size = q - p
                for axis in range(3):  # lines 0 to 8: the weights of the three neighbours along each axis
                    v = update[axis, i, j, p:q]
                    for k in range(size):
                        a = factor * v[k]
                        lines[3 * axis, k], lines[3 * axis + 2, k] = max(-a, zero), max(a, zero)
                        lines[3 * axis + 1, k] = one - abs(a)
                for comp in range(3):
                    own, target = update[comp, i, j, p:q], out[comp, i, j, p:q]
                    for k in range(size):
                        lines[9, k] = factor * own[k]
                    for n in range(3):
                        plane = disp[comp, min(max(i + n - 1, 0), inn - 1)]
                        low, mid = plane[before, p - 1 : q + 1], plane[j, p - 1 : q + 1]
                        high = plane[after, p - 1 : q + 1]
                        for k in range(size):
                            bl, bm, bh = lines[3, k], lines[4, k], lines[5, k]
                            x = bl * low[k] + bm * mid[k] + bh * high[k]
                            y = bl * low[k + 1] + bm * mid[k + 1] + bh * high[k + 1]
                            z = bl * low[k + 2] + bm * mid[k + 2] + bh * high[k + 2]
                            lines[9, k] += lines[n, k] * (lines[6, k] * x + lines[7, k] * y + lines[8, k] * z)
                    for k in range(size):
                        target[k] = lines[9, k]


@inlined
def _at_end(disp, update, factor, i, j, k, out):
    """Compose one voxel by its 8 corners, the outermost values continuing beyond the lattice."""
    inn, jn, kn = disp.shape[1:]
    one = np.float32(1)
    a, b, c = factor * update[0, i, j, k], factor * update[1, i, j, k], factor * update[2, i, j, k]
    x = min(max(i + (1 if a > 0 else -1), 0), inn - 1)
    y = min(max(j + (1 if b > 0 else -1), 0), jn - 1)
    z = min(max(k + (1 if c > 0 else -1), 0), kn - 1)
    p, q, r = abs(a), abs(b), abs(c)
    for n in range(3):
        v = disp[n]
        near = (one - q) * ((one - r) * v[i, j, k] + r * v[i, j, z])
        near += q * ((one - r) * v[i, y, k] + r * v[i, y, z])
        far = (one - q) * ((one - r) * v[x, j, k] + r * v[x, j, z])
        far += q * ((one - r) * v[x, y, k] + r * v[x, y, z])
        out[n, i, j, k] = factor * update[n, i, j, k] + (one - p) * near + p * far
