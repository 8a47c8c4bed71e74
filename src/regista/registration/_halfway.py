"""The space halfway between two images, in which neither is the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import sqrtm
from scipy.spatial.transform import Rotation

from regista.core import Grid
from regista.kernels.cpu.sampling import pull_coords, sample_points, spline_coefficients
from regista.kernels.cpu.warp import warp
from regista.registration._levels import Matrix, Scan, Volume
from regista.registration._linear import orthonormal

_SLAB_VOXELS = 1 << 18
_ROUNDING = 1e-6
_SLACK_VOX = 1e-3
"""Of a voxel that may be left over at the border: an extent of whole voxels shall not grow by rounding."""


def inverse_of(matrix: Matrix) -> Matrix:
    """Return the inverse of a linear map."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def mean_map(one: Matrix, other: Matrix, about_mm: Matrix) -> Matrix:
    """Return the map halfway between two linear maps from the fixed to the moving world.

    It is ``A √(A⁻¹ B)``, the middle of the shortest way between them (Moakher 2002 for rotations): symmetric in both,
    and for both inverted it is the inverse.

    Parameters
    ----------
    one, other : (4, 4) float64 ndarray
        The maps A and B.
    about_mm : (3,) float64 ndarray
        Place of the fixed image about which half a turn is halved, where there is no other way.

    Examples
    --------
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 2.0
    >>> float(mean_map(np.eye(4), shift, np.zeros(3))[0, 3])
    1.0
    """
    return np.asarray(one @ root_of(inverse_of(one) @ other, about_mm))


def root_of(matrix: Matrix, about_mm: Matrix) -> Matrix:
    """Return the map that, done twice, is a linear map; of half a turn, which has none, a quarter turn."""
    root = np.real(sqrtm(matrix))
    if np.abs(root @ root - matrix).max() <= _ROUNDING * max(1.0, float(np.abs(matrix).max())):
        return np.asarray(root, np.float64)
    turn = Rotation.from_matrix(orthonormal(matrix[:3, :3])).as_rotvec() / 2
    half = np.eye(4)
    half[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    middle = (about_mm + matrix[:3, :3] @ about_mm + matrix[:3, 3]) / 2
    half[:3, 3] = middle - half[:3, :3] @ about_mm
    return half


def largest_gap_mm(one: Matrix, other: Matrix, grid: Grid) -> float:
    """Return how far apart two linear maps take the corners of a grid at most, mm."""
    corners = grid.corners_mm()
    there = [corners @ matrix[:3, :3].T + matrix[:3, 3] for matrix in (one, other)]
    return float(np.linalg.norm(there[0] - there[1], axis=1).max())


@dataclass(frozen=True, eq=False)
class Halfway:
    """The space halfway between two images.

    Parameters
    ----------
    to_middle, to_moving : (4, 4) float64 ndarray
        Linear maps in world mm: from the fixed image to the middle, and from there to the moving one. Each is the
        square root of the whole map.
    grid : Grid
        Lattice in the middle: axes between those of both images, the finer spacing of them, and room for both. It is
        the same where the images are exchanged.
    """

    to_middle: Matrix
    to_moving: Matrix
    grid: Grid

    @classmethod
    def between(cls, fixed2moving: Matrix, fixed: Grid, moving: Grid) -> Halfway:
        """Return the space halfway along a linear map."""
        to_middle = root_of(fixed2moving, fixed.center_mm)
        to_moving = fixed2moving @ inverse_of(to_middle)
        return cls(to_middle, to_moving, _grid_around((to_middle, fixed), (inverse_of(to_moving), moving)))

    def scans(self, fixed: Scan, moving: Scan) -> tuple[Scan, Scan]:
        """Return both scans on the grid in the middle, each interpolated once, by cubic splines."""
        first, second, third = np.maximum(fixed.thickness, moving.thickness).tolist()
        from_middle = inverse_of(self.to_middle)
        placed = (fixed, from_middle), (moving, self.to_moving)
        one, other = (_on_grid(scan, self.grid, matrix, (first, second, third)) for scan, matrix in placed)
        return one, other

    def displacement_mm(self, vectors_mm: Volume, fixed: Grid) -> Volume:
        """Return a displacement in the middle, mm, as one of the fixed image before the whole linear map.

        ``M (x + u(x))`` with ``u(x) = H⁻¹ v(H x)`` is ``H (y + v(y))`` at ``y = H x``.
        """
        to_voxels = (self.grid.world2grid @ self.to_middle @ fixed.grid2world)[:3]
        out = np.stack([warp(component, to_voxels, shape=fixed.shape) for component in vectors_mm])
        back = inverse_of(self.to_middle)[:3, :3].astype(np.float32)
        return np.ascontiguousarray((back @ out.reshape(3, -1)).reshape(out.shape))


def _grid_around(*placed: tuple[Matrix, Grid]) -> Grid:
    """Return a grid with room for grids that matrices place, between their axes, with the finest spacing of each."""
    each = [orthonormal(matrix[:3, :3] @ grid.direction) for matrix, grid in placed]
    axes = orthonormal(np.sum(each, axis=0))
    spacing = np.min([grid.spacing for _, grid in placed], axis=0)
    corners = [grid.corners_mm() @ matrix[:3, :3].T + matrix[:3, 3] for matrix, grid in placed]
    along = np.concatenate(corners) @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    shape = np.maximum(1, np.ceil((high - low) / spacing - _SLACK_VOX)).astype(int)
    shape[np.all([np.array(grid.shape) == 1 for _, grid in placed], axis=0)] = 1
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = axes @ ((low + high) / 2 - spacing * (shape - 1) / 2)
    return Grid(tuple(int(n) for n in shape), matrix)


def _on_grid(scan: Scan, grid: Grid, matrix: Matrix, thickness: tuple[float, float, float]) -> Scan:
    """Return a scan on another grid, which a matrix takes to the world of the scan; beyond it nothing is compared."""
    to_voxels = np.ascontiguousarray((scan.grid.world2grid @ matrix @ grid.grid2world)[:3])
    inside = np.empty(grid.shape, np.float32)
    channels = [_cubic(one, to_voxels, grid.shape, inside) for one in scan.channels]
    weight, region = (
        None if one is None else warp(one, to_voxels, shape=grid.shape) for one in (scan.weight, scan.region)
    )
    if not inside.all():
        weight = inside if weight is None else weight * inside
    whole = Scan(channels[0], grid, weight, region, thickness, tuple(channels[1:]), scan.hides)
    return whole


def _cubic(volume: Volume, to_voxels: Matrix, shape: tuple[int, ...], inside: Volume) -> Volume:
    """Return a volume at other places, by cubic splines within its own range; beyond it, its edge values."""
    out: Volume = warp(volume, to_voxels, shape=shape, inside=inside)
    coefficients = spline_coefficients(volume)
    low, high = float(volume.min()), float(volume.max())
    planes = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], planes):
        part = slice(first, min(first + planes, shape[0]))
        here = inside[part].reshape(-1) > 0
        places = pull_coords(to_voxels, shape, part.start, part.stop)[here]
        values = sample_points(coefficients, places, "cubic", prefiltered=True)
        out[part].reshape(-1)[here] = np.clip(values, low, high)
    return out
