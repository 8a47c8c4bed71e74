"""How a map folds: signed tetrahedra of every cell, determinants at the corners of every voxel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit


def non_diffeomorphic_volume(u: ArrayLike, weight: ArrayLike) -> float:
    """Return the volume of the negatively oriented tetrahedra, in voxels.

    Every voxel is the corner of eight tetrahedra (one for each choice of forward and backward differences)
    and of two more through the middle of the cells next to it; each cell is so split twice, hence the factor
    one half (Liu et al., IJCV 2024). A tetrahedron counts with the weight of the voxel it belongs to. The
    field is continued beyond its lattice by its edge value.

    Parameters
    ----------
    u : (3, I, J, K) ndarray
        Displacement in voxels. With one slice, triangles take the place of tetrahedra.
    weight : (I, J, K) ndarray
        Weight of each voxel.

    Returns
    -------
    float
        Volume in voxels (area in pixels with one slice).
    """
    field = np.ascontiguousarray(u, np.float32)
    mask = np.ascontiguousarray(weight, np.float32)
    out = np.zeros(field.shape[1])
    body = _ndv if field.shape[3] > 1 else _nda
    parallel_for(lambda a, b: body(a, b, field, mask, out), field.shape[1])
    return float(out.sum())


@inlined
def _det(a0, a1, a2, b0, b1, b2, c0, c1, c2):
    return a0 * (b1 * c2 - b2 * c1) - a1 * (b0 * c2 - b2 * c0) + a2 * (b0 * c1 - b1 * c0)


@inlined
def _edge(u, c, i, j, k, p, q, r):
    """Return component c of the image of the edge from a voxel to the one (p, q, r) away."""
    x = min(max(i + p, 0), u.shape[1] - 1)
    y = min(max(j + q, 0), u.shape[2] - 1)
    z = min(max(k + r, 0), u.shape[3] - 1)
    step = p if c == 0 else (q if c == 1 else r)
    return step + np.float64(u[c, x, y, z]) - np.float64(u[c, i, j, k])


@inlined
def _middle(u, i, j, k, s):
    """Return six times the volume of the middle tetrahedron on the side s = ±1 of a voxel."""
    return s * _det(
        _edge(u, 0, i, j, k, s, s, 0),
        _edge(u, 1, i, j, k, s, s, 0),
        _edge(u, 2, i, j, k, s, s, 0),
        _edge(u, 0, i, j, k, 0, s, s),
        _edge(u, 1, i, j, k, 0, s, s),
        _edge(u, 2, i, j, k, 0, s, s),
        _edge(u, 0, i, j, k, s, 0, s),
        _edge(u, 1, i, j, k, s, 0, s),
        _edge(u, 2, i, j, k, s, 0, s),
    )


@njit
def _ndv(start, stop, u, weight, out):
    d = np.empty((2, 3, 3))
    for i in range(start, stop):
        for j in range(u.shape[2]):
            for k in range(u.shape[3]):
                if weight[i, j, k] == 0:
                    continue
                for c in range(3):
                    for side in range(2):
                        s = 2 * side - 1
                        d[side, 0, c] = s * _edge(u, c, i, j, k, s, 0, 0)
                        d[side, 1, c] = s * _edge(u, c, i, j, k, 0, s, 0)
                        d[side, 2, c] = s * _edge(u, c, i, j, k, 0, 0, s)
                total = 0.0
                for s in (-1, 1):  # not as constants: each pair of them would be compiled by itself
                    total += min(_middle(u, i, j, k, s), 0.0)
                for corner in range(8):
                    a, b, c = d[corner >> 2, 0], d[(corner >> 1) & 1, 1], d[corner & 1, 2]
                    total += min(_det(a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]), 0.0)
                out[i] -= total / 12 * weight[i, j, k]


@njit
def _nda(start, stop, u, weight, out):
    for i in range(start, stop):
        for j in range(u.shape[2]):
            if weight[i, j, 0] == 0:
                continue
            total = 0.0
            for s in (-1, 1):
                for t in (-1, 1):
                    a0, a1 = s * _edge(u, 0, i, j, 0, s, 0, 0), s * _edge(u, 1, i, j, 0, s, 0, 0)
                    b0, b1 = t * _edge(u, 0, i, j, 0, 0, t, 0), t * _edge(u, 1, i, j, 0, 0, t, 0)
                    total += min(a0 * b1 - a1 * b0, 0.0)
            out[i] -= total / 4 * weight[i, j, 0]


_CHUNK = 128
"""Voxels of a row whose differences are worked on together; a constant, so that the compiler knows lines apart."""


def smallest_corners(u: ArrayLike) -> NDArray[np.float32]:
    """Return the smallest of the Jacobian determinants at the eight corners of every voxel.

    There is one for each choice of forward and backward differences; at the ends of an axis both are the one-sided
    one, and along an axis of one voxel there is no difference. Where all eight are above 0, so is the determinant
    by central differences, which is their mean.

    Parameters
    ----------
    u : (3, I, J, K) ndarray
        Displacement in voxels.

    Returns
    -------
    (I, J, K) float32 ndarray
        Smallest determinant of the Jacobian of ``x + u``.
    """
    field = np.ascontiguousarray(u, np.float32)
    out = np.empty(field.shape[1:], np.float32)
    parallel_for(lambda a, b: _corners(a, b, field, out), field.shape[1])
    return out


@inlined
def _first_of(i, side, size):
    """Return the first of the two voxels whose difference counts: backward (side 0) or forward (1)."""
    return min(max(i - 1 + side, 0), max(size - 2, 0))


@njit
def _corners(start, stop, u, out):
    inn, jn, kn = out.shape
    one = np.float32(1)
    lines = np.empty((18, _CHUNK), np.float32)  # by side, axis and component
    for i in range(start, stop):
        for j in range(jn):
            for p in range(0, kn, _CHUNK):
                q = min(p + _CHUNK, kn)
                for side in range(2):
                    a, b = _first_of(i, side, inn), _first_of(j, side, jn)
                    c, d = min(a + 1, inn - 1), min(b + 1, jn - 1)
                    for n in range(3):
                        near, far = u[n, a, j, p:q], u[n, c, j, p:q]
                        for k in range(q - p):
                            lines[9 * side + n, k] = far[k] - near[k]
                        near, far = u[n, i, b, p:q], u[n, i, d, p:q]
                        for k in range(q - p):
                            lines[9 * side + 3 + n, k] = far[k] - near[k]
                        row = u[n, i, j]
                        for k in range(q - p):
                            e = _first_of(p + k, side, kn)
                            lines[9 * side + 6 + n, k] = row[min(e + 1, kn - 1)] - row[e]
                target = out[i, j, p:q]
                for k in range(q - p):
                    least = np.float32(1e30)
                    for s in range(2):
                        y0, y1, y2 = lines[9 * s + 3, k], one + lines[9 * s + 4, k], lines[9 * s + 5, k]
                        for t in range(2):
                            z0, z1, z2 = lines[9 * t + 6, k], lines[9 * t + 7, k], one + lines[9 * t + 8, k]
                            m0, m1, m2 = y1 * z2 - y2 * z1, y2 * z0 - y0 * z2, y0 * z1 - y1 * z0
                            for r in range(2):
                                x0, x1, x2 = one + lines[9 * r, k], lines[9 * r + 1, k], lines[9 * r + 2, k]
                                least = min(least, x0 * m0 + x1 * m1 + x2 * m2)
                    target[k] = least
