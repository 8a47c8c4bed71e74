"""Reference of `regista.kernels.cpu.bending`."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def bending(
    u: ArrayLike,
    frame: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    factor: float = 0.0,
    out: Array | None = None,
) -> tuple[float, float]:
    """Second differences by shifted copies of the field; their adjoint by adding at the same shifts."""
    field, matrix = np.asarray(u, np.float64), np.asarray(frame, np.float64)
    shape = field.shape[1:]
    w = np.ones(shape) if weight is None else np.asarray(weight, np.float64)
    inner = tuple(slice(1, n - 1) if n > 2 else slice(0, n) for n in shape)
    back = np.linalg.inv(matrix)

    hessian = np.zeros((*field[(slice(None), *inner)].shape, 3, 3))
    for (a, b), taps in _stencils(shape).items():
        for step, tap in taps:
            hessian[..., a, b] += tap * field[(slice(None), *_moved(inner, step))]
    world = np.einsum("cd,dijkab,ae,bf->cijkef", matrix, hessian, back, back)
    energy = (world**2).sum(axis=(0, -1, -2))
    if out is not None:
        stress = 2 * w[inner][None, ..., None, None] * world
        stress = np.einsum("cd,cijkef,ae,bf->dijkab", matrix, stress, back, back)
        for (a, b), taps in _stencils(shape).items():
            for step, tap in taps:
                out[(slice(None), *_moved(inner, step))] += factor * tap * stress[..., a, b]
    return float((energy * w[inner]).sum()), float(w[inner].sum())


def _moved(inner: tuple[slice, ...], step: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(p.start + s, p.stop + s) for p, s in zip(inner, step, strict=True))


def _stencils(shape: tuple[int, ...]) -> dict[tuple[int, int], list[tuple[tuple[int, ...], float]]]:
    """Return, for each pair of axes, the steps and weights of the second difference."""
    found = {}
    for a, b in product(range(3), repeat=2):
        if shape[a] < 3 or shape[b] < 3:
            continue
        e, f = np.eye(3, dtype=int)[a], np.eye(3, dtype=int)[b]
        if a == b:
            taps = [(tuple(e), 1.0), ((0, 0, 0), -2.0), (tuple(-e), 1.0)]
        else:
            taps = [(tuple(p * e + q * f), p * q / 4) for p, q in product((-1, 1), repeat=2)]
        found[a, b] = taps
    return found
