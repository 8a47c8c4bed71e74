"""What guides add to the cost of a level: values and gradients for displacement fields on its grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid
from regista.kernels.cpu.overlap import majority, soft_dice
from regista.kernels.cpu.points import field_at, map_affine, spread, value_and_slope
from regista.kernels.cpu.sampling import nearest_index, pull_coords
from regista.registration._levels import Matrix, Volume

Codes = NDArray[np.int32]
PlaceCost = Callable[[Matrix], tuple[float, Matrix]]
"""``cost(places_mm)``: what it costs that points lie at ``(N, 3)`` places, and the gradient by each."""

_NEWTON_STEPS = 6


class GuideTerm(ABC):
    """A guide on one level: the map is ``A(x + u(x))``, with the linear map A in world mm."""

    @abstractmethod
    def value_and_gradient(self, fixed2moving: Matrix, field: Volume, out: Volume) -> float:
        """Return the weighted value at a field, and add its derivative by every displacement (in voxels)."""

    @abstractmethod
    def halfway(
        self,
        fixed2moving: Matrix,
        fields: tuple[Volume, Volume],
        gradients: tuple[Volume, Volume],
    ) -> float:
        """Return the weighted value on a grid halfway, and add the derivatives by the halves of the map.

        The fields lead to the fixed and to the moving image. Each image in turn stays where it is, and the half that
        leads to the other one gets the derivative.
        """

    @abstractmethod
    def exchanged(self, fixed2moving: Matrix) -> GuideTerm:
        """Return the term with the parts of both images exchanged, the moving one placed by the linear map."""


Guidance = Callable[[Grid, Grid], GuideTerm]
"""``guidance(fixed_grid, moving_grid)``: a guide brought to the grids of a level."""


@dataclass(frozen=True, eq=False)
class LabelTerm(GuideTerm):
    """``weight · (1 − mean soft Dice)`` over the codes that both images have.

    Parameters
    ----------
    fixed, moving : (I, J, K) int32 ndarray
        Codes on the grids of the level, 0 for what is left out.
    grids : tuple of 2 Grid
        Those grids.
    weight : float
        Factor.
    """

    fixed: Codes
    moving: Codes
    grids: tuple[Grid, Grid]
    weight: float

    @classmethod
    def on(cls, sides: tuple[tuple[Codes, Grid], ...], grids: tuple[Grid, Grid], weight: float) -> LabelTerm:
        """Bring the codes of both images to the grids of a level, by majority."""
        fixed, moving = (_on_grid(codes, own, grid) for (codes, own), grid in zip(sides, grids, strict=True))
        return cls(fixed, moving, grids, weight)

    def value_and_gradient(self, fixed2moving: Matrix, field: Volume, out: Volume) -> float:
        """Return the weighted value and add the weighted gradient."""
        return self._pull(self.fixed, self.moving, self._voxel_map(fixed2moving), field, out)

    def halfway(
        self,
        fixed2moving: Matrix,
        fields: tuple[Volume, Volume],
        gradients: tuple[Volume, Volume],
    ) -> float:
        """Return the weighted value and add the weighted gradients; labels that stay are read at the nearest voxel."""
        maps = np.eye(4)[:3], self._voxel_map(fixed2moving)
        sides = self.fixed, self.moving
        here, there = (
            _nearest(one, matrix, field) for one, matrix, field in zip(sides, maps, fields, strict=True)
        )
        value = self._pull(here, self.moving, maps[1], fields[1], gradients[1])
        return 0.5 * (value + self._pull(there, self.fixed, maps[0], fields[0], gradients[0]))

    def exchanged(self, fixed2moving: Matrix) -> LabelTerm:
        """Return the term with the parts exchanged."""
        still = np.zeros((3, *self.fixed.shape), np.float32)
        placed = _nearest(self.moving, self._voxel_map(fixed2moving), still)
        return LabelTerm(placed, self.fixed, (self.grids[0], self.grids[0]), self.weight)

    def _voxel_map(self, fixed2moving: Matrix) -> Matrix:
        return np.asarray((self.grids[1].world2grid @ fixed2moving @ self.grids[0].grid2world)[:3])

    def _pull(self, here: Codes, other: Codes, matrix: Matrix, field: Volume, out: Volume) -> float:
        # a label that a coarse level has lost, in either image, is none of its business
        count = 1 + max(int(here.max()), int(other.max()))
        sizes = np.bincount(here.ravel(), minlength=count)
        used = (sizes > 0) & (np.bincount(other.ravel(), minlength=count) > 0)
        used[0] = False
        number = int(used.sum())
        if number == 0:
            return 0.0
        recode = np.where(used, np.cumsum(used), 0).astype(np.int32)
        sizes = np.concatenate([[0], sizes[used]])
        factor = -self.weight / number
        dice = soft_dice(recode[here], recode[other], matrix, field, sizes, factor=factor, out=out)
        return self.weight * (1 - float(dice.mean()))


@dataclass(frozen=True, eq=False)
class Places:
    """Points of one image ``(N, 3)``, world mm, and what it costs that those of the other image come to lie in it."""

    points_mm: Matrix
    cost: PlaceCost


@dataclass(frozen=True, eq=False)
class PointTerm(GuideTerm):
    """``weight · cost(T(x))`` over points x of the fixed image.

    Parameters
    ----------
    fixed, moving : Places
        Points and costs of both images.
    grid : Grid
        Fixed grid of the level.
    weight : float
        Factor.
    """

    fixed: Places
    moving: Places
    grid: Grid
    weight: float

    def value_and_gradient(self, fixed2moving: Matrix, field: Volume, out: Volume) -> float:
        """Return the weighted value and add the weighted gradient."""
        places = self._voxels(self.fixed.points_mm)
        return self._pull(places, fixed2moving @ self.grid.grid2world, self.moving.cost, field, out)

    def halfway(
        self,
        fixed2moving: Matrix,
        fields: tuple[Volume, Volume],
        gradients: tuple[Volume, Volume],
    ) -> float:
        """Return the weighted value and add the weighted gradients."""
        placed = map_affine(self.moving.points_mm, np.linalg.inv(fixed2moving)[:3])
        here, there = (
            _sources(self._voxels(points), field)
            for points, field in zip((self.fixed.points_mm, placed), fields, strict=True)
        )
        to_mm = self.grid.grid2world
        value = self._pull(here, fixed2moving @ to_mm, self.moving.cost, fields[1], gradients[1])
        return 0.5 * (value + self._pull(there, to_mm, self.fixed.cost, fields[0], gradients[0]))

    def exchanged(self, fixed2moving: Matrix) -> PointTerm:
        """Return the term with the parts exchanged."""
        placed = map_affine(self.moving.points_mm, np.linalg.inv(fixed2moving)[:3])
        return PointTerm(Places(placed, self.moving.cost), self.fixed, self.grid, self.weight)

    def _voxels(self, points_mm: Matrix) -> Matrix:
        return map_affine(points_mm, self.grid.world2grid[:3])

    def _pull(self, points_vox: Matrix, to_mm: Matrix, cost: PlaceCost, field: Volume, out: Volume) -> float:
        moved = map_affine(points_vox + field_at(field, points_vox), to_mm[:3])
        value, gradient = cost(moved)
        spread(points_vox, self.weight * gradient @ to_mm[:3, :3], out=out)
        return self.weight * value


@dataclass(frozen=True, eq=False)
class SquaredDistance:
    """Mean weighted squared distance of places from points, mm²: ``Σ wᵢ ρ(|pᵢ − yᵢ|²) / Σ wᵢ``.

    ``ρ(s) = s``; with a `limit_mm` c, ``ρ(s) = c² s / (c² + s)``, which levels off at c² (Geman and McClure 1987).
    """

    points_mm: Matrix
    weights: NDArray[np.float64]
    limit_mm: float | None = None

    def __call__(self, places_mm: Matrix) -> tuple[float, Matrix]:
        """Return the value and its gradient by each place."""
        away = places_mm - self.points_mm
        squares, slope = (away**2).sum(axis=1), np.ones(len(away))
        if self.limit_mm is not None:
            limit = self.limit_mm**2
            slope = (limit / (limit + squares)) ** 2
            squares = limit * squares / (limit + squares)
        share = self.weights / self.weights.sum()
        return float(share @ squares), 2 * (share * slope)[:, None] * away


@dataclass(frozen=True, eq=False)
class SurfaceDistance:
    """Mean of squared distances of places from a surface, mm², each at most ``clip_mm²``.

    Parameters
    ----------
    distance_mm : (I, J, K) float32 ndarray
        Signed distance from the surface.
    grid : Grid
        Its grid.
    clip_mm : float
        Places further away cost no more, and are not pulled.
    """

    distance_mm: Volume
    grid: Grid
    clip_mm: float

    def __call__(self, places_mm: Matrix) -> tuple[float, Matrix]:
        """Return the value and its gradient by each place."""
        to_vox = self.grid.world2grid
        value, slope = value_and_slope(self.distance_mm, map_affine(places_mm, to_vox[:3]))
        near = np.abs(value) < self.clip_mm
        total = float(np.where(near, value**2, self.clip_mm**2).mean())
        return total, (2 / len(value)) * np.where(near, value, 0)[:, None] * slope @ to_vox[:3, :3]


def _on_grid(codes: Codes, own: Grid, grid: Grid) -> Codes:
    """Return codes on another grid by majority of the places within each voxel."""
    samples = tuple(
        1 if n == 1 else max(1, min(32, round(float(new / finest))))
        for n, new, finest in zip(grid.shape, grid.spacing, _spacing_along(own, grid), strict=True)
    )
    to_own = (own.world2grid @ grid.grid2world)[:3]
    found: Codes = majority(codes, to_own, grid.shape, samples, int(codes.max()) + 1)
    return found


def _spacing_along(own: Grid, grid: Grid) -> NDArray[Any]:
    """Return how far one goes along the other grid's axes before a voxel of the own grid is crossed, mm."""
    steps = np.abs(own.world2grid[:3, :3] @ grid.direction)
    steps[np.array(own.shape) == 1] = 0
    return np.asarray(1 / np.maximum(steps.max(axis=0), 1e-6))


