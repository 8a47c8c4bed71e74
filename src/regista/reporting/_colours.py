"""Colours that colour-blind readers can tell apart, and arrays turned into pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from regista.core import Image

RGB = NDArray[np.uint8]
Plane = NDArray[np.float32]

FIXED_COLOUR = (255, 158, 44)
"""Orange: what belongs to the fixed image."""
MOVING_COLOUR = (86, 180, 233)
"""Sky blue of Okabe and Ito: what belongs to the moving one."""
FOLD_COLOUR = (255, 0, 200)
EDGE_COLOUR = (255, 196, 0)
_SEQUENTIAL = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_DIVERGING = ((20, 80, 180), (120, 170, 225), (240, 240, 240), (235, 165, 90), (165, 75, 0))


def is_colour(image: Image) -> bool:
    """Tell whether an image is a picture in red, green and blue (and opacity, which is left out)."""
    return image.kind == "channels" and image.data.dtype == np.uint8 and len(image.data) in (3, 4)


def window(values: Plane, low: float, high: float) -> Plane:
    """Return values with a window as 0 … 1."""
    return np.asarray(
        np.clip((np.nan_to_num(values, nan=low) - low) / ((high - low) or 1.0), 0, 1), np.float32
    )


def gray(values: Plane) -> RGB:
    """Return 0 … 1 as grays, ``(H, W, 3)``."""
    return np.repeat(_bytes(values)[..., None], 3, axis=-1)


def sequential(values: Plane) -> RGB:
    """Return 0 … 1 from dark violet to yellow."""
    return _ramp(values, _SEQUENTIAL)


def diverging(values: Plane) -> RGB:
    """Return −1 … 1 from blue over near-white to orange."""
    return _ramp(np.asarray((values + 1) / 2, np.float32), _DIVERGING)


def two_colours(fixed: Plane, moving: Plane) -> RGB:
    """Return both images in one: orange the fixed, blue the moving; where they agree, gray.

    The two colours add up to white and differ for every kind of colour vision.
    """
    one, other = np.array([1.0, 0.55, 0.1], np.float32), np.array([0.0, 0.45, 0.9], np.float32)
    return _bytes(fixed[..., None] * one + moving[..., None] * other)


def luminance(picture: NDArray[np.generic]) -> Plane:
    """Return the mean of channels, or the plane itself."""
    return np.asarray(picture if picture.ndim == 2 else picture.mean(axis=0), np.float32)


def _ramp(values: Plane, anchors: tuple[tuple[int, int, int], ...]) -> RGB:
    where = np.linspace(0, 1, len(anchors))
    flat = np.clip(np.nan_to_num(values), 0, 1)
    table = np.stack([np.interp(np.linspace(0, 1, 256), where, channel) for channel in zip(*anchors)], -1)
    return np.asarray(table.round().astype(np.uint8)[(flat * 255).astype(np.uint8)])


def _bytes(values: Plane) -> RGB:
    return np.asarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


def data_uri(picture: RGB, *, quality: int = 84) -> str:
    """Return a picture as text for ``src``: JPEG, or PNG where it is see-through.

    Parameters
    ----------
    picture : (H, W, 3) or (H, W, 4) uint8 ndarray
        Colours, with opacity last if there are four.
    quality : int
        Of JPEG.
    """
    from PIL import Image as Pillow  # 60 ms, for those who draw

    stream = io.BytesIO()
    if picture.shape[-1] == 4:
        few = Pillow.fromarray(picture).quantize(64, method=Pillow.Quantize.FASTOCTREE)
        few.save(stream, "PNG", compress_level=6)
        kind = "png"
    else:
        Pillow.fromarray(picture).save(stream, "JPEG", quality=quality)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def thumbnail(picture: RGB, width: int, height: int) -> RGB:
    """Return a picture made to fit a box."""
    from PIL import Image as Pillow

    small = Pillow.fromarray(picture)
    small.thumbnail((width, height))
    return np.asarray(small)
