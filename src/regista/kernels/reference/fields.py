"""Reference of `regista.kernels.cpu.fields`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.sampling import sample_points


def sample_field(disp: ArrayLike, coords_vox: ArrayLike, outside: str = "edge") -> NDArray[np.float64]:
    """Interpolate a field linearly at ``(N, 3)`` places; returns ``(3, N)``."""
    field, coords = np.asarray(disp, np.float64), np.asarray(coords_vox, np.float64)
    if outside == "edge":
        coords = np.clip(coords, 0, np.array(field.shape[1:]) - 1)
    return sample_points(field, coords, "linear", 0.0)


def compose(u: ArrayLike, v: ArrayLike, outside: str = "edge") -> NDArray[np.float64]:
    """Return ``v(x) + u(x + v(x))``."""
    second = np.asarray(v, np.float64)
    places = np.indices(second.shape[1:]) + second
    return np.asarray(second + sample_field(u, places.reshape(3, -1).T, outside).reshape(second.shape))


def exponential(v: ArrayLike, steps: int = 7) -> NDArray[np.float64]:
    """Scaling and squaring."""
    u: NDArray[np.float64] = np.asarray(v, np.float64) / 2**steps
    for _ in range(steps):
        u = compose(u, u)
    return u


def invert(
    u: ArrayLike, tolerance: float = 0.01, max_iterations: int = 400
) -> tuple[NDArray[np.float64], float]:
    """Damped fixed-point iteration over the whole field."""
    field = np.asarray(u, np.float64)
    w = -field
    for _ in range(max_iterations):
        misfit = compose(field, w)
        if np.abs(misfit).max() < tolerance / 10:
            break
        w = w - 0.7 * misfit
    misfit = compose(field, w)
    places = (np.indices(field.shape[1:]) + w).reshape(3, -1)
    top = np.array(field.shape[1:])[:, None] - 0.5
    inside = ((places >= -0.5) & (places <= top)).all(axis=0)
    lengths = np.linalg.norm(misfit.reshape(3, -1), axis=0)[inside]
    return w, float(lengths.max(initial=0.0))


def jacobian_determinant(u: ArrayLike) -> NDArray[np.float64]:
    """Return ``det(I + ∂u/∂x)`` by `numpy.gradient`; an axis of one voxel counts as unchanged."""
    field = np.asarray(u, np.float64)
    matrix = np.zeros((*field.shape[1:], 3, 3)) + np.eye(3)
    for axis, size in enumerate(field.shape[1:]):
        if size > 1:
            matrix[..., :, axis] += np.moveaxis(np.gradient(field, axis=axis + 1), 0, -1)
    return np.asarray(np.linalg.det(matrix))


def squarings(v: ArrayLike, steps: int) -> list[NDArray[np.float64]]:
    """Return all fields of `exponential`."""
    fields: list[NDArray[np.float64]] = [np.asarray(v, np.float64) / 2**steps]
    for _ in range(steps):
        fields.append(compose(fields[-1], fields[-1]))
    return fields


def exponential_adjoint(fields: list[NDArray[np.float64]], gradient: ArrayLike) -> NDArray[np.float64]:
    """Return the derivative by the velocity: each squaring's Jacobian transposed, voxel by voxel and corner by corner."""
    current = np.asarray(gradient, np.float64).copy()
    for u in fields[-2::-1]:
        shape = np.array(u.shape[1:])
        result = current.copy()
        for place in np.ndindex(*u.shape[1:]):
            g = current[(slice(None), *place)]
            at = np.array(place) + u[(slice(None), *place)]
            free = (at >= 0) & (at <= shape - 1) & (shape > 1)
            at = np.clip(at, 0, shape - 1)
            low = np.minimum(at.astype(int), np.maximum(shape - 2, 0))
            part = at - low
            for corner in np.ndindex(2, 2, 2):
                there = tuple(np.minimum(low + corner, shape - 1))
                weights = np.where(corner, part, 1 - part)
                result[(slice(None), *there)] += weights.prod() * g
                for axis in np.flatnonzero(free):
                    slope = (1 if corner[axis] else -1) * np.delete(weights, axis).prod()
                    result[(axis, *place)] += slope * float(u[(slice(None), *there)] @ g)
        current = result
    return np.asarray(current / 2 ** (len(fields) - 1))
