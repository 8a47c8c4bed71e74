"""The demons force of two images."""

from __future__ import annotations

import numpy as np

from regista.kernels.cpu._jit import njit
from regista.kernels.cpu.rows import all_rows, for_rows


def demons_force(fixed, warped, weight, axis_scale, shares, normalization, floor, *, out, rows=None):
    """Write ``w (F − W) s g / (Σ s g² + (F − W)² / K²)`` per voxel and return the mean squared difference.

    Parameters
    ----------
    fixed, warped : (I, J, K) float32 ndarray
        Images.
    weight : (I, J, K) float32 ndarray or None
        Weight ``w`` of each voxel.
    axis_scale : (3,) array_like
        Factor ``s`` per axis (for anisotropic voxels).
    shares : (2,) sequence of float
        How much of the fixed and of the warped image's gradient make up ``g``, per voxel.
    normalization : float
        ``K``, voxels.
    floor : float
        Smaller differences exert no force.
    out : (3, I, J, K) float32 ndarray
        Destination.
    rows : (4, I, J) int32 ndarray, optional
        Voxels to compute (see `regista.kernels.cpu.rows`); the mean runs over them.
    """
    scale = np.asarray(axis_scale, np.float32)
    rows = all_rows(warped.shape) if rows is None else rows
    weights = np.ones((1, 1, 1), np.float32) if weight is None else weight
    sums = np.zeros((warped.shape[0], 2))
    settings = np.array([*shares, 1 / normalization**2, floor], np.float32)
    for_rows(
        lambda a, b: _force(
            a, b, fixed, warped, weights, weight is not None, scale, settings, rows, out, sums
        ),
        rows,
    )
    total, squares = sums.sum(axis=0)
    return float(squares / total) if total > 0 else float("inf")


@njit
def _force(start, stop, fixed, warped, weight, has_weight, scale, settings, rows, out, sums):
    inn, jn, kn = warped.shape
    of_fixed, of_warped, damping, floor = settings[0], settings[1], settings[2], settings[3]
    zero = np.float32(0)
    for i in range(start, stop):
        il, ih = max(i - 1, 0), min(i + 1, inn - 1)
        wi = np.float32(1) / np.float32(max(ih - il, 1))
        for j in range(jn):
            jl, jh = max(j - 1, 0), min(j + 1, jn - 1)
            wj = np.float32(1) / np.float32(max(jh - jl, 1))
            for k in range(rows[0, i, j], rows[1, i, j]):
                kl, kh = max(k - 1, 0), min(k + 1, kn - 1)
                wk = np.float32(1) / np.float32(max(kh - kl, 1))
                w = weight[i, j, k] if has_weight else np.float32(1)
                difference = fixed[i, j, k] - warped[i, j, k]
                sums[i, 0] += w
                sums[i, 1] += w * difference * difference
                gi = wi * (
                    of_warped * (warped[ih, j, k] - warped[il, j, k])
                    + of_fixed * (fixed[ih, j, k] - fixed[il, j, k])
                )
                gj = wj * (
                    of_warped * (warped[i, jh, k] - warped[i, jl, k])
                    + of_fixed * (fixed[i, jh, k] - fixed[i, jl, k])
                )
                gk = wk * (
                    of_warped * (warped[i, j, kh] - warped[i, j, kl])
                    + of_fixed * (fixed[i, j, kh] - fixed[i, j, kl])
                )
                below = scale[0] * gi * gi + scale[1] * gj * gj + scale[2] * gk * gk
                below += damping * difference * difference
                strength = w * difference / below if abs(difference) > floor and below > 1e-9 else zero
                out[0, i, j, k] = strength * scale[0] * gi
                out[1, i, j, k] = strength * scale[1] * gj
                out[2, i, j, k] = strength * scale[2] * gk
