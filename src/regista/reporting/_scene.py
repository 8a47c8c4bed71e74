"""A pair as the page sees it: both images, before and after, on one coarse lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from regista.core import Grid, Image
from regista.evaluation._likeness import Mask, Volume
from regista.reporting._coarse import coarse_image
from regista.reporting._deformation import linear_part
from regista.transforms import Affine, DisplacementField, Transform, resample

WORK_VOXELS = 60_000
"""Voxels of the lattice that features are measured on."""
_SAMPLES = 200_000
"""Voxels that an image's intensities are told from."""
_RIM = 33
"""Percentile of the outermost voxels that must be bright for a bright background: a crop cuts through what it shows."""
LEAST_VOXELS = 64
"""Voxels of the lattice that images are compared on, at least."""
_EDGE = 2
"""Voxels of the lattice around a mask that count to it: an organ is seen by its edge."""
_CONTENT = 0.6
"""Content begins at this share of the way from the background to the intensity that splits the image."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A pair on a coarse lattice of the fixed image.

    Parameters
    ----------
    grid : Grid
        The lattice.
    fixed, warped, before, straight : ndarray of float32
        Images on it; `before` is the moving one where its header puts it, or with centres aligned; `straight` through
        the linear part of the map alone.
    inside : ndarray of bool
        Where the map leads into the moving image.
    inside_before, inside_straight : ndarray of bool
        The same of `before` and `straight`.
    seen, seen_warped, seen_before, seen_straight : ndarray of bool
        What is not background.
    linear : Affine
        The affine map nearest to the transform.
    centred : bool
        Whether `before` has the centres aligned, since the headers leave too little in common.
    places_mm : (N, ndim) ndarray
        World positions of the lattice's voxels.
    mapped_mm : (N, ndim) ndarray
        Where the map leads them.
    transform : Transform
        The map.
    there : Image
        The moving image, smoothed for this lattice, and of a huge one only some voxels.
    content : Content
        What of the moving image is not background.
    compared : ndarray of bool, optional
        Where the images were compared, with what lies beside it; None where everywhere.
    """

    grid: Grid
    fixed: Volume
    warped: Volume
    before: Volume
    straight: Volume
    inside: Mask
    inside_before: Mask
    inside_straight: Mask
    seen: Mask
    seen_warped: Mask
    seen_before: Mask
    seen_straight: Mask
    linear: Affine
    centred: bool
    places_mm: NDArray[np.float64]
    mapped_mm: NDArray[np.float64]
    transform: Transform
    there: Image
    content: Content
    compared: Mask | None


def work_grid(grid: Grid, voxels: int = WORK_VOXELS) -> Grid:
    """Return a lattice over an image's extent with at most about so many voxels."""
    if grid.size <= voxels:
        return grid
    low, high = float(grid.spacing.min()), float((grid.spacing * grid.shape).max())
    for _ in range(40):
        middle = np.sqrt(low * high)
        size = grid.with_spacing(np.maximum(grid.spacing, middle)).size
        low, high = (middle, high) if size > voxels else (low, middle)
    return grid.with_spacing(np.maximum(grid.spacing, high))


