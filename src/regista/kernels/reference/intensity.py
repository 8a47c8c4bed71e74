"""Reference of `regista.kernels.cpu.intensity`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.rows import Rows, put


def moments(fixed: ArrayLike, warped: ArrayLike, weight: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return Σw, ΣwF, ΣwW, ΣwFF, ΣwWW, ΣwFW."""
    f, w = np.asarray(fixed, np.float64), np.asarray(warped, np.float64)
    q = np.ones_like(f) if weight is None else np.asarray(weight, np.float64)
    return np.array([(q * term).sum() for term in (np.ones_like(f), f, w, f * f, w * w, f * w)])


def combine(
    fixed: ArrayLike,
    warped: ArrayLike,
    weight: ArrayLike | None,
    cf: float,
    cw: float,
    c0: float,
    *,
    out: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Return ``weight · (cf · fixed + cw · warped + c0)``."""
    result = cf * np.asarray(fixed, np.float64) + cw * np.asarray(warped, np.float64) + c0
    return put(result if weight is None else result * np.asarray(weight, np.float64), out, None)


def spatial_gradient(image: ArrayLike) -> NDArray[np.float64]:
    """Return ``(3, I, J, K)`` central differences, one-sided at borders, 0 along an axis of one voxel."""
    voxels = np.asarray(image, np.float64)
    return np.stack(
        [np.gradient(voxels, axis=a) if voxels.shape[a] > 1 else np.zeros_like(voxels) for a in range(3)]
    )


def image_force(
    gradient: ArrayLike,
    warped: ArrayLike,
    fixed: ArrayLike,
    axis_scale: ArrayLike,
    symmetric: bool,
    *,
    out: NDArray[np.floating] | None = None,
    rows: Rows | None = None,
) -> NDArray[np.floating]:
    """Return ``−dD/dW`` times the gradient of `warped`, or the mean of both images' gradients."""
    slope = spatial_gradient(warped)
    if symmetric:
        slope = (slope + spatial_gradient(fixed)) / 2
    scale = np.asarray(axis_scale, np.float64).reshape(3, 1, 1, 1)
    return put(-np.asarray(gradient, np.float64) * scale * slope, out, rows)


def add_weighted(
    out: NDArray[np.floating],
    other: ArrayLike,
    own_weight: float,
    other_weight: float,
    *,
    rows: Rows | None = None,
) -> NDArray[np.floating]:
    """Write ``own_weight · out + other_weight · other`` to `out`."""
    added = other_weight * np.asarray(other, np.float64) if other_weight != 0 else 0.0
    return put(own_weight * np.asarray(out, np.float64) + added, out, rows)


def linear_gradient(gradient: ArrayLike, warped: ArrayLike) -> NDArray[np.float64]:
    """Return ``Σ_x g(x) ∂_a W(x) (x, 1)_b``, ``(3, 4)``."""
    g, slope = np.asarray(gradient, np.float64), spatial_gradient(warped)
    places = np.concatenate([np.indices(g.shape), np.ones((1, *g.shape))])
    return np.asarray(np.einsum("ijk,aijk,bijk->ab", g, slope, places))
