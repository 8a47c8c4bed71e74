"""Reference of `regista.kernels.cpu.overlap`."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.kernels.reference.warp import warp_gradient

Array = NDArray[np.float64]


def soft_dice(
    fixed: NDArray[Any],
    moving: NDArray[Any],
    affine: ArrayLike,
    disp: ArrayLike,
    sizes: ArrayLike,
    *,
    factor: float = 0.0,
    out: Array | None = None,
) -> Array:
    """Interpolate each label's indicator image by itself, with a border of zeros around it."""
    matrix, field = np.asarray(affine, np.float64).copy(), np.asarray(disp, np.float64)
    counts = np.asarray(sizes, np.float64)
    wide = [(2, 2) if n > 1 else (0, 0) for n in moving.shape]
    padded = np.pad(moving, wide)
    matrix[:, 3] += [before for before, _ in wide]
    dice = np.zeros(len(counts) - 1)
    for code in range(1, len(counts)):
        indicator = (padded == code).astype(np.float64)
        member = _interpolated(indicator, matrix, field)
        both, total = member[fixed == code].sum(), counts[code] + (member**2).sum()
        if total == 0:
            continue
        dice[code - 1] = 2 * both / total
        if out is not None:
            slope = 2 * (fixed == code) / total - 4 * both * member / total**2
            out += factor * warp_gradient(indicator, matrix, field, slope)
    return dice


def _interpolated(volume: Array, matrix: Array, field: Array) -> Array:
    places = np.indices(field.shape[1:], dtype=np.float64) + field
    coords = matrix[:, :3] @ places.reshape(3, -1) + matrix[:, 3:]
    top = np.array(volume.shape)[:, None] - 1
    coords = np.clip(coords, 0, top)
    low = np.floor(coords).astype(int)
    value = np.zeros(coords.shape[1])
    for corner in product((0, 1), repeat=3):
        step = np.array(corner)[:, None]
        share = np.where(step == 1, coords - low, 1 - (coords - low)).prod(axis=0)
        value += share * volume[tuple(np.minimum(low + step, top))]
    return value.reshape(field.shape[1:])


def majority(
    codes: NDArray[Any], affine: ArrayLike, shape: tuple[int, int, int], samples: tuple[int, ...], count: int
) -> NDArray[np.int32]:
    """Count each code's votes in an image of its own."""
    matrix, votes = np.asarray(affine, np.float64), np.zeros((count, *shape), np.int64)
    for step in product(*map(range, samples)):
        offset = (np.array(step) + 0.5) / np.array(samples) - 0.5
        places = np.indices(shape).reshape(3, -1) + offset[:, None]
        at = np.floor(matrix[:, :3] @ places + matrix[:, 3:] + 0.5 + 1e-6).astype(int)
        inside = ((at >= 0) & (at < np.array(codes.shape)[:, None])).all(axis=0)
        seen = np.zeros(at.shape[1], int)
        seen[inside] = codes[tuple(at[:, inside])]
        for code in range(count):
            votes[code] += (seen == code).reshape(shape)
    return np.asarray(votes.argmax(axis=0), np.int32)