def make_scene(fixed: Image, moving: Image, transform: Transform, fixed_mask: Image | None = None) -> Scene:
    """Put a pair on a coarse lattice.

    Parameters
    ----------
    fixed, moving : Image
        The pair; channels are averaged.
    transform : Transform
        Map fixed → moving.
    fixed_mask : Image, optional
        Where, above 0, the images were compared.
    """
    grid = work_grid(fixed.grid)
    here = coarse_image(fixed, grid.spacing)
    there = coarse_image(moving, np.full(grid.ndim, float(grid.spacing.min())))
    places = np.moveaxis(grid.coordinates_mm(), 0, -1).reshape(-1, grid.ndim)
    mapped = transform.map_points(places)
    inside = moving.grid.contains(mapped).reshape(grid.shape)
    start: Transform | None = None
    inside_before = moving.grid.contains(places).reshape(grid.shape)
    centred = bool(inside_before.mean() < 0.25)
    if centred:
        matrix = np.eye(grid.ndim + 1)
        matrix[:-1, -1] = moving.grid.center_mm - fixed.grid.center_mm
        start = Affine(matrix)
        inside_before = moving.grid.contains(start.map_points(places)).reshape(grid.shape)
    linear = linear_part(transform, fixed.grid)
    inside_straight = moving.grid.contains(linear.map_points(places)).reshape(grid.shape)
    images = [
        resample(here, grid).data,
        resample(there, grid, nameless(mapped, places, grid)).data,
        resample(there, grid, start).data,
        resample(there, grid, linear).data,
    ]
    fixed_data, warped, before, straight = (np.asarray(x, np.float32) for x in images)
    content = Content(there.as_float32())
    return Scene(
        grid=grid,
        fixed=fixed_data,
        warped=warped,
        before=before,
        straight=straight,
        inside=inside,
        inside_before=inside_before,
        inside_straight=inside_straight,
        seen=Content(here.as_float32()).of(fixed_data),
        seen_warped=content.of(warped) & inside,
        seen_before=content.of(before) & inside_before,
        seen_straight=content.of(straight) & inside_straight,
        linear=linear,
        centred=centred,
        places_mm=places,
        mapped_mm=mapped,
        transform=transform,
        there=there,
        content=content,
        compared=None if fixed_mask is None else _compared(fixed_mask, grid),
    )


def _compared(mask: Image, grid: Grid) -> Mask | None:
    """Return a mask on a lattice, wider by the edge of what it holds; None where too little is left to tell anything."""
    ones = Image((mask.as_float32() > 0).astype(np.float32), mask.grid)
    there = np.asarray(resample(coarse_image(ones, grid.spacing), grid).data)
    wide = np.asarray(binary_dilation(there > 0.5, iterations=_EDGE), bool)
    return wide if wide.sum() >= LEAST_VOXELS else None


def nameless(mapped: NDArray[np.float64], places: NDArray[np.float64], grid: Grid) -> Transform:
    """Return a map, known at the voxels of a lattice, as a field without names of spaces."""
    vectors = (mapped - places).T.reshape(grid.ndim, *grid.shape)
    return DisplacementField(np.ascontiguousarray(vectors, np.float32), grid)


def background_level(data: Volume) -> float:
    """Return the intensity that best splits an image into dark and bright (Otsu, IEEE SMC 1979)."""
    values = data.ravel()[:: max(1, data.size // _SAMPLES)]
    low, high = np.percentile(values, [0.5, 99.5])
    counts, rims = np.histogram(np.clip(values, low, high), 128)
    middles = (rims[1:] + rims[:-1]) / 2
    weight = np.cumsum(counts)
    mass = np.cumsum(counts * middles)
    rest, total = weight[-1] - weight, mass[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * weight / weight[-1] - mass) ** 2 / (weight * rest)
    best = int(np.nanargmax(np.where(np.isfinite(between), between, -1)))
    return float(middles[best])


class Content:
    """What of an image is not background: the brighter part, or the darker one of an image with a bright border.

    Parameters
    ----------
    data : ndarray of float32
        The whole image.
    """

    def __init__(self, data: Volume) -> None:
        split = background_level(data)
        some = data.ravel()[:: max(1, data.size // _SAMPLES)]
        rims = [np.take(data, (0, -1), axis=a).ravel() for a, n in enumerate(data.shape) if n > 2]
        self._sign = -1 if rims and float(np.percentile(np.concatenate(rims), _RIM)) > split else 1
        background = float(np.percentile(some, 0.5 if self._sign > 0 else 99.5))
        self._level = background + _CONTENT * (split - background)

    @property
    def dark(self) -> bool:
        """Whether the content is darker than the background."""
        return self._sign < 0

    def of(self, data: Volume) -> Mask:
        """Tell where values of the image are content."""
        return np.asarray(self._sign * (data - np.float32(self._level)) > 0)
