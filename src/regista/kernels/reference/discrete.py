"""Reference of `regista.kernels.cpu.discrete`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def displacements(radius: Sequence[int]) -> NDArray[np.float64]:
    """Return the whole displacements within a radius, the last axis fastest."""
    inner = np.ndindex(*(2 * r + 1 for r in radius))
    return np.array([np.subtract(place, radius) for place in inner], np.float64)


def displacement_costs(
    fixed: ArrayLike, moving: ArrayLike, weight: ArrayLike | None, radius: Sequence[int], outside: float
) -> NDArray[np.float64]:
    """Return the mean squared difference of features for every displacement: shift by shift."""
    one, other = np.asarray(fixed, np.float64), np.asarray(moving, np.float64)
    shape = one.shape[1:]
    known = np.ones(shape, bool) if weight is None else np.asarray(weight) >= 0.5
    offsets = displacements(radius).astype(int)
    costs = np.full((*shape, len(offsets)), float(outside))
    for n, offset in enumerate(offsets):
        for place in np.ndindex(*shape):
            there = tuple(np.add(place, offset))
            if all(0 <= t < s for t, s in zip(there, shape, strict=True)) and known[there]:
                costs[(*place, n)] = ((one[(slice(None), *place)] - other[(slice(None), *there)]) ** 2).mean()
    return costs


def cheapest(
    costs: ArrayLike,
    offsets: ArrayLike,
    field: ArrayLike,
    strength: float,
    *,
    out: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Return the displacement of least cost near a field."""
    steps, smooth = np.asarray(offsets, np.float64), np.asarray(field, np.float64)
    away = ((steps - np.moveaxis(smooth, 0, -1)[..., None, :]) ** 2).sum(axis=-1)
    best = np.moveaxis(steps[np.argmin(np.asarray(costs, np.float64) + strength * away, axis=-1)], -1, 0)
    if out is None:
        return np.asarray(best)
    out[...] = best
    return out
