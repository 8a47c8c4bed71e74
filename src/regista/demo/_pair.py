"""The demo pair: the MNI152 brain, and a copy of it seen through a known map by another scanner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from regista.core import FormatError, Grid, Image, LabelImage
from regista.demo._field import KnownMap, make_known_map
from regista.transforms import Transform, resample

_GRID_ROTATION_DEG = (-13.0, 7.0, 19.0)
_MARGIN_MM = 10.0
_FIXED, _MOVING = "mni152", "moved"


class KnownPair(NamedTuple):
    """Two images and the map between them.

    Parameters
    ----------
    fixed, moving : Image
        The pair to register, float32.
    truth : Transform
        True point map fixed → moving, RAS mm.
    mask : LabelImage
        Brain (1) on the fixed grid.
    """

    fixed: Image
    moving: Image
    truth: Transform
    mask: LabelImage


def make_known_pair(
    *,
    fixed_spacing_mm: int = 1,
    moving_spacing_mm: Sequence[float] = (1.1, 0.9, 1.2),
    displacement_mm: float = 15.0,
    smoothness_mm: float = 20.0,
    noise: float = 0.02,
    bias: float = 0.2,
    seed: int = 2026,
) -> KnownPair:
    """Make a pair of brain images whose alignment is known.

    The fixed image is the skull-stripped MNI152 T1 that ships inside nilearn. The moving one is the same
    brain carried by an oblique affine and a large diffeomorphism, sampled once onto an oblique, anisotropic
    LAS grid, with another contrast, a bias field and noise inside the brain.

    Parameters
    ----------
    fixed_spacing_mm : int
        Spacing of the fixed image, mm; 1 is the template's own.
    moving_spacing_mm : sequence of float
        Spacing of the moving image, mm.
    displacement_mm, smoothness_mm : float
        Largest displacement of the diffeomorphism in the brain and the smoothness of its velocity, mm.
    noise : float
        Standard deviation of the noise, as a share of the intensity range.
    bias : float
        Largest relative deviation of the bias field.
    seed : int
        Seed of field, bias and noise.

    Returns
    -------
    KnownPair
        ``fixed, moving, truth, mask``.

    Raises
    ------
    FormatError
        If nilearn is not installed.
    """
    fixed, mask = _load_mni152(fixed_spacing_mm)
    known = make_known_map(
        mask,
        displacement_mm=displacement_mm,
        smoothness_mm=smoothness_mm,
        fixed_space=_FIXED,
        moving_space=_MOVING,
        seed=seed,
    )
    grid = _moving_grid(mask, known, np.asarray(moving_spacing_mm, dtype=np.float64))
    seen = resample(fixed, grid, known.moving2fixed, interpolation="linear")
    brain = resample(
        Image(mask.data.astype(np.float32), mask.grid, space=_FIXED), grid, known.moving2fixed
    ).data.astype(np.float32)
    data = _another_scanner(seen.as_float32(), brain > 0.5, grid, noise, bias, seed)
    return KnownPair(fixed, Image(data, grid, space=_MOVING), known.fixed2moving, mask)


def _load_mni152(resolution: int) -> tuple[Image, LabelImage]:
    try:
        from nilearn import datasets  # heavy, and an extra
    except ImportError as error:
        raise FormatError(
            "the demo needs the MNI152 brain that ships inside nilearn, which is not installed: "
            "pip install 'regista[demo]'"
        ) from error
    template = datasets.load_mni152_template(resolution=resolution)
    brain = datasets.load_mni152_brain_mask(resolution=resolution)
    grid = _grid_of(template)
    mask = np.asarray(brain.dataobj) > 0.5
    data = np.asarray(template.dataobj, dtype=np.float32) * mask
    fixed = Image(np.ascontiguousarray(data / data.max()), grid, space=_FIXED)
    return fixed, LabelImage(np.ascontiguousarray(mask.astype(np.uint8)), grid, space=_FIXED)


def _grid_of(nifti: Any) -> Grid:
    return Grid(tuple(nifti.shape), nifti.affine)


def _moving_grid(mask: LabelImage, known: KnownMap, spacing: NDArray[np.float64]) -> Grid:
    """Return an oblique LAS grid with room around the moved brain."""
    axes = Rotation.from_euler("xyz", _GRID_ROTATION_DEG, degrees=True).as_matrix() @ np.diag(
        [-1.0, 1.0, 1.0]
    )
    voxels = np.argwhere(mask.data != 0)[::37]
    points = known.fixed2moving.map_points(mask.grid.index2world(voxels)) @ axes
    low, high = points.min(axis=0) - _MARGIN_MM, points.max(axis=0) + _MARGIN_MM
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = axes @ low
    return Grid(tuple(int(n) for n in np.ceil((high - low) / spacing) + 1), matrix)


def _another_scanner(
    seen: NDArray[np.float32],
    brain: NDArray[np.bool_],
    grid: Grid,
    noise: float,
    bias: float,
    seed: int,
) -> NDArray[np.float32]:
    """Change contrast, then add a smooth gain and Rician noise; outside the brain stays 0."""
    rng = np.random.default_rng(seed + 1)
    contrast = 900.0 * (0.15 + 0.85 * np.clip(seen, 0, 1) ** 1.6)
    coarse = rng.standard_normal(
        [max(4, int(n * s / 30)) for n, s in zip(grid.shape, grid.spacing, strict=True)]
    )
    gain = _stretched(gaussian_filter(coarse, 1.0), grid.shape)
    gain = 1 + bias * gain / np.abs(gain).max()
    real, imaginary = rng.standard_normal((2, *grid.shape), dtype=np.float32) * (900.0 * noise)
    signal = np.hypot(contrast * gain + real, imaginary)
    return np.ascontiguousarray(np.where(brain, signal, 0), dtype=np.float32)


def _stretched(values: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Stretch a small array over `shape` by cosine-eased interpolation along each axis."""
    for axis, count in enumerate(shape):
        where = np.linspace(0, values.shape[axis] - 1, count)
        start = np.minimum(where.astype(int), values.shape[axis] - 2)
        ease = (1 - np.cos(np.pi * (where - start))) / 2
        ease = ease.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        first = np.take(values, start, axis=axis)
        values = first + ease * (np.take(values, start + 1, axis=axis) - first)
    return values
