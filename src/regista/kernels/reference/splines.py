"""Reference of `regista.kernels.cpu.splines`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.points import map_affine


def map_spline(
    points: ArrayLike, centers: ArrayLike, weights: ArrayLike, affine: ArrayLike, *, planar: bool = False
) -> NDArray[np.float64]:
    """Return ``affine(p) + Σ_l weights[l] U(|p − centers[l]|)``."""
    places, about = np.asarray(points, np.float64), np.asarray(centers, np.float64)
    r = np.linalg.norm(places[:, None] - about, axis=2)
    u = r**2 * np.log(np.where(r == 0, 1.0, r)) if planar else r
    return np.asarray(map_affine(places, affine) + u @ np.asarray(weights, np.float64))
