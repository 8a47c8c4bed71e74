"""Penalties on the first derivatives of a displacement field, each with its exact discrete gradient.

At every voxel a field has, along each axis, a central difference `c` and half a second difference `s`: its forward
and backward differences are ``c + s`` and ``c - s``. At the two ends of an axis both are the one-sided difference,
so ``s = 0`` there; along an axis of one voxel both are 0. Squares are averaged over forward and backward
differences, ``c² + s²``, products of derivatives along two axes over all four pairs, which leaves the central ones,
and determinants are taken at all eight corners ``c ± s``. No oscillation from voxel to voxel then escapes, as it
does from central differences alone, and an axis turned round changes nothing.

Rows are worked on in blocks whose differences, and then the derivatives of the penalty by them, stay in cache; these
are added to the rows around at once. A thread visits the planes next to its range too, adding to its own alone: the
order of all additions, and so every bit of the result, is the same for any number of threads.
"""

from __future__ import annotations

import math

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.corners import BLOCK as _B
from regista.kernels.cpu.corners import corners

_DIFFUSION, _ELASTIC, _VARIATION, _DETERMINANT, _RIGIDITY = range(5)
_BELOW, _ABOVE = np.float32(-1), np.float32(1)
_NONE = np.ones((1, 1, 1), np.float32)


def diffusion(u, frame, weight=None, *, factor, out):
    """Return ``Σ w ‖∇u‖²`` and add `factor` times its derivative to `out`.

    Parameters
    ----------
    u : (3, I, J, K) float32 ndarray
        Displacement in voxels.
    frame : (3, 3) array_like
        From voxels to mm; derivatives and vectors are measured in mm.
    weight : (I, J, K) float32 ndarray, optional
        Weight of each voxel.
    factor : float
        Factor on what is added to `out`.
    out : (3, I, J, K) float32 ndarray
        Where ``factor · d/du`` is added.
    """
    return _first_order(_DIFFUSION, (), u, frame, weight, factor, out)[0]


def elastic(u, frame, weight=None, *, mu, lam, factor, out):
    """Return ``Σ w (μ/4 Σ_ij (∂_i u_j + ∂_j u_i)² + λ/2 (div u)²)``; otherwise like `diffusion`."""
    return _first_order(_ELASTIC, (mu, lam), u, frame, weight, factor, out)[0]


def total_variation(u, frame, weight=None, *, epsilon, factor, out):
    """Return ``Σ w (√(‖∇u‖² + ε²) − ε)``; otherwise like `diffusion`."""
    return _first_order(_VARIATION, (epsilon,), u, frame, weight, factor, out)[0]


def determinant(u, weight=None, *, logarithm, threshold, factor, out):
    """Return the sum of ``w ψ(det(I + ∂u/∂x))``, ψ averaged over the eight corners, and the folded corners counted.

    Parameters
    ----------
    logarithm : bool
        ``ψ(J) = (log J)²``, else ``(J − 1)²``.
    threshold : float
        Below it the squared logarithm goes on as a straight line. With 0, a corner of ``J <= 0`` is counted as folded
        and adds nothing.
    u, weight, factor, out
        As in `diffusion`.

    Returns
    -------
    total : float
        The sum.
    folded : int
        Corners of weighted voxels with ``J <= 0``, where `threshold` is 0.
    """
    values = (1.0 if logarithm else 0.0, threshold)
    total, folded = _first_order(_DETERMINANT, values, u, np.eye(3), weight, factor, out)
    return total, int(folded)


def rigidity(u, frame, weight=None, *, orthonormality, properness, factor, out):
    """Return ``Σ w (a ‖JᵀJ − I‖² + b (det J − 1)²)`` with ``J = I + ∇u``, central; otherwise like `diffusion`."""
    return _first_order(_RIGIDITY, (orthonormality, properness), u, frame, weight, factor, out)[0]


def _first_order(kind, values, u, frame, weight, factor, out):
    sums = np.zeros((u.shape[1], 2))
    # isotropic penalties do not see the rotation of the frame: what is left is triangular, diagonal where not sheared
    turn = np.linalg.qr(np.asarray(frame, np.float64))[1]
    turn[np.abs(turn) < 1e-9 * np.abs(turn).max()] = 0
    back = np.linalg.inv(turn)
    parameters = np.zeros(2, np.float32)
    parameters[: len(values)] = values
    w = _NONE if weight is None else weight
    field = np.ascontiguousarray(u, np.float32)
    turn32, back32, scale = turn.astype(np.float32), back.astype(np.float32), np.float32(factor)

    def body(start, stop):
        _walk(start, stop, field, w, weight is not None, turn32, back32, kind, parameters, scale, sums, out)

    parallel_for(body, u.shape[1])
    total, folded = sums.sum(axis=0)
    return float(total), folded


