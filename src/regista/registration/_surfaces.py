"""Where the surface of a mask lies between its voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import ndtri

_SIGMA_VOX = 0.5
_LEAST_SHARE = 1e-3


def surface_of(
    inside: NDArray[np.bool_], spacing_mm: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the signed distance from the surface of a mask, and places on it.

    The centres of border voxels lie within the surface, by up to half a voxel and by more where voxels are larger:
    two masks of one organ on different grids would not meet at the truth. How deep a voxel at the border lies follows
    from the mask smoothed by a Gaussian of half a voxel: across a plane surface that is its cumulative distribution.
    Where the mask ends at the edge of the image, it counts as going on.

    Parameters
    ----------
    inside : (I, J[, K]) bool ndarray
        The mask, with voxels of both kinds.
    spacing_mm : array_like
        Voxel size along each axis, which are taken as perpendicular.

    Returns
    -------
    distance_mm : float32 ndarray
        Distance from the surface at every voxel, below 0 inside.
    places_vox : (N, 2 or 3) float64 ndarray
        One place of the surface for each voxel of the mask that has a neighbour outside, voxels.

    Examples
    --------
    >>> mask = np.arange(6)[:, None] * np.ones((1, 5)) < 3  # the surface lies halfway between 2 and 3
    >>> distance, places = surface_of(mask, (2.0, 1.0))
    >>> distance[:, 2].round(1).tolist(), places[:, 0].round(1).tolist()
    ([-5.0, -3.0, -1.0, 1.0, 3.0, 5.0], [2.5, 2.5, 2.5, 2.5, 2.5])
    """
    spacing = np.asarray(spacing_mm, np.float64)
    share = ndimage.gaussian_filter(inside.astype(np.float64), _SIGMA_VOX, mode="nearest")
    within = inside & ~ndimage.binary_erosion(inside, border_value=1)
    without = ~inside & ndimage.binary_dilation(inside)
    distance = np.zeros(inside.shape, np.float32)
    places = np.empty((0, inside.ndim))
    for border, side, sign in ((within, inside, -1.0), (without, ~inside, 1.0)):
        depth, normal = _depth(share, np.argwhere(border), spacing, -sign)
        if sign < 0:
            places = np.argwhere(border) + depth[:, None] * normal / spacing
        at_border = np.zeros(inside.shape)
        at_border[border] = depth
        away, nearest = ndimage.distance_transform_edt(~border, sampling=spacing, return_indices=True)
        distance[side] = (sign * (away + at_border[tuple(nearest)]))[side]
    return distance, places


def _depth(
    share: NDArray[np.float64], at: NDArray[np.int64], spacing: NDArray[np.float64], inward: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far voxels at the border are from the surface, mm, and the normals that lead out of the mask.

    `inward` is 1 for voxels within the mask and −1 for those beyond it.
    """
    slope = np.zeros((len(at), len(spacing)))
    for axis, count in enumerate(share.shape):
        if count > 1:
            slope[:, axis] = np.gradient(share, axis=axis)[tuple(at.T)] / spacing[axis]
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    normal = -slope / np.maximum(
        length, 1e-12
    )  # of a sheet or a single voxel there is none, and it is left where it is
    sigma = np.linalg.norm(normal * _SIGMA_VOX * spacing, axis=1)
    found = inward * sigma * ndtri(np.clip(share[tuple(at.T)], _LEAST_SHARE, 1 - _LEAST_SHARE))
    return np.clip(found, 0, 0.5 * (np.abs(normal) * spacing).sum(axis=1)), normal
