"""Displacement fields in voxels of their own lattice: composition, exponential, inversion, Jacobian.

A field is continued beyond its lattice by its edge value (``outside='edge'``, smooth: what iterations need)
or by zero from half a voxel beyond the outermost centres (``outside='zero'``: what a stored field means).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit
from regista.kernels.cpu.sampling import sample_points


def sample_field(disp: NDArray[Any], coords_vox: ArrayLike, outside: str = "edge") -> NDArray[np.float32]:
    """Interpolate a field linearly at ``(N, 3)`` places; returns ``(3, N)`` float32."""
    coords = np.ascontiguousarray(coords_vox, np.float64)
    if _is_edge(outside):
        coords = np.clip(coords, 0, np.array(disp.shape[1:]) - 1)
    return sample_points(disp, coords, "linear", 0.0)


def compose(
    u: ArrayLike, v: ArrayLike, outside: str = "edge", *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return the field of ``x ↦ y + u(y)`` after ``y = x + v(x)``, that is ``v(x) + u(x + v(x))``.

    Parameters
    ----------
    u, v : (3, I, J, K) ndarray
        Fields in voxels; `v` is applied first.
    outside : {'edge', 'zero'}
        How `u` continues beyond its lattice.
    out : (3, I, J, K) float32 ndarray, optional
        Destination; must be neither `u` nor `v`.

    Returns
    -------
    (3, I, J, K) float32 ndarray
        The composed field.
    """
    second, first = _field(u), _field(v)
    result = np.empty_like(first) if out is None else out
    flat, shape, edge = second.reshape(3, -1), second.shape[1:], _is_edge(outside)
    parallel_for(lambda a, b: _compose(a, b, flat, shape, first, edge, result), first.shape[1])
    return result


def exponential(v: ArrayLike, steps: int = 7) -> NDArray[np.float32]:
    """Return the displacement reached by flowing along the velocity `v` for unit time.

    Scaling and squaring (Arsigny et al., MICCAI 2006): ``v / 2**steps`` composed with itself `steps` times.
    """
    u = _field(v) * np.float32(0.5**steps)
    other = np.empty_like(u)
    for _ in range(steps):
        compose(u, u, out=other)
        u, other = other, u
    return u


_PARTS = 4
"""Buffers that the adjoint scatters into, whatever the number of threads: sums are then always in one order."""


def squarings(v: ArrayLike, steps: int) -> list[NDArray[np.float32]]:
    """Return all fields of `exponential`, from ``v / 2**steps`` to the displacement itself."""
    fields = [_field(v) * np.float32(0.5**steps)]
    for _ in range(steps):
        fields.append(compose(fields[-1], fields[-1]))
    return fields