@njit
def _walk(start, stop, u, weight, has_weight, turn, back, kind, parameters, factor, sums, out):
    _, inn, jn, kn = u.shape
    # one array: pieces at known distances, so that the compiler need not ask at run time whether they overlap
    room = np.zeros(53 * _B, np.float32)
    c, s, gc, gs = room[: 9 * _B], room[9 * _B : 18 * _B], room[18 * _B : 27 * _B], room[27 * _B : 36 * _B]
    dets, slopes, w = room[36 * _B : 44 * _B], room[44 * _B : 52 * _B], room[52 * _B : 53 * _B]
    w[:] = 1
    for i in range(max(start - 1, 0), min(stop + 1, inn)):
        for j in range(jn):
            for first in range(0, kn, _B):
                n = min(_B, kn - first)
                if has_weight and not _weights(weight[i, j], first, n, w):
                    continue
                _differences(u, i, j, first, n, c, s)
                if kind == _DETERMINANT:
                    value, folded = corners(n, parameters, w, c, s, dets, slopes, gc, gs)
                else:
                    folded = 0
                    value = _densities(kind, n, turn, back, parameters, w, c, s)
                if start <= i < stop:
                    sums[i, 0] += value
                    sums[i, 1] += folded
                _spread(i, j, first, n, start, stop, factor, c, s, out)


@inlined
def _weights(row, first, n, w):
    """Copy the weights of a block; tell whether any differs from 0."""
    largest = np.float32(0)
    for k in range(n):
        w[k] = row[first + k]
        largest = max(largest, abs(w[k]))
    return largest > 0


@inlined
def _differences(u, i, j, first, n, c, s):
    """Write central and half second differences in voxels, component by component, axis by axis."""
    components, inn, jn, kn = u.shape
    end = first + n
    for a in range(components):
        here = u[a, i, j, first:end]
        p = 3 * a * _B
        low, high = u[a, max(i - 1, 0), j, first:end], u[a, min(i + 1, inn - 1), j, first:end]
        _across(low, here, high, i == 0 or i == inn - 1, c[p : p + n], s[p : p + n])
        p += _B
        low, high = u[a, i, max(j - 1, 0), first:end], u[a, i, min(j + 1, jn - 1), first:end]
        _across(low, here, high, j == 0 or j == jn - 1, c[p : p + n], s[p : p + n])
        p += _B
        row, left, right = u[a, i, j], int(first == 0), int(end == kn)
        if n > left + right:
            inner = slice(p + left, p + n - right)
            low, high = row[first + left - 1 : end - right - 1], row[first + left + 1 : end - right + 1]
            _across(low, row[first + left : end - right], high, False, c[inner], s[inner])
        if left:
            c[p], s[p] = row[min(1, kn - 1)] - row[0], 0
        if right:
            c[p + n - 1], s[p + n - 1] = row[kn - 1] - row[max(kn - 2, 0)], 0


@inlined
def _across(low, here, high, end, c, s):
    """Write the differences from three neighbouring rows; at the end of an axis two of them are the same."""
    n, half = len(c), np.float32(0.5)
    if end:
        for k in range(n):
            c[k] = high[k] - low[k]
            s[k] = 0
    else:
        for k in range(n):
            c[k] = half * (high[k] - low[k])
        for k in range(n):
            s[k] = half * (high[k] + low[k]) - here[k]


@inlined
def _spread(i, j, first, n, start, stop, factor, c, s, out):
    """Add the derivatives by the differences of a block to the rows that the differences were taken from."""
    components, inn, jn, kn = out.shape
    end, own = first + n, start <= i < stop
    for a in range(components):
        here = out[a, i, j, first:end]
        p = 3 * a * _B
        if inn > 1:
            low, high, edge = max(i - 1, 0), min(i + 1, inn - 1), i == 0 or i == inn - 1
            if start <= low < stop:
                _add(out[a, low, j, first:end], factor, _BELOW, edge, c[p : p + n], s[p : p + n])
            if start <= high < stop:
                _add(out[a, high, j, first:end], factor, _ABOVE, edge, c[p : p + n], s[p : p + n])
            if own and not edge:
                _take(here, factor, s[p : p + n])
        if not own:
            continue
        p += _B
        if jn > 1:
            low, high, edge = max(j - 1, 0), min(j + 1, jn - 1), j == 0 or j == jn - 1
            _add(out[a, i, low, first:end], factor, _BELOW, edge, c[p : p + n], s[p : p + n])
            _add(out[a, i, high, first:end], factor, _ABOVE, edge, c[p : p + n], s[p : p + n])
            if not edge:
                _take(here, factor, s[p : p + n])
        p += _B
        if kn > 1:
            _spread_along(out[a, i, j], first, n, factor, c[p : p + n], s[p : p + n])


