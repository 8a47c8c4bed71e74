"""A network asked again after its own answer, each answer kept as far as the images become more alike by it.

A network that has learned what to do with images far apart does some of it to images that lie well too, and one answer
rarely goes the whole way. The images tell how far to follow it: by three measures at once that no metric of the training is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regista.evaluation._likeness import Likeness
from regista.kernels.cpu.fields import compose
from regista.kernels.cpu.warp import warp

Floats = NDArray[np.float32]
SHARES = (0.5, 1.0)
"""Of an answer, tried one after the other."""
GAIN_PER_MM = 0.05
"""Log ratio that the likeness gains at least for each mm by which voxels move on average; less is what noise and a
contrast's own edges give."""
GAIN_IN_ALL = 0.04
"""Log ratio that it gains at least in all: below that the linear map stays as it is."""
SHOWN = 0.02
"""Intensity, 0 to 1, above which an image shows something."""


def answer_in_passes(
    estimate: Callable[[Floats, Floats], Floats],
    displacement: Callable[[Floats], Floats],
    fixed: Floats,
    moving: Floats,
    spacing_mm: tuple[float, ...],
    passes: int,
) -> Floats | None:
    """Return the displacement, voxels ``(n, *shape)``, that a network's answers lead to, or None where none is worth keeping.

    In each pass the network sees the moving image as it is warped so far. Its answer is the mean of that to the pair and the negative of that to
    the pair the other way round, so that what it says of two images alike is nothing.

    Parameters
    ----------
    estimate : callable
        Gives the network's field or velocity for a fixed and a moving image.
    displacement : callable
        Gives the displacement, voxels ``(n, *shape)``, of such a field or velocity.
    fixed, moving : (*shape) float32 ndarray
        Images from 0 to 1 on the network's grid.
    spacing_mm : tuple of float
        Its voxel size.
    passes : int
        How many at most.
    """
    sides = (1, *fixed.shape) if fixed.ndim == 2 else fixed.shape
    here, there = (np.ascontiguousarray(one).reshape(sides) for one in (fixed, moving))
    size = np.array([0.0] * (3 - fixed.ndim) + [*spacing_mm], np.float32).reshape(3, 1, 1, 1)
    likeness, shown = Likeness(here), here > SHOWN

    def warped(field: Floats) -> Floats:
        return np.asarray(warp(there, np.eye(3, 4), field, shape=sides))

    def measured(field: Floats) -> NDArray[np.float64]:
        image = warped(field)
        values = likeness.measured(image, shown | (image > SHOWN)).values()
        return np.log(np.array([*values]) + 0.005)

    kept: Floats = np.zeros((3, *sides), np.float32)
    alike = first = measured(kept)
    for _ in range(passes):
        image = warped(kept).reshape(fixed.shape)
        answer = 0.5 * (estimate(fixed, image) - estimate(image, fixed))
        before = kept
        for share in SHARES:
            step = displacement(np.float32(share) * answer).reshape(fixed.ndim, *sides)
            still = np.zeros((3 - fixed.ndim, *sides), np.float32)
            further = compose(before, np.concatenate([still, step]))
            moved_mm = _mean_length((further - kept) * size, shown)
            now = measured(further)
            if not (now - alike).min() > GAIN_PER_MM * moved_mm:  # never where nothing moves
                return _unless_small(kept, now=alike, first=first, ndim=fixed.ndim)
            kept, alike = further, now
    return _unless_small(kept, now=alike, first=first, ndim=fixed.ndim)


def _mean_length(vectors: Floats, where: NDArray[np.bool_]) -> float:
    lengths = np.sqrt((vectors**2).sum(axis=0))
    return float(lengths[where].mean()) if where.any() else 0.0


def _unless_small(
    field: Floats, *, now: NDArray[np.float64], first: NDArray[np.float64], ndim: int
) -> Floats | None:
    if (now - first).min() < GAIN_IN_ALL:
        return None
    found = field[3 - ndim :]
    return found if ndim == 3 else np.ascontiguousarray(found[:, 0])
