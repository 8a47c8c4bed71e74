"""A network asked again after its own answer, each answer followed as far as the images become more alike by it.

A network that has learned what to do with images far apart does some of it to images that lie well, and one answer rarely goes
the whole way. The images tell how far to follow it, by three measures of different kinds, none of which decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regista.evaluation._likeness import Likeness, log_odds
from regista.kernels.cpu.fields import compose
from regista.kernels.cpu.warp import warp

Floats = NDArray[np.float32]
SHARES = (0.5, 1.0)
"""Of an answer, tried one after the other."""
GAIN_PER_MM = 0.11
"""What the log odds of each measure gain at least for every mm by which voxels move on average: noise, and edges that one contrast
alone has, give less."""
GAIN_IN_ALL = 0.10
"""What they gain at least in all: below that the linear map stays as it is."""
SHOWN = 0.02
"""Intensity, 0 to 1, above which an image shows something."""


class Followed(NamedTuple):
    """Where a network's answers lead.

    Parameters
    ----------
    displacement : (n, *shape) float32 ndarray or None
        Voxels; None where no answer is worth following.
    passes : float
        How many passes were followed, the last perhaps by half.
    before, after : dict of str to float
        Likeness of the images by each measure: of the fixed and the moving one, and as they are warped in the end.
    """

    displacement: Floats | None
    passes: float
    before: dict[str, float]
    after: dict[str, float]


def follow_in_passes(
    estimate: Callable[[Floats, Floats], Floats],
    displacement: Callable[[Floats], Floats],
    fixed: Floats,
    moving: Floats,
    spacing_mm: tuple[float, ...],
    passes: int,
) -> Followed:
    """Ask a network in several passes and follow its answers as far as the images become more alike.

    In each pass the network sees the moving image as it is warped so far. Its answer is half of what it says of the pair less what it says
    of the pair the other way round, so that of two images alike it says nothing.

    Parameters
    ----------
    estimate : callable
        Gives the network's finite field or velocity for a fixed and a moving image.
    displacement : callable
        Gives the displacement, voxels ``(n, *shape)``, of such a field or velocity.
    fixed, moving : (*shape) float32 ndarray
        Images from 0 to 1 on the network's grid.
    spacing_mm : tuple of float
        Its voxel size.
    passes : int
        How many at most.
    """
    flat = 3 - fixed.ndim
    sides = (1, *fixed.shape) if flat else fixed.shape
    volume = np.ascontiguousarray(moving).reshape(sides)
    likeness, shown = Likeness(fixed.reshape(sides)), fixed.reshape(sides) > SHOWN
    voxel_mm = np.array([0.0] * flat + [*spacing_mm], np.float32).reshape(3, 1, 1, 1)
    still = np.zeros((flat, *sides), np.float32)

    def warped(field: Floats) -> Floats:
        return np.asarray(warp(volume, np.eye(3, 4), field, shape=sides))

    def measured(field: Floats) -> dict[str, float]:
        image = warped(field)
        return likeness.measured(image, shown | (image > SHOWN))

    kept: Floats = np.zeros((3, *sides), np.float32)
    alike = at_first = measured(kept)
    followed = 0.0
    for number in range(passes):
        image, before = warped(kept).reshape(fixed.shape), kept
        answer = 0.5 * (estimate(fixed, image) - estimate(image, fixed))
        for share in SHARES:
            step = displacement(np.float32(share) * answer).reshape(-1, *sides)
            tried = compose(before, np.concatenate([still, step]))
            moved_mm, now = _mean_length((tried - kept) * voxel_mm, shown), measured(tried)
            if not _least_gain(now, alike) > GAIN_PER_MM * moved_mm:  # neither where nothing moves
                break
            kept, alike, followed = tried, now, number + share
        if followed < number + 1:
            break
    if not _least_gain(alike, at_first) >= GAIN_IN_ALL:  # or NaN
        return Followed(None, 0.0, at_first, at_first)
    found = np.ascontiguousarray(kept[flat:]).reshape(-1, *fixed.shape)
    return Followed(found, followed, at_first, alike)


def _least_gain(now: dict[str, float], before: dict[str, float]) -> float:
    """Return what the log odds of that measure gain which gains least."""
    now_odds, odds = (log_odds(np.array([*one.values()])) for one in (now, before))
    return float((now_odds - odds).min())


def _mean_length(vectors: Floats, where: NDArray[np.bool_]) -> float:
    lengths = np.sqrt((vectors**2).sum(axis=0))
    return float(lengths[where].mean()) if where.any() else 0.0