@inlined
def _spread_along(row, first, n, factor, c, s):
    last, left, right = len(row) - 1, int(first == 0), int(first + n == len(row))
    if n > left + right:
        low, high = first + left, first + n - right
        c_in, s_in = c[left : n - right], s[left : n - right]
        _add(row[low - 1 : high - 1], factor, _BELOW, False, c_in, s_in)
        _add(row[low + 1 : high + 1], factor, _ABOVE, False, c_in, s_in)
        _take(row[low:high], factor, s_in)
    if left:
        row[1] += factor * c[0]
        row[0] -= factor * c[0]
    if right:
        row[last] += factor * c[n - 1]
        row[last - 1] -= factor * c[n - 1]


@inlined
def _add(row, factor, side, end, c, s):
    """Add what differences give to the row on one side (±1) of the one they were taken at."""
    if end:
        f = side * factor
        for k in range(len(row)):
            row[k] += f * c[k]
    else:
        f, g = np.float32(0.5) * side * factor, np.float32(0.5) * factor
        for k in range(len(row)):
            row[k] += f * c[k] + g * s[k]


@inlined
def _take(row, factor, s):
    for k in range(len(row)):
        row[k] -= factor * s[k]


@inlined
def _densities(kind, n, turn, back, parameters, w, c, s):
    """Return the penalty of a block and turn its differences into derivatives by them."""
    _turn(n, turn, back, c)
    if kind == _RIGIDITY:
        value = _rigid(n, parameters[0], parameters[1], w, c)
        for m in range(9):
            for k in range(n):
                s[m * _B + k] = 0
    else:
        _turn_vectors(n, turn, s)
        if kind == _ELASTIC:
            value = _strain(n, parameters[0], parameters[1], back, w, c, s)
        else:
            value = _length(n, kind == _VARIATION, parameters[0], back, w, c, s)
        _turn_vectors(n, turn.T, s)
    _turn(n, turn.T, back.T, c)
    return value


@inlined
def _turn(n, left, right, c):
    """Replace the matrix at each voxel by ``left · c · right``."""
    if _is_diagonal(left):
        for a in range(3):
            for d in range(3):
                f = left[a, a] * right[d, d]
                for k in range((3 * a + d) * _B, (3 * a + d) * _B + n):
                    c[k] *= f
        return
    _turn_vectors(n, left, c)
    for a in range(3):
        for k in range(3 * a * _B, 3 * a * _B + n):
            x, y, z = c[k], c[_B + k], c[2 * _B + k]
            c[k] = x * right[0, 0] + y * right[1, 0] + z * right[2, 0]
            c[_B + k] = x * right[0, 1] + y * right[1, 1] + z * right[2, 1]
            c[2 * _B + k] = x * right[0, 2] + y * right[1, 2] + z * right[2, 2]


@inlined
def _is_diagonal(m):
    return m[0, 1] == m[1, 0] == m[0, 2] == m[2, 0] == m[1, 2] == m[2, 1] == 0


@inlined
def _turn_vectors(n, left, s):
    """Multiply the vectors of a block by a matrix."""
    for d in range(3):
        for k in range(d * _B, d * _B + n):
            x, y, z = s[k], s[3 * _B + k], s[6 * _B + k]
            s[k] = left[0, 0] * x + left[0, 1] * y + left[0, 2] * z
            s[3 * _B + k] = left[1, 0] * x + left[1, 1] * y + left[1, 2] * z
            s[6 * _B + k] = left[2, 0] * x + left[2, 1] * y + left[2, 2] * z


@inlined
def _length(n, root, epsilon, back, w, c, s):
    """Squared length of the gradient, or its root."""
    b0 = back[0, 0] ** 2 + back[0, 1] ** 2 + back[0, 2] ** 2
    b1 = back[1, 0] ** 2 + back[1, 1] ** 2 + back[1, 2] ** 2
    b2 = back[2, 0] ** 2 + back[2, 1] ** 2 + back[2, 2] ** 2
    e = np.zeros(_B, np.float32)
    for a in range(3):
        p = 3 * a * _B
        for k in range(n):
            x, y, z = c[p + k], c[p + _B + k], c[p + 2 * _B + k]
            t, u, v = s[p + k], s[p + _B + k], s[p + 2 * _B + k]
            e[k] += x * x + y * y + z * z + b0 * t * t + b1 * u * u + b2 * v * v
    value = np.float32(0)
    if root:
        for k in range(n):
            length = math.sqrt(e[k] + epsilon * epsilon)
            value += w[k] * e[k] / (length + epsilon)  # √(e + ε²) − ε without cancellation
            e[k] = w[k] / length
    else:
        for k in range(n):
            value += w[k] * e[k]
            e[k] = np.float32(2) * w[k]
    for a in range(3):
        p = 3 * a * _B
        for k in range(n):
            f = e[k]
            c[p + k] *= f
            c[p + _B + k] *= f
            c[p + 2 * _B + k] *= f
            s[p + k] *= b0 * f
            s[p + _B + k] *= b1 * f
            s[p + 2 * _B + k] *= b2 * f
    return value


