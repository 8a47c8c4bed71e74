"""Slices of an image put together into one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, Image
from regista.reporting._colours import RGB
from regista.reporting._slices import Layout, Tile
from regista.transforms import Transform, resample

_GAP = 6
_FINEST = 8
"""Samples a pixel along an axis, at most."""
_LETTERS = 14
_LIGHT, _DARK = (255, 255, 255), (0, 0, 0)


def sample_tiles(
    image: Image, layout: Layout, transform: Transform | None = None
) -> list[NDArray[np.generic]]:
    """Return an image on each slice's pixels, rows from top to bottom, channels first.

    Parameters
    ----------
    image : Image
        The fixed image, or one on its grid, or (with `transform`) the moving one.
    layout : Layout
        Slices.
    transform : Transform, optional
        Map fixed → moving.
    """
    plain = Image(image.data, image.grid, image.kind)
    dtype = image.data.dtype if image.data.dtype.kind == "f" else np.float32
    planes = []
    for tile in layout.tiles:
        # where a pixel holds many voxels it is their mean: single ones would flicker
        factor = int(tile.pixel_mm / image.grid.spacing.min() + 0.2)
        if image.ndim == 2 or factor < 2:
            shown = resample(_smoothed(plain, tile), tile.grid, transform, dtype=dtype).data
        else:
            factor = min(factor, _FINEST)
            fine = resample(plain, _finer(tile.grid, factor), transform, dtype=np.float32).data
            width, height = tile.size
            blocks = fine.reshape(*fine.shape[:-3], width, factor, height, factor, 1)
            shown = blocks.mean(axis=(-4, -2)).astype(dtype)
        planes.append(tile.plane(shown))
    return planes


def _finer(grid: Grid, factor: int) -> Grid:
    """Return a slice's lattice with so many times the pixels, over the same place."""
    matrix = grid.grid2world.copy()
    matrix[:3, :2] /= factor
    matrix[:3, 3] -= matrix[:3, :2].sum(axis=1) * (factor - 1) / 2
    return Grid((grid.shape[0] * factor, grid.shape[1] * factor, 1), matrix)


def _smoothed(image: Image, tile: Tile) -> Image:
    """Return the image, in 2-D averaged over blocks where a pixel holds many voxels: else fine texture flickers."""
    factor = int(tile.pixel_mm / image.grid.spacing.min() + 0.2)
    if image.ndim == 3 or factor < 2:
        return image
    grid = image.grid.shrink((factor, factor))
    kept = [n // factor * factor for n in image.grid.shape]
    start = [(n - k) // 2 for n, k in zip(image.grid.shape, kept, strict=True)]
    data = image.data.reshape(-1, *image.grid.shape)[
        :, start[0] : start[0] + kept[0], start[1] : start[1] + kept[1]
    ]
    blocks = data.reshape(len(data), kept[0] // factor, factor, kept[1] // factor, factor)
    mean = blocks.mean(axis=(2, 4), dtype=np.float32)
    matrix = grid.grid2world.copy()
    matrix[:-1, -1] = image.grid.index2world(np.array(start) + (factor - 1) / 2)
    small = Grid(mean.shape[1:], matrix)
    return Image(mean if image.kind != "scalar" else mean[0], small, image.kind)


def mosaic(
    layout: Layout, pictures: Sequence[RGB], *, letters: bool = True, background: tuple[int, ...] = (0, 0, 0)
) -> RGB:
    """Put the pictures of all slices together.

    Parameters
    ----------
    layout : Layout
        Slices.
    pictures : sequence of (H, W, 3 or 4) uint8 ndarray
        One for each slice.
    letters : bool
        Write the anatomical directions at the rims.
    background : tuple of int
        Colour between slices, with as many channels as the pictures.
    """
    cells = iter(pictures)
    placed = [[next(cells) for _ in row] for row in layout.rows]
    width = max(sum(p.shape[1] for p in row) + _GAP * (len(row) - 1) for row in placed)
    height = sum(max(p.shape[0] for p in row) for row in placed) + _GAP * (len(placed) - 1)
    out = np.empty((height, width, len(background)), np.uint8)
    out[:] = background
    top = 0
    for row, tiles in zip(placed, layout.rows, strict=True):
        left = (width - sum(p.shape[1] for p in row) - _GAP * (len(row) - 1)) // 2
        for picture, tile in zip(row, tiles, strict=True):
            shown = _lettered(picture, tile) if letters and picture.shape[-1] == 3 else picture
            out[top : top + picture.shape[0], left : left + picture.shape[1]] = shown
            left += picture.shape[1] + _GAP
        top += max(p.shape[0] for p in row) + _GAP
    return out


def _lettered(picture: RGB, tile: Tile) -> RGB:
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    height, width = picture.shape[:2]
    if not tile.letters or min(height, width) < 60:
        return picture
    drawn = Pillow.fromarray(picture)
    pen = ImageDraw.Draw(drawn)
    ink, rim = (_LIGHT, _DARK) if np.median(picture[[0, -1]]) < 128 else (_DARK, _LIGHT)
    font = ImageFont.load_default(_LETTERS)
    style: dict[str, Any] = {"fill": ink, "font": font, "stroke_width": 1, "stroke_fill": rim}
    place = f"{tile.place_mm:.0f} mm" if tile.grid.ndim == 3 else ""
    down = max(
        width / 2, 6 + pen.textlength(place, font=font) + _LETTERS
    )  # in a narrow slice beside the words
    places = ((9, height / 2), (width - 9, height / 2), (width / 2, 10), (down, height - 10))
    for letter, at in zip(tile.letters, places, strict=True):
        pen.text(at, letter, anchor="mm", **style)
    pen.text((6, height - 6), place, anchor="ls", **style)
    return np.asarray(drawn)


def on_each(layout: Layout, draw: Callable[[int, Tile], RGB]) -> list[RGB]:
    """Return what `draw` gives for the number of each slice and the slice."""
    return [draw(number, tile) for number, tile in enumerate(layout.tiles)]
