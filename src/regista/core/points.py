"""`PointSet` and `Mesh`: places in world space that transforms carry along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regista.core.errors import GeometryError


@dataclass(frozen=True, eq=False)
class PointSet:
    """Points in world space (RAS+, mm).

    Parameters
    ----------
    points_mm : (N, ndim) ndarray
        Coordinates in RAS+ millimetres.
    names : tuple of str, optional
        One name per point.
    space : str, optional
        Name of the physical space.

    Examples
    --------
    >>> PointSet(np.array([[1.0, 2.0, 3.0]])).points_mm.shape
    (1, 3)
    """

    points_mm: NDArray[np.float64]
    names: tuple[str, ...] | None = None
    space: str | None = None

    def __post_init__(self) -> None:
        points = np.asarray(self.points_mm, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise GeometryError(f"points are an (N, 2) or (N, 3) array, got shape {points.shape}")
        if not np.isfinite(points).all():
            bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
            raise GeometryError(f"point {bad} has a NaN or Inf coordinate")
        if self.names is not None and len(self.names) != len(points):
            raise GeometryError(f"{len(points)} points but {len(self.names)} names")
        object.__setattr__(self, "points_mm", points)

    @property
    def ndim(self) -> int:
        """Number of coordinates per point."""
        return int(self.points_mm.shape[1])


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles in world space (RAS+, mm).

    Parameters
    ----------
    vertices_mm : (V, 3) ndarray
        Vertex coordinates in RAS+ millimetres.
    faces : (F, 3) ndarray of int
        Vertex indices of each triangle.
    space : str, optional
        Name of the physical space.
    """

    vertices_mm: NDArray[np.float64]
    faces: NDArray[np.int64]
    space: str | None = None

    def __post_init__(self) -> None:
        vertices = np.asarray(self.vertices_mm, dtype=np.float64)
        faces = np.asarray(self.faces, dtype=np.int64)
        if vertices.ndim != 2 or vertices.shape[1] != 3:
            raise GeometryError(f"mesh vertices are a (V, 3) array, got shape {vertices.shape}")
        if faces.ndim != 2 or faces.shape[1] != 3:
            raise GeometryError(f"mesh faces are an (F, 3) array of triangles, got shape {faces.shape}")
        if faces.size and (faces.min() < 0 or faces.max() >= len(vertices)):
            raise GeometryError(f"mesh faces name vertices outside 0 … {len(vertices) - 1}")
        object.__setattr__(self, "vertices_mm", vertices)
        object.__setattr__(self, "faces", faces)
