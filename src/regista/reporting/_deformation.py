"""What the map itself does, on the slices of a page: grid, displacement, volume change, inverse consistency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid
from regista.reporting._colours import (
    FOLD_COLOUR,
    RGB,
    Plane,
    diverging,
    sequential,
)
from regista.reporting._slices import Layout, Tile
from regista.transforms import Affine, Transform

_LINES = 14
_SAMPLES = 24
_LEAST_SCALE = 0.1
"""Upper end of a scale of lengths, at least, in voxels: less is rounding, or no matter."""
_UNKNOWN = 225
"""Gray of pixels that nothing is known of."""


@dataclass(frozen=True, kw_only=True)
class Deformation:
    """A map on the slices of a page.

    Parameters
    ----------
    grids, magnitude, jacobian, inverse : list of (H, W, 3) uint8 ndarray
        A picture of each slice; `inverse` is empty where there is no inverse.
    largest_mm : float
        Upper end of the scale of the magnitude, mm.
    inverse_mm : float
        Upper end of the scale of the inverse-consistency error, mm.
    log_jacobian : float
        Ends of the scale of the logarithm of the determinant.
    folded_pixels : int
        Pixels on the slices whose determinant is at most 0.
    linear_only : bool
        The map is linear: grid and magnitude show all of it, else what the linear part leaves.
    beyond : frozenset of str
        Ends of scales that values lie beyond, shown in the colour of the end: ``magnitude``, ``inverse``, and of the
        determinant ``shrunk`` and ``grown``.
    """

    grids: list[RGB]
    magnitude: list[RGB]
    jacobian: list[RGB]
    inverse: list[RGB]
    largest_mm: float
    inverse_mm: float
    log_jacobian: float
    folded_pixels: int
    linear_only: bool
    beyond: frozenset[str] = frozenset()


def linear_part(transform: Transform, grid: Grid) -> Affine:
    """Return the affine map nearest to a transform over a grid, by least squares.

    Parameters
    ----------
    transform : Transform
        Any map.
    grid : Grid
        Lattice of the fixed image.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> linear_part(Translation.by([1.0, 2.0]), Grid((4, 5), np.eye(3))).matrix[:2, 2].round(6).tolist()
    [1.0, 2.0]
    """
    places = [np.linspace(0, n - 1, min(n, _SAMPLES)) for n in grid.shape]
    index = np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, grid.ndim)
    here = grid.index2world(index)
    there = transform.map_points(here)
    middle = here.mean(axis=0)
    design = np.concatenate([here - middle, np.ones((len(here), 1))], axis=1)
    # one slice, or one row: what cannot be seen is left as it is
    thin = [axis for axis, n in enumerate(grid.shape) if n == 1]
    extra = [grid.direction[:, axis] for axis in thin]
    if extra:
        design = np.concatenate([design, np.array([[*e, 0.0] for e in extra])])
        there = np.concatenate([there, np.array(extra)])
    found = np.linalg.lstsq(design, there, rcond=None)[0]
    matrix = np.eye(grid.ndim + 1)
    matrix[:-1, :-1] = found[:-1].T
    matrix[:-1, -1] = found[-1] - found[:-1].T @ middle
    return Affine(matrix)


def draw_deformation(
    transform: Transform,
    inverse: Transform | None,
    layout: Layout,
    grid: Grid,
    moving_grid: Grid | None = None,
) -> Deformation:
    """Draw a map on the slices of a page.

    The displacement and the grid leave the linear part out, which is told in numbers, unless nothing else is there.

    Parameters
    ----------
    transform : Transform
        Map fixed → moving.
    inverse : Transform, optional
        Map moving → fixed.
    layout : Layout
        Slices of the fixed image.
    grid : Grid
        Lattice of the fixed image.
    moving_grid : Grid, optional
        Lattice of the moving image: what leaves it has no inverse to speak of.
    """
    linear = linear_part(transform, grid)
    back = np.asarray(np.linalg.inv(linear.matrix), np.float64)
    parts = [_Slice(tile, transform, inverse, back, grid, moving_grid) for tile in layout.tiles]
    only_linear = max(float(p.bent.max()) for p in parts) < 1e-3 * float(grid.spacing.max())
    sizes = [p.total if only_linear else p.bent for p in parts]
    largest = _nice(max(float(np.percentile(s, 99.5)) for s in sizes))
    wrong = [p.misfit for p in parts if p.misfit is not None]
    errors = [m[m >= 0] for m in wrong if (m >= 0).any()]
    worst = _nice(max((float(np.percentile(e, 99.5)) for e in errors), default=0.0))
    least = _LEAST_SCALE * float(grid.spacing.min())
    largest, worst = max(largest, least), max(worst, least)
    logs = [np.log(np.maximum(p.determinant, 1e-3)) for p in parts]
    reach = max(0.2, _nice(max(float(np.percentile(np.abs(p), 99)) for p in logs)))
    outermost = {
        "magnitude": max(float(s.max()) for s in sizes) / largest,
        "inverse": max((float(e.max()) for e in errors), default=0.0) / worst,
        "shrunk": -min(float(p.min()) for p in logs) / reach,
        "grown": max(float(p.max()) for p in logs) / reach,
    }
    return Deformation(
        grids=[p.grid_lines(grid, only_linear, linear) for p in parts],
        magnitude=[sequential(s / largest) for s in sizes],
        jacobian=[p.volume_change(reach, log) for p, log in zip(parts, logs, strict=True)],
        inverse=[_with_gaps(m, worst) for m in wrong],
        largest_mm=largest,
        inverse_mm=worst,
        log_jacobian=reach,
        folded_pixels=int(sum((p.determinant <= 0).sum() for p in parts)),
        linear_only=only_linear,
        beyond=frozenset(name for name, part in outermost.items() if part > 1.001),
    )


class _Slice:
    """A map at the pixels of a slice and of the two beside it."""

    def __init__(
        self,
        tile: Tile,
        transform: Transform,
        inverse: Transform | None,
        back: NDArray[np.float64],
        grid: Grid,
        moving_grid: Grid | None,
    ) -> None:
        self.tile = tile
        width, height = tile.size
        n = tile.grid.ndim
        index = np.moveaxis(np.indices((width, height)), 0, -1).reshape(-1, 2).astype(np.float64)
        index = np.concatenate([index, np.zeros((len(index), n - 2))], axis=1)
        here = tile.grid.index2world(index)
        there = transform.map_points(here)
        self.total = self._plane(np.linalg.norm(there - here, axis=1))
        self.straight = there @ back[:-1, :-1].T + back[:-1, -1]
        self.bent = self._plane(np.linalg.norm(self.straight - here, axis=1))
        self.misfit: Plane | None = None
        if inverse is not None:
            away = np.linalg.norm(inverse.map_points(there) - here, axis=1)
            known = _on_lattice(grid, here) & _on_lattice(grid, self.straight)
            if moving_grid is not None:
                known &= _on_lattice(moving_grid, there)
            self.misfit = self._plane(np.where(known, away, np.nan))
        inner = self._inner(grid, here)
        self.determinant = np.where(inner, self._plane(self._determinant(transform, index)), np.float32(1))

    def _plane(self, values: NDArray[np.float64]) -> Plane:
        width, height = self.tile.size
        return np.asarray(values.reshape(width, height).T, np.float32)

    def _inner(self, grid: Grid, here: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which pixels are a voxel within the lattice: a field ends at its last voxel centres, with a step."""
        index = grid.world2index(here)
        across = self.tile.grid.direction[:, -1] @ grid.direction if self.tile.grid.ndim == 3 else None
        kept = np.ones(len(index), bool)
        for axis, n in enumerate(grid.shape):
            if n > 2 and (across is None or abs(across[axis]) < 0.9):
                kept &= (index[:, axis] >= 1) & (index[:, axis] <= n - 2)
        width, height = self.tile.size
        return np.asarray(kept.reshape(width, height).T)

    def _determinant(self, transform: Transform, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Jacobian determinant by differences of half a pixel to both sides."""
        columns = []
        for axis in range(self.tile.grid.ndim):
            step = np.zeros(self.tile.grid.ndim)
            step[axis] = 0.5
            ahead = transform.map_points(self.tile.grid.index2world(index + step))
            behind = transform.map_points(self.tile.grid.index2world(index - step))
            columns.append(ahead - behind)
        matrix = np.stack(columns, -1) @ np.linalg.inv(self.tile.grid.grid2world[:-1, :-1])
        return np.asarray(np.linalg.det(matrix))

    def grid_lines(self, grid: Grid, only_linear: bool, linear: Affine) -> RGB:
        """Return lines, evenly spaced after the map, where they come from: crowded where space shrinks."""
        width, height = self.tile.size
        pull = (
            self.straight
            if not only_linear
            else self.straight @ linear.matrix[:-1, :-1].T + linear.matrix[:-1, -1]
        )
        pixels = self.tile.grid.world2index(pull)[:, :2].reshape(width, height, 2)
        spacing = max(6.0, max(width, height) / _LINES)
        ink = np.zeros((width, height), np.float32)
        for axis in range(2):
            course = pixels[..., axis] / spacing
            slope = np.sqrt(sum(g**2 for g in np.gradient(course))) if min(width, height) > 1 else 1.0
            away = np.abs(course - np.rint(course)) / np.maximum(slope, 1e-6)
            ink = np.maximum(ink, np.clip(1.4 - away, 0, 1))
        out = np.full((height, width, 3), 24, np.float32)
        out += ink.T[..., None] * (np.array([235, 235, 235], np.float32) - 24)
        return out.astype(np.uint8)

    def volume_change(self, reach: float, log: Plane) -> RGB:
        """Return the logarithm of the determinant, folds in their own colour and grown so that one pixel shows."""
        picture = diverging(log / reach)
        folded = self.determinant <= 0
        if folded.any():
            grown = folded.copy()
            grown[1:] |= folded[:-1]
            grown[:, 1:] |= folded[:, :-1]
            picture[grown] = FOLD_COLOUR
        return picture


def _on_lattice(grid: Grid, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which points lie between voxel centres: fields end at the last ones, with a step."""
    index = grid.world2index(points)
    last = np.array(grid.shape) - 1
    room = np.where(last > 0, 1e-6, 0.5)
    return np.asarray(((index >= -room) & (index <= last + room)).all(axis=-1))


def _with_gaps(values: Plane, worst: float) -> RGB:
    picture = sequential(np.asarray(values / worst, np.float32))
    picture[np.isnan(values)] = _UNKNOWN
    return picture


def _nice(value: float) -> float:
    """Return a round number not below a value."""
    if not np.isfinite(value) or value <= 0:
        return 0.0
    scale = 10.0 ** np.floor(np.log10(value))
    return float(next(step * scale for step in (1, 1.5, 2, 3, 5, 7.5, 10) if step * scale >= value * 0.999))
