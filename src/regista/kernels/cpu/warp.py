"""Pull a moving image onto the fixed grid: linear interpolation through an affine map and a field."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.rows import all_rows, for_rows


def warp(moving, affine, disp=None, *, shape, out=None, inside=None, rows=None):
    """Sample `moving` at ``affine(x + disp(x))`` for every voxel x of the fixed grid.

    Parameters
    ----------
    moving : (I', J', K') float32 ndarray
        Moving image.
    affine : (3, 4) float64 ndarray
        Map from fixed voxel to moving voxel coordinates.
    disp : (3, I, J, K) float32 ndarray, optional
        Displacement in fixed voxels.
    shape : (I, J, K)
        Shape of the fixed grid.
    out, inside : (I, J, K) float32 ndarray, optional
        Where the warped image goes, and where 1 or 0 tells whether the place lies within the moving grid.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`).

    Returns
    -------
    (I, J, K) float32 ndarray
        The warped image; places outside the moving grid take the nearest edge value.
    """
    if moving.size >= 2**31:
        raise ValueError(
            f"at most 2^31 - 1 voxels can be warped, got {moving.size}: crop or resample the image"
        )
    out = np.empty(shape, np.float32) if out is None else out
    matrix = np.ascontiguousarray(affine, dtype=np.float64)
    field = np.zeros((3, 1, 1, 1), np.float32) if disp is None else disp
    rows = all_rows(tuple(shape)) if rows is None else rows
    flags = np.zeros((1, 1, 1), np.float32) if inside is None else inside
    for_rows(
        lambda a, b: _warp(
            a, b, moving, matrix, field, disp is not None, rows, out, flags, inside is not None
        ),
        rows,
    )
    return out


def warp_gradient(moving, affine, disp, gradient, *, out):
    """Write ``g(x) ∂W/∂u(x)`` for the warped image ``W(x) = moving(affine(x + u(x)))``: the exact chain rule.

    The derivative is that of the linear interpolant within its cell, and 0 along an axis on which the place lies
    beyond the moving grid.

    Parameters
    ----------
    moving : (I', J', K') float32 ndarray
        Moving image.
    affine : (3, 4) float64 ndarray
        Map from fixed voxel to moving voxel coordinates.
    disp : (3, I, J, K) float32 ndarray
        Displacement ``u`` in fixed voxels.
    gradient : (I, J, K) float32 ndarray
        Derivative ``g`` of a cost by the warped image.
    out : (3, I, J, K) float32 ndarray
        Derivative of the cost by the displacement, per voxel.
    """
    matrix = np.ascontiguousarray(affine, dtype=np.float64)
    parallel_for(lambda a, b: _warp_gradient(a, b, moving, matrix, disp, gradient, out), out.shape[1])
    return out


_PARTS = 4
"""Buffers that the adjoint scatters into, whatever the number of threads: sums are then always in one order."""


def warp_adjoint(gradient, affine, disp, *, moving_shape):
    """Return the derivative of a cost by the moving image, given that by the warped one: each value goes to its corners.

    Parameters
    ----------
    gradient : (I, J, K) float32 ndarray
        Derivative of a cost by the warped image ``W(x) = moving(affine(x + disp(x)))``.
    affine : (3, 4) float64 ndarray
        Map from fixed voxel to moving voxel coordinates.
    disp : (3, I, J, K) float32 ndarray
        Displacement in fixed voxels.
    moving_shape : (I', J', K')
        Shape of the moving image.

    Returns
    -------
    (I', J', K') float32 ndarray
        Derivative by each voxel of the moving image; places outside it count for its nearest edge voxels.
    """
    parts = np.zeros((_PARTS, *moving_shape), np.float32)
    matrix = np.ascontiguousarray(affine, dtype=np.float64)
    edges = np.linspace(0, gradient.shape[0], _PARTS + 1).astype(np.int64)
    parallel_for(lambda a, b: _warp_adjoint(a, b, edges, matrix, disp, gradient, parts), _PARTS)
    return parts.sum(axis=0)


# Places first, then values, a row at a time: the loop over places vectorizes, and so does most of the other.


@njit
def _warp(start, stop, moving, affine, disp, has_disp, rows, out, inside, has_inside):
    mi, mj, mk = moving.shape
    jn, kn = out.shape[1:]
    linear = affine.astype(np.float32)
    top = np.array([mi - 1, mj - 1, mk - 1], np.float32)
    last = np.array([max(mi - 2, 0), max(mj - 2, 0), max(mk - 2, 0)], np.int32)
    strides = (mj * mk if mi > 1 else 0, mk if mj > 1 else 0, 1 if mk > 1 else 0)
    flat = moving.ravel()
    still, flags = np.zeros(kn, np.float32), np.empty(kn, np.float32)
    base = np.empty(kn, np.int32)
    fx, fy, fz = np.empty(kn, np.float32), np.empty(kn, np.float32), np.empty(kn, np.float32)
    origin = np.empty(3, np.float32)
    for i in range(start, stop):
        for j in range(jn):
            p, q = rows[0, i, j], rows[1, i, j]
            if p >= q:
                continue
            for n in range(3):  # the row's start in float64, the rest in float32: exact enough for any image
                origin[n] = affine[n, 0] * i + affine[n, 1] * j + affine[n, 2] * p + affine[n, 3]
            n = q - p
            if has_disp:
                d0, d1, d2 = disp[0, i, j, p:q], disp[1, i, j, p:q], disp[2, i, j, p:q]
            else:
                d0, d1, d2 = still[:n], still[:n], still[:n]
            within = inside[i, j, p:q] if has_inside else flags[:n]
            _places(origin, linear, d0, d1, d2, top, last, base[:n], fx[:n], fy[:n], fz[:n], within, mj, mk)
            _values(flat, strides, base[:n], fx[:n], fy[:n], fz[:n], out[i, j, p:q])


@inlined
def _places(origin, linear, d0, d1, d2, top, last, base, fx, fy, fz, inside, mj, mk):
    """Write the cell, the place within it and whether it lies inside, for each voxel of a row."""
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    columns, depth = np.int32(mj), np.int32(mk)
    for n in range(base.shape[0]):
        k, a, b, c = np.float32(n), d0[n], d1[n], d2[n]
        x = origin[0] + linear[0, 2] * k + linear[0, 0] * a + linear[0, 1] * b + linear[0, 2] * c
        y = origin[1] + linear[1, 2] * k + linear[1, 0] * a + linear[1, 1] * b + linear[1, 2] * c
        z = origin[2] + linear[2, 2] * k + linear[2, 0] * a + linear[2, 1] * b + linear[2, 2] * c
        here = (x >= -half) & (x <= top[0] + half) & (y >= -half) & (y <= top[1] + half)
        here &= (z >= -half) & (z <= top[2] + half)
        inside[n] = one if here else zero
        x, y, z = min(max(x, zero), top[0]), min(max(y, zero), top[1]), min(max(z, zero), top[2])
        p, q, r = min(np.int32(x), last[0]), min(np.int32(y), last[1]), min(np.int32(z), last[2])
        fx[n], fy[n], fz[n] = x - np.float32(p), y - np.float32(q), z - np.float32(r)
        base[n] = (p * columns + q) * depth + r


@inlined
def _values(flat, strides, base, fx, fy, fz, row):
    """Interpolate the moving image at each voxel of a row."""
    si, sj, sk = strides
    for n in range(row.shape[0]):
        b = np.int64(base[n])
        x, y, z = fx[n], fy[n], fz[n]
        c00 = flat[b] + z * (flat[b + sk] - flat[b])
        c01 = flat[b + sj] + z * (flat[b + sj + sk] - flat[b + sj])
        c10 = flat[b + si] + z * (flat[b + si + sk] - flat[b + si])
        c11 = flat[b + si + sj] + z * (flat[b + si + sj + sk] - flat[b + si + sj])
        c0 = c00 + y * (c01 - c00)
        c1 = c10 + y * (c11 - c10)
        row[n] = c0 + x * (c1 - c0)


@inlined
def _along(x, size):
    """Return the cell of a coordinate, the place within it, and 1 where the coordinate may move, else 0.

    Images that lie on one grid begin with every place on a face of cells: rounding must not choose the side.
    """
    whole = np.rint(x)
    x = whole if abs(x - whole) < 1e-5 else x
    free = np.float32(1 if 0 <= x <= size - 1 and size > 1 else 0)
    x = min(max(x, 0.0), size - 1.0)
    low = min(int(x), max(size - 2, 0))
    return low, np.float32(x - low), free


@inlined
def _value_and_slopes(v, n, si, sj, sk, x, y, z):
    """Return the linear interpolant at a place within cell n, and its derivative along each axis."""
    z00, z01 = v[n + sk] - v[n], v[n + sj + sk] - v[n + sj]
    z10, z11 = v[n + si + sk] - v[n + si], v[n + si + sj + sk] - v[n + si + sj]
    c00, c01 = v[n] + z * z00, v[n + sj] + z * z01
    c10, c11 = v[n + si] + z * z10, v[n + si + sj] + z * z11
    y0, y1 = c01 - c00, c11 - c10
    z0, z1 = z00 + y * (z01 - z00), z10 + y * (z11 - z10)
    slope = c10 + y * y1 - c00 - y * y0
    return c00 + y * y0 + x * slope, slope, y0 + x * (y1 - y0), z0 + x * (z1 - z0)


@njit
def _warp_gradient(start, stop, moving, affine, disp, gradient, out):
    mi, mj, mk = moving.shape
    si, sj, sk = mj * mk if mi > 1 else 0, mk if mj > 1 else 0, 1 if mk > 1 else 0
    m = affine.astype(np.float32)
    v = moving.ravel()
    for i in range(start, stop):
        for j in range(out.shape[2]):
            for k in range(out.shape[3]):
                g = gradient[i, j, k]
                if g == 0:
                    out[0, i, j, k], out[1, i, j, k], out[2, i, j, k] = g, g, g
                    continue
                a, b, c = (
                    i + np.float64(disp[0, i, j, k]),
                    j + np.float64(disp[1, i, j, k]),
                    k + np.float64(disp[2, i, j, k]),
                )
                p, x, free0 = _along(
                    affine[0, 0] * a + affine[0, 1] * b + affine[0, 2] * c + affine[0, 3], mi
                )
                q, y, free1 = _along(
                    affine[1, 0] * a + affine[1, 1] * b + affine[1, 2] * c + affine[1, 3], mj
                )
                r, z, free2 = _along(
                    affine[2, 0] * a + affine[2, 1] * b + affine[2, 2] * c + affine[2, 3], mk
                )
                n = (p * mj + q) * mk + r
                _, d0, d1, d2 = _value_and_slopes(v, n, si, sj, sk, x, y, z)
                d0, d1, d2 = g * free0 * d0, g * free1 * d1, g * free2 * d2
                out[0, i, j, k] = m[0, 0] * d0 + m[1, 0] * d1 + m[2, 0] * d2
                out[1, i, j, k] = m[0, 1] * d0 + m[1, 1] * d1 + m[2, 1] * d2
                out[2, i, j, k] = m[0, 2] * d0 + m[1, 2] * d1 + m[2, 2] * d2


@njit
def _warp_adjoint(first, last, edges, affine, disp, gradient, parts):
    mi, mj, mk = parts.shape[1:]
    si, sj, sk = mj * mk if mi > 1 else 0, mk if mj > 1 else 0, 1 if mk > 1 else 0
    one = np.float32(1)
    for part in range(first, last):
        v = parts[part].ravel()
        for i in range(edges[part], edges[part + 1]):
            for j in range(gradient.shape[1]):
                for k in range(gradient.shape[2]):
                    g = gradient[i, j, k]
                    if g == 0:
                        continue
                    a, b, c = (
                        i + np.float64(disp[0, i, j, k]),
                        j + np.float64(disp[1, i, j, k]),
                        k + np.float64(disp[2, i, j, k]),
                    )
                    p, x, _ = _along(
                        affine[0, 0] * a + affine[0, 1] * b + affine[0, 2] * c + affine[0, 3], mi
                    )
                    q, y, _ = _along(
                        affine[1, 0] * a + affine[1, 1] * b + affine[1, 2] * c + affine[1, 3], mj
                    )
                    r, z, _ = _along(
                        affine[2, 0] * a + affine[2, 1] * b + affine[2, 2] * c + affine[2, 3], mk
                    )
                    n = (p * mj + q) * mk + r
                    low, high = g * (one - x), g * x
                    v[n] += low * (one - y) * (one - z)
                    v[n + sk] += low * (one - y) * z
                    v[n + sj] += low * y * (one - z)
                    v[n + sj + sk] += low * y * z
                    v[n + si] += high * (one - y) * (one - z)
                    v[n + si + sk] += high * (one - y) * z
                    v[n + si + sj] += high * y * (one - z)
                    v[n + si + sj + sk] += high * y * z
