"""`BSplineField`: a displacement by cubic B-splines on a lattice of control points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError, Grid
from regista.kernels.cpu.bspline import SplineAxis, spline_expand
from regista.kernels.cpu.sampling import sample_points
from regista.transforms._base import Transform
from regista.transforms._fields import DisplacementField

_AT_ONCE = 1 << 18
_STRAIGHT = 1e-4
"""Control points by which a grid's axis may stray from the lattice's over the whole grid, and still count as along it."""


@dataclass(frozen=True, eq=False)
class BSplineField(Transform):
    """A displacement by control points: ``T(x) = x + Σ_n c_n B(i(x) − n)``, B the cubic B-spline, i the lattice's index.

    It is defined where all 64 (in 2-D 16) control points about a place exist, so from index 1 to the last but one of
    each axis, and zero further out (ITK's convention, and elastix's).

    Parameters
    ----------
    coefficients_mm : (ndim, *grid.shape) array_like
        Weights of the splines, world mm; kept as float64. They are not the displacements at the control points.
    grid : Grid
        Lattice of the control points, in the fixed space: 4 or more along each axis.
    fixed_space, moving_space : str, optional
        Names of the spaces.

    Raises
    ------
    GeometryError
        If the array does not fit the lattice or holds NaN or Inf, or the lattice is too small.

    Notes
    -----
    Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 18(8), 1999.

    Examples
    --------
    >>> lattice = Grid((5, 6, 4), np.diag([10.0, 8.0, 12.0, 1.0]))
    >>> field = BSplineField(np.full((3, 5, 6, 4), 2.0), lattice)
    >>> field.map_points([[20.0, 20.0, 20.0], [0.0, 20.0, 20.0]]).round(5).tolist()
    [[22.0, 22.0, 22.0], [0.0, 20.0, 20.0]]
    """

    coefficients_mm: NDArray[np.float64]
    grid: Grid
    fixed_space: str | None = None
    moving_space: str | None = None

    def __post_init__(self) -> None:
        coefficients = np.array(self.coefficients_mm, dtype=np.float64)
        expected = (self.grid.ndim, *self.grid.shape)
        if coefficients.shape != expected:
            raise GeometryError(
                f"a B-spline on a lattice of shape {self.grid.shape} has coefficients of shape {expected} (one leading "
                f"component per axis, mm), got {coefficients.shape}"
            )
        if min(self.grid.shape) < 4:
            raise GeometryError(
                f"a cubic B-spline needs 4 control points along each axis, got a lattice of shape {self.grid.shape}"
            )
        if not np.isfinite(coefficients).all():
            raise GeometryError("the B-spline holds NaN or Inf coefficients: it cannot map anything")
        coefficients.setflags(write=False)
        object.__setattr__(self, "coefficients_mm", coefficients)

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.grid.ndim

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Tell at which ``(N, ndim)`` points, mm, the spline is defined."""
        return self._defined(self.grid.world2index(np.asarray(points_mm, np.float64)))

    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(N, ndim)`` points, mm."""
        points = self._points(points_mm)
        out = points.copy()
        control = _as_3d(self.coefficients_mm.astype(np.float32))
        for first in range(0, len(points), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            index = self.grid.world2index(points[part])
            where = np.flatnonzero(self._defined(index)) + first
            index = np.pad(index[where - first], ((0, 0), (0, 3 - self.ndim)))
            out[where] += sample_points(control, index, "cubic", prefiltered=True).T
        return out

    def displacement(self, grid: Grid) -> DisplacementField:
        """Return the displacement at the voxels of a grid of the fixed space, to float32.

        Parameters
        ----------
        grid : Grid
            The grid; one whose axes run along the lattice's, either way, is much quicker than others.
        """
        axes = self._axes(grid)
        if axes is None:
            vectors = self._at_voxels(grid)
        else:
            order, weights = axes
            control = self.coefficients_mm.astype(np.float32).transpose(0, *(1 + axis for axis in order))
            vectors = spline_expand(_as_3d(control), weights).reshape(self.ndim, *grid.shape)
        return DisplacementField(vectors, grid, self.fixed_space, self.moving_space)

    def domain(self, refine: int = 4) -> Grid:
        """Return a grid over the places where the spline is defined, `refine` voxels for each control point.

        Parameters
        ----------
        refine : int
            1 or more.
        """
        if refine < 1:
            raise GeometryError(f"refine is a whole number of at least 1, got {refine}")
        shape = tuple((n - 3) * refine + 1 for n in self.grid.shape)
        step = np.eye(self.ndim + 1)
        step[:-1, :-1] /= refine
        step[:-1, -1] = 1
        return Grid(shape, self.grid.grid2world @ step)

    def inverse(self, grid: Grid | None = None) -> DisplacementField:
        """Return the inverse as a dense field: a B-spline has none in closed form.

        Parameters
        ----------
        grid : Grid, optional
            Lattice of the field: best the fixed image's. By default `domain`.
        """
        return self.displacement(self.domain() if grid is None else grid).inverse()

    def _defined(self, index: NDArray[np.float64]) -> NDArray[np.bool_]:
        last = np.array(self.grid.shape) - 2
        return np.asarray(((index >= 1) & (index <= last)).all(axis=-1))

    def _axes(self, grid: Grid) -> tuple[list[int], tuple[SplineAxis, ...]] | None:
        """Return which lattice axis each axis of a grid runs along, and its weights; None for one that runs across."""
        to_lattice = self.grid.world2grid @ grid.grid2world
        linear = to_lattice[:-1, :-1]
        order = [int(n) for n in np.abs(linear).argmax(axis=0)]
        across = linear.copy()
        across[order, range(len(order))] = 0
        if (
            sorted(order) != list(range(self.ndim))
            or (np.abs(across) @ np.array(grid.shape)).max() > _STRAIGHT
        ):
            return None
        weights = [
            _weights(linear[axis, n] * np.arange(grid.shape[n]) + to_lattice[axis, -1], self.grid.shape[axis])
            for n, axis in enumerate(order)
        ]
        trivial = SplineAxis(np.zeros(1, np.int64), np.ones((1, 1), np.float32), 1)
        return order, (*weights, *[trivial] * (3 - self.ndim))

    def _at_voxels(self, grid: Grid) -> NDArray[np.float32]:
        vectors = np.empty((self.ndim, grid.size), np.float32)
        for first in range(0, grid.size, _AT_ONCE):
            part = np.arange(first, min(first + _AT_ONCE, grid.size))
            points = grid.index2world(np.stack(np.unravel_index(part, grid.shape), 1).astype(np.float64))
            vectors[:, part] = (self.map_points(points) - points).T
        return vectors.reshape(self.ndim, *grid.shape)


def _as_3d(control: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(control if control.ndim == 4 else control[..., None])


def _weights(index: NDArray[np.float64], count: int) -> SplineAxis:
    """Return the weights of `count` control points at places along an axis; all 0 where the spline is not defined."""
    slack = 1e-9 * count  # of rounding in world coordinates
    defined = (index >= 1 - slack) & (index <= count - 2 + slack)
    first = np.clip(np.floor(index).astype(np.int64) - 1, 0, count - 4)
    t = index - first - 1
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    weights[~defined] = 0
    return SplineAxis(first, np.ascontiguousarray(weights / 6, np.float32), count)
