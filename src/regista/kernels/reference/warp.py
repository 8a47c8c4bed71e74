"""Reference of `regista.kernels.cpu.warp`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.rows import Rows, put
from regista.kernels.reference.sampling import sample_points


def warp(
    moving: ArrayLike,
    affine: ArrayLike,
    disp: ArrayLike | None = None,
    *,
    shape: tuple[int, int, int],
    out: NDArray[np.floating] | None = None,
    inside: NDArray[np.floating] | None = None,
    rows: Rows | None = None,
) -> NDArray[np.floating]:
    """Sample `moving` at ``affine(x + disp(x))``; places outside take the nearest edge value."""
    voxels, matrix = np.asarray(moving, np.float64), np.asarray(affine, np.float64)
    places = np.indices(shape, dtype=np.float64)
    if disp is not None:
        places = places + np.asarray(disp, np.float64)
    coords = matrix[:, :3] @ places.reshape(3, -1) + matrix[:, 3:]
    top = np.array(voxels.shape)[:, None] - 1.0
    if inside is not None:
        flags = ((coords >= -0.5) & (coords <= top + 0.5)).all(axis=0)
        put(np.asarray(flags, np.float64).reshape(shape), inside, rows)
    warped = sample_points(voxels, np.clip(coords, 0, top).T, "linear", 0.0)
    return put(warped.reshape(shape), out, rows)
