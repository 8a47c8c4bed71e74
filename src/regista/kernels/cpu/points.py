"""Move lists of points: through a matrix, or by the displacement read at where they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit_finite_checked
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


@njit_finite_checked
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
