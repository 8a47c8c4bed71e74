"""Where a map and one back miss the start, ``e(x) = u(x) + A v(y)`` with y the image of x, and the adjoint of that."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.fields import _at, _cell, _slopes, _strides


def loop_residual(forward, backward, to_other, to_own, *, out):
    """Write ``e(x) = u(x) + A v(B (x + u(x)))``; `backward` is continued beyond its lattice by its edge value.

    Parameters
    ----------
    forward : (3, I, J, K) float32 ndarray
        Displacement u, in voxels of its own lattice.
    backward : (3, P, Q, R) float32 ndarray
        Displacement v the other way, in voxels of its own lattice.
    to_other : (3, 4) array_like
        B, from voxels of the forward lattice to voxels of the backward one.
    to_own : (3, 3) array_like
        A, vectors from voxels of the backward lattice to voxels of the forward one.
    out : (3, I, J, K) float32 ndarray
        Destination of e, in voxels of the forward lattice.
    """
    u, v = np.ascontiguousarray(forward, np.float32), np.ascontiguousarray(backward, np.float32)
    b, a = np.ascontiguousarray(to_other, np.float64), np.ascontiguousarray(to_own, np.float64)
    flat, shape = v.reshape(3, -1), v.shape[1:]
    parallel_for(lambda start, stop: _residual(start, stop, u, flat, shape, b, a, out), u.shape[1])
    return out


def loop_adjoint(forward, backward, to_other, to_own, slope, *, out_forward, out_backward):
    """Add the derivatives by both fields of a function of e whose derivative by e is `slope`.

    Parameters
    ----------
    forward, backward, to_other, to_own
        As in `loop_residual`.
    slope : (3, I, J, K) float32 ndarray
        Derivative by e.
    out_forward, out_backward : float32 ndarray
        Where the derivatives by `forward` and `backward` are added.
    """
    u, v = np.ascontiguousarray(forward, np.float32), np.ascontiguousarray(backward, np.float32)
    b, a = np.ascontiguousarray(to_other, np.float64), np.ascontiguousarray(to_own, np.float64)
    flat, shape = v.reshape(3, -1), v.shape[1:]
    planes = np.empty((*u.shape[1:3], 2), np.int32)

    def through(start, stop):
        _through(start, stop, u, flat, shape, b, a, slope, planes, out_forward)

    def gather(start, stop):
        _scatter(start, stop, u, shape, b, a, slope, planes, out_backward)

    parallel_for(through, u.shape[1])
    parallel_for(gather, shape[0])


@inlined
def _image(u, i, j, k, b):
    x = i + np.float64(u[0, i, j, k])
    y = j + np.float64(u[1, i, j, k])
    z = k + np.float64(u[2, i, j, k])
    return (
        b[0, 0] * x + b[0, 1] * y + b[0, 2] * z + b[0, 3],
        b[1, 0] * x + b[1, 1] * y + b[1, 2] * z + b[1, 3],
        b[2, 0] * x + b[2, 1] * y + b[2, 2] * z + b[2, 3],
    )


@njit
def _residual(start, stop, u, flat, shape, b, a, out):
    for i in range(start, stop):
        for j in range(u.shape[2]):
            for k in range(u.shape[3]):
                x, y, z = _image(u, i, j, k, b)
                p, q, r = _at(flat, shape, x, y, z)
                for c in range(3):
                    out[c, i, j, k] = u[c, i, j, k] + (a[c, 0] * p + a[c, 1] * q + a[c, 2] * r)


@njit
def _through(start, stop, u, flat, shape, b, a, slope, planes, out):
    """Add the derivative by the forward field; note which planes of the other lattice each row leads to."""
    si, sj, sk = _strides(shape)
    for i in range(start, stop):
        for j in range(u.shape[2]):
            low, high = shape[0], -1
            for k in range(u.shape[3]):
                x, y, z = _image(u, i, j, k, b)
                p, fx = _cell(x, shape[0])
                q, fy = _cell(y, shape[1])
                r, fz = _cell(z, shape[2])
                low, high = min(low, p), max(high, p)
                base = (p * shape[1] + q) * shape[2] + r
                g0, g1, g2 = 0.0, 0.0, 0.0
                for c in range(3):
                    s = (
                        a[0, c] * slope[0, i, j, k]
                        + a[1, c] * slope[1, i, j, k]
                        + a[2, c] * slope[2, i, j, k]
                    )
                    _, d0, d1, d2 = _slopes(flat[c], base, si, sj, sk, fx, fy, fz)
                    g0, g1, g2 = g0 + s * d0, g1 + s * d1, g2 + s * d2
                # beyond the lattice the value is that of the edge
                g0 = g0 if 0 <= x <= shape[0] - 1 else 0.0
                g1 = g1 if 0 <= y <= shape[1] - 1 else 0.0
                g2 = g2 if 0 <= z <= shape[2] - 1 else 0.0
                for c in range(3):
                    out[c, i, j, k] += slope[c, i, j, k] + (b[0, c] * g0 + b[1, c] * g1 + b[2, c] * g2)
            planes[i, j, 0], planes[i, j, 1] = low, high + 1


@njit
def _scatter(start, stop, u, shape, b, a, slope, planes, out):
    """Add the derivative by the backward field to planes ``start <= p < stop``, from all voxels in their order."""
    si, sj, sk = _strides(shape)
    for i in range(u.shape[1]):
        for j in range(u.shape[2]):
            if planes[i, j, 1] < start or planes[i, j, 0] >= stop:
                continue
            for k in range(u.shape[3]):
                x, y, z = _image(u, i, j, k, b)
                p, fx = _cell(x, shape[0])
                if p + 1 < start or p >= stop:
                    continue
                q, fy = _cell(y, shape[1])
                r, fz = _cell(z, shape[2])
                one = np.float32(1)
                for c in range(3):
                    s = np.float32(
                        a[0, c] * slope[0, i, j, k]
                        + a[1, c] * slope[1, i, j, k]
                        + a[2, c] * slope[2, i, j, k]
                    )
                    for side in range(2):
                        n = p + side
                        if n < start or n >= stop or (side and not si):
                            continue
                        f = s * (fx if side else one - fx)
                        out[c, n, q, r] += f * (one - fy) * (one - fz)
                        if sk:
                            out[c, n, q, r + 1] += f * (one - fy) * fz
                        if sj:
                            out[c, n, q + 1, r] += f * fy * (one - fz)
                        if sj and sk:
                            out[c, n, q + 1, r + 1] += f * fy * fz
