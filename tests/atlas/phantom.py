"""A textured brain, alone and inside a head with skull, scalp and neck."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image

SEMI_MM = np.array([34.0, 42.0, 30.0])


def brain_value(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intensity and membership of the brain at ``(..., 3)`` positions about its centre, mm."""
    x, y, z = np.moveaxis(points, -1, 0)
    inside = ((points / SEMI_MM) ** 2).sum(-1) < 1
    inside |= ((points - (0, -30, -22)) ** 2).sum(-1) < 14**2  # a cerebellum: front is not back, up not down
    folds = 90 + 25 * np.sin(x / 4.1 + 0.4) * np.cos(y / 5.3) * np.sin(z / 4.7 + 1)
    ventricle = ((points - (5, 6, 4)) ** 2 / np.array([30.0, 150.0, 40.0])).sum(-1) < 1
    return np.where(ventricle, 25.0, folds), inside


def grid_of(shape, spacing, angles, orientation=(-1.0, 1.0, 1.0)) -> Grid:
    """Return an oblique grid about the world's origin, moved off by a few millimetres."""
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(orientation) @ np.diag(spacing)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(shape) - 1) / 2) + (3.0, -4.0, 2.0)
    return Grid(tuple(shape), matrix)


def template() -> tuple[Image, Image]:
    """Return the stripped brain and its mask."""
    grid = grid_of((40, 50, 36), (2.0, 2.0, 2.0), (0, 0, 0), (1.0, 1.0, 1.0))
    value, inside = brain_value(np.moveaxis(grid.coordinates_mm(), 0, -1))
    data = np.where(inside, value, 0).astype(np.float32)
    return Image(data, grid, space="atlas"), Image(inside.astype(np.uint8), grid, space="atlas")


def head(grid: Grid, *, scale=0.94, angles=(8, -6, 10), shift=(4.0, -7.0, 9.0), invert=False, seed=0):
    """Return a head on a grid, and the truth: brain, fluid, skull, scalp, neck, bias and noise."""
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    world = np.moveaxis(grid.coordinates_mm(), 0, -1)
    own = (world - np.array(shift)) @ turn / scale
    value, inside = brain_value(own)
    size = np.sqrt(((own / (SEMI_MM + 2.0)) ** 2).sum(-1))
    data = np.zeros(grid.shape)
    neck = (own[..., 0] ** 2 + (own[..., 1] + 12) ** 2 < 24**2) & (own[..., 2] < -20)
    data[neck] = 70 + 15 * np.sin(own[..., 2][neck] / 6)
    data[size < 1.42] = 130.0  # scalp
    data[size < 1.22] = 6.0  # skull
    data[(size < 1.03) & ~inside] = 22.0  # fluid
    rim = gaussian_filter(inside.astype(float), 1.0) > 0.02
    data[rim & ~inside & (size >= 1.03)] = 10.0
    data[inside] = 140 - value[inside] if invert else value[inside]
    data *= 1 + 0.1 * np.sin(world[..., 1] / 40)
    data += np.abs(np.random.default_rng(seed).normal(0, 2.5, grid.shape))
    return Image(data.astype(np.float32), grid, space="head"), inside
