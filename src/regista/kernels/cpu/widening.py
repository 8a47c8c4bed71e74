"""Weights widened by a margin: what lies near a voxel that counts, counts too."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit_finite_checked


def widened(weights, spacing, margin):
    """Return weights where every voxel within a margin of one above 0 has the weight of the nearest such.

    Parameters
    ----------
    weights : (I, J, K) float32 ndarray
        0 where a voxel does not count.
    spacing : (3,) array_like
        Distance between voxels along each axis, mm; axes are at right angles.
    margin : float
        Mm; distances are between centres of voxels.

    Returns
    -------
    (I, J, K) float32 ndarray
        0 beyond the margin.
    """
    # squared distances, exact: the nearest along an axis of what is nearest along those before it
    squares = np.where(weights > 0, 0.0, np.inf)
    values = np.array(weights, np.float32)
    for axis in range(3):
        step, limit = float(spacing[axis]), float(margin) ** 2
        given = (np.moveaxis(one, axis, 2) for one in (squares, values))
        far, near = np.empty(weights.shape), np.empty(weights.shape, np.float32)
        args = (*given, step, limit, np.moveaxis(far, axis, 2), np.moveaxis(near, axis, 2))
        parallel_for(lambda a, b, args=args: _along(a, b, *args), args[0].shape[0], voxels=weights.size)
        squares, values = far, near
    return np.where(squares <= float(margin) ** 2, values, np.float32(0))


@njit_finite_checked
def _along(start, stop, squares, values, step, limit, far, near):
    length = squares.shape[2]
    for i in range(start, stop):
        for j in range(squares.shape[1]):
            for k in range(length):
                least, value = squares[i, j, k], values[i, j, k]
                n = 1
                while n < length:
                    more = (n * step) * (n * step)
                    if more > limit or more >= least:
                        break
                    if k >= n and squares[i, j, k - n] + more < least:
                        least, value = squares[i, j, k - n] + more, values[i, j, k - n]
                    if k + n < length and squares[i, j, k + n] + more < least:
                        least, value = squares[i, j, k + n] + more, values[i, j, k + n]
                    n += 1
                far[i, j, k] = least
                near[i, j, k] = value
