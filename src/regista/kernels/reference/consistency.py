"""Reference of `regista.kernels.cpu.consistency`: interpolation as a sparse matrix."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Array = NDArray[np.float64]


def _images(forward: ArrayLike, to_other: ArrayLike) -> Array:
    u, b = np.asarray(forward, np.float64), np.asarray(to_other, np.float64)
    places = (np.indices(u.shape[1:]) + u).reshape(3, -1)
    return np.asarray(b[:, :3] @ places + b[:, 3:])


def _interpolation(places: Array, shape: tuple[int, ...], axis: int | None = None) -> sparse.csr_matrix:
    """Return the matrix of linear interpolation at ``(3, N)`` places, or of its derivative along an axis."""
    size = np.array(shape)[:, None]
    clipped = np.clip(places, 0, size - 1)
    low = np.minimum(clipped.astype(int), np.maximum(size - 2, 0))
    part = clipped - low
    total = sparse.csr_matrix((places.shape[1], int(np.prod(shape))))
    for corner in product((0, 1), repeat=3):
        weight = np.ones(places.shape[1])
        for d, side in enumerate(corner):
            if d == axis:
                inside = (places[d] >= 0) & (places[d] <= shape[d] - 1) & (shape[d] > 1)
                weight = weight * (2 * side - 1) * inside
            else:
                weight = weight * (part[d] if side else 1 - part[d])
        index = np.minimum(low + np.array(corner)[:, None], size - 1)
        columns = np.ravel_multi_index(tuple(index), shape)
        total = total + sparse.csr_matrix((weight, (np.arange(len(columns)), columns)), total.shape)
    return total


def loop_residual(
    forward: ArrayLike, backward: ArrayLike, to_other: ArrayLike, to_own: ArrayLike, *, out: Array
) -> Array:
    """Write the residual of the loop."""
    u, v, a = (np.asarray(x, np.float64) for x in (forward, backward, to_own))
    matrix = _interpolation(_images(forward, to_other), v.shape[1:])
    read = np.stack([matrix @ component.ravel() for component in v])
    out[...] = u + (a @ read).reshape(u.shape)
    return out


def loop_adjoint(
    forward: ArrayLike,
    backward: ArrayLike,
    to_other: ArrayLike,
    to_own: ArrayLike,
    slope: ArrayLike,
    *,
    out_forward: Array,
    out_backward: Array,
) -> None:
    """Add the derivatives by both fields."""
    v, a, b = (np.asarray(x, np.float64) for x in (backward, to_own, to_other))
    places, s = _images(forward, to_other), np.asarray(slope, np.float64)
    own = a.T @ s.reshape(3, -1)
    matrix = _interpolation(places, v.shape[1:])
    for c in range(3):
        out_backward[c] += (matrix.T @ own[c]).reshape(v.shape[1:])
    along = np.zeros_like(own)
    for d in range(3):
        derivative = _interpolation(places, v.shape[1:], d)
        along[d] = sum(own[c] * (derivative @ v[c].ravel()) for c in range(3))
    out_forward += s + (b[:, :3].T @ along).reshape(s.shape)