@inlined
def _strain(n, mu, lam, back, w, c, s):
    """Linear elastic energy; the second differences are strains along one direction, a row of `back`."""
    value = np.float32(0)
    for k in range(n):
        xx, xy, xz = c[k], c[_B + k], c[2 * _B + k]
        yx, yy, yz = c[3 * _B + k], c[4 * _B + k], c[5 * _B + k]
        zx, zy, zz = c[6 * _B + k], c[7 * _B + k], c[8 * _B + k]
        p, q, r, div = xy + yx, xz + zx, yz + zy, xx + yy + zz
        squares = xx * xx + yy * yy + zz * zz + np.float32(0.5) * (p * p + q * q + r * r)
        value += w[k] * (mu * squares + np.float32(0.5) * lam * div * div)
        f, g = w[k] * mu, w[k] * lam * div
        c[k], c[4 * _B + k], c[8 * _B + k] = 2 * f * xx + g, 2 * f * yy + g, 2 * f * zz + g
        c[_B + k], c[2 * _B + k], c[5 * _B + k] = f * p, f * q, f * r
        c[3 * _B + k], c[6 * _B + k], c[7 * _B + k] = f * p, f * q, f * r
    for d in range(3):
        b0, b1, b2 = back[d, 0], back[d, 1], back[d, 2]
        bb = b0 * b0 + b1 * b1 + b2 * b2
        for k in range(n):
            x, y, z = s[d * _B + k], s[(d + 3) * _B + k], s[(d + 6) * _B + k]
            along, squares = x * b0 + y * b1 + z * b2, x * x + y * y + z * z
            value += w[k] * np.float32(0.5) * (mu * squares * bb + (mu + lam) * along * along)
            f, g = w[k] * mu * bb, w[k] * (mu + lam) * along
            s[d * _B + k] = f * x + g * b0
            s[(d + 3) * _B + k] = f * y + g * b1
            s[(d + 6) * _B + k] = f * z + g * b2
    return value


@inlined
def _rigid(n, a, b, w, c):
    """Orthonormality ``‖JᵀJ − I‖²`` and properness ``(det J − 1)²``."""
    value, one = np.float32(0), np.float32(1)
    for k in range(n):
        if w[k] == 0:
            for m in range(9):
                c[m * _B + k] = 0
            continue
        x0, y0, z0 = one + c[k], c[_B + k], c[2 * _B + k]
        x1, y1, z1 = c[3 * _B + k], one + c[4 * _B + k], c[5 * _B + k]
        x2, y2, z2 = c[6 * _B + k], c[7 * _B + k], one + c[8 * _B + k]
        xx, yy, zz = (
            x0 * x0 + x1 * x1 + x2 * x2 - one,
            y0 * y0 + y1 * y1 + y2 * y2 - one,
            z0 * z0 + z1 * z1 + z2 * z2 - one,
        )
        xy, xz, yz = x0 * y0 + x1 * y1 + x2 * y2, x0 * z0 + x1 * z1 + x2 * z2, y0 * z0 + y1 * z1 + y2 * z2
        p0, p1, p2 = y1 * z2 - y2 * z1, y2 * z0 - y0 * z2, y0 * z1 - y1 * z0
        q0, q1, q2 = z1 * x2 - z2 * x1, z2 * x0 - z0 * x2, z0 * x1 - z1 * x0
        r0, r1, r2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
        excess = x0 * p0 + x1 * p1 + x2 * p2 - one
        squares = xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)
        value += w[k] * (a * squares + b * excess * excess)
        f, g = 4 * a * w[k], 2 * b * w[k] * excess
        c[k] = f * (x0 * xx + y0 * xy + z0 * xz) + g * p0
        c[3 * _B + k] = f * (x1 * xx + y1 * xy + z1 * xz) + g * p1
        c[6 * _B + k] = f * (x2 * xx + y2 * xy + z2 * xz) + g * p2
        c[_B + k] = f * (x0 * xy + y0 * yy + z0 * yz) + g * q0
        c[4 * _B + k] = f * (x1 * xy + y1 * yy + z1 * yz) + g * q1
        c[7 * _B + k] = f * (x2 * xy + y2 * yy + z2 * yz) + g * q2
        c[2 * _B + k] = f * (x0 * xz + y0 * yz + z0 * zz) + g * r0
        c[5 * _B + k] = f * (x1 * xz + y1 * yz + z1 * zz) + g * r1
        c[8 * _B + k] = f * (x2 * xz + y2 * yz + z2 * zz) + g * r2
    return value
