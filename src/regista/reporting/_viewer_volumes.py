"""Images as the viewer's page takes them: NIfTI-1 in memory, of a size that a graphics card holds."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, Image, LabelImage
from regista.reporting._colours import is_colour

LARGEST_SIDE, LARGEST_VOXELS = 2048, 64_000_000
"""What WebGL 2 promises for a side of a texture in three dimensions, and what shared graphics memory bears."""
COLOURS = 255
_KEPT = ("u1", "i2", "u2", "f4")


def shown(image: Image) -> Image:
    """Return what is shown of an image: its colours, or its first channel or frame."""
    if image.kind == "scalar":
        return image
    if is_colour(image):
        return image.with_data(image.data[:3])
    return image.with_data(image.data[0], kind="scalar", frame_seconds=None)


def shrink_factors(grid: Grid) -> tuple[int, ...]:
    """Return by how much each axis is shrunk so that a graphics card holds the image; 1 where it fits.

    Examples
    --------
    >>> shrink_factors(Grid((5000, 300), np.eye(3)))
    (3, 1)
    """
    factors = [-(-n // LARGEST_SIDE) for n in grid.shape]
    while np.prod([-(-n // f) for n, f in zip(grid.shape, factors, strict=True)]) > LARGEST_VOXELS:
        finest = int(np.argmin(grid.spacing * factors))
        factors[finest] += 1
    return tuple(factors)


def shrunk(image: Image) -> Image:
    """Return an image, or the means of its blocks where it is too large; labels are picked, not averaged.

    A remainder at the far end of an axis is left out.
    """
    factors = shrink_factors(image.grid)
    if max(factors) == 1:
        return image
    shape = tuple(n // f for n, f in zip(image.grid.shape, factors, strict=True))
    lead = image.data.shape[: image.data.ndim - image.ndim]
    cut: tuple[Any, ...] = (..., *(slice(n * f) for n, f in zip(shape, factors, strict=True)))
    used: NDArray[Any] = image.data[cut]
    blocks = used.reshape(*lead, *(size for pair in zip(shape, factors, strict=True) for size in pair))
    within = tuple(len(lead) + 2 * axis + 1 for axis in range(image.ndim))
    scale = np.eye(image.ndim + 1)
    for axis, factor in enumerate(factors):
        scale[axis, axis], scale[axis, -1] = factor, (factor - 1) / 2
    if isinstance(image, LabelImage):
        corner = tuple(0 if axis in within else slice(None) for axis in range(blocks.ndim))
        data = blocks[corner]
    else:
        data = blocks.mean(axis=within, dtype=np.float32)
        data = np.rint(data).astype(np.uint8) if is_colour(image) else data
    return image.with_data(data, grid=Grid(shape, image.grid.grid2world @ scale))


def window_of(image: Image) -> tuple[float, float]:
    """Return the intensities to show as black and white: the 0.5th and 99.5th percentile of what is not background."""
    values = image.data.reshape(-1)
    values = values[:: max(1, values.size // 2_000_000)].astype(np.float32)
    values = values[np.isfinite(values)]
    content = values[values != values.min()] if values.size else values
    if not content.size:
        return 0.0, 1.0
    low, high = np.percentile(content, (0.5, 99.5))
    low = min(low, float(np.percentile(values, 1)))
    return float(low), float(high if high > low else low + 1)


def bytes_in_window(image: Image, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return an image as it looks, 0 … 255; colours stay as they are."""
    if is_colour(image):
        return np.asarray(image.data, np.uint8)
    part = (np.nan_to_num(image.as_float32(), nan=window[0]) - window[0]) / (window[1] - window[0])
    return np.asarray(np.clip(part, 0, 1) * 255 + 0.5).astype(np.uint8)


