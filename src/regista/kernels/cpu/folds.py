"""How a map folds and bends: signed tetrahedra of every cell, second derivatives at every voxel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit


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


def bending(u: ArrayLike, weight: ArrayLike, world2grid: ArrayLike) -> tuple[float, float]:
    """Return the weighted sum of squared second derivatives and the sum of weights.

    Voxels next to the border of the lattice have no second difference and are left out.

    Parameters
    ----------
    u : (3, I, J, K) ndarray
        Displacement in mm.
    weight : (I, J, K) ndarray
        Weight of each voxel.
    world2grid : (3, 3) ndarray
        Derivatives of voxel coordinates by world coordinates, 1/mm.

    Returns
    -------
    total : float
        ``Σ w Σ_cij (∂²u_c/∂x_i∂x_j)²`` in 1/mm².
    weights : float
        ``Σ w`` over the same voxels.
    """
    field = np.ascontiguousarray(u, np.float32)
    mask = np.ascontiguousarray(weight, np.float32)
    matrix = np.ascontiguousarray(world2grid, np.float64)
    out = np.zeros((field.shape[1], 2))
    parallel_for(lambda a, b: _bending(a, b, field, mask, matrix, out), field.shape[1])
    return float(out[:, 0].sum()), float(out[:, 1].sum())


@njit
def _det(a0, a1, a2, b0, b1, b2, c0, c1, c2):
    return a0 * (b1 * c2 - b2 * c1) - a1 * (b0 * c2 - b2 * c0) + a2 * (b0 * c1 - b1 * c0)


@njit
def _edge(u, c, i, j, k, p, q, r):
    """Return component c of the image of the edge from a voxel to the one (p, q, r) away."""
    x = min(max(i + p, 0), u.shape[1] - 1)
    y = min(max(j + q, 0), u.shape[2] - 1)
    z = min(max(k + r, 0), u.shape[3] - 1)
    step = p if c == 0 else (q if c == 1 else r)
    return step + np.float64(u[c, x, y, z]) - np.float64(u[c, i, j, k])


@njit
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
                total = min(_middle(u, i, j, k, 1), 0.0) + min(_middle(u, i, j, k, -1), 0.0)
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


@njit
def _inner(size):
    """Return the range of indices that have neighbours on both sides; all of an axis that is too short."""
    return (1, size - 1) if size > 2 else (0, size)


@njit
def _bending(start, stop, u, weight, matrix, out):
    _, ni, nj, nk = u.shape
    h, g = np.zeros((3, 3)), np.zeros((3, 3))
    (i0, i1), (j0, j1), (k0, k1) = _inner(ni), _inner(nj), _inner(nk)
    for i in range(max(start, i0), min(stop, i1)):
        for j in range(j0, j1):
            for k in range(k0, k1):
                w = weight[i, j, k]
                if w == 0:
                    continue
                out[i, 1] += w
                for c in range(3):
                    _hessian(u[c], i, j, k, h)
                    for a in range(3):
                        for b in range(3):
                            g[a, b] = 0.0
                            for e in range(3):
                                g[a, b] += h[a, e] * matrix[e, b]
                    for a in range(3):
                        for b in range(3):
                            value = 0.0
                            for e in range(3):
                                value += matrix[e, a] * g[e, b]
                            out[i, 0] += w * value * value


@njit
def _cross(pp, pm, mp, mm):
    return 0.25 * (np.float64(pp) - pm - mp + mm)


@njit
def _hessian(v, i, j, k, h):
    """Write the central second differences of one component; those along a flat axis stay 0."""
    a, b, c = v.shape[0] > 2, v.shape[1] > 2, v.shape[2] > 2
    two = 2 * np.float64(v[i, j, k])
    if a:
        h[0, 0] = v[i + 1, j, k] - two + v[i - 1, j, k]
    if b:
        h[1, 1] = v[i, j + 1, k] - two + v[i, j - 1, k]
    if c:
        h[2, 2] = v[i, j, k + 1] - two + v[i, j, k - 1]
    if a and b:
        h[0, 1] = _cross(v[i + 1, j + 1, k], v[i + 1, j - 1, k], v[i - 1, j + 1, k], v[i - 1, j - 1, k])
        h[1, 0] = h[0, 1]
    if a and c:
        h[0, 2] = _cross(v[i + 1, j, k + 1], v[i + 1, j, k - 1], v[i - 1, j, k + 1], v[i - 1, j, k - 1])
        h[2, 0] = h[0, 2]
    if b and c:
        h[1, 2] = _cross(v[i, j + 1, k + 1], v[i, j + 1, k - 1], v[i, j - 1, k + 1], v[i, j - 1, k - 1])
        h[2, 1] = h[1, 2]
