"""Which slices of a volume to show, and lattices of square pixels, turned as people read them, to show them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, Image

MOSAIC_PIXELS = 960
"""Largest width of a picture on the page; larger images are shown with fewer pixels."""
_COARSE = 64
_OPPOSITE = dict(zip("LRAPSI", "RLPAIS", strict=True))
_PLANES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "L": "sagittal", "R": "sagittal"}
_RIGHT_DOWN = {"axial": "LP", "coronal": "LI", "sagittal": "PI"}
"""Where right and down point: the radiological convention, the person's left on the right."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A slice, as a lattice of square pixels.

    Parameters
    ----------
    grid : Grid
        Lattice ``(width, height, 1)``, or ``(width, height)`` in 2-D: right, down, through.
    name : str
        Plane, such as ``'axial'``.
    place_mm : float
        Position along the nearest anatomical axis.
    letters : str
        Anatomical directions at left, right, top, bottom; empty for a picture whose file states none.
    """

    grid: Grid
    name: str
    place_mm: float
    letters: str

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel."""
        return float(self.grid.spacing[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.grid.shape[0], self.grid.shape[1]

    def plane(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return values of the lattice, channels first if there are any, as rows from top to bottom."""
        flat = values[..., 0] if self.grid.ndim == 3 else values
        return np.ascontiguousarray(np.swapaxes(flat, -1, -2))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The slices of a page: a row for each plane.

    Parameters
    ----------
    rows : tuple of tuple of Tile
        Slices, three to a row where there are so many.
    shown_fraction : float
        Pixels shown for each voxel along an axis, if less than 1.
    """

    rows: tuple[tuple[Tile, ...], ...]
    shown_fraction: float

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All slices, row by row."""
        return tuple(tile for row in self.rows for tile in row)


def choose_slices(fixed: Image, *, columns: int = 3, pixels: int = MOSAIC_PIXELS) -> Layout:
    """Choose slices through what there is to see in an image.

    Parameters
    ----------
    fixed : Image
        2-D or 3-D, any orientation.
    columns : int
        Slices for each of the three planes.
    pixels : int
        Width of a row of slices, at most.

    Returns
    -------
    Layout
        Slices where the image's edges are: their first quarter, middle and last quarter along each axis.

    Examples
    --------
    >>> layout = choose_slices(Image(np.ones((4, 5, 6), np.float32), Grid((4, 5, 6), np.eye(4))))
    >>> [row[0].name for row in layout.rows], layout.rows[0][0].letters
    (['axial', 'coronal', 'sagittal'], 'RLAP')
    """
    grid = fixed.grid
    extent = np.array(grid.shape) * grid.spacing
    finest = float(grid.spacing[np.array(grid.shape) > 1].min(initial=grid.spacing.max()))
    if grid.ndim == 2:
        pixel = max(float(extent.max()) / pixels, finest / 2)
        return Layout(
            rows=((_tile_2d(grid, pixel, has_letters(fixed)),),), shown_fraction=min(1.0, finest / pixel)
        )
    places = _places(fixed, columns)
    widest = max(
        sum(extent[_display_axes(grid, axis)[0][0]] for _ in places[axis])
        for axis in range(3)
        if len(places[axis])
    )
    pixel = max(float(widest) / pixels, finest / 2)
    planes = {_plane_of(grid, axis): axis for axis in range(3)}
    rows = [
        tuple(_tile_3d(grid, planes[name], index, pixel) for index in places[planes[name]])
        for name in ("axial", "coronal", "sagittal")
        if name in planes and len(places[planes[name]])
    ]
    return Layout(rows=tuple(rows), shown_fraction=min(1.0, finest / pixel))


def has_letters(image: Image) -> bool:
    """Tell whether anatomical directions may be written on an image: a picture has none that its file does not state."""
    return image.ndim == 3 or image.oriented


def length_unit(*images: Image) -> str:
    """Return the unit of lengths: pixels of pictures whose files state neither place nor size, else mm.

    Examples
    --------
    >>> picture = Image(np.zeros((4, 5), np.uint8), Grid((4, 5), np.eye(3)))
    >>> scan = Image(picture.data, Grid((4, 5), np.diag([0.5, 0.5, 1])))
    >>> length_unit(picture, picture), length_unit(picture, scan)
    ('pixels', 'mm')
    """
    sized = any(image.ndim == 3 or image.oriented or (image.grid.spacing != 1).any() for image in images)
    return "mm" if sized else "pixels"


def _places(fixed: Image, columns: int) -> list[list[int]]:
    """Return indices along each axis; none along axes that leave a sliver to see."""
    data = fixed.data if fixed.kind == "scalar" else fixed.data[0]
    steps = [max(1, n // _COARSE) for n in data.shape]
    small = np.nan_to_num(data[tuple(slice(s // 2, None, s) for s in steps)].astype(np.float32))
    energy = np.zeros(small.shape, np.float32)
    for axis, count in enumerate(small.shape):
        if count > 1:
            energy += np.abs(np.gradient(small, axis=axis))
    shares = np.linspace(0, 1, columns + 2)[1:-1]
    found: list[list[int]] = []
    for axis, count in enumerate(data.shape):
        across = [n for a, n in enumerate(data.shape) if a != axis]
        if min(across) < 4 and max(data.shape) >= 4:
            found.append([])
            continue
        profile = energy.sum(axis=tuple(a for a in range(3) if a != axis)) + 1e-12
        course = np.cumsum(profile) / profile.sum()
        at = np.searchsorted(course, shares) * steps[axis] + steps[axis] // 2
        found.append(sorted(set(np.minimum(at, count - 1).tolist())))
    return found


def _plane_of(grid: Grid, axis: int) -> str:
    return _PLANES[grid.orientation[axis]]


def _display_axes(grid: Grid, axis: int) -> list[tuple[int, bool]]:
    """Return the array axes that run right and down in the plane across `axis`, and whether to turn them round."""
    wanted = _RIGHT_DOWN[_plane_of(grid, axis)]
    codes, found = grid.orientation, []
    for letter in wanted:
        at = next(n for n, code in enumerate(codes) if code in (letter, _OPPOSITE[letter]))
        found.append((at, codes[at] != letter))
    return found


def _lattice(grid: Grid, axes: list[tuple[int, bool]], pixel: float, corner: NDArray[np.float64]) -> Grid:
    """Return square pixels over the plane of two array axes."""
    matrix, shape = np.eye(grid.ndim + 1), []
    start = corner.copy()
    for column, (at, turned) in enumerate(axes):
        count = max(1, round(grid.shape[at] * grid.spacing[at] / pixel))
        step = grid.shape[at] / count
        shape.append(count)
        matrix[:-1, column] = grid.grid2world[:-1, at] * (-step if turned else step)
        first = (step - 1) / 2
        start[at] = grid.shape[at] - 1 - first if turned else first
    if grid.ndim == 3:
        through = ({0, 1, 2} - {at for at, _ in axes}).pop()
        matrix[:-1, 2] = grid.grid2world[:-1, through]
        shape.append(1)
    matrix[:-1, -1] = grid.index2world(start)
    return Grid(tuple(shape), matrix)


def _tile_3d(grid: Grid, axis: int, index: int, pixel: float) -> Tile:
    axes = _display_axes(grid, axis)
    corner = np.zeros(3)
    corner[axis] = index
    lattice = _lattice(grid, axes, pixel, corner)
    ways = _RIGHT_DOWN[_plane_of(grid, axis)]
    right, down = ways[0], ways[1]
    world = ["LR", "PA", "IS"].index(next(p for p in ("LR", "PA", "IS") if grid.orientation[axis] in p))
    middle = np.array(grid.shape, dtype=np.float64) / 2 - 0.5
    middle[axis] = index
    place = float(grid.index2world(middle)[world])
    letters = _OPPOSITE[right] + right + _OPPOSITE[down] + down
    return Tile(grid=lattice, name=_plane_of(grid, axis), place_mm=place, letters=letters)


def _tile_2d(grid: Grid, pixel: float, letters: bool) -> Tile:
    codes = grid.orientation
    axes = []
    for pair in ("LR", "PA"):
        at = next(n for n, code in enumerate(codes) if code in pair)
        axes.append((at, codes[at] != pair[0]))
    return Tile(
        grid=_lattice(grid, axes, pixel, np.zeros(2)),
        name="image",
        place_mm=0.0,
        letters="RLAP" if letters else "",
    )
