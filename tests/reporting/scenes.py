"""A small organ with structure, oblique and anisotropic, and maps of it that are known to be right or wrong."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image, RunRecord, Status
from regista.registration import Result
from regista.transforms import Affine, DisplacementField, Transform, resample

SHAPE, SPACING = (44, 56, 30), (1.0, 0.8, 1.7)


def oblique(shape=SHAPE, spacing=SPACING, flips=(-1.0, 1.0, 1.0)) -> Grid:
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", (9, -7, 13), degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag(flips) @ np.diag(spacing)
    matrix[:3, 3] = (31.0, -18.0, 44.0)
    return Grid(shape, matrix)


def organ(grid: Grid, seed: int = 3) -> Image:
    """Return a textured blob, not symmetric, on a dark background."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.normal(size=grid.shape), 1.6)
    texture /= texture.std()
    index = np.indices(grid.shape)
    middle = (np.array(grid.shape) - 1).reshape(-1, *[1] * grid.ndim) / 2
    place = (index - middle) / (0.36 * np.array(grid.shape).reshape(middle.shape))
    bulge = 1 + 0.25 * np.tanh(place[0]) - 0.2 * np.tanh(place[1])
    inside = 1 / (1 + np.exp(8 * ((place**2).sum(0) / bulge - 1)))
    return Image((inside * (100 + 35 * texture)).astype(np.float32), grid)


def bend(grid: Grid, size_mm: float = 2.0) -> DisplacementField:
    index = np.indices(grid.shape) / np.array(grid.shape).reshape(-1, *[1] * grid.ndim)
    wave = np.sin(np.pi * index).prod(axis=0)
    vectors = np.stack([size_mm * wave * (-1) ** n for n in range(grid.ndim)])
    return DisplacementField(vectors.astype(np.float32), grid)


def result_of(fixed: Image, moving: Image, transform: Transform, **measures) -> Result:
    record = RunRecord(
        status=Status.CONVERGED,
        measures=measures,
        versions={"regista": "test"},
        timings={"registration": 1.5},
        inputs={"fixed": {"space": "fixed", "grid": fixed.grid.describe(), "sha256": "0"}},
    )
    return Result(transform, transform.inverse(), resample(moving, fixed.grid, transform), record)


def turned(degrees: float, shift_mm, center_mm) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(
        "xyz", (degrees, -degrees / 2, degrees / 3), degrees=True
    ).as_matrix()
    matrix[:3, 3] = np.asarray(center_mm) + shift_mm - matrix[:3, :3] @ center_mm
    return Affine(matrix)
