"""What is drawn over images: edges, outlines of labels, landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, label

from regista.core import LabelImage, PointSet
from regista.reporting._colours import RGB, Plane
from regista.reporting._slices import Layout, Tile
from regista.transforms import Transform, resample_labels

_STRONG, _WEAK = 88.0, 70.0
_NEAR = 0.03


def edges(plane: Plane, sigma_px: float = 1.2) -> NDArray[np.bool_]:
    """Return thin edges of a picture.

    Maxima of the gradient's magnitude across the edge, linked by hysteresis (Canny, IEEE PAMI 1986).

    Parameters
    ----------
    plane : (H, W) float32 ndarray
        Picture.
    sigma_px : float
        Smoothing before.

    Examples
    --------
    >>> square = np.zeros((20, 20), np.float32)
    >>> square[5:15, 5:15] = 1
    >>> found = edges(square)
    >>> bool(found[4:6, 10].any()), bool(found[10, 10])
    (True, False)
    """
    smooth = gaussian_filter(np.nan_to_num(plane), sigma_px)
    down, right = np.gradient(smooth)
    size = np.hypot(down, right)
    if size.max() <= 1e-6 * max(1e-12, float(np.abs(smooth).max())):
        return np.zeros(plane.shape, bool)
    steep = size[size > 0.02 * size.max()]
    strong, weak = np.percentile(steep, [_STRONG - 25, _WEAK - 25])
    padded = np.pad(size, 1)
    sector = np.rint(np.arctan2(down, right) / (np.pi / 4)).astype(int) % 4
    steps = np.array([(0, 1), (1, 1), (1, 0), (1, -1)])[sector]
    row, column = np.indices(size.shape) + 1
    ahead = padded[row + steps[..., 0], column + steps[..., 1]]
    behind = padded[row - steps[..., 0], column - steps[..., 1]]
    thin = (size > ahead) & (size >= behind) & (size > weak)
    parts, _ = label(thin, np.ones((3, 3)))
    kept = np.unique(parts[thin & (size > strong)])
    return np.asarray(thin & np.isin(parts, kept))


def inked(mask: NDArray[np.bool_], colour: Sequence[int], opacity: int = 255) -> RGB:
    """Return a see-through picture with a mask in one colour."""
    out = np.zeros((*mask.shape, 4), np.uint8)
    out[mask] = (*colour, opacity)
    return out


def haloed(mask: NDArray[np.bool_], colour: Sequence[int]) -> RGB:
    """Return a see-through picture of lines with a dark rim, to be seen on bright ground too."""
    out = inked(binary_dilation(mask), (0, 0, 0), 130)
    out[mask] = (*colour, 255)
    return out


def label_outlines(
    labels: LabelImage, layout: Layout, transform: Transform | None = None
) -> list[NDArray[np.bool_]]:
    """Return the inner borders of all labels on each slice."""
    plain = LabelImage(labels.data, labels.grid, names={})
    found = []
    for tile in layout.tiles:
        plane = tile.plane(resample_labels(plain, tile.grid, transform).data)
        border = np.zeros(plane.shape, bool)
        border[:-1] |= plane[:-1] != plane[1:]
        border[:, :-1] |= plane[:, :-1] != plane[:, 1:]
        found.append(border)
    return found


def landmark_reach(layout: Layout) -> float:
    """Return how far from a slice a landmark may lie to be shown on it, mm: 3 % of the widest slice, or a voxel."""
    widest = max(float(max(tile.size)) * tile.pixel_mm for tile in layout.tiles)
    return max(_NEAR * widest, *(_thickness(tile) for tile in layout.tiles if tile.grid.ndim == 3), 0.0)


def landmarks_near(points: PointSet, layout: Layout) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return, for each slice, which points lie on it or near it, and their pixels ``(N, 2)``.

    A point is shown on the slice of a row that is nearest to it, if it is within `landmark_reach`.
    """
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    reach = landmark_reach(layout)
    for row in layout.rows:
        index = np.stack([tile.grid.world2index(points.points_mm) for tile in row])
        away = (
            np.abs(index[..., 2]) * _thickness(row[0]) if index.shape[-1] == 3 else np.zeros(index.shape[:2])
        )
        nearest = np.where(away.min(axis=0) <= reach, away.argmin(axis=0), -1)
        found += [
            (np.flatnonzero(nearest == n), index[n, nearest == n, :2].astype(np.float64))
            for n in range(len(row))
        ]
    return found


def _thickness(tile: Tile) -> float:
    return float(tile.grid.spacing[2])


def draw_landmarks(
    tile: Tile,
    fixed: NDArray[np.float64],
    found: NDArray[np.float64],
    colours: tuple[Sequence[int], Sequence[int]],
) -> RGB:
    """Return a see-through picture: a ring at each fixed landmark, a cross where the moving one came to lie."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    picture = Pillow.new("RGBA", tile.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    for here, there in zip(fixed + 0.5, found + 0.5, strict=True):
        pen.line([*here, *there], fill=(255, 255, 255, 220), width=1)
        pen.ellipse([*(here - 4), *(here + 4)], outline=(*colours[0], 255), width=2)
        pen.line([there[0] - 4, there[1] - 4, there[0] + 4, there[1] + 4], fill=(*colours[1], 255), width=2)
        pen.line([there[0] - 4, there[1] + 4, there[0] + 4, there[1] - 4], fill=(*colours[1], 255), width=2)
    return np.asarray(picture)
