"""Move lists of points: through a matrix, or by the displacement read at where they are; and the adjoint of reading."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined_finite_checked, njit_finite_checked
from regista.kernels.cpu.sampling import _cell, _inside

_GRAIN = 4096


def map_affine(points: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Return ``affine(p)`` for ``(N, 3)`` points and a ``(3, 4)`` matrix."""
    places = np.ascontiguousarray(points, np.float64)
    matrix = np.ascontiguousarray(affine, np.float64)
    out = np.empty_like(places)
    parallel_for(lambda a, b: _affine(a, b, places, matrix, out), len(places), grain=_GRAIN)
    return out


def add_field(points: ArrayLike, field: ArrayLike, to_vox: ArrayLike) -> NDArray[np.float64]:
    """Return ``p + field(to_vox(p))``, the field linear between voxels and zero outside its lattice.

    Parameters
    ----------
    points : (N, 3) array_like
        Points in the field's unit.
    field : (3, I, J, K) array_like
        Displacement in the points' unit.
    to_vox : (3, 4) array_like
        Map from points to voxels of the field.

    Returns
    -------
    (N, 3) float64 ndarray
        The moved points.
    """
    places = np.ascontiguousarray(points, np.float64)
    vectors = np.ascontiguousarray(field, np.float32)
    matrix = np.ascontiguousarray(to_vox, np.float64)
    out = np.empty_like(places)
    flat, shape = vectors.reshape(3, -1), vectors.shape[1:]
    parallel_for(lambda a, b: _add_field(a, b, places, flat, shape, matrix, out), len(places), grain=_GRAIN)
    return out


def field_at(field, points_vox):
    """Return a field at ``(N, 3)`` places of its lattice, ``(N, 3)`` float64; the outermost values go on beyond it.

    Parameters
    ----------
    field : (3, I, J, K) float32 ndarray
        Field.
    points_vox : (N, 3) float64 ndarray
        Places in voxels.
    """
    out = np.empty((len(points_vox), 3))
    parallel_for(lambda a, b: _field_at(a, b, field, points_vox, out), len(points_vox), grain=_GRAIN)
    return out


def spread(points_vox, vectors, *, out):
    """Add vectors to a field, each to the 8 voxels around its place by their linear weights: the adjoint of `field_at`.

    Parameters
    ----------
    points_vox : (N, 3) float64 ndarray
        Places in voxels.
    vectors : (N, 3) float64 ndarray
        What is added.
    out : (3, I, J, K) float32 ndarray
        The field. Vectors are added one after another, so that the sum does not depend on threads.
    """
    _spread(points_vox, vectors, out)
    return out


def value_and_slope(volume, points_vox):
    """Return a volume's linear interpolant at places, and its derivative by the place.

    The outermost values go on beyond the lattice, where the derivative across its faces is 0.

    Parameters
    ----------
    volume : (I, J, K) float32 ndarray
        Volume.
    points_vox : (N, 3) float64 ndarray
        Places in voxels.

    Returns
    -------
    (N,) float64 ndarray, (N, 3) float64 ndarray
        Value, and derivative per voxel.
    """
    value, slope = np.empty(len(points_vox)), np.empty((len(points_vox), 3))
    parallel_for(
        lambda a, b: _value_and_slope(a, b, volume, points_vox, value, slope), len(points_vox), grain=_GRAIN
    )
    return value, slope


@inlined_finite_checked
def _apply(m, x, y, z):
    return (
        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3],
        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3],
        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3],
    )


@njit_finite_checked
def _affine(start, stop, points, matrix, out):
    for n in range(start, stop):
        x, y, z = _apply(matrix, points[n, 0], points[n, 1], points[n, 2])
        out[n, 0], out[n, 1], out[n, 2] = x, y, z


