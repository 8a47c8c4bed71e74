"""What is done with transforms: joining, naming spaces, turning into a field, measuring volume change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid
from regista.kernels.cpu.fields import jacobian_determinant as _jacobian
from regista.transforms._base import Transform
from regista.transforms._bspline import BSplineField
from regista.transforms._composite import Composite, unpack
from regista.transforms._fields import DisplacementField, VelocityField, to_voxels
from regista.transforms._linear import Affine, multiply
from regista.transforms._places import places_mm
from regista.transforms._tps import ThinPlateSpline


def compose(*transforms: Transform, grid: Grid | None = None) -> Transform:
    """Join maps, the first one applied first to a fixed point.

    Parameters
    ----------
    *transforms : Transform
        The chain, from the fixed to the moving space.
    grid : Grid, optional
        Give one displacement field on this grid of the fixed space.

    Returns
    -------
    Transform
        Without `grid`, neighbouring linear maps are multiplied exactly and a `Composite` of what is left is
        given, or its only element.

    Raises
    ------
    GeometryError
        If the spaces do not meet.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> compose(Translation.by([1, 0, 0]), Translation.by([0, 2, 0])).matrix[:3, 3].tolist()
    [1.0, 2.0, 0.0]
    """
    chain = Composite(transforms)
    if grid is not None:
        return to_displacement_field(chain, grid)
    merged: list[Transform] = []
    for element in unpack(chain):
        last = merged[-1] if merged else None
        if isinstance(element, Affine) and isinstance(last, Affine):
            merged[-1] = multiply([last, element])
        else:
            merged.append(element)
    return merged[0] if len(merged) == 1 else Composite(tuple(merged))


def with_spaces(transform: Transform, fixed_space: str | None, moving_space: str | None) -> Transform:
    """Return the same map under other names of its spaces.

    Parameters
    ----------
    transform : Transform
        Any map.
    fixed_space, moving_space : str or None
        The new names; None makes a space unknown.

    Returns
    -------
    Transform
        A map of the same kind.

    Examples
    --------
    >>> with_spaces(Affine.identity(), "template", "subject").moving_space
    'subject'
    """
    if isinstance(transform, Composite):
        chain = list(transform.transforms)
        if len(chain) == 1:
            return Composite((with_spaces(chain[0], fixed_space, moving_space),))
        chain[0] = with_spaces(chain[0], fixed_space, chain[0].moving_space)
        chain[-1] = with_spaces(chain[-1], chain[-1].fixed_space, moving_space)
        return Composite(tuple(chain))
    if isinstance(transform, (Affine, DisplacementField, VelocityField, BSplineField, ThinPlateSpline)):
        return replace(transform, fixed_space=fixed_space, moving_space=moving_space)
    raise GeometryError(f"cannot rename the spaces of a {type(transform).__name__}")


def to_displacement_field(transform: Transform, grid: Grid) -> DisplacementField:
    """Write any map as displacements at the voxels of a grid of the fixed space.

    Parameters
    ----------
    transform : Transform
        Any map.
    grid : Grid
        Lattice of the field. Outside it the field is the identity, even where the map is not.

    Returns
    -------
    DisplacementField
        Equal to the map at voxel centres, to float32.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> field = to_displacement_field(Translation.by([1, 2, 3]), Grid((2, 2, 2), np.eye(4)))
    >>> field.vectors_mm[:, 0, 0, 0].tolist()
    [1.0, 2.0, 3.0]
    """
    _check_ndim(transform, grid)
    if isinstance(transform, VelocityField):
        transform = transform.displacement()
    if isinstance(transform, BSplineField):
        return transform.displacement(grid)
    if isinstance(transform, DisplacementField) and transform.grid.same_as(grid, 1e-6):
        return transform
    vectors = np.empty((grid.ndim, *grid.shape), np.float32)
    flat = vectors.reshape(grid.ndim, -1)
    for where, fixed, moving in places_mm(transform, grid):
        flat[:, where] = (moving - fixed).T[: grid.ndim]
    return DisplacementField(vectors, grid, transform.fixed_space, transform.moving_space)


def jacobian_determinant(transform: Transform, grid: Grid) -> NDArray[np.float32]:
    """Return the local volume change of a map at the voxels of a grid.

    Parameters
    ----------
    transform : Transform
        Any map.
    grid : Grid
        Where to measure, in the fixed space.

    Returns
    -------
    (*grid.shape) float32 ndarray
        ``det(∂T/∂x)`` by central differences between voxels, one-sided at the borders: above 1 where the
        fixed space is stretched to reach the moving one, at most 0 where the map folds.

    Examples
    --------
    >>> jacobian_determinant(Affine(np.diag([2.0, 1.0, 1.0, 1.0])), Grid((2, 2, 3), np.eye(4))).max().item()
    2.0
    """
    _check_ndim(transform, grid)
    if isinstance(transform, Affine):
        volume = np.linalg.det(transform.matrix[:-1, :-1])
        return np.full(grid.shape, volume, np.float32)
    field = to_displacement_field(transform, grid)
    return np.asarray(_jacobian(to_voxels(field.vectors_mm, grid)).reshape(grid.shape))


def _check_ndim(transform: Transform, grid: Grid) -> None:
    if transform.ndim != grid.ndim:
        raise GeometryError(f"a {transform.ndim}-D transform does not fit a {grid.ndim}-D grid")
