"""Reference of `regista.kernels.cpu.points`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.sampling import sample_points


def map_affine(points: ArrayLike, affine: ArrayLike) -> NDArray[np.float64]:
    """Return ``affine(p)``."""
    matrix = np.asarray(affine, np.float64)
    return np.asarray(np.asarray(points, np.float64) @ matrix[:, :3].T + matrix[:, 3])


def add_field(points: ArrayLike, field: ArrayLike, to_vox: ArrayLike) -> NDArray[np.float64]:
    """Return ``p + field(to_vox(p))``, zero outside the lattice."""
    vectors = sample_points(np.asarray(field), map_affine(points, to_vox), "linear", 0.0)
    return np.asarray(np.asarray(points, np.float64) + vectors.T)
