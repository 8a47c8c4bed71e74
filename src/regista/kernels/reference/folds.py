"""Reference of `regista.kernels.cpu.folds`."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _images(u: ArrayLike) -> NDArray[np.float64]:
    """Return where the voxels go, ``(I + 2, J + 2, K + 2, 3)``, the displacement continued at the edges."""
    field = np.asarray(u, np.float64)
    padded = np.pad(field, [(0, 0), (1, 1), (1, 1), (1, 1)], mode="edge")
    return np.moveaxis(np.indices(padded.shape[1:]) + padded, 0, -1)


def _shifted(places: NDArray[np.float64], step: tuple[int, ...]) -> NDArray[np.float64]:
    inner = tuple(slice(1 + s, n - 1 + s) for s, n in zip(step, places.shape[:3], strict=True))
    return places[inner]


def non_diffeomorphic_volume(u: ArrayLike, weight: ArrayLike) -> float:
    """Sum the negative simplices by `numpy.linalg.det`."""
    places, w = _images(u), np.asarray(weight, np.float64)
    here, total = _shifted(places, (0, 0, 0)), 0.0
    flat = w.shape[2] == 1
    for signs in product((-1, 1), repeat=2 if flat else 3):
        rows = []
        for axis, sign in enumerate(signs):
            step = tuple(sign * (axis == n) for n in range(3))
            rows.append(sign * (_shifted(places, step) - here))
        edges = np.stack(rows, -2)
        det = np.linalg.det(edges[..., :2, :2] if flat else edges)
        total -= (np.minimum(det, 0) * w).sum() / (4 if flat else 12)
    if flat:
        return float(total)
    for s in (-1, 1):
        steps = ((s, s, 0), (0, s, s), (s, 0, s))
        edges = np.stack([_shifted(places, step) - here for step in steps], -2)
        total -= (np.minimum(s * np.linalg.det(edges), 0) * w).sum() / 12
    return float(total)


def smallest_corners(u: ArrayLike) -> NDArray[np.float64]:
    """Take `numpy.linalg.det` of every choice of differences."""
    field = np.asarray(u, np.float64)
    steps = []
    for axis in range(1, 4):
        count = field.shape[axis]
        if count == 1:
            steps.append((np.zeros_like(field), np.zeros_like(field)))
            continue
        difference = np.diff(field, axis=axis)
        first, last = (np.take(difference, [end], axis) for end in (0, -1))
        steps.append((np.concatenate([first, difference], axis), np.concatenate([difference, last], axis)))
    least = np.full(field.shape[1:], np.inf)
    for chosen in product(*steps):
        jacobian = np.stack(chosen, -1) + np.eye(3)[:, None, None, None, :]
        least = np.minimum(least, np.linalg.det(np.moveaxis(jacobian, 0, -2)))
    return least
