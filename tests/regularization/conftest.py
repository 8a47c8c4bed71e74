"""Fields of known maps, and slopes along directions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage


def in_voxels(vectors_mm, grid):
    """Return world vectors at every voxel as displacements in voxels, ``(3, I, J, K)`` float32."""
    turned = np.einsum("ab,b...->a...", grid.as_3d().world2grid[:3, :3], vectors_mm)
    return np.ascontiguousarray(turned, np.float32)


@pytest.fixture
def linear_field():
    """Return the maker of the field of ``x ↦ c + A (x − c)``, c the middle of a grid."""

    def make(matrix, grid):
        grid = grid.as_3d()
        away = grid.coordinates_mm() - grid.center_mm[:, None, None, None]
        return in_voxels(np.einsum("ab,bijk->aijk", np.asarray(matrix) - np.eye(3), away), grid)

    return make


@pytest.fixture
def world_field():
    """Return the maker of a smooth field that is a function of the place in the world."""

    def make(grid, size_mm=2.0, wave_mm=25.0):
        x = grid.as_3d().coordinates_mm() / wave_mm
        vectors = size_mm * np.stack(
            [np.sin(x[0] + 2 * x[1]), np.cos(x[1] - x[2] + 0.3), np.sin(x[2] + 0.5 * x[0]) * np.cos(x[1])]
        )
        return in_voxels(vectors, grid)

    return make


@pytest.fixture
def random_field(rng):
    """Return the maker of a smooth random field, its largest component in voxels given."""

    def make(shape, size=0.8, sigma=1.5):
        shape = tuple(shape) + (1,) * (3 - len(shape))
        field = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, *[sigma] * 3))
        return (size * field / np.abs(field).max()).astype(np.float32)

    return make


@pytest.fixture
def mismatch(rng):
    """Return how far a gradient is off, as a share of itself, along its own signs and along random directions."""

    def measure(value, field, gradient, eps=4e-3):
        def central(direction, step):
            return (value(field + step * direction) - value(field - step * direction)) / float(2 * step)

        gradient = gradient.astype(np.float64)
        along = np.sign(gradient) * np.abs(rng.normal(size=field.shape))
        found = []
        for direction in (along, *rng.normal(size=(3, *field.shape))):
            d = direction.astype(np.float32)
            slope = (4 * central(d, np.float32(eps / 2)) - central(d, np.float32(eps))) / 3
            size = max((gradient * along).sum() if direction is along else np.linalg.norm(gradient), 1e-12)
            found.append(abs((gradient * d).sum() - slope) / size)
        return max(found)

    return measure
