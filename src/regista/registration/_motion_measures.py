"""How much a head moved: rigid parameters, framewise displacement, distances inside a mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from regista.core import GeometryError, Grid, Image, PlanError
from regista.transforms import Affine, Composite, Transform, compose

Table = NDArray[np.float64]

_CHUNK = 200_000
"""Points mapped at a time."""
_FIT = 12
"""Points along each axis to which an affine map is fitted where a transform holds a field."""


class Displacements(NamedTuple):
    """Distances, mm, for each volume; see `displacements`."""

    mean_mm: Table
    rms_mm: Table
    max_mm: Table
    rms_step_mm: Table


def parameter_names(ndim: int) -> tuple[str, ...]:
    """Return the names of the columns of `rigid_parameters`.

    Examples
    --------
    >>> parameter_names(2)
    ('x_mm', 'y_mm', 'z_deg')
    """
    axes = "xyz"[:ndim]
    turns = "xyz" if ndim == 3 else "z"
    return (*(f"{axis}_mm" for axis in axes), *(f"{axis}_deg" for axis in turns))


def rigid_parameters(transforms: Sequence[Transform], grid: Grid) -> Table:
    """Return the translations and rotations of transforms about the centre of a grid.

    Parameters
    ----------
    transforms : sequence of Transform
        Maps from the grid's space.
    grid : Grid
        Its centre ``c`` is what turns happen about.

    Returns
    -------
    (T, 6) or, in 2-D, (T, 3) ndarray
        Per row ``T(c) - c`` in mm along the world's axes R, A, S, then the angles in degrees of turns about the
        world's x, then y, then z axis (in 2-D z alone) through the centre. Of an affine map the angles are those of
        the nearest rotation, of a chain with a field those of the affine map that fits it best on the grid.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> rigid_parameters([Translation.by([1.0, 0.0, -2.0])], Grid((4, 5, 6), np.eye(4))).tolist()
    [[1.0, 0.0, -2.0, 0.0, 0.0, 0.0]]
    """
    return np.stack([_parameters(linear_fit(transform, grid), grid.center_mm) for transform in transforms])


def linear_fit(transform: Transform, grid: Grid) -> Affine:
    """Return the linear part of a transform, or the affine map that fits one with a field best on a grid."""
    merged = compose(transform)
    if isinstance(merged, Affine):
        return merged
    index = [np.linspace(0, n - 1, min(n, _FIT)) for n in grid.shape]
    points = grid.index2world(np.stack(np.meshgrid(*index, indexing="ij"), -1).reshape(-1, grid.ndim))
    center = grid.center_mm
    here = np.column_stack([points - center, np.ones(len(points))])
    there = transform.map_points(points)
    # the identity outside the span of the points: one slice says nothing of the axis across it
    change, *_ = np.linalg.lstsq(here, there - points, rcond=None)
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] += change[:-1].T
    matrix[:-1, -1] = change[-1] - change[:-1].T @ center
    return Affine(matrix, transform.fixed_space, transform.moving_space)


def last_linear(transform: Transform) -> Affine:
    """Return the product of the linear maps at the end of a chain, the identity where there are none."""
    parts: list[Transform] = []
    for part in reversed(Composite((transform,)).flatten().transforms):
        if not isinstance(part, Affine):
            break
        parts.insert(0, part)
    merged = compose(*parts) if parts else Affine.identity(transform.ndim)
    assert isinstance(merged, Affine)
    return merged


def _parameters(affine: Affine, center_mm: Table) -> Table:
    ndim = affine.ndim
    shift = affine.map_points(center_mm[None])[0] - center_mm
    left, _, right = np.linalg.svd(affine.matrix[:-1, :-1])
    mirror = np.eye(ndim)
    mirror[-1, -1] = np.sign(np.linalg.det(left @ right))
    turn = left @ mirror @ right
    if ndim == 2:
        return np.array([*shift, np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))])
    return np.concatenate([shift, Rotation.from_matrix(turn).as_euler("xyz", degrees=True)])


def framewise_displacement(parameters: ArrayLike, radius_mm: float = 50.0) -> Table:
    """Return how far the head moved from each volume to the next.

    Parameters
    ----------
    parameters : (T, 6) or (T, 3) array_like
        Translations in mm and rotations in degrees, as in `MotionResult.parameters`.
    radius_mm : float
        Of the sphere on which rotations become arcs.

    Returns
    -------
    (T,) ndarray
        Sum of the absolute changes of the translations and of the arcs, mm; 0 for the first volume.

    Raises
    ------
    GeometryError, PlanError
        If the table has another shape, or the radius is not positive.

    Notes
    -----
    J. D. Power et al., "Spurious but systematic correlations in functional connectivity MRI networks arise from
    subject motion", NeuroImage 59(3), 2012.

    Examples
    --------
    >>> framewise_displacement([[0, 0, 0], [1.0, -0.5, 0], [1.0, -0.5, 180 / np.pi]]).round(3).tolist()
    [0.0, 1.5, 50.0]
    """
    table = np.asarray(parameters, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] not in (3, 6) or not len(table):
        raise GeometryError(
            f"motion parameters are a table of 6 columns (3 in 2-D), a row for each volume; got shape {table.shape}"
        )
    if not 0 < radius_mm < np.inf:
        raise PlanError(f"radius_mm is above 0, got {radius_mm}")
    ndim = 3 if table.shape[1] == 6 else 2
    change = np.abs(np.diff(table, axis=0, prepend=table[:1]))
    arcs = radius_mm * np.radians(change[:, ndim:])
    return np.asarray(change[:, :ndim].sum(axis=1) + arcs.sum(axis=1))


def displacements(transforms: Sequence[Transform], grid: Grid, mask: Image | None) -> Displacements:
    """Return how far voxels are moved by each transform, and from each to the next.

    Parameters
    ----------
    transforms : sequence of Transform
        Maps from the grid's space.
    grid : Grid
        Where the voxels lie.
    mask : Image or None
        On `grid`; voxels above 0 count. None is for all voxels.

    Returns
    -------
    Displacements
        Per volume the mean, root mean square and largest ``|T(x) - x|``, and the root mean square of
        ``|T(x) - T_before(x)|`` (0 for the first), mm.

    Notes
    -----
    M. Jenkinson et al., "Improved optimization for the robust and accurate linear registration and motion correction
    of brain images", NeuroImage 17(2), 2002, takes the root mean square over a sphere; here it is over the voxels.
    """
    count, total = len(transforms), 0
    sums, squares, steps, largest = (np.zeros(count) for _ in range(4))
    for points in _voxels(grid, mask):
        total += len(points)
        moved = [transform.map_points(points) for transform in transforms]
        for n, places in enumerate(moved):
            distance = np.linalg.norm(places - points, axis=1)
            sums[n] += distance.sum()
            squares[n] += distance @ distance
            largest[n] = max(largest[n], float(distance.max()))
        for n, (before, after) in enumerate(pairwise(moved), start=1):
            steps[n] += float(((after - before) ** 2).sum())
    return Displacements(sums / total, np.sqrt(squares / total), largest, np.sqrt(steps / total))


def _voxels(grid: Grid, mask: Image | None) -> Iterator[Table]:
    """Yield the world positions of the voxels that count, some at a time."""
    inside = np.arange(grid.size) if mask is None else np.flatnonzero(mask.as_float32() > 0)
    for first in range(0, len(inside), _CHUNK):
        index = np.stack(np.unravel_index(inside[first : first + _CHUNK], grid.shape), -1)
        yield grid.index2world(index)
