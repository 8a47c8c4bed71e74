"""What a registration starts from: a given chain as a linear map and a bending before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import Grid
from regista.registration._deformable import Base
from regista.registration._inputs import plane
from regista.registration._levels import Matrix, Volume
from regista.transforms import (
    Affine,
    BSplineField,
    Composite,
    DisplacementField,
    ThinPlateSpline,
    Transform,
    VelocityField,
    to_displacement_field,
)


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
    """Return the displacement (voxels of a level) that, followed by `matrix`, equals `initial`.

    With the product of all linear parts as the matrix, wherever in the chain they stand, it is as small as the bending.
    Fields that end within the grid go on with their outermost values.
    """
    ndim = initial.ndim
    back = Affine(planar(np.asarray(np.linalg.inv(matrix)), ndim))
    first, *rest = Composite((initial,)).flatten().transforms
    later = [_continued(part) for part in rest]

    def base(grid: Grid) -> Volume:
        own = grid if ndim == 3 else plane(grid)
        chain = Composite((first if _covers(first, own) else _continued(first), *later, back))
        vectors = to_displacement_field(chain, own).vectors_mm
        if ndim == 2:
            flat, vectors = vectors, np.zeros((3, *grid.shape), np.float32)
            vectors[:2, :, 0] = flat
        return to_voxels(vectors, grid)

    return base


_ROUNDING = 1e-9
"""Share of a lattice by which world coordinates may miss its faces."""


def _covers(part: Transform, grid: Grid) -> bool:
    """Return whether a map holds at all voxels of a grid: a field may have ended before."""
    if not isinstance(part, DisplacementField | VelocityField | BSplineField):
        return True
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij"), -1).reshape(-1, grid.ndim)
    index = part.grid.world2index(grid.index2world(ends))
    inset = (1.0 if isinstance(part, BSplineField) else -0.5) - _ROUNDING * max(part.grid.shape)
    return bool(np.all((index >= inset) & (index <= np.array(part.grid.shape) - 1 - inset)))


def _continued(part: Transform) -> Transform:
    """Return a field that does not end at the faces of its lattice; any other map as it is."""
    if isinstance(part, VelocityField):
        part = part.displacement()
    return _Continued(part) if isinstance(part, DisplacementField | BSplineField) else part


@dataclass(frozen=True, eq=False)
class _Continued(Transform):
    """A field whose outermost values go on beyond its lattice: where it drops to zero the map would fold, or tear."""

    field: DisplacementField | BSplineField

    @property
    def fixed_space(self) -> str | None:
        return self.field.fixed_space

    @property
    def moving_space(self) -> str | None:
        return self.field.moving_space

    @property
    def ndim(self) -> int:
        return self.field.ndim

    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        points, grid = self._points(points_mm), self.field.grid
        index = grid.world2index(points)
        # a B-spline is defined from the second control point to the last but one
        inset = 1 + _ROUNDING * max(grid.shape) if isinstance(self.field, BSplineField) else 0.0
        nearest = np.clip(index, inset, np.array(grid.shape) - 1 - inset)
        beyond = np.any(nearest != index, axis=1)
        places = points.copy()
        places[beyond] = grid.index2world(nearest[beyond])
        moved = self.field.map_points(places)
        moved[beyond] += points[beyond] - places[beyond]
        return moved

    def inverse(self) -> Transform:
        # never leaves this module, where chains are sampled forwards; its inverse has no lattice that would hold it
        raise NotImplementedError("a start is only followed from the fixed to the moving image")
