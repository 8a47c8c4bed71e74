"""Reference of `regista.kernels.cpu.bspline`: dense matrices of basis functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Axis = NDArray[np.float64]


def spline_axis(size: int, spacing: float) -> Axis:
    """Return the matrix ``(voxels, control points)`` of cubic B-spline weights."""
    if size == 1:
        return np.ones((1, 1))
    place = np.arange(size) / spacing
    away = np.abs(place[:, None] - (np.arange(int(place[-1]) + 4) - 1))
    near = 2 / 3 - away**2 + away**3 / 2
    far = (2 - away) ** 3 / 6
    return np.where(away < 1, near, np.where(away < 2, far, 0))


def spline_expand(control: ArrayLike, axes: Sequence[Axis]) -> NDArray[np.float64]:
    """Return the dense field of control points."""
    return np.asarray(np.einsum("cxyz,ix,jy,kz->cijk", np.asarray(control, np.float64), *axes))


def spline_reduce(dense: ArrayLike, axes: Sequence[Axis]) -> NDArray[np.float64]:
    """Return the adjoint of `spline_expand`."""
    return np.asarray(np.einsum("cijk,ix,jy,kz->cxyz", np.asarray(dense, np.float64), *axes))