def exponential_adjoint(
    fields: list[NDArray[np.float32]], gradient: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the derivative of a cost by the velocity, given that by the displacement ``exp(v)``.

    Parameters
    ----------
    fields : list of (3, I, J, K) float32 ndarray
        From `squarings`.
    gradient : (3, I, J, K) float32 ndarray
        Derivative by ``fields[-1]``; it is left as it is.
    """
    current = gradient
    for u in fields[-2::-1]:
        parts = np.zeros((_PARTS, *u.shape), np.float32)
        edges = np.linspace(0, u.shape[1], _PARTS + 1).astype(int)
        parallel_for(partial(_square_adjoint, edges, u.reshape(3, -1), u, current, parts), _PARTS)
        current = current + parts.sum(axis=0)
    return current * np.float32(0.5 ** (len(fields) - 1))


_RETRIES = 3
"""Passes over what the first one left unsolved: each lets solutions travel one voxel."""
_PLACES, _SPACING, _FEW = 9, 0.4, 300
"""Places along each axis, and voxels between them, from which the few voxels are sought that are then left."""


def invert(
    u: ArrayLike, tolerance: float = 0.005, max_iterations: int = 40
) -> tuple[NDArray[np.float32], float]:
    """Find the field ``w`` with ``w(y) + u(y + w(y)) = 0``.

    Newton's method at each voxel, damped by halving, started from the neighbour's solution; where the map is
    folded or nearly so, damped fixed-point steps take over (Chen et al., Med Phys 2008).

    Parameters
    ----------
    u : (3, I, J, K) ndarray
        Field in voxels.
    tolerance : float
        Voxels: iterations at a voxel stop below it.
    max_iterations : int
        Evaluations of `u` per voxel at most.

    Returns
    -------
    inverse : (3, I, J, K) float32 ndarray
        The inverse field.
    residual : float
        Largest ``|w(y) + u(y + w(y))|`` in voxels over the ``y`` whose image lies within the lattice.
    """
    field = _field(u)
    w, flat, peaks = np.empty_like(field), field.reshape(3, -1), np.zeros(field.shape[1])
    shape, square = field.shape[1:], float(tolerance) ** 2
    unsolved = np.zeros(shape, np.bool_)
    parallel_for(lambda a, b: _invert(a, b, flat, shape, square, max_iterations, w, unsolved), shape[0])
    for _ in range(_RETRIES):
        if not unsolved.any():
            break
        before = w.copy()  # what is read does not depend on the order in which voxels are visited
        parallel_for(partial(_retry, flat, shape, square, max_iterations, before, w, unsolved), shape[0])
    if np.count_nonzero(unsolved) <= _FEW:  # more are folds, which have no solution to be found
        parallel_for(lambda a, b: _search(a, b, flat, shape, square, max_iterations, w, unsolved), shape[0])
    parallel_for(lambda a, b: _residual(a, b, flat, shape, w, peaks), shape[0])
    return w, float(np.sqrt(peaks.max()))


def jacobian_determinant(u: ArrayLike) -> NDArray[np.float32]:
    """Return ``det(I + ∂u/∂x)`` at every voxel: central differences, one-sided at the borders.

    An axis of a single voxel counts as unchanged, so a 2-D field gives its 2×2 determinant.
    """
    field = _field(u)
    out = np.empty(field.shape[1:], np.float32)
    parallel_for(lambda a, b: _jacobian(a, b, field, out), field.shape[1])
    return out


def _is_edge(outside: str) -> bool:
    if outside not in ("edge", "zero"):
        raise ValueError(f"outside is 'edge' or 'zero', got {outside!r}")
    return outside == "edge"


def _field(disp: ArrayLike) -> NDArray[np.float32]:
    return np.ascontiguousarray(disp, np.float32)


@inlined
def _cell(x, size):
    x = min(max(x, 0.0), size - 1.0)
    low = min(int(x), max(size - 2, 0))
    return low, np.float32(x - low)


@inlined
def _strides(shape):
    return (
        shape[1] * shape[2] if shape[0] > 1 else 0,
        shape[2] if shape[1] > 1 else 0,
        1 if shape[2] > 1 else 0,
    )


@inlined
def _outside(x, y, z, shape):
    return x < -0.5 or y < -0.5 or z < -0.5 or x > shape[0] - 0.5 or y > shape[1] - 0.5 or z > shape[2] - 0.5


@inlined
def _trilinear(v, base, si, sj, sk, fx, fy, fz):
    c00 = v[base] + fz * (v[base + sk] - v[base])
    c01 = v[base + sj] + fz * (v[base + sj + sk] - v[base + sj])
    c10 = v[base + si] + fz * (v[base + si + sk] - v[base + si])
    c11 = v[base + si + sj] + fz * (v[base + si + sj + sk] - v[base + si + sj])
    c0 = c00 + fy * (c01 - c00)
    c1 = c10 + fy * (c11 - c10)
    return c0 + fx * (c1 - c0)


@inlined
def _at(flat, shape, x, y, z):
    si, sj, sk = _strides(shape)
    p, fx = _cell(x, shape[0])
    q, fy = _cell(y, shape[1])
    r, fz = _cell(z, shape[2])
    base = (p * shape[1] + q) * shape[2] + r
    return (
        _trilinear(flat[0], base, si, sj, sk, fx, fy, fz),
        _trilinear(flat[1], base, si, sj, sk, fx, fy, fz),
        _trilinear(flat[2], base, si, sj, sk, fx, fy, fz),
    )


@njit
def _compose(start, stop, flat, shape, v, edge, out):
    for i in range(start, stop):
        for j in range(v.shape[2]):
            for k in range(v.shape[3]):
                a, b, c = v[0, i, j, k], v[1, i, j, k], v[2, i, j, k]
                x, y, z = i + np.float64(a), j + np.float64(b), k + np.float64(c)
                if edge or not _outside(x, y, z, shape):
                    d, e, f = _at(flat, shape, x, y, z)
                    a, b, c = a + d, b + e, c + f
                out[0, i, j, k] = a
                out[1, i, j, k] = b
                out[2, i, j, k] = c


@njit
def _square_adjoint(edges, flat, u, gradient, parts, first, last):
    """Scatter and pull back a gradient through ``u(x + u(x))``; the part of ``u(x)`` itself is left to the caller."""
    _, inn, jn, kn = u.shape
    shape = (inn, jn, kn)
    si, sj, sk = _strides(shape)
    one = np.float32(1)
    for part in range(first, last):
        target = parts[part].reshape(3, -1)
        for i in range(edges[part], edges[part + 1]):
            for j in range(jn):
                for k in range(kn):
                    g0, g1, g2 = gradient[0, i, j, k], gradient[1, i, j, k], gradient[2, i, j, k]
                    if g0 == 0 and g1 == 0 and g2 == 0:
                        continue
                    x, y, z = (
                        i + np.float64(u[0, i, j, k]),
                        j + np.float64(u[1, i, j, k]),
                        k + np.float64(u[2, i, j, k]),
                    )
                    p, fx = _cell(x, inn)
                    q, fy = _cell(y, jn)
                    r, fz = _cell(z, kn)
                    base = (p * jn + q) * kn + r
                    _, a0, a1, a2 = _slopes(flat[0], base, si, sj, sk, fx, fy, fz)
                    _, b0, b1, b2 = _slopes(flat[1], base, si, sj, sk, fx, fy, fz)
                    _, c0, c1, c2 = _slopes(flat[2], base, si, sj, sk, fx, fy, fz)
                    n = (i * jn + j) * kn + k
                    if 0 <= x <= inn - 1:
                        target[0, n] += g0 * a0 + g1 * b0 + g2 * c0
                    if 0 <= y <= jn - 1:
                        target[1, n] += g0 * a1 + g1 * b1 + g2 * c1
                    if 0 <= z <= kn - 1:
                        target[2, n] += g0 * a2 + g1 * b2 + g2 * c2
                    for corner in range(8):
                        ox, oy, oz = corner // 4, corner // 2 % 2, corner % 2
                        w = (fx if ox else one - fx) * (fy if oy else one - fy) * (fz if oz else one - fz)
                        m = base + ox * si + oy * sj + oz * sk
                        target[0, m] += w * g0
                        target[1, m] += w * g1
                        target[2, m] += w * g2


@inlined
def _slopes(v, base, si, sj, sk, fx, fy, fz):
    """Return the trilinear value and its three derivatives within the cell."""
    z00 = v[base + sk] - v[base]
    z01 = v[base + sj + sk] - v[base + sj]
    z10 = v[base + si + sk] - v[base + si]
    z11 = v[base + si + sj + sk] - v[base + si + sj]
    c00 = v[base] + fz * z00
    c01 = v[base + sj] + fz * z01
    c10 = v[base + si] + fz * z10
    c11 = v[base + si + sj] + fz * z11
    y0, y1 = c01 - c00, c11 - c10
    c0, c1 = c00 + fy * y0, c10 + fy * y1
    z0, z1 = z00 + fy * (z01 - z00), z10 + fy * (z11 - z10)
    return c0 + fx * (c1 - c0), c1 - c0, y0 + fx * (y1 - y0), z0 + fx * (z1 - z0)


@inlined
def _newton(flat, shape, i, j, k, a, b, c):
    """Return the misfit ``r = w + u(y + w)`` at ``w = (a, b, c)`` and the step that should remove it."""
    si, sj, sk = _strides(shape)
    x, y, z = i + a, j + b, k + c
    p, fx = _cell(x, shape[0])
    q, fy = _cell(y, shape[1])
    r, fz = _cell(z, shape[2])
    base = (p * shape[1] + q) * shape[2] + r
    u0, g00, g01, g02 = _slopes(flat[0], base, si, sj, sk, fx, fy, fz)
    u1, g10, g11, g12 = _slopes(flat[1], base, si, sj, sk, fx, fy, fz)
    u2, g20, g21, g22 = _slopes(flat[2], base, si, sj, sk, fx, fy, fz)
    if x < 0 or x > shape[0] - 1:
        g00, g10, g20 = g00 * 0, g10 * 0, g20 * 0
    if y < 0 or y > shape[1] - 1:
        g01, g11, g21 = g01 * 0, g11 * 0, g21 * 0
    if z < 0 or z > shape[2] - 1:
        g02, g12, g22 = g02 * 0, g12 * 0, g22 * 0
    r0, r1, r2 = a + u0, b + u1, c + u2
    g00, g11, g22 = g00 + 1, g11 + 1, g22 + 1
    m0, m1, m2 = g11 * g22 - g12 * g21, g12 * g20 - g10 * g22, g10 * g21 - g11 * g20
    det = g00 * m0 + g01 * m1 + g02 * m2
    if det < 0.05:  # folded or nearly: no direction to trust, a damped fixed-point step
        return r0, r1, r2, -0.5 * r0, -0.5 * r1, -0.5 * r2
    s = -1 / det
    d0 = s * (m0 * r0 + (g02 * g21 - g01 * g22) * r1 + (g01 * g12 - g02 * g11) * r2)
    d1 = s * (m1 * r0 + (g00 * g22 - g02 * g20) * r1 + (g02 * g10 - g00 * g12) * r2)
    d2 = s * (m2 * r0 + (g01 * g20 - g00 * g21) * r1 + (g00 * g11 - g01 * g10) * r2)
    return r0, r1, r2, d0, d1, d2


@inlined
def _solve(flat, shape, i, j, k, a, b, c, square, limit):
    """Iterate from ``(a, b, c)``; return the best ``w``, its squared misfit."""
    best, t = np.inf, 1.0
    ba, bb, bc = a, b, c
    s0, s1, s2 = 0.0, 0.0, 0.0
    used = 0
    while used < limit:
        r0, r1, r2, d0, d1, d2 = _newton(flat, shape, i, j, k, a, b, c)
        used += 1
        error = r0 * r0 + r1 * r1 + r2 * r2
        if error <= square:  # the step is known already: one free refinement
            return a + d0, b + d1, c + d2, error
        if used == 1 or error < best:
            best, ba, bb, bc = error, a, b, c
            s0, s1, s2, t = d0, d1, d2, 1.0
        else:
            t *= 0.5
            if t < 0.03:
                break
        a, b, c = ba + t * s0, bb + t * s1, bc + t * s2
    return ba, bb, bc, best


@njit
def _invert(start, stop, flat, shape, square, limit, w, unsolved):
    _, jn, kn = shape
    for i in range(start, stop):
        for j in range(jn):
            good = False
            a, b, c = 0.0, 0.0, 0.0
            for k in range(kn):
                error = np.inf
                if good:
                    a, b, c, error = _solve(flat, shape, i, j, k, a, b, c, square, limit)
                if not good or error > square:
                    n = (i * jn + j) * kn + k
                    e, f, g = -np.float64(flat[0, n]), -np.float64(flat[1, n]), -np.float64(flat[2, n])
                    e, f, g, second = _solve(flat, shape, i, j, k, e, f, g, square, limit)
                    if not good or second < error:
                        a, b, c, error = e, f, g, second
                good = error <= square
                w[0, i, j, k], w[1, i, j, k], w[2, i, j, k] = a, b, c
                unsolved[i, j, k] = not good and not _outside(i + a, j + b, k + c, shape)


@inlined
def _misfit(flat, shape, i, j, k, a, b, c):
    d, e, f = _at(flat, shape, i + a, j + b, k + c)
    return (a + d) ** 2 + (b + e) ** 2 + (c + f) ** 2


@njit
def _retry(flat, shape, square, limit, before, w, unsolved, start, stop):
    """Start again, from the solutions of the 26 neighbours, where the misfit is still too large."""
    inn, jn, kn = shape
    for i in range(start, stop):
        for j in range(jn):
            for k in range(kn):
                if not unsolved[i, j, k]:
                    continue
                a, b, c = np.float64(w[0, i, j, k]), np.float64(w[1, i, j, k]), np.float64(w[2, i, j, k])
                error = _misfit(flat, shape, i, j, k, a, b, c)
                for n in range(27):
                    p, q, r = i + n // 9 - 1, j + n // 3 % 3 - 1, k + n % 3 - 1
                    if n == 13 or not (0 <= p < inn and 0 <= q < jn and 0 <= r < kn):
                        continue
                    d, e, f = before[0, p, q, r], before[1, p, q, r], before[2, p, q, r]
                    x, y, z, found = _solve(
                        flat, shape, i, j, k, np.float64(d), np.float64(e), np.float64(f), square, limit
                    )
                    if found < error:
                        a, b, c, error = x, y, z, found
                w[0, i, j, k], w[1, i, j, k], w[2, i, j, k] = a, b, c
                unsolved[i, j, k] = error > square and not _outside(i + a, j + b, k + c, shape)


@njit
def _search(start, stop, flat, shape, square, limit, w, unsolved):
    """Start again from places all around, where nothing else led to a solution: a handful of voxels of steep maps."""
    _, jn, kn = shape
    for i in range(start, stop):
        for j in range(jn):
            for k in range(kn):
                if not unsolved[i, j, k]:
                    continue
                a, b, c = np.float64(w[0, i, j, k]), np.float64(w[1, i, j, k]), np.float64(w[2, i, j, k])
                d, e, f, error = a, b, c, _misfit(flat, shape, i, j, k, a, b, c)
                for n in range(_PLACES**3):
                    if error <= square:
                        break
                    x = a + _SPACING * (n // _PLACES**2 - _PLACES // 2)
                    y = b + _SPACING * (n // _PLACES % _PLACES - _PLACES // 2)
                    z = c + _SPACING * (n % _PLACES - _PLACES // 2)
                    x, y, z, found = _solve(flat, shape, i, j, k, x, y, z, square, limit)
                    if found < error:
                        d, e, f, error = x, y, z, found
                w[0, i, j, k], w[1, i, j, k], w[2, i, j, k] = d, e, f


@njit
def _residual(start, stop, flat, shape, w, peaks):
    _, jn, kn = shape
    for i in range(start, stop):
        peak = 0.0
        for j in range(jn):
            for k in range(kn):
                a, b, c = w[0, i, j, k], w[1, i, j, k], w[2, i, j, k]
                x, y, z = i + np.float64(a), j + np.float64(b), k + np.float64(c)
                if _outside(x, y, z, shape):
                    continue
                d, e, f = _at(flat, shape, x, y, z)
                peak = max(peak, (a + d) ** 2 + (b + e) ** 2 + (c + f) ** 2)
        peaks[i] = peak


@inlined
def _ends(i, size):
    """Return the indices a difference is taken between, and one over their distance (0 for one voxel)."""
    low, high = max(i - 1, 0), min(i + 1, size - 1)
    return low, high, np.float32(1 / max(high - low, 1))


@njit
def _jacobian(start, stop, u, out):
    _, inn, jn, kn = u.shape
    for i in range(start, stop):
        i0, i1, hi = _ends(i, inn)
        for j in range(jn):
            j0, j1, hj = _ends(j, jn)
            for k in range(kn):
                k0, k1, hk = _ends(k, kn)
                a00 = 1 + hi * (u[0, i1, j, k] - u[0, i0, j, k])
                a10 = hi * (u[1, i1, j, k] - u[1, i0, j, k])
                a20 = hi * (u[2, i1, j, k] - u[2, i0, j, k])
                a01 = hj * (u[0, i, j1, k] - u[0, i, j0, k])
                a11 = 1 + hj * (u[1, i, j1, k] - u[1, i, j0, k])
                a21 = hj * (u[2, i, j1, k] - u[2, i, j0, k])
                a02 = hk * (u[0, i, j, k1] - u[0, i, j, k0])
                a12 = hk * (u[1, i, j, k1] - u[1, i, j, k0])
                a22 = 1 + hk * (u[2, i, j, k1] - u[2, i, j, k0])
                out[i, j, k] = (
                    a00 * (a11 * a22 - a12 * a21)
                    - a01 * (a10 * a22 - a12 * a20)
                    + a02 * (a10 * a21 - a11 * a20)
                )
