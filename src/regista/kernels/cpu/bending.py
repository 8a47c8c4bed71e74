"""How a field bends: its squared second derivatives, for measuring and, with their exact gradient, as a penalty."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.corners import BLOCK as _B
from regista.kernels.cpu.penalties import _is_diagonal, _weights

_NONE = np.ones((1, 1, 1), np.float32)
_XX, _YY, _ZZ, _XY, _XZ, _YZ = range(6)


def bending(u, frame, weight=None, *, factor=0.0, out=None):
    """Return the weighted sum of squared second derivatives and the sum of weights.

    Voxels next to the border of the lattice have no second difference and are left out; along an axis of one or two
    voxels derivatives are 0.

    Parameters
    ----------
    u : (3, I, J, K) ndarray
        Displacement in voxels.
    frame : (3, 3) array_like
        From voxels to mm; derivatives and vectors are measured in mm.
    weight : (I, J, K) ndarray, optional
        Weight of each voxel.
    factor : float
        Factor on what is added to `out`.
    out : (3, I, J, K) float32 ndarray, optional
        Where ``factor · d/du`` of the sum is added.

    Returns
    -------
    total : float
        ``Σ w Σ_cij (∂²u_c/∂x_i∂x_j)²`` in 1/mm².
    weights : float
        ``Σ w`` over the same voxels.
    """
    field = np.ascontiguousarray(u, np.float32)
    w = _NONE if weight is None else np.ascontiguousarray(weight, np.float32)
    matrix = np.asarray(frame, np.float64)
    back = np.linalg.inv(matrix)
    vectors, directions = _cleaned(matrix.T @ matrix), _cleaned(back @ back.T)
    sums, scale = np.zeros((field.shape[1], 2)), np.float32(factor)
    target = np.zeros((3, 0, 0, 0), np.float32) if out is None else out

    def body(start, stop):
        _bending(
            start,
            stop,
            field,
            w,
            weight is not None,
            vectors,
            directions,
            scale,
            out is not None,
            sums,
            target,
        )

    parallel_for(body, field.shape[1])
    total, weights = sums.sum(axis=0)
    return float(total), float(weights)


def _cleaned(metric):
    """Return a metric as float32, its cross terms 0 where they are rounding alone."""
    size = np.sqrt(np.diag(metric))
    return np.where(np.abs(metric) < 1e-9 * np.outer(size, size), 0, metric).astype(np.float32)


@inlined
def _inner(size):
    """Return the range of indices that have neighbours on both sides; all of an axis that is too short."""
    return (1, size - 1) if size > 2 else (0, size)


@njit
def _bending(start, stop, u, weight, has_weight, vectors, directions, factor, spreads, sums, out):
    # as many components as there are, not 3: loops of known length are unrolled with all that is inlined in them
    components, inn, jn, kn = u.shape
    h, t, w = np.zeros(18 * _B, np.float32), np.zeros(18 * _B, np.float32), np.ones(_B, np.float32)
    (i0, i1), (j0, j1), (k0, k1) = _inner(inn), _inner(jn), _inner(kn)
    margin = 1 if spreads and inn > 2 else 0
    for i in range(max(start - margin, i0), min(stop + margin, i1)):
        own = start <= i < stop
        for j in range(j0, j1):
            for first in range(k0, k1, _B):
                n = min(_B, k1 - first)
                if has_weight and not _weights(weight[i, j], first, n, w):
                    continue
                for a in range(components):
                    p = 6 * a * _B
                    _hessian(u[a], i, j, first, n, h[p : p + 6 * _B])
                _mix(n, vectors, h, t)
                value = np.float32(0)
                for a in range(components):
                    p = 6 * a * _B
                    value += _stress(n, directions, w, h[p : p + 6 * _B], t[p : p + 6 * _B])
                if own:
                    sums[i, 0] += value
                    for k in range(n):
                        sums[i, 1] += w[k]
                if spreads:
                    for a in range(components):
                        p = 6 * a * _B
                        _spread(out[a], i, j, first, n, start, stop, factor, t[p : p + 6 * _B])


@inlined
def _hessian(v, i, j, first, n, h):
    """Write the central second differences of one component; those along a flat axis stay 0."""
    x, y, z = v.shape[0] > 2, v.shape[1] > 2, v.shape[2] > 2
    end, last = first + n, first + n + 1
    here = v[i, j, first:end]
    if x:
        _second(v[i - 1, j, first:end], here, v[i + 1, j, first:end], h[_XX * _B : _XX * _B + n])
    if y:
        _second(v[i, j - 1, first:end], here, v[i, j + 1, first:end], h[_YY * _B : _YY * _B + n])
    if z:
        _second(v[i, j, first - 1 : end - 1], here, v[i, j, first + 1 : last], h[_ZZ * _B : _ZZ * _B + n])
    if x and y:
        to = h[_XY * _B : _XY * _B + n]
        _cross(
            v[i + 1, j + 1, first:end], v[i + 1, j - 1, first:end], v[i - 1, j + 1, first:end],
            v[i - 1, j - 1, first:end], to,
        )  # fmt: skip
    if x and z:
        up, down = v[i + 1, j], v[i - 1, j]
        to = h[_XZ * _B : _XZ * _B + n]
        _cross(
            up[first + 1 : last],
            up[first - 1 : end - 1],
            down[first + 1 : last],
            down[first - 1 : end - 1],
            to,
        )
    if y and z:
        up, down = v[i, j + 1], v[i, j - 1]
        to = h[_YZ * _B : _YZ * _B + n]
        _cross(
            up[first + 1 : last],
            up[first - 1 : end - 1],
            down[first + 1 : last],
            down[first - 1 : end - 1],
            to,
        )


@inlined
def _second(low, here, high, to):
    for k in range(len(to)):
        to[k] = (high[k] - here[k]) - (here[k] - low[k])


@inlined
def _cross(pp, pm, mp, mm, to):
    for k in range(len(to)):
        to[k] = np.float32(0.25) * ((pp[k] - pm[k]) - (mp[k] - mm[k]))


@inlined
def _mix(n, metric, h, t):
    """Write the second differences of all components, mixed by the metric of the vectors."""
    if _is_diagonal(metric):
        for a in range(3):
            f = metric[a, a]
            for m in range(6):
                p = (6 * a + m) * _B
                g, r = h[p : p + n], t[p : p + n]
                for k in range(n):
                    r[k] = f * g[k]
        return
    for a in range(3):
        f0, f1, f2 = metric[a, 0], metric[a, 1], metric[a, 2]
        for m in range(6):
            p, q, o = m * _B, (6 + m) * _B, (12 + m) * _B
            x, y, z, r = h[p : p + n], h[q : q + n], h[o : o + n], t[(6 * a + m) * _B : (6 * a + m) * _B + n]
            for k in range(n):
                r[k] = f0 * x[k] + f1 * y[k] + f2 * z[k]


@inlined
def _stress(n, q, w, h, t):
    """Return ``Σ w ⟨H, Q T Q⟩`` of one component and replace T by the derivative by each of the six differences."""
    value, two, four = np.float32(0), np.float32(2), np.float32(4)
    a, b, c, d, e, f = q[0, 0], q[1, 1], q[2, 2], q[0, 1], q[0, 2], q[1, 2]
    if _is_diagonal(q):
        xx, yy, zz, xy, xz, yz = a * a, b * b, c * c, a * b, a * c, b * c
        for k in range(n):
            p0, p1, p2 = xx * t[k], yy * t[_B + k], zz * t[2 * _B + k]
            p3, p4, p5 = xy * t[3 * _B + k], xz * t[4 * _B + k], yz * t[5 * _B + k]
            value += w[k] * (
                h[k] * p0 + h[_B + k] * p1 + h[2 * _B + k] * p2
                + two * (h[3 * _B + k] * p3 + h[4 * _B + k] * p4 + h[5 * _B + k] * p5)
            )  # fmt: skip
            t[k], t[_B + k], t[2 * _B + k] = two * w[k] * p0, two * w[k] * p1, two * w[k] * p2
            t[3 * _B + k], t[4 * _B + k], t[5 * _B + k] = four * w[k] * p3, four * w[k] * p4, four * w[k] * p5
        return value
    for k in range(n):
        xx, yy, zz, xy, xz, yz = t[k], t[_B + k], t[2 * _B + k], t[3 * _B + k], t[4 * _B + k], t[5 * _B + k]
        # rows of T Q
        r0, r1, r2 = xx * a + xy * d + xz * e, xx * d + xy * b + xz * f, xx * e + xy * f + xz * c
        s0, s1, s2 = xy * a + yy * d + yz * e, xy * d + yy * b + yz * f, xy * e + yy * f + yz * c
        v0, v1, v2 = xz * a + yz * d + zz * e, xz * d + yz * b + zz * f, xz * e + yz * f + zz * c
        p0, p1, p2 = a * r0 + d * s0 + e * v0, d * r1 + b * s1 + f * v1, e * r2 + f * s2 + c * v2
        p3, p4, p5 = a * r1 + d * s1 + e * v1, a * r2 + d * s2 + e * v2, d * r2 + b * s2 + f * v2
        value += w[k] * (
            h[k] * p0 + h[_B + k] * p1 + h[2 * _B + k] * p2
            + two * (h[3 * _B + k] * p3 + h[4 * _B + k] * p4 + h[5 * _B + k] * p5)
        )  # fmt: skip
        t[k], t[_B + k], t[2 * _B + k] = two * w[k] * p0, two * w[k] * p1, two * w[k] * p2
        t[3 * _B + k], t[4 * _B + k], t[5 * _B + k] = four * w[k] * p3, four * w[k] * p4, four * w[k] * p5
    return value


@inlined
def _spread(out, i, j, first, n, start, stop, factor, t):
    """Add the derivatives by the second differences of a block to the rows that these were taken from."""
    x, y, z = out.shape[0] > 2, out.shape[1] > 2, out.shape[2] > 2
    end, quarter = first + n, np.float32(0.25) * factor
    xx, yy, zz = t[:n], t[_B : _B + n], t[2 * _B : 2 * _B + n]
    xy, xz, yz = t[3 * _B : 3 * _B + n], t[4 * _B : 4 * _B + n], t[5 * _B : 5 * _B + n]
    for side in (-1, 1):
        if x and start <= i + side < stop:
            row = out[i + side, j]
            _add(row[first:end], factor, xx)
            if z:
                _add(row[first + 1 : end + 1], side * quarter, xz)
                _add(row[first - 1 : end - 1], -side * quarter, xz)
            if y:
                _add(out[i + side, j + 1, first:end], side * quarter, xy)
                _add(out[i + side, j - 1, first:end], -side * quarter, xy)
    if not start <= i < stop:
        return
    here = out[i, j]
    if x:
        _add(here[first:end], -2 * factor, xx)
    if y:
        _add(here[first:end], -2 * factor, yy)
        for side in (-1, 1):
            row = out[i, j + side]
            _add(row[first:end], factor, yy)
            if z:
                _add(row[first + 1 : end + 1], side * quarter, yz)
                _add(row[first - 1 : end - 1], -side * quarter, yz)
    if z:
        _add(here[first:end], -2 * factor, zz)
        _add(here[first + 1 : end + 1], factor, zz)
        _add(here[first - 1 : end - 1], factor, zz)


@inlined
def _add(row, factor, values):
    f = np.float32(factor)
    for k in range(len(row)):
        row[k] += f * values[k]
