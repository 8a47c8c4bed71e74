"""`Grid`: where voxels lie in the world, without the voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core.errors import GeometryError

_LPS_FLIP = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centres in world space (RAS+, mm).

    Index ``(i, j, k)`` follows the array axes and voxel centres lie at integers.

    Parameters
    ----------
    shape : tuple of int
        Number of voxels along each of the 2 or 3 array axes.
    grid2world : (ndim + 1, ndim + 1) array_like
        Homogeneous matrix from index to RAS+ millimetres.

    Raises
    ------
    GeometryError
        If the shape is empty, or the matrix is not finite and invertible.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
    >>> grid.spacing.tolist()
    [2.0, 2.0, 3.0]
    >>> grid.index2world([[1, 0, 2]]).tolist()
    [[2.0, 0.0, 6.0]]
    """

    shape: tuple[int, ...]
    grid2world: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        ndim = len(shape)
        if ndim not in (2, 3):
            raise GeometryError(f"a grid has 2 or 3 axes, got shape {shape}")
        if min(shape) < 1:
            raise GeometryError(f"a grid needs at least one voxel along each axis, got shape {shape}")
        matrix = np.array(self.grid2world, dtype=np.float64)
        if matrix.shape != (ndim + 1, ndim + 1):
            raise GeometryError(
                f"grid2world of a {ndim}-D grid is a {ndim + 1}×{ndim + 1} matrix, got {matrix.shape}"
            )
        if not np.isfinite(matrix).all():
            raise GeometryError("grid2world holds NaN or Inf: the image header is damaged")
        if not np.allclose(matrix[-1], np.eye(ndim + 1)[-1]):
            raise GeometryError(f"the last row of grid2world must be 0 … 0 1, got {matrix[-1].tolist()}")
        spacing = np.linalg.norm(matrix[:ndim, :ndim], axis=0)
        if (
            spacing.min() <= 0
            or abs(np.linalg.det(matrix[:ndim, :ndim] / np.maximum(spacing, 1e-300))) < 1e-6
        ):
            raise GeometryError(
                "grid2world is singular (two axes coincide or a spacing is zero): "
                "the image header is damaged; set its spacing and direction again"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "grid2world", matrix)

    @classmethod
    def from_lps(
        cls, shape: Sequence[int], spacing: ArrayLike, origin: ArrayLike, direction: ArrayLike
    ) -> Grid:
        """Make a grid from ITK's geometry (LPS; axes in array order i, j, k)."""
        ndim = len(shape)
        flip = np.diag(_LPS_FLIP[:ndim])
        matrix = np.eye(ndim + 1)
        direction = np.asarray(direction, dtype=np.float64).reshape(ndim, ndim)
        matrix[:ndim, :ndim] = flip @ direction @ np.diag(np.asarray(spacing, dtype=np.float64))
        matrix[:ndim, ndim] = flip @ np.asarray(origin, dtype=np.float64)
        return cls(tuple(shape), matrix)

    def to_lps(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return ITK's ``(spacing, origin, direction)`` in LPS."""
        flip = np.diag(_LPS_FLIP[: self.ndim])
        spacing = self.spacing
        direction = flip @ self.grid2world[:-1, :-1] / spacing
        return spacing, flip @ self.origin, direction

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Distance between neighbouring voxel centres along each array axis, mm."""
        return np.asarray(np.linalg.norm(self.grid2world[:-1, :-1], axis=0))

    @property
    def origin(self) -> NDArray[np.float64]:
        """World position of voxel (0, 0, 0), mm."""
        return np.array(self.grid2world[:-1, -1])

    @property
    def direction(self) -> NDArray[np.float64]:
        """Unit vectors of the array axes, one per column."""
        return np.asarray(self.grid2world[:-1, :-1] / self.spacing)

    @property
    def world2grid(self) -> NDArray[np.float64]:
        """Inverse of `grid2world`."""
        return np.asarray(np.linalg.inv(self.grid2world))

    @property
    def center_mm(self) -> NDArray[np.float64]:
        """World position of the middle of the lattice, mm."""
        return np.asarray(self.index2world((np.array(self.shape) - 1) / 2))

    @property
    def orientation(self) -> str:
        """Axis codes such as ``'LAS'``: where each array axis points (nearest anatomical direction)."""
        codes = ("LR", "PA", "IS")[: self.ndim]
        remaining = self.direction.copy()
        letters = [""] * self.ndim
        for _ in range(self.ndim):
            world, axis = np.unravel_index(np.argmax(np.abs(remaining)), remaining.shape)
            letters[axis] = codes[world][int(remaining[world, axis] > 0)]
            remaining[world, :] = 0
            remaining[:, axis] = 0
        return "".join(letters)

    def index2world(self, points_vox: ArrayLike) -> NDArray[np.float64]:
        """Map ``(..., ndim)`` voxel coordinates to world mm."""
        points = np.asarray(points_vox, dtype=np.float64)
        return np.asarray(points @ self.grid2world[:-1, :-1].T + self.grid2world[:-1, -1])

    def world2index(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(..., ndim)`` world mm to voxel coordinates."""
        inverse = self.world2grid
        points = np.asarray(points_mm, dtype=np.float64)
        return np.asarray(points @ inverse[:-1, :-1].T + inverse[:-1, -1])

    def corners_mm(self) -> NDArray[np.float64]:
        """World positions of the outer voxel corners, ``(2**ndim, ndim)``."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return self.index2world(np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, self.ndim))

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Tell which ``(..., ndim)`` world points lie within the lattice's outer voxel faces."""
        index = self.world2index(points_mm)
        return np.asarray(((index >= -0.5) & (index <= np.array(self.shape) - 0.5)).all(axis=-1))

    def coordinates_mm(self) -> NDArray[np.float64]:
        """World position of every voxel centre, ``(ndim, *shape)``."""
        index = np.indices(self.shape, dtype=np.float64).reshape(self.ndim, -1)
        world = self.grid2world[:-1, :-1] @ index + self.grid2world[:-1, -1:]
        return np.asarray(world.reshape(self.ndim, *self.shape))

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """Return the grid of voxels ``start <= index < stop`` (may reach outside: then it pads)."""
        matrix = self.grid2world.copy()
        matrix[:-1, -1] = self.index2world(np.asarray(start, dtype=np.float64))
        return Grid(tuple(int(b - a) for a, b in zip(start, stop, strict=True)), matrix)

    def shrink(self, factors: Sequence[int]) -> Grid:
        """Return a coarser grid over the same extent, one voxel for each block of `factors` voxels.

        The lattice stays centred: a coarse voxel centre is the centre of its block.
        """
        factors = tuple(int(f) for f in factors)
        shape = tuple(max(1, -(-n // f)) for n, f in zip(self.shape, factors, strict=True))
        scale = np.eye(self.ndim + 1)
        for axis, factor in enumerate(factors):
            scale[axis, axis] = factor
            # remainder split evenly on both ends so that the extent stays centred
            scale[axis, -1] = (self.shape[axis] - 1) / 2 - factor * (shape[axis] - 1) / 2
        return Grid(shape, self.grid2world @ scale)

    def with_spacing(self, spacing_mm: ArrayLike) -> Grid:
        """Return a grid over the same extent and centre with another spacing."""
        spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), (self.ndim,))
        if not (spacing > 0).all():
            raise GeometryError(f"spacing must be positive, got {spacing.tolist()}")
        shape = tuple(
            max(1, int(np.ceil(n * old / new - 1e-6)))
            for n, old, new in zip(self.shape, self.spacing, spacing, strict=True)
        )
        matrix = np.eye(self.ndim + 1)
        matrix[:-1, :-1] = self.direction * spacing
        matrix[:-1, -1] = self.center_mm - matrix[:-1, :-1] @ ((np.array(shape) - 1) / 2)
        return Grid(shape, matrix)

    def as_3d(self) -> Grid:
        """Return the grid itself, or a 2-D grid as one slice in the plane z = 0."""
        if self.ndim == 3:
            return self
        matrix = np.eye(4)
        matrix[:2, :2] = self.grid2world[:2, :2]
        matrix[:2, 3] = self.grid2world[:2, 2]
        return Grid((*self.shape, 1), matrix)

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Tell whether both grids have the same shape and put every corner at the same place."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners_mm() - other.corners_mm()).max() <= tolerance_mm)

    def describe(self) -> str:
        """Return one line for messages: size, spacing, orientation, origin."""
        shape = "×".join(str(n) for n in self.shape)
        spacing = "×".join(f"{s:.4g}" for s in self.spacing)
        origin = ", ".join(f"{o:.4g}" for o in self.origin)
        return f"{shape} voxels of {spacing} mm, {self.orientation}, origin ({origin}) mm"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Grid)
            and self.shape == other.shape
            and np.array_equal(self.grid2world, other.grid2world)
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.grid2world.tobytes()))
