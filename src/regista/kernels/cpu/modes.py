"""Inner products of a field with a few modes, and their weighted sum."""

from __future__ import annotations

import numpy as np

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit


def project(u, mean, modes, metric):
    """Return the inner products of ``d = u − mean`` with the modes, and ``Σ dᵀ G d``.

    Parameters
    ----------
    u, mean : (3, I, J, K) float32 ndarray
        Displacement and mean displacement in voxels.
    modes : (r, 3, I, J, K) float32 ndarray
        Modes; what is returned is their plain sum of products with d.
    metric : (3, 3) array_like
        G, of vectors in voxels.

    Returns
    -------
    products : (r,) float64 ndarray
        One sum per mode.
    square : float
        ``Σ dᵀ G d``.
    """
    field, matrix = np.ascontiguousarray(u, np.float32), np.asarray(metric, np.float64)
    sums = np.zeros((field.shape[1], len(modes) + 1))
    parallel_for(lambda a, b: _project(a, b, field, mean, modes, matrix, sums), field.shape[1])
    found = sums.sum(axis=0)
    return found[:-1], float(found[-1])


def combine_modes(u, mean, modes, metric, coefficients, *, factor, out):
    """Add ``factor G (u − mean) + Σ c_n mode_n`` to `out`; arguments as in `project`."""
    field = np.ascontiguousarray(u, np.float32)
    matrix = (np.asarray(metric, np.float64) * factor).astype(np.float32)
    weights = np.asarray(coefficients, np.float32)
    parallel_for(lambda a, b: _combine(a, b, field, mean, modes, matrix, weights, out), field.shape[1])
    return out


@njit
def _project(start, stop, u, mean, modes, g, sums):
    _, _, jn, kn = u.shape
    d = np.empty((3, kn), np.float32)
    for i in range(start, stop):
        for j in range(jn):
            square = 0.0
            for c in range(3):
                a, b, to = u[c, i, j], mean[c, i, j], d[c]
                for k in range(kn):
                    to[k] = a[k] - b[k]
            x, y, z = d[0], d[1], d[2]
            for k in range(kn):
                p, q, r = np.float64(x[k]), np.float64(y[k]), np.float64(z[k])
                square += (
                    g[0, 0] * p * p + g[1, 1] * q * q + g[2, 2] * r * r
                    + 2 * (g[0, 1] * p * q + g[0, 2] * p * r + g[1, 2] * q * r)
                )  # fmt: skip
            sums[i, len(modes)] += square
            for n in range(len(modes)):
                total = np.float32(0)
                for c in range(3):
                    mode, a = modes[n, c, i, j], d[c]
                    for k in range(kn):
                        total += mode[k] * a[k]
                sums[i, n] += total


@njit
def _combine(start, stop, u, mean, modes, g, weights, out):
    _, _, jn, kn = u.shape
    d = np.empty((3, kn), np.float32)
    for i in range(start, stop):
        for j in range(jn):
            for c in range(3):
                a, b, to = u[c, i, j], mean[c, i, j], d[c]
                for k in range(kn):
                    to[k] = a[k] - b[k]
            x, y, z = d[0], d[1], d[2]
            for c in range(3):
                row, g0, g1, g2 = out[c, i, j], g[c, 0], g[c, 1], g[c, 2]
                for k in range(kn):
                    row[k] += g0 * x[k] + g1 * y[k] + g2 * z[k]
                for n in range(len(modes)):
                    mode, f = modes[n, c, i, j], weights[n]
                    for k in range(kn):
                        row[k] += f * mode[k]
