"""Likeness of intensities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from regista.core import GeometryError, Image
from regista.evaluation._transform import Mask, mask_array
from regista.similarity import LNCC, MI, NCC, SSD

_SIGMA, _TRUNCATE, _REACH = 1.5, 3.5, 5  # Wang's window of 11 voxels


@dataclass(frozen=True, kw_only=True)
class ImageSimilarity:
    """How alike the intensities of two images are.

    Parameters
    ----------
    ssd : float
        Mean squared difference per voxel.
    ncc : float
        Correlation coefficient, −1 … 1.
    lncc : float
        Mean squared local correlation over 5-voxel windows, 0 … 1.
    mi : float
        Mutual information, nats, 32 bins.
    ssim : float
        Structural similarity, −1 … 1.
    left_out_voxels : int
        Voxels (of the mask) that were not compared, being NaN or infinite in one of the images.
    """

    ssd: float
    ncc: float
    lncc: float
    mi: float
    ssim: float
    left_out_voxels: int = 0

    def row(self) -> dict[str, Any]:
        """Return the measures as a dictionary, for tables; `left_out_voxels` only where there are any."""
        row = asdict(self)
        if not self.left_out_voxels:
            del row["left_out_voxels"]
        return row


def image_measures(fixed: Image, warped: Image, *, mask: Mask = None) -> ImageSimilarity:
    """Compare the intensities of two images on the same grid.

    Parameters
    ----------
    fixed, warped : Image
        Images on the same grid; channels are averaged. NaN and infinite voxels are left out, and counted.
    mask : Image or (*grid.shape) array_like, optional
        Compare where it is not 0.

    Returns
    -------
    ImageSimilarity
        The measures; the metrics of `regista.similarity` with their signs turned so that, but for `ssd`, more
        is better.

    Raises
    ------
    GeometryError
        If the grids differ, an image is a series, or the mask is empty.

    Notes
    -----
    SSIM: Wang et al., IEEE TIP 2004, Gaussian window of σ 1.5 voxels, the dynamic range being that of the fixed
    image within the mask; averaged where the window lies within the image.

    Examples
    --------
    >>> from regista.core import Grid
    >>> data = np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32)
    >>> image = Image(data, Grid(data.shape, np.eye(4)))
    >>> same = image_measures(image, image.with_data(2 * data))
    >>> round(same.ncc, 6), round(same.lncc, 3)
    (1.0, 1.0)
    """
    for name, image in (("fixed", fixed), ("warped", warped)):
        if image.kind == "series":
            raise GeometryError(f"the {name} image is a series of {len(image.data)} frames: give one of them")
    if not fixed.grid.same_as(warped.grid):
        raise GeometryError(
            f"the images lie on different grids: fixed {fixed.grid.describe()}; warped {warped.grid.describe()}. "
            "Bring the moving image onto the fixed grid first (regista apply), or give it with its transforms "
            "(--moving and --transform)"
        )
    shape = fixed.grid.as_3d().shape
    a, b = (_gray(image).reshape(shape) for image in (fixed, warped))
    asked = mask_array(mask, fixed.grid).reshape(shape)
    where = asked & np.isfinite(a) & np.isfinite(b)
    if not where.any():
        raise GeometryError("no voxel of the mask is finite in both images")
    weight = None if where.all() else where.astype(np.float32)
    if weight is not None:
        a, b = (np.nan_to_num(x, posinf=0, neginf=0) for x in (a, b))
    one, other = (_scaled(x, where) for x in (a, b))
    out = np.empty(shape, np.float32)
    value = {
        metric.name: metric.prepare(x, weight).value_and_gradient(y, weight, out)
        for metric, x, y in (
            (SSD(), a, b),
            (NCC(), a, b),
            (LNCC(), one, other),
            (MI(), one, other.clip(0, 1)),
        )
    }
    correlation = -np.sign(value["ncc"]) * np.sqrt(abs(value["ncc"]))
    return ImageSimilarity(
        ssd=value["ssd"],
        ncc=float(correlation) + 0.0,
        lncc=-value["lncc"] + 0.0,
        mi=-value["mi"] + 0.0,
        ssim=_ssim(a, b, where),
        left_out_voxels=int(asked.sum() - where.sum()),
    )


def _gray(image: Image) -> NDArray[np.float32]:
    voxels = image.as_float32()
    return voxels if image.kind == "scalar" else np.ascontiguousarray(voxels.mean(axis=0))


def _scaled(image: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return an image with its range within the mask as 0 … 1, which bins and the least variance are made for."""
    low, high = float(image[where].min()), float(image[where].max())
    return (image - np.float32(low)) / np.float32(high - low or 1.0)


def _ssim(a: NDArray[np.float32], b: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    """Return the mean structural similarity over a mask."""
    sigma = [_SIGMA if n > 1 else 0 for n in a.shape]
    span = float(a[where].max() - a[where].min()) or 1.0
    middle = float(a[where].mean())  # variances of shifted values lose fewer digits

    def smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(x, sigma, truncate=_TRUNCATE))

    p, q = a.astype(np.float64) - middle, b.astype(np.float64) - middle
    mp, mq = smooth(p), smooth(q)
    vp, vq, cov = smooth(p * p) - mp * mp, smooth(q * q) - mq * mq, smooth(p * q) - mp * mq
    mp, mq = mp + middle, mq + middle
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    ssim = (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
    inner = np.zeros_like(where)
    inner[tuple(slice(_REACH, n - _REACH) if n > 1 else slice(None) for n in a.shape)] = True
    return float(ssim[where & inner].mean() if (where & inner).any() else ssim[where].mean())
