"""Dense maps: displacement and stationary velocity fields."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError, Grid, PlanError
from regista.kernels.cpu.fields import exponential, invert
from regista.kernels.cpu.points import add_field
from regista.transforms._base import Transform

_log = logging.getLogger(__name__)


def _checked_vectors(vectors_mm: ArrayLike, grid: Grid, name: str) -> NDArray[np.float32]:
    vectors = np.ascontiguousarray(vectors_mm, dtype=np.float32)
    expected = (grid.ndim, *grid.shape)
    if vectors.shape != expected:
        raise GeometryError(
            f"a {name} on a grid of shape {grid.shape} has vectors of shape {expected} (one leading "
            f"component per axis, mm), got {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise GeometryError(f"the {name} holds NaN or Inf vectors: replace them before use")
    return vectors


def turn_vectors(vectors: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Multiply every vector of a ``(ndim, ...)`` field by a matrix."""
    turned = matrix.astype(np.float32) @ vectors.reshape(len(vectors), -1)
    return np.ascontiguousarray(turned.reshape(vectors.shape))


def to_voxels(vectors_mm: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Return a world field as kernels take it: voxels of its own grid, ``(3, I, J, K)``."""
    vectors = turn_vectors(vectors_mm, grid.world2grid[:-1, :-1])
    if grid.ndim == 2:
        vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])[..., None]
    return np.ascontiguousarray(vectors)


def to_world(vectors_vox: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Return a kernel's ``(3, I, J, K)`` field in mm, ``(ndim, *grid.shape)``."""
    vectors = vectors_vox[:2, ..., 0] if grid.ndim == 2 else vectors_vox
    return turn_vectors(np.ascontiguousarray(vectors), grid.grid2world[:-1, :-1])


@dataclass(frozen=True, eq=False)
class DisplacementField(Transform):
    """A dense displacement: ``T(x) = x + u(x)``.

    ``u`` is linear between voxel centres, clamped within half a voxel beyond the outermost centres, and zero
    further out (ITK's convention).

    Parameters
    ----------
    vectors_mm : (ndim, *grid.shape) array_like
        Displacement at each voxel centre in RAS+ mm; kept as float32.
    grid : Grid
        Lattice of the field, in the fixed space.
    fixed_space, moving_space : str, optional
        Names of the spaces.

    Raises
    ------
    GeometryError
        If the array does not fit the grid or holds NaN or Inf.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
    >>> field = DisplacementField(np.ones((3, 4, 5, 6)), grid)
    >>> field.map_points([[2.0, 2.0, 3.0], [-9.0, 0.0, 0.0]]).tolist()
    [[3.0, 3.0, 4.0], [-9.0, 0.0, 0.0]]
    """

    vectors_mm: NDArray[np.float32]
    grid: Grid
    fixed_space: str | None = None
    moving_space: str | None = None

    def __post_init__(self) -> None:
        vectors = _checked_vectors(self.vectors_mm, self.grid, "displacement field")
        object.__setattr__(self, "vectors_mm", vectors)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.grid.ndim

    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(N, ndim)`` points, mm."""
        points = self._points(points_mm)
        grid, vectors = self.grid.as_3d(), self.vectors_mm
        if self.ndim == 2:
            points = np.pad(points, ((0, 0), (0, 1)))
            vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])[..., None]
        return np.ascontiguousarray(add_field(points, vectors, grid.world2grid[:3])[:, : self.ndim])

    def inverse(self) -> DisplacementField:
        """Return the inverse field on the same grid, iterated below 0.01 voxel (see `invert_field`)."""
        field, residual = invert_field(self)
        if residual > 0.01:
            _log.warning("the inverse of a displacement field misses by up to %.3g voxels", residual)
        return field


@dataclass(frozen=True, eq=False)
class VelocityField(Transform):
    """A stationary velocity field: the map reached by flowing along it for unit time.

    Parameters
    ----------
    vectors_mm : (ndim, *grid.shape) array_like
        Velocity at each voxel centre in RAS+ mm; kept as float32.
    grid : Grid
        Lattice of the field.
    steps : int
        Squarings of the exponential.
    fixed_space, moving_space : str, optional
        Names of the spaces.

    Raises
    ------
    GeometryError
        If the array does not fit the grid or holds NaN or Inf.
    PlanError
        If `steps` is not within 0 … 20.

    Notes
    -----
    Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.eye(4))
    >>> flow = VelocityField(np.full((3, 4, 5, 6), 0.5), grid)
    >>> flow.inverse().map_points([[1.0, 1.0, 1.0]]).tolist()
    [[0.5, 0.5, 0.5]]
    """

    vectors_mm: NDArray[np.float32]
    grid: Grid
    steps: int = 7
    fixed_space: str | None = None
    moving_space: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or not 0 <= self.steps <= 20:
            raise PlanError(f"steps is a whole number from 0 to 20, got {self.steps!r}")
        vectors = _checked_vectors(self.vectors_mm, self.grid, "velocity field")
        object.__setattr__(self, "vectors_mm", vectors)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.grid.ndim

    @cached_property
    def _displacement(self) -> DisplacementField:
        flow = exponential(to_voxels(self.vectors_mm, self.grid), self.steps)
        return DisplacementField(to_world(flow, self.grid), self.grid, self.fixed_space, self.moving_space)

    def displacement(self) -> DisplacementField:
        """Return the displacement field of the flow (computed once)."""
        return self._displacement

    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(N, ndim)`` points, mm."""
        return self._displacement.map_points(points_mm)

    def inverse(self) -> VelocityField:
        """Return the flow backwards: the negated velocity."""
        return replace(
            self,
            vectors_mm=-self.vectors_mm,
            fixed_space=self.moving_space,
            moving_space=self.fixed_space,
        )


def invert_field(
    field: DisplacementField, tolerance_vox: float = 0.005, max_iterations: int = 40
) -> tuple[DisplacementField, float]:
    """Invert a displacement field on its own grid.

    Parameters
    ----------
    field : DisplacementField
        Field to invert.
    tolerance_vox : float
        Misfit ``|T(T⁻¹(y)) − y|``, in voxels of the field, at which a voxel is done.
    max_iterations : int
        Evaluations of the field per voxel at most.

    Returns
    -------
    inverse : DisplacementField
        The inverse, with the spaces exchanged.
    residual_vox : float
        Largest misfit in voxels, over the voxels whose image lies within the lattice. It stays above the
        tolerance where the field folds.

    Examples
    --------
    >>> grid = Grid((8, 9, 10), np.eye(4))
    >>> inverse, residual = invert_field(DisplacementField(np.full((3, 8, 9, 10), 0.25), grid))
    >>> float(inverse.vectors_mm.max()), residual < 0.01
    (-0.25, True)
    """
    if not tolerance_vox > 0:
        raise PlanError(f"tolerance_vox is a length above 0, got {tolerance_vox!r}")
    if max_iterations < 1:
        raise PlanError(f"max_iterations is at least 1, got {max_iterations!r}")
    inverse, residual = invert(to_voxels(field.vectors_mm, field.grid), tolerance_vox, max_iterations)
    vectors = to_world(inverse, field.grid)
    return DisplacementField(vectors, field.grid, field.moving_space, field.fixed_space), residual
