"""Pull a moving image onto the fixed grid: linear interpolation through an affine map and a field."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit
from regista.kernels.cpu.rows import all_rows


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
    out = np.empty(shape, np.float32) if out is None else out
    matrix = np.ascontiguousarray(affine, dtype=np.float64)
    field = np.zeros((3, 1, 1, 1), np.float32) if disp is None else disp
    rows = all_rows(tuple(shape)) if rows is None else rows
    flags = np.zeros((1, 1, 1), np.float32) if inside is None else inside
    parallel_for(
        lambda a, b: _warp(
            a, b, moving, matrix, field, disp is not None, rows, out, flags, inside is not None
        ),
        shape[0],
    )
    return out


@njit
def _warp(start, stop, moving, affine, disp, has_disp, rows, out, inside, has_inside):
    mi, mj, mk = moving.shape
    jn = out.shape[1]
    a00, a01, a02, a03 = affine[0, 0], affine[0, 1], affine[0, 2], affine[0, 3]
    a10, a11, a12, a13 = affine[1, 0], affine[1, 1], affine[1, 2], affine[1, 3]
    a20, a21, a22, a23 = affine[2, 0], affine[2, 1], affine[2, 2], affine[2, 3]
    top_i, top_j, top_k = np.float32(mi - 1), np.float32(mj - 1), np.float32(mk - 1)
    last_i, last_j, last_k = max(mi - 2, 0), max(mj - 2, 0), max(mk - 2, 0)
    si = mj * mk if mi > 1 else 0
    sj = mk if mj > 1 else 0
    sk = 1 if mk > 1 else 0
    flat = moving.ravel()
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    b00, b01, b02 = np.float32(a00), np.float32(a01), np.float32(a02)
    b10, b11, b12 = np.float32(a10), np.float32(a11), np.float32(a12)
    b20, b21, b22 = np.float32(a20), np.float32(a21), np.float32(a22)
    for i in range(start, stop):
        for j in range(jn):
            row = out[i, j]
            # the row's start in float64, the rest in float32: exact enough for any image that fits memory
            r0 = np.float32(a00 * i + a01 * j + a03)
            r1 = np.float32(a10 * i + a11 * j + a13)
            r2 = np.float32(a20 * i + a21 * j + a23)
            for k in range(rows[0, i, j], rows[1, i, j]):
                fk = np.float32(k)
                x = r0 + b02 * fk
                y = r1 + b12 * fk
                z = r2 + b22 * fk
                if has_disp:
                    d0, d1, d2 = disp[0, i, j, k], disp[1, i, j, k], disp[2, i, j, k]
                    x += b00 * d0 + b01 * d1 + b02 * d2
                    y += b10 * d0 + b11 * d1 + b12 * d2
                    z += b20 * d0 + b21 * d1 + b22 * d2
                if has_inside:
                    inside[i, j, k] = (
                        one
                        if -half <= x <= top_i + half
                        and -half <= y <= top_j + half
                        and -half <= z <= top_k + half
                        else zero
                    )
                x = min(max(x, zero), top_i)
                y = min(max(y, zero), top_j)
                z = min(max(z, zero), top_k)
                p, q, r = min(int(x), last_i), min(int(y), last_j), min(int(z), last_k)
                x -= np.float32(p)
                y -= np.float32(q)
                z -= np.float32(r)
                base = (p * mj + q) * mk + r
                c00 = flat[base] + z * (flat[base + sk] - flat[base])
                c01 = flat[base + sj] + z * (flat[base + sj + sk] - flat[base + sj])
                c10 = flat[base + si] + z * (flat[base + si + sk] - flat[base + si])
                c11 = flat[base + si + sj] + z * (flat[base + si + sj + sk] - flat[base + si + sj])
                c0 = c00 + y * (c01 - c00)
                c1 = c10 + y * (c11 - c10)
                row[k] = c0 + x * (c1 - c0)
