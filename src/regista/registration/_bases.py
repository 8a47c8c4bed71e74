"""What a registration starts from: a given chain as a linear map and a bending before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regista.core import Grid
from regista.registration._deformable import Base
from regista.registration._inputs import plane
from regista.registration._levels import Matrix, Volume
from regista.transforms import Affine, Composite, ThinPlateSpline, Transform, to_displacement_field


def parts_of(initial: Transform) -> list[Transform]:
    """Return the elements of a chain, the affine part of a spline apart from its bending."""
    parts: list[Transform] = []
    for part in Composite((initial,)).flatten().transforms:
        parts += part.split() if isinstance(part, ThinPlateSpline) else (part,)
    return parts


def product_of(parts: Sequence[Any]) -> Matrix:
    """Return the 4×4 matrix of linear maps, the first one applied first."""
    matrix = np.eye(4)
    for part in parts:
        full = np.eye(4)
        n = part.ndim
        full[:n, :n], full[:n, 3] = part.matrix[:n, :n], part.matrix[:n, n]
        matrix = full @ matrix
    return matrix


def linear_of(initial: Transform) -> Matrix:
    """Return the product of the linear parts of a start: how it turns, whatever bends between them.

    Parameters
    ----------
    initial : Transform
        From fixed to moving.

    Returns
    -------
    ndarray
        ``(4, 4)``, of a 2-D map ``(3, 3)``.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> linear_of(Translation.by([1.0, 2.0]))[:2, 2].tolist()
    [1.0, 2.0]
    """
    linear = [part for part in parts_of(initial) if isinstance(part, Affine)]
    return planar(product_of(linear), initial.ndim)


def planar(matrix: Matrix, ndim: int) -> Matrix:
    """Return a 4×4 matrix as one of the images' own number of axes."""
    if ndim == 3:
        return matrix
    keep = [0, 1, 3]
    return matrix[np.ix_(keep, keep)]


def to_voxels(vectors_mm: Volume, grid: Grid) -> Volume:
    """Return a field in mm as voxels of its grid."""
    linear = grid.world2grid[:3, :3].astype(np.float32)
    return np.ascontiguousarray(np.einsum("ab,bijk->aijk", linear, vectors_mm), np.float32)


def base_from(initial: Transform, matrix: Matrix) -> Base:
    """Return the displacement (voxels of a level) that, followed by `matrix`, equals `initial`."""
    ndim = initial.ndim
    before_linear = Composite((initial, Affine(planar(np.asarray(np.linalg.inv(matrix)), ndim))))

    def base(grid: Grid) -> Volume:
        if ndim == 3:
            return to_voxels(to_displacement_field(before_linear, grid).vectors_mm, grid)
        flat = plane(grid)
        vectors = np.zeros((3, *grid.shape), np.float32)
        vectors[:2, :, 0] = to_displacement_field(before_linear, flat).vectors_mm
        return to_voxels(vectors, grid)

    return base
