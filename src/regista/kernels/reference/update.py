"""Reference of `regista.kernels.cpu.update`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.fields import compose
from regista.kernels.reference.rows import Rows, put, within


def largest_component(disp: ArrayLike, rows: Rows | None = None) -> float:
    """Return the largest absolute value in a field (in `rows` of it)."""
    field = np.asarray(disp, np.float64)
    return float(np.abs(field).max(axis=0)[within(field.shape[1:], rows)].max(initial=0.0))


def saturate(
    update: NDArray[np.floating], strength: float, largest: float, rows: Rows | None = None
) -> float:
    """Divide each vector by ``1 + strength |v| / largest`` in place; return the largest component."""
    field = np.asarray(update, np.float64)
    field = field / (1 + strength / largest * np.sqrt((field**2).sum(axis=0)))
    put(field, update, rows)
    return largest_component(update, rows)


def compose_small(
    disp: ArrayLike,
    update: ArrayLike,
    factor: float,
    *,
    out: NDArray[np.floating] | None = None,
    rows: Rows | None = None,
) -> NDArray[np.floating]:
    """Return ``s v(x) + u(x + s v(x))`` by interpolation."""
    return put(compose(disp, factor * np.asarray(update, np.float64)), out, rows)


def resist(
    gradient: ArrayLike, disp: ArrayLike, scale: ArrayLike, *, out: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Take ``s (I + Du)ᵀ g`` from a force, with all derivatives of the field at hand."""
    g, u = np.asarray(gradient, np.float64), np.asarray(disp, np.float64)
    pulled = g.copy()
    for axis in range(3):
        if u.shape[axis + 1] > 1:
            pulled[axis] += (np.gradient(u, axis=axis + 1) * g).sum(axis=0)
    out -= np.asarray(scale, np.float64)[:, None, None, None] * pulled
    return out