@njit_finite_checked
def _add_field(start, stop, points, flat, shape, matrix, out):
    si = shape[1] * shape[2] if shape[0] > 1 else 0
    sj = shape[2] if shape[1] > 1 else 0
    sk = 1 if shape[2] > 1 else 0
    for n in range(start, stop):
        x, y, z = _apply(matrix, points[n, 0], points[n, 1], points[n, 2])
        if not _inside(x, y, z, shape):
            for c in range(3):
                out[n, c] = points[n, c]
            continue
        p, fx = _cell(x, shape[0])
        q, fy = _cell(y, shape[1])
        r, fz = _cell(z, shape[2])
        base = (p * shape[1] + q) * shape[2] + r
        for c in range(3):
            v = flat[c]
            c00 = v[base] + fz * (v[base + sk] - v[base])
            c01 = v[base + sj] + fz * (v[base + sj + sk] - v[base + sj])
            c10 = v[base + si] + fz * (v[base + si + sk] - v[base + si])
            c11 = v[base + si + sj] + fz * (v[base + si + sj + sk] - v[base + si + sj])
            c0 = c00 + fy * (c01 - c00)
            c1 = c10 + fy * (c11 - c10)
            out[n, c] = points[n, c] + (c0 + fx * (c1 - c0))


@inlined_finite_checked
def _axis(x, size):
    """Return the two voxels around a coordinate, the weight of the second, and 1 where it may move, else 0."""
    free = 1.0 if 0 <= x <= size - 1 and size > 1 else 0.0
    x = min(max(x, 0.0), size - 1.0)
    low = min(int(x), max(size - 2, 0))
    return low, min(low + 1, size - 1), x - low, free


@njit_finite_checked
def _field_at(start, stop, field, points, out):
    for n in range(start, stop):
        i0, i1, x, _ = _axis(points[n, 0], field.shape[1])
        j0, j1, y, _ = _axis(points[n, 1], field.shape[2])
        k0, k1, z, _ = _axis(points[n, 2], field.shape[3])
        for c in range(3):
            v = field[c]
            low = (1 - y) * ((1 - z) * v[i0, j0, k0] + z * v[i0, j0, k1])
            low += y * ((1 - z) * v[i0, j1, k0] + z * v[i0, j1, k1])
            high = (1 - y) * ((1 - z) * v[i1, j0, k0] + z * v[i1, j0, k1])
            high += y * ((1 - z) * v[i1, j1, k0] + z * v[i1, j1, k1])
            out[n, c] = (1 - x) * low + x * high


@njit_finite_checked
def _spread(points, vectors, out):
    for n in range(points.shape[0]):
        i0, i1, x, _ = _axis(points[n, 0], out.shape[1])
        j0, j1, y, _ = _axis(points[n, 1], out.shape[2])
        k0, k1, z, _ = _axis(points[n, 2], out.shape[3])
        for corner in range(8):
            p, q, r = corner >> 2, (corner >> 1) & 1, corner & 1
            share = (x if p else 1 - x) * (y if q else 1 - y) * (z if r else 1 - z)
            for c in range(3):
                out[c, i1 if p else i0, j1 if q else j0, k1 if r else k0] += share * vectors[n, c]


@njit_finite_checked
def _value_and_slope(start, stop, v, points, value, slope):
    for n in range(start, stop):
        i0, i1, x, free0 = _axis(points[n, 0], v.shape[0])
        j0, j1, y, free1 = _axis(points[n, 1], v.shape[1])
        k0, k1, z, free2 = _axis(points[n, 2], v.shape[2])
        a, b = np.float64(v[i0, j0, k0]), np.float64(v[i0, j0, k1])
        c, d = np.float64(v[i0, j1, k0]), np.float64(v[i0, j1, k1])
        e, f = np.float64(v[i1, j0, k0]), np.float64(v[i1, j0, k1])
        g, h = np.float64(v[i1, j1, k0]), np.float64(v[i1, j1, k1])
        low0, low1, high0, high1 = a + z * (b - a), c + z * (d - c), e + z * (f - e), g + z * (h - g)
        low, high = low0 + y * (low1 - low0), high0 + y * (high1 - high0)
        value[n] = low + x * (high - low)
        slope[n, 0] = free0 * (high - low)
        slope[n, 1] = free1 * (low1 - low0 + x * (high1 - high0 - low1 + low0))
        z0, z1 = b - a + y * (d - c - b + a), f - e + y * (h - g - f + e)
        slope[n, 2] = free2 * (z0 + x * (z1 - z0))
