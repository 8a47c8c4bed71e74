"""Two images made comparable, so that what differs in a picture of both is where things are, not how bright they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_gradient_magnitude

from regista.core import Image
from regista.reporting._colours import Plane
from regista.reporting._scene import Content

Mask = NDArray[np.bool_]
_COARSE = 512
_ENOUGH = 64
"""Pixels of common content, at least, that intensities are matched by."""


def content_of(image: Image) -> Content:
    """Return what of an image is not background, told from some of its voxels."""
    lead = (slice(None),) * (image.kind != "scalar")
    steps = [max(1, n // _COARSE) for n in image.grid.shape]
    small = image.data[(*lead, *(slice(s // 2, None, s) for s in steps))].astype(np.float32)
    small = small.mean(axis=0) if lead else small
    return Content(np.nan_to_num(small, posinf=0.0, neginf=0.0))


def matching_curve(
    fixed: Sequence[Plane], moving: Sequence[Plane], common: Sequence[Mask]
) -> NDArray[np.float64]:
    """Return the rising curve that gives one image the histogram of the other where both show something.

    Parameters
    ----------
    fixed, moving : sequence of (H, W) float32 ndarray
        Slices of both, 0 … 1 with 0 for the background.
    common : sequence of (H, W) bool ndarray
        Where both show something.

    Returns
    -------
    (2, N) ndarray
        Intensities of the moving image, and of the fixed one that they become. With too little in common: as they are.

    Examples
    --------
    >>> one = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    >>> curve = matching_curve([one], [one**2], [one > 0.1])
    >>> bool(np.abs(np.interp(one**2, *curve) - one)[one > 0.1].max() < 0.01)
    True
    """
    if sum(int(mask.sum()) for mask in common) < _ENOUGH:
        return np.array([[0.0, 1.0], [0.0, 1.0]])
    shares = np.linspace(0, 100, 65)
    ours = np.concatenate([plane[mask] for plane, mask in zip(fixed, common, strict=True)])
    theirs = np.concatenate([plane[mask] for plane, mask in zip(moving, common, strict=True)])
    from_, to = (np.percentile(values, shares) for values in (theirs, ours))
    kept = np.concatenate([[True], np.diff(from_) > 1e-6]) & (from_ > 0)  # the background stays black
    return np.array([[0.0, *from_[kept]], [0.0, *to[kept]]])


def steepness(planes: Sequence[Plane], unknown: Sequence[Mask] | None = None) -> list[Plane]:
    """Return the gradient magnitude of slices, 0 … 1: where borders are, which two contrasts have in common.

    Parameters
    ----------
    planes : sequence of (H, W) float32 ndarray
        Slices.
    unknown : sequence of (H, W) bool ndarray, optional
        Pixels without an intensity: their rim is no border of anything.
    """
    sigma = max(1.0, max(max(plane.shape) for plane in planes) / 400)
    found = [gaussian_gradient_magnitude(plane, sigma) for plane in planes]
    for slopes, mask in zip(found, unknown or [], strict=unknown is not None):
        slopes[binary_dilation(mask, iterations=int(np.ceil(3 * sigma)))] = 0
    steep = np.concatenate([slopes[slopes > 0] for slopes in found])
    high = float(np.percentile(steep, 98)) if steep.size else 1.0
    return [np.asarray(np.sqrt(np.clip(slopes / high, 0, 1)), np.float32) for slopes in found]