def _nearest(codes: Codes, matrix: Matrix, field: Volume) -> Codes:
    """Return codes pulled through a map to the nearest voxel, 0 beyond them."""
    shape = field.shape[1:]
    coords = pull_coords(matrix, shape, 0, shape[0], field, matrix[:, :3])
    at = nearest_index(codes.shape, coords)
    return np.where(at >= 0, codes.ravel()[at], 0).astype(np.int32).reshape(shape)


def _sources(points_vox: Matrix, field: Volume) -> Matrix:
    """Return the places that ``q + u(q)`` maps to points, by Newton's method."""
    places = points_vox.copy()
    in_use = np.array(field.shape[1:]) > 1
    for _ in range(_NEWTON_STEPS):
        missed = points_vox - places - field_at(field, places)
        jacobian = np.broadcast_to(np.eye(3), (len(places), 3, 3)).copy()
        for axis in np.flatnonzero(in_use):
            step = 0.5 * np.eye(3)[axis]
            jacobian[:, :, axis] += field_at(field, places + step) - field_at(field, places - step)
        tame = np.linalg.det(jacobian) > 0.05
        jacobian[~tame] = np.eye(3)
        places += np.clip(np.linalg.solve(jacobian, missed[..., None])[..., 0], -2, 2)
    return places
