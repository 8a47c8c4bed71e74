"""Reference of `regista.kernels.cpu.filters`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import erfc

from regista.kernels.reference.rows import Rows, put


def gaussian_taps(sigma_vox: float) -> NDArray[np.float64]:
    """Return the taps ``w[0 … R]`` of a symmetric, normalized, sampled Gaussian."""
    if sigma_vox <= 0:
        return np.ones(1)
    radius = 1
    while erfc((radius + 0.5) / (np.sqrt(2) * sigma_vox)) > 0.005:  # the share of the Gaussian left out
        radius += 1
    kernel = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma_vox**2))
    return np.asarray(kernel[radius:] / kernel.sum())


def gaussian_filter(
    stack: ArrayLike,
    sigma_vox: ArrayLike,
    *,
    out: NDArray[np.floating] | None = None,
    border: str = "zero",
    rows: Rows | None = None,
) -> NDArray[np.floating]:
    """Smooth each volume of a stack, one axis after the other."""
    result = np.asarray(stack, np.float64)
    mode = "nearest" if border == "nearest" else "constant"
    for axis, sigma in enumerate(np.broadcast_to(np.asarray(sigma_vox, np.float64), (3,)), start=1):
        if result.shape[axis] > 1 and sigma > 0:
            taps = gaussian_taps(float(sigma))
            kernel = np.concatenate([taps[:0:-1], taps])
            result = ndimage.correlate1d(result, kernel, axis, mode=mode)
    return put(result, out, rows)


def box_filter(
    stack: ArrayLike, radius: int, *, out: NDArray[np.floating] | None = None
) -> NDArray[np.floating]:
    """Sum each volume over a window of ``2 radius + 1`` voxels a side, zero outside."""
    result = np.asarray(stack, np.float64)
    for axis in (1, 2, 3):
        if result.shape[axis] > 1:
            result = ndimage.correlate1d(result, np.ones(2 * radius + 1), axis, mode="constant")
    return put(result, out, None)