def checkerboard(fixed: Image, warped: Image, windows: Any, block_mm: float) -> Image:
    """Return blocks of both images in turn, each as it looks.

    Parameters
    ----------
    fixed, warped : Image
        On one grid, both in colour or neither.
    windows : pair of (low, high)
        Intensities shown as black and white.
    block_mm : float
        Side of a block.
    """
    first, second = (bytes_in_window(image, window) for image, window in zip((fixed, warped), windows))
    course = np.zeros(fixed.grid.shape, np.int64)
    for axis, (n, spacing) in enumerate(zip(fixed.grid.shape, fixed.grid.spacing, strict=True)):
        steps = np.floor(np.arange(n) * spacing / block_mm + 1e-6).astype(np.int64)
        course += steps.reshape([-1 if a == axis else 1 for a in range(fixed.ndim)])
    return fixed.with_data(np.where(course % 2 == 0, first, second))


def coded(labels: LabelImage, known: NDArray[Any] | None = None) -> LabelImage:
    """Return labels as numbers of colours, 1 … 255, whatever their values; 0 stays background.

    Parameters
    ----------
    labels : LabelImage
        Labels.
    known : ndarray, optional
        All values that are to have colours, so that a label has the same one in several images; by default those of
        `labels`.

    Examples
    --------
    >>> grid = Grid((1, 4), np.eye(3))
    >>> coded(LabelImage(np.array([[0, -7, 90210, 10**12]]), grid)).data.tolist()
    [[0, 1, 2, 3]]
    >>> coded(LabelImage(np.array([[0, 0, 9, 0]]), grid), np.array([0, 5, 9])).data.tolist()
    [[0, 0, 2, 0]]
    """
    values = np.unique(labels.data if known is None else known)
    colours = np.zeros(len(values), np.uint8)
    present = values != 0
    colours[present] = 1 + np.arange(np.count_nonzero(present)) % COLOURS
    return labels.with_data(colours[np.searchsorted(values, labels.data)])


def palette() -> list[list[int]]:
    """Return the colours of labels, red, green and blue, that of the background first.

    Hues go round by the golden angle, lightness in three steps, so that neighbours in number differ.
    """
    table = [[0, 0, 0]]
    for n in range(COLOURS):
        hue, light = (n * 0.381966) % 1, (0.62, 0.48, 0.74)[n % 3]
        table.append([round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.85)])
    return table


def nifti_bytes(image: Image, window: tuple[float, float] | None = None) -> bytes:
    """Return an image as an uncompressed NIfTI-1 file; 2-D is one slice in the plane z = 0.

    Parameters
    ----------
    image : Image
        Scalar, colours, or labels from `coded`.
    window : (float, float), optional
        Intensities shown as black and white, for the header.
    """
    from nibabel import Nifti1Header

    grid = image.grid.as_3d()
    header = Nifti1Header()
    header.set_data_shape(grid.shape)
    if is_colour(image):  # red, green and blue of a voxel beside one another
        order = image.data[:3].reshape(3, *grid.shape)
        header.set_data_dtype(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    else:
        order = _plain_voxels(image).reshape(grid.shape)
        header.set_data_dtype(order.dtype)
    header.set_sform(grid.grid2world, code=1)
    header.set_qform(grid.grid2world, code=0, strip_shears=True)
    header.set_xyzt_units("mm")
    if isinstance(image, LabelImage):
        header.set_intent("label")  # colours are not mixed between neighbours, and outlines can be drawn
    header["pixdim"][1:4] = grid.spacing
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header["scl_slope"], header["scl_inter"] = 1, 0
    if window is not None:
        header["cal_min"], header["cal_max"] = window
    return bytes(header.binaryblock) + bytes(4) + order.tobytes(order="F")


def _plain_voxels(image: Image) -> NDArray[Any]:
    """Return the voxels in a type that the page reads, little-endian and finite."""
    data = image.data
    if data.dtype.kind == "b":
        data = data.astype(np.uint8)
    if data.dtype.str[1:] not in _KEPT:
        data = data.astype(np.float32)
    if data.dtype.kind == "f":
        good = np.isfinite(data)
        if not good.all():
            data = np.where(good, data, data[good].min() if good.any() else 0)
    return data.astype(data.dtype.newbyteorder("<"), copy=False)
