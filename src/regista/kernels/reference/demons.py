"""Reference of `regista.kernels.cpu.demons`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.rows import Rows, put


def demons_force(
    fixed: ArrayLike,
    warped: ArrayLike,
    weight: ArrayLike | None,
    axis_scale: ArrayLike,
    shares: Sequence[float],
    normalization: float,
    floor: float,
    *,
    out: NDArray[np.floating],
    rows: Rows | None = None,
) -> float:
    """Write the demons' step per voxel and return the mean squared difference (over all voxels of `rows`)."""
    one, other = np.asarray(fixed, np.float64), np.asarray(warped, np.float64)
    weights = np.ones(one.shape) if weight is None else np.asarray(weight, np.float64)
    scale = np.asarray(axis_scale, np.float64)[:, None, None, None]
    mixed = shares[0] * one + shares[1] * other
    g = np.stack(
        [np.gradient(mixed, axis=a) if n > 1 else np.zeros(one.shape) for a, n in enumerate(one.shape)]
    )
    difference = one - other
    below = (scale * g**2).sum(axis=0) + difference**2 / normalization**2
    acts = (np.abs(difference) > floor) & (below > 1e-9)
    strength = np.where(acts, weights * difference / np.where(acts, below, 1), 0)
    put(strength * scale * g, out, rows)
    used = np.zeros(one.shape)
    put(np.ones(one.shape), used, rows)
    return float((used * weights * difference**2).sum() / (used * weights).sum())
