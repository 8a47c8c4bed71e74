"""Overlap of many labels at once, soft at their borders, with its exact gradient by the displacement.

The moving label l has at a place y the membership ``m_l(y)``: the trilinear weights of those corners of the cell around
y that hold l. With ``I_l`` the sum of ``m_l(T(x))`` over the fixed voxels x of label l, ``W_l`` the sum of its square
over all voxels, and ``|F_l|`` the number of those voxels x::

    Dice_l = 2 I_l / S_l,  S_l = |F_l| + W_l
    ∂Dice_l/∂m_l(x) = 2 [F(x) = l] / S_l − 4 I_l m_l(x) / S_l²

Labels come as codes 1 … n; code 0, and what lies outside the arrays, is left out.
"""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import inlined, njit


def soft_dice(fixed, moving, affine, disp, sizes, *, factor=0.0, out=None):
    """Return the soft Dice of each label; add a multiple of the gradient of their sum to `out`.

    ``2 Σ a b / (Σ a² + Σ b²)`` (F. Milletari et al., V-Net, 3DV 2016), b interpolated. With Σ b in place of Σ b², borders that
    coincide would lose overlap in proportion to any displacement by a part of a voxel, to the interpolation alone.

    Parameters
    ----------
    fixed : (I, J, K) int32 ndarray
        Codes of the fixed image.
    moving : (I', J', K') int32 ndarray
        Codes of the moving image.
    affine : (3, 4) float64 ndarray
        Map from fixed to moving voxel coordinates.
    disp : (3, I, J, K) float32 ndarray
        Displacement in fixed voxels: x is compared with ``affine(x + disp(x))``.
    sizes : (n + 1,) ndarray
        Number of fixed voxels of each code.
    factor : float
        What the gradient is multiplied by.
    out : (3, I, J, K) float32 ndarray, optional
        Where the gradient by the displacement is added.

    Returns
    -------
    (n,) float64 ndarray
        Dice of the codes 1 … n; 0 for one that neither image has.
    """
    fixed, moving = np.ascontiguousarray(fixed, np.int32), np.ascontiguousarray(moving, np.int32)
    matrix = np.ascontiguousarray(affine, np.float64)
    sums = np.zeros((len(fixed), 2, len(sizes)))
    parallel_for(lambda a, b: _sums(a, b, fixed, moving, matrix, disp, sums), len(fixed))
    both, there = sums.sum(axis=0)
    total = sizes + there
    share = np.divide(2.0, total, out=np.zeros(len(sizes)), where=total > 0)
    share[0] = 0
    dice = share * both
    if out is not None:
        inner, outer = factor * share, -factor * share * dice
        parallel_for(lambda a, b: _gradient(a, b, fixed, moving, matrix, disp, inner, outer, out), len(fixed))
    return dice[1:]


def majority(codes, affine, shape, samples, count):
    """Return the most frequent code within each voxel of another grid.

    Parameters
    ----------
    codes : (I', J', K') int32 ndarray
        Codes below `count`; 0 beyond the array.
    affine : (3, 4) float64 ndarray
        Map from the other grid's voxels to those of `codes`.
    shape : (I, J, K)
        Shape of the other grid.
    samples : tuple of 3 ints
        Places looked at within a voxel, along each of its axes, evenly spaced.
    count : int
        Number of codes.

    Returns
    -------
    (I, J, K) int32 ndarray
        Codes; the smallest of those that are equally frequent.
    """
    voxels, matrix = np.ascontiguousarray(codes, np.int32), np.ascontiguousarray(affine, np.float64)
    out, tries = np.zeros(shape, np.int32), tuple(int(n) for n in samples)
    parallel_for(lambda a, b: _majority(a, b, voxels, matrix, tries, count, out), shape[0])
    return out


@inlined
def _along(x, size):
    """Return the cell of a coordinate, the place within it, and 1 where the axis has cells, else 0."""
    if size == 1:
        return 0, 0.0, 0.0
    x = min(max(x, -2.0), size + 1.0)
    low = int(np.floor(x))
    return low, x - low, 1.0


@inlined
def _code(moving, i, j, k):
    if i < 0 or j < 0 or k < 0 or i >= moving.shape[0] or j >= moving.shape[1] or k >= moving.shape[2]:
        return np.int32(0)
    return moving[i, j, k]


