"""What a stochastic solver needs at few voxels: splines, their adjoint, and the warped image with its derivative.

Voxels are flat indices (C order) of the fixed grid, in any order; one may be named more than once.
"""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit
from regista.kernels.cpu.warp import _along, _value_and_slopes

_GRAIN = 512


def spline_at(control, axes, voxels):
    """Return the field of control points at voxels, ``(C, N)`` float32: `spline_expand` at few places.

    Parameters
    ----------
    control : (C, ...) ndarray
        Values at the control points.
    axes : sequence of 3 SplineAxis
        From `regista.kernels.cpu.bspline.spline_axis`.
    voxels : (N,) int64 ndarray
        Voxels of the grid the axes are for.
    """
    control = np.ascontiguousarray(control, np.float32)
    out = np.empty((len(control), len(voxels)), np.float32)
    parallel_for(
        lambda a, b: _spline_at(a, b, control, *_tables(axes), voxels, out), len(voxels), grain=_GRAIN
    )
    return out


def spline_spread(values, axes, voxels):
    """Return ``(C, *counts)`` float64: values at voxels, summed up to the control points (the adjoint).

    Each thread owns planes of control points and takes the voxels in their order: no sum depends on the number of
    threads, and none is split in parts.
    """
    counts = tuple(axis.controls for axis in axes)
    out = np.zeros((len(values), *counts))
    values = np.ascontiguousarray(values, np.float32)
    parallel_for(lambda a, b: _spline_spread(a, b, values, *_tables(axes), voxels, out), counts[0])
    return out


def warp_at(moving, affine, disp, voxels, shape):
    """Sample `moving` at ``affine(x + u(x))`` for voxels x; what `warp` and `warp_gradient` do everywhere.

    Parameters
    ----------
    moving : (I', J', K') float32 ndarray
        Moving image.
    affine : (3, 4) float64 ndarray
        Map from fixed voxel to moving voxel coordinates.
    disp : (3, N) float32 ndarray
        Displacement ``u`` at the voxels, in fixed voxels.
    voxels : (N,) int64 ndarray
        Voxels of the fixed grid.
    shape : (I, J, K)
        Shape of the fixed grid.

    Returns
    -------
    values : (N,) float32 ndarray
        The warped image; places outside the moving grid take the nearest edge value.
    slopes : (3, N) float32 ndarray
        Its derivative by the displacement; 0 along an axis on which the place lies beyond the moving grid.
    inside : (N,) float32 ndarray
        1 or 0: whether the place lies within the moving grid, half a voxel beyond included.
    """
    count = len(voxels)
    values, slopes, inside = (np.empty(size, np.float32) for size in ((count,), (3, count), (count,)))
    matrix = np.ascontiguousarray(affine, np.float64)
    parallel_for(
        lambda a, b: _warp_at(a, b, moving, matrix, disp, voxels, tuple(shape), values, slopes, inside),
        count,
        grain=_GRAIN,
    )
    return values, slopes, inside


def _tables(axes):
    return tuple(axis.first for axis in axes), tuple(axis.weights for axis in axes)


@njit
def _spline_at(start, stop, control, first, weights, voxels, out):
    fi, fj, fk = first
    wi, wj, wk = weights
    jn, kn = len(fj), len(fk)
    for n in range(start, stop):
        i, j, k = voxels[n] // (jn * kn), voxels[n] // kn % jn, voxels[n] % kn
        for c in range(control.shape[0]):
            total = np.float32(0)
            for a in range(wi.shape[1]):
                for b in range(wj.shape[1]):
                    share, line = wi[i, a] * wj[j, b], control[c, fi[i] + a, fj[j] + b]
                    for d in range(wk.shape[1]):
                        total += share * wk[k, d] * line[fk[k] + d]
            out[c, n] = total


@njit
def _spline_spread(start, stop, values, first, weights, voxels, out):
    fi, fj, fk = first
    wi, wj, wk = weights
    jn, kn = len(fj), len(fk)
    for n in range(len(voxels)):
        i, j, k = voxels[n] // (jn * kn), voxels[n] // kn % jn, voxels[n] % kn
        for plane in range(max(fi[i], start), min(fi[i] + wi.shape[1], stop)):
            for b in range(wj.shape[1]):
                share = wi[i, plane - fi[i]] * wj[j, b]
                for c in range(values.shape[0]):
                    value, line = share * values[c, n], out[c, plane, fj[j] + b]
                    for d in range(wk.shape[1]):
                        line[fk[k] + d] += value * wk[k, d]


@njit
def _warp_at(start, stop, moving, affine, disp, voxels, shape, values, slopes, inside):
    mi, mj, mk = moving.shape
    _, jn, kn = shape
    si, sj, sk = mj * mk if mi > 1 else 0, mk if mj > 1 else 0, 1 if mk > 1 else 0
    v = moving.ravel()
    for n in range(start, stop):
        a = voxels[n] // (jn * kn) + np.float64(disp[0, n])
        b = voxels[n] // kn % jn + np.float64(disp[1, n])
        c = voxels[n] % kn + np.float64(disp[2, n])
        x0 = affine[0, 0] * a + affine[0, 1] * b + affine[0, 2] * c + affine[0, 3]
        x1 = affine[1, 0] * a + affine[1, 1] * b + affine[1, 2] * c + affine[1, 3]
        x2 = affine[2, 0] * a + affine[2, 1] * b + affine[2, 2] * c + affine[2, 3]
        here = (x0 >= -0.5) & (x0 <= mi - 0.5) & (x1 >= -0.5) & (x1 <= mj - 0.5)
        here &= (x2 >= -0.5) & (x2 <= mk - 0.5)
        inside[n] = np.float32(1 if here else 0)
        p, x, free0 = _along(x0, mi)
        q, y, free1 = _along(x1, mj)
        r, z, free2 = _along(x2, mk)
        o = (p * mj + q) * mk + r
        values[n], d0, d1, d2 = _value_and_slopes(v, o, si, sj, sk, x, y, z)
        d0, d1, d2 = free0 * d0, free1 * d1, free2 * d2
        for axis in range(3):
            slopes[axis, n] = affine[0, axis] * d0 + affine[1, axis] * d1 + affine[2, axis] * d2
