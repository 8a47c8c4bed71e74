"""A network asked again after its own answer, each answer followed as far as the images become more alike by it.

A network that has learned what to do with images far apart does some of it to images that lie well, and one answer rarely goes
the whole way. The images tell how far to follow it, by three measures of different kinds, none of which decides alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regista.evaluation._likeness import Likeness, log_odds
from regista.kernels.cpu.fields import compose
from regista.kernels.cpu.warp import warp

Floats = NDArray[np.float32]
SHARES = (0.5, 1.0)
"""Of an answer, tried one after the other."""
GAIN_PER_MM = 0.09
"""What the log odds of each measure gain at least for every mm by which voxels move on average: noise, and edges that one contrast
alone has, give less."""
GAIN_IN_ALL = 0.035
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


class Place(NamedTuple):
    """A place on the way that a network's answers point.

    Parameters
    ----------
    displacement : (3, I, J, K) float32 ndarray
        Voxels.
    passes : float
        How many passes lead there.
    moved_mm : float
        How far the fixed image's voxels move on average from the place before.
    likeness : dict of str to float
        Of the images as they are warped there, by each measure.
    """

    displacement: Floats
    passes: float
    moved_mm: float
    likeness: dict[str, float]


def way(
    estimate: Callable[[Floats, Floats], Floats],
    displacement: Callable[[Floats], Floats],
    fixed: Floats,
    moving: Floats,
    spacing_mm: tuple[float, ...],
    passes: int,
    bend_first: bool = False,
) -> Iterator[Place]:
    """Give the places that a network's answers lead to, if each is followed: first where nothing moves, then every half of every pass.

    In each pass the network sees the moving image as it is warped so far. Its answer is half of what it says of the pair less what it says
    of the pair the other way round, so that of two images alike it says nothing. An answer is asked for when its first half is.

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
        How many.
    bend_first : bool
        Leave the linear part of the first answer out. A linear map that was found before knows that part better than a network that
        has seen the images once: borders that one contrast alone shows look like a change of size.

    Yields
    ------
    Place
        ``1 + 2 * passes`` of them.
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

    here: Floats = np.zeros((3, *sides), np.float32)
    yield Place(here, 0.0, 0.0, measured(here))
    for number in range(passes):
        image, before = warped(here).reshape(fixed.shape), here
        answer = 0.5 * (estimate(fixed, image) - estimate(image, fixed))
        if bend_first and not number:
            answer = _without_linear_part(answer, shown)
        for share in SHARES:
            step = displacement(np.float32(share) * answer).reshape(-1, *sides)
            there = compose(before, np.concatenate([still, step]))
            yield Place(
                there, number + share, _mean_length((there - here) * voxel_mm, shown), measured(there)
            )
            here = there


def follow(places: Iterator[Place], shape: tuple[int, ...]) -> Followed:
    """Follow a network's answers as far as the images become more alike.

    Parameters
    ----------
    places : iterator of Place
        From `way`; no more are asked for than are looked at, and so no more answers.
    shape : tuple of int
        Of the images.
    """
    first = next(places)
    kept = last_worth_following(chain([first], places))
    if kept is first:
        return Followed(None, 0.0, first.likeness, first.likeness)
    found = np.ascontiguousarray(kept.displacement[3 - len(shape) :]).reshape(-1, *shape)
    return Followed(found, kept.passes, first.likeness, kept.likeness)


def last_worth_following(places: Iterable[Place]) -> Place:
    """Return the last place of a way that is worth its length; the first one of all where too little is gained.

    Parameters
    ----------
    places : iterable of Place
        Of `way`; no more are asked for than are looked at.
    """
    places = iter(places)
    first = kept = next(places)
    for place in places:
        gain = least_gain(place.likeness, kept.likeness)
        if not gain > GAIN_PER_MM * place.moved_mm:  # neither where nothing moves, nor where it is NaN
            break
        kept = place
    return kept if least_gain(kept.likeness, first.likeness) >= GAIN_IN_ALL else first


def least_gain(now: dict[str, float], before: dict[str, float]) -> float:
    """Return what the log odds of that measure gain which gains least."""
    now_odds, odds = (log_odds(np.array([*one.values()])) for one in (now, before))
    return float((now_odds - odds).min())


def _without_linear_part(answer: Floats, shown: NDArray[np.bool_]) -> Floats:
    """Return a field or velocity less the linear one nearest it over what the fixed image shows.

    Parameters
    ----------
    answer : (n, *lattice) float32 ndarray
        On a lattice as fine as the images or coarser.
    shown : (*sides) bool ndarray
        What the fixed image shows, on three axes.
    """
    lattice = (1,) * (4 - answer.ndim) + answer.shape[1:]
    nodes = np.indices(lattice, np.float64).reshape(3, -1)
    steps = np.ceil(np.array(shown.shape) / lattice)
    at = np.minimum(nodes * steps[:, None], np.array(shown.shape)[:, None] - 1).astype(int)
    rows = np.column_stack([*nodes, np.ones(nodes.shape[1])])
    values = answer.reshape(len(answer), -1)
    seen = shown[tuple(at)]
    fitted = np.linalg.lstsq(rows[seen], values[:, seen].T.astype(np.float64), rcond=None)[0]
    return np.asarray((values - (rows @ fitted).T).reshape(answer.shape), np.float32)


def _mean_length(vectors: Floats, where: NDArray[np.bool_]) -> float:
    lengths = np.sqrt((vectors**2).sum(axis=0))
    return float(lengths[where].mean()) if where.any() else 0.0
