"""An image smoothed for a coarse lattice, made in pieces: a huge one is never copied whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, Image
from regista.kernels.cpu.filters import gaussian_filter

PIECE = 2**20
"""Voxels of a piece."""


def coarse_image(image: Image, spacing_mm: NDArray[np.float64]) -> Image:
    """Return a scalar image, channels averaged, smoothed so that it may be sampled this coarsely.

    Parameters
    ----------
    image : Image
        2-D or 3-D; what is not finite counts as 0.
    spacing_mm : (ndim,) ndarray
        Along each axis, of the lattice it will be sampled on.

    Returns
    -------
    Image
        float32. Of an image that is many times finer than the lattice only every n-th voxel is kept, two or more to a
        standard deviation of the smoothing.

    Examples
    --------
    >>> image = Image(np.full((90, 60), 7, np.uint8), Grid((90, 60), np.eye(3)))
    >>> found = coarse_image(image, np.array([26.0, 6.0]))
    >>> found.grid.shape, found.grid.spacing.tolist(), float(np.ptp(found.data))
    ((18, 60), [5.0, 1.0], 0.0)
    """
    sigma = 0.4 * np.maximum(spacing_mm / image.grid.spacing - 1, 0)
    steps = np.maximum(1, np.floor(sigma / 2).astype(int))
    starts = (
        (np.array(image.grid.shape) - 1) % steps // 2
    )  # voxels are kept from the middle: none is far from one
    kept = [slice(first, None, step) for first, step in zip(starts.tolist(), steps.tolist(), strict=True)]
    out = np.empty([len(range(n)[k]) for n, k in zip(image.grid.shape, kept, strict=True)], np.float32)
    _fill(out, image, sigma, kept)
    scale = np.diag([*steps.astype(float), 1.0])
    scale[:-1, -1] = starts
    grid = image.grid if (steps == 1).all() else Grid(out.shape, image.grid.grid2world @ scale)
    return Image(out, grid)


def _fill(out: NDArray[np.float32], image: Image, sigma: NDArray[np.float64], kept: list[slice]) -> None:
    """Smooth an image into `out`: each piece along all axes but the first in memory, then along that one."""
    data = image.data[None] if image.kind == "scalar" else image.data
    order = np.argsort([-abs(stride) for stride in data.strides[1:]], kind="stable")
    source = data.transpose(0, *(1 + order))
    there = out.transpose(order)
    (first, *rest), (along, *across) = [kept[a] for a in order], sigma[order].tolist()
    between = there if first.step == 1 else np.empty((source.shape[1], *there.shape[1:]), np.float32)
    for part in _parts(source.shape[1], source[0, 0].size):
        piece = source[:, part].mean(axis=0, dtype=np.float32)
        if not np.isfinite(piece).all():
            np.nan_to_num(piece, copy=False, posinf=0.0, neginf=0.0)
        between[part] = _smooth(piece, [0.0, *across])[:, *rest]
    if along > 0:
        for part in _parts(there.shape[1], between[:, 0].size):
            there[:, part] = _smooth(between[:, part], [along, *[0.0] * len(across)])[first]


def _parts(count: int, size: int) -> Iterator[slice]:
    """Return slices over so many things of a size, each of about `PIECE` voxels."""
    some = max(1, PIECE // size)
    return (slice(n, n + some) for n in range(0, count, some))


def _smooth(data: NDArray[np.float32], sigma: list[float]) -> NDArray[np.float32]:
    if not any(sigma):
        return data
    volume = np.ascontiguousarray(data).reshape(1, *data.shape, *[1] * (3 - data.ndim))
    found: NDArray[np.float32] = gaussian_filter(volume, [*sigma, *[0.0] * (3 - data.ndim)], border="nearest")
    return found.reshape(data.shape)
