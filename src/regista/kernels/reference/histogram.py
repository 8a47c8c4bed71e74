"""Reference of `regista.kernels.cpu.histogram`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline

from regista.kernels.reference.rows import put

_SPLINE = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
_SLOPE = _SPLINE.derivative()


def _windows(
    warped: ArrayLike, bins: int, low: float, width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return each voxel's Parzen weights over the columns, their derivatives by x, and if x was in range."""
    x = (np.asarray(warped, np.float64) - low) / width + 1.5
    held = np.clip(x, 1.0, bins - 2.5)
    away = held[..., None] - np.arange(bins)
    return np.nan_to_num(_SPLINE(away)), np.nan_to_num(_SLOPE(away)), np.asarray(held == x)


def joint_histogram(
    fixed_bins: ArrayLike, warped: ArrayLike, weight: ArrayLike | None, bins: int, low: float, width: float
) -> NDArray[np.float64]:
    """Return the weighted joint histogram: rows fixed, columns warped through a cubic B-spline."""
    rows = np.asarray(fixed_bins)
    q = np.ones(rows.shape) if weight is None else np.asarray(weight, np.float64)
    shares, _, _ = _windows(warped, bins, low, width)
    counts = np.zeros((bins, bins))
    for f in range(bins):
        here = rows == f
        counts[f] = (q[here][:, None] * shares[here]).sum(axis=0)
    return counts


def histogram_gradient(
    fixed_bins: ArrayLike,
    warped: ArrayLike,
    weight: ArrayLike | None,
    table: ArrayLike,
    low: float,
    width: float,
    *,
    out: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Return ``dD/dW`` where ``table[f, b] = dD/dh[f, b]``."""
    rows, costs = np.asarray(fixed_bins), np.asarray(table, np.float64)
    q = np.ones(rows.shape) if weight is None else np.asarray(weight, np.float64)
    _, slopes, moves = _windows(warped, costs.shape[1], low, width)
    used = rows != 255
    own = costs[np.where(used, rows, 0)]
    return put(np.where(used & moves, q * (own * slopes).sum(axis=-1) / width, 0.0), out, None)
