"""A penalty on the Jacobian's determinants at the eight corners of a block of voxels, for `penalties`."""

from __future__ import annotations

import math

import numpy as np

from regista.kernels.cpu._jit import inlined

BLOCK = 160
"""Voxels of a row worked on at a time; a constant, so that the compiler knows rows of a block apart."""
_B = BLOCK


@inlined
def _column(c, s, axis, sign, k):
    """Return a column of the Jacobian at a corner."""
    one = np.float32(1)
    x = c[axis * _B + k] + sign * s[axis * _B + k]
    y = c[(3 + axis) * _B + k] + sign * s[(3 + axis) * _B + k]
    z = c[(6 + axis) * _B + k] + sign * s[(6 + axis) * _B + k]
    return (x + one if axis == 0 else x), (y + one if axis == 1 else y), (z + one if axis == 2 else z)


@inlined
def _cross(x, y):
    return x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]


@inlined
def _dot(x, y):
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


@inlined
def _crosses(c, s, axis, k):
    """Return the cross products of the columns behind an axis at their four corners: both ahead, first behind, second, both."""
    below, above = np.float32(-1), np.float32(1)
    p, q = (axis + 1) % 3, (axis + 2) % 3
    p_above, p_below = _column(c, s, p, above, k), _column(c, s, p, below, k)
    q_above, q_below = _column(c, s, q, above, k), _column(c, s, q, below, k)
    return (
        _cross(p_above, q_above),
        _cross(p_below, q_above),
        _cross(p_above, q_below),
        _cross(p_below, q_below),
    )


@inlined
def _by_column(n, axis, c, s, slopes, gc, gs):
    """Write the derivatives by the differences along an axis: the determinant is linear in each column."""
    own, p, q = (1 << axis) * _B, (1 << ((axis + 1) % 3)) * _B, (1 << ((axis + 2) % 3)) * _B
    for k in range(n):
        first, second, third, fourth = _crosses(c, s, axis, k)
        t, u, v, w = slopes[k], slopes[p + k], slopes[q + k], slopes[p + q + k]
        e, f, g, h = slopes[own + k], slopes[own + p + k], slopes[own + q + k], slopes[own + p + q + k]
        above, below = (
            _sum(t, first, u, second, v, third, w, fourth),
            _sum(e, first, f, second, g, third, h, fourth),
        )
        gc[axis * _B + k], gs[axis * _B + k] = above[0] + below[0], above[0] - below[0]
        gc[(3 + axis) * _B + k], gs[(3 + axis) * _B + k] = above[1] + below[1], above[1] - below[1]
        gc[(6 + axis) * _B + k], gs[(6 + axis) * _B + k] = above[2] + below[2], above[2] - below[2]


@inlined
def _sum(a, x, b, y, c, z, d, w):
    return (
        a * x[0] + b * y[0] + c * z[0] + d * w[0],
        a * x[1] + b * y[1] + c * z[1] + d * w[1],
        a * x[2] + b * y[2] + c * z[2] + d * w[2],
    )


@inlined
def corners(n, parameters, w, c, s, dets, slopes, gc, gs):
    """Return the penalty on the determinants at all corners; turn differences into derivatives by them.

    Corner number q lies ahead along axis a, at ``c + s``, where bit a of q is 0.
    """
    below, above = np.float32(-1), np.float32(1)
    for k in range(n):
        ahead, behind = _column(c, s, 0, above, k), _column(c, s, 0, below, k)
        first, second, third, fourth = _crosses(c, s, 0, k)
        dets[k], dets[_B + k] = _dot(ahead, first), _dot(behind, first)
        dets[2 * _B + k], dets[3 * _B + k] = _dot(ahead, second), _dot(behind, second)
        dets[4 * _B + k], dets[5 * _B + k] = _dot(ahead, third), _dot(behind, third)
        dets[6 * _B + k], dets[7 * _B + k] = _dot(ahead, fourth), _dot(behind, fourth)
    value, folded = _of_determinants(n, parameters[0] > 0, parameters[1], w, dets, slopes)
    _by_column(n, 0, c, s, slopes, gc, gs)
    _by_column(n, 1, c, s, slopes, gc, gs)
    _by_column(n, 2, c, s, slopes, gc, gs)
    for m in range(9):
        for k in range(m * _B, m * _B + n):
            c[k] = gc[k]
            s[k] = gs[k]
    return value, folded


@inlined
def _of_determinants(n, logarithm, threshold, w, dets, slopes):
    """Return the mean penalty over corners and write its derivative by each determinant."""
    value, folded = np.float32(0), 0
    share = np.float32(0.125)
    if not logarithm:
        for corner in range(8):
            for k in range(n):
                excess = dets[corner * _B + k] - np.float32(1)
                value += share * w[k] * excess * excess
                slopes[corner * _B + k] = np.float32(2) * share * w[k] * excess
        return value, folded
    logs = np.empty(8 * _B, np.float32)
    _logarithms(dets, logs)
    two = np.float32(2)
    edge = math.log(threshold) if threshold > 0 else np.float32(0)
    beyond = two * edge / threshold if threshold > 0 else np.float32(0)
    for corner in range(8):
        q = corner * _B
        if threshold > 0:
            for k in range(n):
                det, log, f = dets[q + k], logs[q + k], share * w[k]
                above = det > threshold
                value += f * (log * log if above else edge * edge + beyond * (det - threshold))
                slopes[q + k] = f * (two * log / det if above else beyond)
        else:
            for k in range(n):
                det, log, f = dets[q + k], logs[q + k], share * w[k]
                above = det > 0
                value += f * log * log if above else np.float32(0)
                slopes[q + k] = f * two * log / det if above else np.float32(0)
                folded += 0 if above else int(w[k] > 0)
    return value, folded


@inlined
def _logarithms(x, out):
    """Write the natural logarithms of numbers above 0, and finite values for others.

    To 2 units in the last place by the polynomial of Cephes' logf: the compiler has no logarithm for vectors.
    """
    bits, mantissas = x.view(np.int32), np.empty(8 * _B, np.int32)
    parts = mantissas.view(np.float32)
    for k in range(8 * _B):
        exponent = (bits[k] - np.int32(0x3F3504F3)) >> np.int32(23)
        mantissas[k] = bits[k] - (exponent << np.int32(23))  # from √½ to √2
        out[k] = np.float32(exponent)
    for k in range(8 * _B):
        t = parts[k] - np.float32(1)
        p = np.float32(7.0376836292e-2) * t - np.float32(1.1514610310e-1)
        p = p * t + np.float32(1.1676998740e-1)
        p = p * t - np.float32(1.2420140846e-1)
        p = p * t + np.float32(1.4249322787e-1)
        p = p * t - np.float32(1.6668057665e-1)
        p = p * t + np.float32(2.0000714765e-1)
        p = p * t - np.float32(2.4999993993e-1)
        p = p * t + np.float32(3.3333331174e-1)
        square = t * t
        out[k] = t + (p * t * square - np.float32(0.5) * square) + np.float32(0.69314718056) * out[k]
