"""Cubic B-spline free-form deformation: from control points to a dense field, and the adjoint."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit


class SplineAxis(NamedTuple):
    """Weights of control points for the voxels of one axis."""

    first: NDArray[np.int64]
    """First of the control points that bear on a voxel."""
    weights: NDArray[np.float32]
    """``(voxels, 4)``, or ``(voxels, 1)`` along an axis of one voxel."""
    controls: int
    """Number of control points."""


def spline_axis(size, spacing):
    """Return the weights along an axis of `size` voxels with a control point every `spacing` voxels.

    The first of them lies one spacing before the first voxel, so that all four of a voxel exist.
    """
    if size == 1:
        return SplineAxis(np.zeros(1, np.int64), np.ones((1, 1), np.float32), 1)
    place = np.arange(size) / spacing
    first = np.floor(place).astype(np.int64)
    t = place - first
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    return SplineAxis(first, np.ascontiguousarray(weights / 6, np.float32), int(first[-1]) + 4)


def spline_expand(control, axes):
    """Return the dense field ``(C, I, J, K)`` of control points ``(C, *counts)``.

    Parameters
    ----------
    control : (C, ...) float32 ndarray
        Values at the control points.
    axes : sequence of 3 SplineAxis
        From `spline_axis`.
    """
    field = np.ascontiguousarray(control, np.float32)
    for axis in (2, 1, 0):
        first, weights, _ = axes[axis]
        shape = field.shape
        source = field.reshape(int(np.prod(shape[: axis + 1])), shape[axis + 1], -1)
        out = np.empty((len(source), len(first), source.shape[2]), np.float32)
        parallel_for(
            lambda a, b, s=source, f=first, w=weights, o=out: _expand(a, b, s, f, w, o),
            len(source) * len(first),
        )
        field = out.reshape(*shape[: axis + 1], len(first), *shape[axis + 2 :])
    return field


def spline_reduce(dense, axes):
    """Return ``(C, *counts)``: a gradient on a dense field, summed up to the control points (the adjoint)."""
    field = np.ascontiguousarray(dense, np.float32)
    for axis in (0, 1, 2):
        first, weights, count = axes[axis]
        shape = field.shape
        source = field.reshape(int(np.prod(shape[: axis + 1])), shape[axis + 1], -1)
        out = np.empty((len(source), count, source.shape[2]), np.float32)
        taps = weights.shape[1]
        low = np.searchsorted(first, np.arange(count) - taps + 1, side="left")
        high = np.searchsorted(first, np.arange(count), side="right")
        parallel_for(
            lambda a, b, s=source, f=first, w=weights, p=low, q=high, o=out: _reduce(a, b, s, f, w, p, q, o),
            len(source) * count,
        )
        field = out.reshape(*shape[: axis + 1], count, *shape[axis + 2 :])
    return field


@njit
def _expand(start, stop, source, first, weights, out):
    size, inner = out.shape[1:]
    for n in range(start, stop):
        block, i = n // size, n % size
        row, p = out[block, i], first[i]
        for k in range(inner):
            row[k] = weights[i, 0] * source[block, p, k]
        for tap in range(1, weights.shape[1]):
            w, line = weights[i, tap], source[block, p + tap]
            for k in range(inner):
                row[k] += w * line[k]


@njit
def _reduce(start, stop, source, first, weights, low, high, out):
    count, inner = out.shape[1:]
    for n in range(start, stop):
        block, c = n // count, n % count
        row = out[block, c]
        row[:] = 0
        for i in range(low[c], high[c]):
            w, line = weights[i, c - first[i]], source[block, i]
            for k in range(inner):
                row[k] += w * line[k]
