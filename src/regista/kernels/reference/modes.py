"""Reference of `regista.kernels.cpu.modes`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def project(u: ArrayLike, mean: ArrayLike, modes: ArrayLike, metric: ArrayLike) -> tuple[Array, float]:
    """Return the inner products with the modes and the squared length."""
    d, m, g = (
        np.asarray(u, np.float64) - np.asarray(mean, np.float64),
        np.asarray(modes, np.float64),
        np.asarray(metric),
    )
    flat = d.reshape(3, -1)
    return np.einsum("ncijk,cijk->n", m, d), float((flat * (g @ flat)).sum())


def combine_modes(
    u: ArrayLike,
    mean: ArrayLike,
    modes: ArrayLike,
    metric: ArrayLike,
    coefficients: ArrayLike,
    *,
    factor: float,
    out: Array,
) -> Array:
    """Add the weighted sum of the modes and of the deviation from the mean."""
    d = np.asarray(u, np.float64) - np.asarray(mean, np.float64)
    out += factor * np.einsum("cd,dijk->cijk", np.asarray(metric), d)
    out += np.einsum("n,ncijk->cijk", np.asarray(coefficients), np.asarray(modes, np.float64))
    return out
