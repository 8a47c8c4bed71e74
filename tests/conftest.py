"""Shared test geometry (never cubic, isotropic or axis-aligned) and the way to real images."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from scipy.spatial.transform import Rotation

from regista.core import Grid

# for every call `CliRunner` builds all commands of the program anew, which takes longer than most calls: once is enough
typer.testing._get_command = functools.cache(typer.testing._get_command)

SHAPE, SPACING = (11, 14, 9), (1.0, 0.7, 2.3)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded generator, the same for every test."""
    return np.random.default_rng(20240611)


def oblique_grid(
    shape=SHAPE, spacing=SPACING, angles=(17.0, -11.0, 23.0), origin=(31.0, -18.0, 44.0)
) -> Grid:
    """Return an oblique LAS grid (in 2-D: rotated, first axis flipped)."""
    ndim = len(shape)
    if ndim == 2:
        turn = Rotation.from_euler("z", angles[0], degrees=True).as_matrix()[:2, :2]
    else:
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix = np.eye(ndim + 1)
    flip = np.diag([-1.0, 1.0, 1.0][:ndim])
    matrix[:ndim, :ndim] = turn @ flip @ np.diag(spacing[:ndim])
    matrix[:ndim, ndim] = origin[:ndim]
    return Grid(tuple(shape), matrix)


@pytest.fixture
def grid() -> Grid:
    """Return the default test grid: 11×14×9 voxels of 1.0×0.7×2.3 mm, oblique, LAS."""
    return oblique_grid()


@pytest.fixture
def grid_2d() -> Grid:
    """Return a rotated, flipped 2-D grid of 13×10 pixels."""
    return oblique_grid((13, 10), (0.8, 1.7))


@pytest.fixture
def make_grid():
    """Return the maker of oblique grids: shape, spacing, angles in degrees, origin in mm."""
    return oblique_grid


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real images, or skip where it is absent."""
    folder = Path(os.environ.get("REGISTA_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real images not found at {folder}: set REGISTA_DATA to their folder")
    return folder
