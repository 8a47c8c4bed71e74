"""Images of an analytic body with a known map between them: no interpolation stands between truth and test."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image

SHAPE, SPACING = (40, 50, 30), (1.0, 0.7, 2.3)
ANGLES, ORIGIN = (17.0, -11.0, 23.0), (31.0, -18.0, 44.0)


class Body:
    """A lopsided ellipsoid full of blobs, as a function of world mm; exactly 0 outside."""

    def __init__(self, grid: Grid, blobs: int = 500, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        extent = np.array(grid.shape) * grid.spacing
        self._grid, ndim = grid, grid.ndim
        self._centers = grid.index2world(rng.uniform(0.15, 0.85, (blobs, ndim)) * (np.array(grid.shape) - 1))
        self._sizes = rng.uniform(0.06, 0.09, blobs) * extent.min()
        self._heights = rng.uniform(-0.6, 0.6, blobs)

    def __call__(self, points_mm: np.ndarray) -> np.ndarray:
        index = self._grid.world2index(points_mm)
        unit = 2 * index / (np.array(self._grid.shape) - 1) - 1
        # egg-shaped along the first axis and bent along the second, so that no turn maps it onto itself
        unit[..., 0] /= 0.62 + 0.15 * unit[..., 1]
        unit[..., 1] = (unit[..., 1] + 0.12 * unit[..., -1] ** 2 - 0.05) / 0.66
        if unit.shape[-1] == 3:
            unit[..., 2] = (unit[..., 2] - 0.08) / 0.6
        edge = np.clip((1.06 - np.linalg.norm(unit, axis=-1)) / 0.12, 0, 1)
        value, here = np.zeros(points_mm.shape[:-1]), edge > 0
        places, texture = points_mm[here], np.full(np.count_nonzero(here), 0.6)
        for center, size, height in zip(self._centers, self._sizes, self._heights, strict=True):
            texture += height * np.exp(-((places - center) ** 2).sum(-1) / (2 * size**2))
        value[here] = np.clip(texture, 0.1, 1.3) * edge[here]
        return value


def grid_of(shape=SHAPE, spacing=SPACING, angles=ANGLES, origin=ORIGIN) -> Grid:
    """Return an oblique LAS grid."""
    ndim = len(shape)
    turn = Rotation.from_euler("xyz", angles if ndim == 3 else (0, 0, angles[0]), degrees=True).as_matrix()
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = turn[:ndim, :ndim] @ np.diag([-1.0, 1.0, 1.0][:ndim]) @ np.diag(spacing[:ndim])
    matrix[:ndim, ndim] = origin[:ndim]
    return Grid(tuple(shape), matrix)


def points_of(grid: Grid) -> np.ndarray:
    """Return every voxel's world position, ``(*shape, ndim)``."""
    return np.moveaxis(grid.coordinates_mm(), 0, -1)


def pair(
    truth, grid=None, moving_grid=None, contrast=None, noise=0.01, seed=0, blobs=500
) -> tuple[Image, Image]:
    """Return ``fixed(x) = body(truth(x))`` and ``moving(y) = body(y)``, so that `truth` is the map to find."""
    grid = grid_of() if grid is None else grid
    moving_grid = grid if moving_grid is None else moving_grid
    body, rng = Body(moving_grid, blobs, seed), np.random.default_rng(seed + 1)
    fixed, moving = body(truth(points_of(grid))), body(points_of(moving_grid))
    if contrast is not None:
        fixed = contrast(fixed)
    images = []
    for values, where, space in ((fixed, grid, "here"), (moving, moving_grid, "there")):
        noisy = values + noise * rng.standard_normal(values.shape) * values
        images.append(Image(noisy.astype(np.float32), where, space=space))
    return images[0], images[1]


def inside(fixed: Image) -> np.ndarray:
    """Return the world positions of voxels inside the body, away from its border, ``(N, ndim)``."""
    return points_of(fixed.grid)[ndimage.binary_erosion(fixed.data > 0.05, iterations=2)]


def error_vox(transform, truth, fixed: Image, moving: Image) -> np.ndarray:
    """Return how far each body voxel is mapped from where it belongs, in voxels of the moving image."""
    points = inside(fixed)
    got, expected = (moving.grid.world2index(p) for p in (transform.map_points(points), truth(points)))
    return np.linalg.norm(got - expected, axis=1)


def error_mm(transform, truth, fixed: Image) -> np.ndarray:
    """Return the same in mm."""
    points = inside(fixed)
    return np.linalg.norm(transform.map_points(points) - truth(points), axis=1)


def linear_truth(grid: Grid, rotation_deg=(0, 0, 0), shift_mm=(0, 0, 0), strain=None):
    """Return ``x ↦ A (x − c) + c + shift`` about the grid's centre."""
    ndim, center = grid.ndim, grid.center_mm
    angles = rotation_deg if ndim == 3 else (0, 0, rotation_deg[0])
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()[:ndim, :ndim]
    if strain is not None:
        matrix = matrix @ expm(np.asarray(strain, float))
    shift = np.asarray(shift_mm, float)[:ndim]
    return lambda points: (points - center) @ matrix.T + center + shift


def smooth_truth(grid: Grid, size_mm: float, seed: int = 3):
    """Return ``x ↦ x + u(x)`` with a sum of long waves whose longest vector is near `size_mm`."""
    rng = np.random.default_rng(seed)
    ndim, center = grid.ndim, grid.center_mm
    extent = float((np.array(grid.shape) * grid.spacing).max())
    waves = rng.normal(size=(6, ndim))
    waves *= (
        rng.uniform(1.0, 2.2, (6, 1)) * np.pi / extent / np.linalg.norm(waves, axis=1, keepdims=True) * 1.6
    )
    phases, vectors = rng.uniform(0, 2 * np.pi, 6), rng.normal(size=(6, ndim))

    def raw(points):
        return np.sin((points - center) @ waves.T + phases) @ vectors

    scale = size_mm / np.linalg.norm(raw(points_of(grid)), axis=-1).max()
    return lambda points: points + scale * raw(points)
