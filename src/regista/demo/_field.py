"""A known map: an oblique affine after a large smooth diffeomorphism, with its inverse."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from regista.core import Grid, Image, RegistrationError
from regista.transforms import Affine, Composite, DisplacementField, VelocityField, invert_field

_ROTATION_DEG = (11.0, -8.0, 14.0)
_SCALES = (1.06, 0.95, 1.03)
_SHEAR = 0.04
_TRANSLATION_MM = (17.0, -12.0, 9.0)
_BORDER_MM = 16.0
_TOLERANCE_VOX = 0.005


class KnownMap(NamedTuple):
    """A map and its inverse.

    Parameters
    ----------
    fixed2moving : Composite
        The truth to be found: the inverted field, then the affine.
    moving2fixed : Composite
        What the moving image is sampled with.
    residual_mm : float
        Largest distance by which one fails to undo the other, at the voxels of the fixed grid.
    """

    fixed2moving: Composite
    moving2fixed: Composite
    residual_mm: float


def make_known_map(
    mask: Image,
    *,
    displacement_mm: float = 15.0,
    smoothness_mm: float = 20.0,
    fixed_space: str | None = None,
    moving_space: str | None = None,
    seed: int = 2026,
) -> KnownMap:
    """Make a large, smooth, invertible map known in both directions.

    A random velocity field smoothed with `smoothness_mm` is exponentiated; that field is the one that
    samples the moving image, and the truth is its numerical inverse, to 0.005 voxel.

    Parameters
    ----------
    mask : Image
        Where the anatomy is; its grid carries the field.
    displacement_mm : float
        Largest displacement of the diffeomorphic part inside the mask, mm.
    smoothness_mm : float
        Standard deviation of the Gaussian that smooths the velocity, mm.
    fixed_space, moving_space : str, optional
        Names of the two spaces.
    seed : int
        Seed of the random velocity.

    Returns
    -------
    KnownMap
        Both directions of the map.

    Raises
    ------
    RegistrationError
        If the field cannot be inverted to the tolerance (too large for its smoothness).
    """
    grid = mask.grid
    coarse = grid.with_spacing(np.maximum(grid.spacing, smoothness_mm / 5))
    velocity = _random_velocity(coarse, smoothness_mm, seed)
    inside = _nearest(mask, coarse)
    for _ in range(3):  # the exponential is not linear in the velocity
        vectors = VelocityField(velocity, coarse).displacement().vectors_mm
        largest = np.linalg.norm(vectors, axis=0)[inside].max()
        velocity = (velocity * (displacement_mm / largest)).astype(np.float32)
    warp = _upsampled(VelocityField(velocity, coarse).displacement(), grid)
    inverse, residual_vox = invert_field(warp, tolerance_vox=_TOLERANCE_VOX, max_iterations=200)
    if residual_vox > 4 * _TOLERANCE_VOX:
        raise RegistrationError(
            f"a {displacement_mm} mm field with {smoothness_mm} mm smoothness could be inverted only to "
            f"{residual_vox:.3f} voxel: ask for a smaller displacement or a smoother field"
        )
    affine = _oblique_affine(_center(mask))
    forward = Composite(
        (
            DisplacementField(inverse.vectors_mm, grid, fixed_space=fixed_space),
            Affine(affine, moving_space=moving_space),
        )
    )
    backward = Composite(
        (
            Affine(np.asarray(np.linalg.inv(affine), dtype=np.float64), fixed_space=moving_space),
            DisplacementField(warp.vectors_mm, grid, moving_space=fixed_space),
        )
    )
    return KnownMap(forward, backward, float(residual_vox * grid.spacing.max()))


def _random_velocity(grid: Grid, smoothness_mm: float, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    sigma = smoothness_mm / grid.spacing
    noise = rng.standard_normal((grid.ndim, *grid.shape))
    smooth = np.stack([gaussian_filter(part, sigma, mode="constant") for part in noise])
    return np.asarray(smooth / np.abs(smooth).max() * _window(grid), dtype=np.float32)


def _window(grid: Grid) -> NDArray[np.float64]:
    """Return 1 inside and a smooth fall to 0 at the lattice's border."""
    window = np.ones(grid.shape)
    for axis, (count, spacing) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        index = np.arange(count)
        border = np.minimum(index, count - 1 - index) * spacing
        edge = np.sin(np.pi / 2 * np.clip(border / _BORDER_MM, 0, 1)) ** 2
        window *= edge.reshape([-1 if a == axis else 1 for a in range(grid.ndim)])
    return window


def _upsampled(field: DisplacementField, grid: Grid) -> DisplacementField:
    """Interpolate a field by cubic splines onto a finer grid with the same axes."""
    vectors = field.vectors_mm.astype(np.float64)
    for axis in range(grid.ndim):
        step = np.zeros((grid.shape[axis], grid.ndim))
        step[:, axis] = np.arange(grid.shape[axis])
        where = field.grid.world2index(grid.index2world(step))[:, axis]
        count = field.grid.shape[axis]
        where = np.clip(where, 0, count - 1)
        weights = make_interp_spline(np.arange(count), np.eye(count), k=3)(where)
        vectors = np.moveaxis(np.tensordot(weights, vectors, axes=(1, axis + 1)), 0, axis + 1)
    return DisplacementField(np.ascontiguousarray(vectors, dtype=np.float32), grid)


def _nearest(mask: Image, grid: Grid) -> NDArray[np.bool_]:
    """Sample a mask at the voxel centres of a coarser grid."""
    index = mask.grid.world2index(np.moveaxis(grid.coordinates_mm(), 0, -1))
    index = np.clip(np.rint(index), 0, np.array(mask.grid.shape) - 1).astype(int)
    return np.asarray(mask.data[tuple(np.moveaxis(index, -1, 0))] != 0)


def _center(mask: Image) -> NDArray[np.float64]:
    return np.asarray(mask.grid.index2world(np.argwhere(mask.data != 0).mean(axis=0)))


def _oblique_affine(center_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = Rotation.from_euler("xyz", _ROTATION_DEG, degrees=True).as_matrix() @ np.diag(_SCALES)
    linear[0, 1] += _SHEAR
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = center_mm + np.array(_TRANSLATION_MM) - linear @ center_mm
    return matrix