@inlined
def _cell(moving, affine, a, b, c, codes, place, steps):
    """Write codes, places and steps of the cell that a place of the fixed grid lies in; tell whether codes differ."""
    low = np.empty(3, np.int64)
    for n in range(3):
        x = affine[n, 0] * a + affine[n, 1] * b + affine[n, 2] * c + affine[n, 3]
        low[n], place[n], steps[n] = _along(x, moving.shape[n])
    differ = False
    for corner in range(8):
        i = low[0] + (corner >> 2 if steps[0] > 0 else 0)
        j = low[1] + ((corner >> 1) & 1 if steps[1] > 0 else 0)
        k = low[2] + (corner & 1 if steps[2] > 0 else 0)
        codes[corner] = _code(moving, i, j, k)
        differ |= codes[corner] != codes[0]
    return differ


@inlined
def _members(codes, place, weights, own):
    """Write the weight of each corner, and of all corners of its code."""
    for corner in range(8):
        w = place[0] if corner >> 2 else 1 - place[0]
        w *= place[1] if (corner >> 1) & 1 else 1 - place[1]
        w *= place[2] if corner & 1 else 1 - place[2]
        weights[corner] = w
    for corner in range(8):
        own[corner] = 0.0
        for other in range(8):
            own[corner] += weights[other] if codes[other] == codes[corner] else 0.0


@njit
def _sums(start, stop, fixed, moving, affine, disp, sums):
    codes, place, steps = np.empty(8, np.int32), np.empty(3), np.empty(3)
    weights, own = np.empty(8), np.empty(8)
    for i in range(start, stop):
        for j in range(fixed.shape[1]):
            for k in range(fixed.shape[2]):
                a, b, c = i + disp[0, i, j, k], j + disp[1, i, j, k], k + disp[2, i, j, k]
                here = fixed[i, j, k]
                if not _cell(moving, affine, a, b, c, codes, place, steps):
                    sums[i, 1, codes[0]] += 1
                    if here == codes[0]:
                        sums[i, 0, here] += 1
                    continue
                _members(codes, place, weights, own)
                for corner in range(8):
                    sums[i, 1, codes[corner]] += weights[corner] * own[corner]
                    if here == codes[corner]:
                        sums[i, 0, here] += weights[corner]


@njit
def _gradient(start, stop, fixed, moving, affine, disp, inner, outer, out):
    codes, place, steps = np.empty(8, np.int32), np.empty(3), np.empty(3)
    weights, own = np.empty(8), np.empty(8)
    for i in range(start, stop):
        for j in range(fixed.shape[1]):
            for k in range(fixed.shape[2]):
                a, b, c = i + disp[0, i, j, k], j + disp[1, i, j, k], k + disp[2, i, j, k]
                if not _cell(moving, affine, a, b, c, codes, place, steps):
                    continue
                here = fixed[i, j, k]
                _members(codes, place, weights, own)
                x, y, z = 0.0, 0.0, 0.0
                for corner in range(8):
                    code = codes[corner]
                    g = outer[code] * own[corner] + (inner[code] if code == here else 0.0)
                    p, q, r = corner >> 2, (corner >> 1) & 1, corner & 1
                    wx = place[0] if p else 1 - place[0]
                    wy = place[1] if q else 1 - place[1]
                    wz = place[2] if r else 1 - place[2]
                    x += g * (2 * p - 1) * wy * wz
                    y += g * (2 * q - 1) * wx * wz
                    z += g * (2 * r - 1) * wx * wy
                x, y, z = x * steps[0], y * steps[1], z * steps[2]
                for n in range(3):
                    out[n, i, j, k] += affine[0, n] * x + affine[1, n] * y + affine[2, n] * z


@njit
def _majority(start, stop, codes, affine, samples, count, out):
    votes, seen = np.zeros(count, np.int64), np.empty(samples[0] * samples[1] * samples[2], np.int32)
    for i in range(start, stop):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                at = 0
                for p in range(samples[0]):
                    a = i + (p + 0.5) / samples[0] - 0.5
                    for q in range(samples[1]):
                        b = j + (q + 0.5) / samples[1] - 0.5
                        for r in range(samples[2]):
                            c = k + (r + 0.5) / samples[2] - 0.5
                            seen[at] = _nearest(codes, affine, a, b, c)
                            votes[seen[at]] += 1
                            at += 1
                best = seen[0]
                for n in range(1, at):
                    more = votes[seen[n]] - votes[best]
                    if more > 0 or (more == 0 and seen[n] < best):
                        best = seen[n]
                out[i, j, k] = best
                for n in range(at):
                    votes[seen[n]] = 0


@inlined
def _nearest(codes, affine, a, b, c):
    at = np.empty(3, np.int64)
    for n in range(3):
        x = affine[n, 0] * a + affine[n, 1] * b + affine[n, 2] * c + affine[n, 3]
        # halves go up, those a rounding below a half too: how the header was written must not tell
        at[n] = int(np.floor(min(max(x, -2.0), codes.shape[n] + 1.0) + 0.5 + 1e-6))
    return _code(codes, at[0], at[1], at[2])
