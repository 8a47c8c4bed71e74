"""Reference of `regista.kernels.cpu.widening`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt


def widened(weights: NDArray[np.float32], spacing: ArrayLike, margin: float) -> NDArray[np.float32]:
    """Return weights where every voxel within a margin of one above 0 has the weight of the nearest such."""
    if not weights.any():
        return np.zeros_like(weights)
    distance, nearest = distance_transform_edt(
        weights == 0, sampling=np.asarray(spacing, np.float64), return_indices=True
    )
    return np.where(distance <= margin, weights[tuple(nearest)], np.float32(0))
