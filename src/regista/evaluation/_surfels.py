"""Areas of a surface within a cell of eight voxels (marching cubes), for every one of its 256 states."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CORNERS = tuple(product((0, 1), repeat=3))
Point = tuple[float, float, float]


def surfel_areas(spacing: ArrayLike) -> NDArray[np.float64]:
    """Return the surface area within a cell for each state of its corners, ``(256,)``.

    Parameters
    ----------
    spacing : (3,) array_like
        Voxel size.

    Notes
    -----
    The surface passes through the middles of the edges whose ends differ (Lorensen and Cline, 1987). Bit
    ``7 − (4 i + 2 j + k)`` of a state is corner (i, j, k).
    """
    size = np.asarray(spacing, np.float64)
    scale = np.prod(size) / size  # of an area vector along each axis
    return np.array([sum(np.linalg.norm(n * scale) for n in _area_vectors(state)) for state in range(256)])


@lru_cache(maxsize=256)
def _area_vectors(state: int) -> tuple[NDArray[np.float64], ...]:
    """Return the area vectors of the triangles of a state, voxel size 1."""
    return tuple(vector for loop in _loops(state) for vector in _triangles(np.array(loop)))


def _loops(state: int) -> list[list[Point]]:
    """Return the closed polygons of a state's surface.

    On a face whose diagonals differ, the corners of the rarer kind in the cell are kept apart.
    """
    inside = {c: bool(state >> (7 - (4 * c[0] + 2 * c[1] + c[2])) & 1) for c in _CORNERS}
    rare = sum(inside.values()) <= 4
    joined: dict[Point, list[Point]] = {}
    for one, other in _segments(inside, rare):
        joined.setdefault(one, []).append(other)
        joined.setdefault(other, []).append(one)
    loops, seen = [], set()
    for begin in joined:
        loop: list[Point] = []
        here: Point | None = begin
        while here is not None and here not in seen:
            seen.add(here)
            loop.append(here)
            here = next((p for p in joined[here] if p not in seen), None)
        if loop:
            loops.append(loop)
    return loops


def _segments(inside: dict[tuple[int, ...], bool], rare: bool) -> list[tuple[Point, Point]]:
    """Return where the surface meets the faces of the cell."""
    segments = []
    for axis, side in product(range(3), (0, 1)):
        ring = []
        for pair in ((0, 0), (1, 0), (1, 1), (0, 1)):
            corner = list(pair)
            corner.insert(axis, side)
            ring.append(tuple(corner))
        middles = [_middle(ring[n], ring[(n + 1) % 4]) for n in range(4)]
        crossed = [n for n in range(4) if inside[ring[n]] != inside[ring[(n + 1) % 4]]]
        if len(crossed) == 2:
            segments.append((middles[crossed[0]], middles[crossed[1]]))
        elif len(crossed) == 4:
            segments += [(middles[n - 1], middles[n]) for n in range(4) if inside[ring[n]] == rare]
    return segments


def _middle(one: tuple[int, ...], other: tuple[int, ...]) -> Point:
    x, y, z = ((a + b) / 2 for a, b in zip(one, other, strict=True))
    return x, y, z


def _triangles(loop: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the area vectors of the triangulation with the largest area (polygons here may be bent)."""

    def best(i: int, j: int) -> list[NDArray[np.float64]]:
        if j - i < 2:
            return []
        choices = [
            [*best(i, k), *best(k, j), np.cross(loop[k] - loop[i], loop[j] - loop[i]) / 2]
            for k in range(i + 1, j)
        ]
        return max(choices, key=_area)

    return best(0, len(loop) - 1)


def _area(vectors: list[NDArray[np.float64]]) -> float:
    return round(float(sum(np.linalg.norm(v) for v in vectors)), 9)  # ties go to the first, on any machine
