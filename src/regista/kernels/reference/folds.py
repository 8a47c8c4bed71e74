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


def bending(u: ArrayLike, weight: ArrayLike, world2grid: ArrayLike) -> tuple[float, float]:
    """Second differences by shifted copies of the field."""
    field, w, matrix = (np.asarray(x, np.float64) for x in (u, weight, world2grid))
    inner = tuple(slice(1, n - 1) if n > 2 else slice(0, n) for n in w.shape)

    def at(*step: int) -> NDArray[np.float64]:
        moved = tuple(slice(p.start + s, p.stop + s) for p, s in zip(inner, step, strict=True))
        return field[(slice(None), *moved)]

    hessian = np.zeros((*at(0, 0, 0).shape, 3, 3))
    for a, b in product(range(3), repeat=2):
        if w.shape[a] < 3 or w.shape[b] < 3:
            continue
        e, f = np.eye(3, dtype=int)[a], np.eye(3, dtype=int)[b]
        if a == b:
            hessian[..., a, b] = at(*e) - 2 * at(0, 0, 0) + at(*-e)
        else:
            hessian[..., a, b] = (at(*e + f) - at(*e - f) - at(*f - e) + at(*-e - f)) / 4
    world = matrix.T @ hessian @ matrix
    energy = (world**2).sum(axis=(0, -1, -2))
    return float((energy * w[inner]).sum()), float(w[inner].sum())
