"""Discrete search over displacements: the cost of every one of them, and the cheapest near a smooth field."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit


def displacement_costs(fixed, moving, weight, radius, outside):
    """Return the mean squared difference of features for every whole displacement within a radius.

    Parameters
    ----------
    fixed, moving : (C, I, J, K) float32 ndarray
        Features on one grid.
    weight : (I, J, K) float32 ndarray or None
        Weight of the moving image's voxels: below 0.5, and beyond the grid, a displacement costs `outside`.
    radius : (int, int, int)
        Largest displacement along each axis, voxels.
    outside : float
        Cost of places of which nothing is known.

    Returns
    -------
    (I, J, K, D) float32 ndarray
        Costs, in the order of `displacements`.
    """
    reach = np.array(radius, np.int64)
    known = np.ones((1, 1, 1), np.float32) if weight is None else weight
    out = np.empty((*fixed.shape[1:], int(np.prod(2 * reach + 1))), np.float32)
    parallel_for(
        lambda a, b: _costs(a, b, fixed, moving, known, weight is not None, reach, np.float32(outside), out),
        fixed.shape[1],
    )
    return out


def displacements(radius):
    """Return the whole displacements within a radius, ``(D, 3)`` float32, the last axis fastest."""
    sides = [np.arange(-r, r + 1) for r in radius]
    return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)


def cheapest(costs, offsets, field, strength, *, out):
    """Write the displacement of least ``cost + strength · |offset − field|²`` at every voxel.

    Parameters
    ----------
    costs : (I, J, K, D) float32 ndarray
        From `displacement_costs`.
    offsets : (D, 3) float32 ndarray
        From `displacements`.
    field : (3, I, J, K) float32 ndarray
        The field to stay near.
    strength : float
        How near; 0 leaves the field out.
    out : (3, I, J, K) float32 ndarray
        Destination.
    """
    parallel_for(
        lambda a, b: _cheapest(a, b, costs, offsets, field, np.float32(strength), out), costs.shape[0]
    )
    return out


@njit
def _costs(start, stop, fixed, moving, known, masked, reach, outside, out):
    channels, inn, jn, kn = fixed.shape
    ri, rj, rk = reach
    share = np.float32(1 / channels)
    for i in range(start, stop):
        for j in range(jn):
            for k in range(kn):
                n = 0
                for a in range(-ri, ri + 1):
                    for b in range(-rj, rj + 1):
                        for c in range(-rk, rk + 1):
                            p, q, r = i + a, j + b, k + c
                            cost = outside
                            here = 0 <= p < inn and 0 <= q < jn and 0 <= r < kn
                            if here and (not masked or known[p, q, r] >= 0.5):
                                cost = np.float32(0)
                                for f in range(channels):
                                    d = fixed[f, i, j, k] - moving[f, p, q, r]
                                    cost += d * d
                                cost *= share
                            out[i, j, k, n] = cost
                            n += 1


@njit
def _cheapest(start, stop, costs, offsets, field, strength, out):
    _, jn, kn, size = costs.shape
    for i in range(start, stop):
        for j in range(jn):
            for k in range(kn):
                x, y, z = field[0, i, j, k], field[1, i, j, k], field[2, i, j, k]
                best, at = np.float32(3e38), 0
                for n in range(size):
                    a, b, c = offsets[n, 0] - x, offsets[n, 1] - y, offsets[n, 2] - z
                    total = costs[i, j, k, n] + strength * (a * a + b * b + c * c)
                    if total < best:
                        best, at = total, n
                out[0, i, j, k], out[1, i, j, k], out[2, i, j, k] = (
                    offsets[at, 0],
                    offsets[at, 1],
                    offsets[at, 2],
                )
