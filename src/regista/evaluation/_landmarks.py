"""Target registration error."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid, PlanError, PointSet
from regista.transforms import Transform, check_direction

_log = logging.getLogger(__name__)
Unit = Literal["mm", "px"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LandmarkError:
    """Distances between corresponding landmarks, summarized.

    Parameters
    ----------
    errors : (N,) float64 ndarray
        Distance of each pair, in `unit`.
    unit : {'mm', 'px'}
        What distances are counted in.
    mean, sd, median, p95, max : float
        Of the distances; `mean` is the mean Euclidean landmark distance, `p95` the 95th percentile.
    relative_mean, relative_median, relative_max : float
        The same divided by the length of the image's diagonal; NaN where no image was given.
    """

    errors: NDArray[np.float64]
    unit: Unit
    mean: float
    sd: float
    median: float
    p95: float
    max: float
    relative_mean: float
    relative_median: float
    relative_max: float

    def row(self) -> dict[str, Any]:
        """Return the summary as a dictionary, for tables: ``tre_mean``, …, ``rtre_mean``, …."""
        found = asdict(self)
        row: dict[str, Any] = {"landmarks": len(self.errors), "unit": self.unit}
        row |= {f"tre_{name}": found[name] for name in ("mean", "sd", "median", "p95", "max")}
        return row | {f"rtre_{name}": found[f"relative_{name}"] for name in ("mean", "median", "max")}


def landmark_error(
    fixed: PointSet,
    moving: PointSet,
    transform: Transform | None = None,
    *,
    grid: Grid | None = None,
    unit: Unit = "mm",
) -> LandmarkError:
    """Measure how far landmarks are from each other once registered (TRE).

    Parameters
    ----------
    fixed, moving : PointSet
        Corresponding points, paired as `match_landmarks` does.
    transform : Transform, optional
        Map from fixed to moving, through which the fixed points are carried; None is the identity.
    grid : Grid, optional
        Grid of the moving image, in which the errors lie: needed for `unit` 'px' and for relative errors.
    unit : {'mm', 'px'}
        'px' counts in voxels of `grid`.

    Returns
    -------
    LandmarkError
        Errors in the space of the moving image, in the order of the fixed points.

    Raises
    ------
    GeometryError
        If the points cannot be paired (see `match_landmarks`), or the map leads the wrong way round.
    PlanError
        If the unit is unknown, or 'px' without a grid.

    Notes
    -----
    Fitzpatrick and West, The distribution of target registration error, IEEE TMI 2001. The relative error
    is that of Borovec et al., ANHIR, IEEE TMI 2020: divided by the diagonal of the image.

    Examples
    --------
    >>> one, other = PointSet(np.zeros((2, 3))), PointSet(np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> landmark_error(one, other).mean
    3.0
    """
    if unit not in ("mm", "px"):
        raise PlanError(f"unit is 'mm' or 'px', got {unit!r}")
    if unit == "px" and grid is None:
        raise PlanError("errors in px need the moving image's grid --moving IMAGE (in Python grid=)")
    check_direction(transform, fixed.space, moving.space)
    one, other = match_landmarks(fixed, moving)
    if text := tell_unmatched(fixed, moving, len(one)):
        _log.warning("%s", text)
    here, there = fixed.points_mm[one], moving.points_mm[other]
    if transform is not None:
        here = transform.map_points(here)
    shift, diagonal = here - there, float("nan")
    if grid is not None:
        _check_grid(grid, here.shape[1])
        size = np.array(grid.shape, np.float64)
        if unit == "px":
            shift = shift @ grid.world2grid[:-1, :-1].T
            diagonal = float(np.linalg.norm(size))
        else:
            diagonal = float(np.linalg.norm(size * grid.spacing))
    errors = np.linalg.norm(shift, axis=1)
    mean, median, top = float(errors.mean()), float(np.median(errors)), float(errors.max())
    return LandmarkError(
        errors=errors,
        unit=unit,
        mean=mean,
        sd=float(errors.std(ddof=1)) if len(errors) > 1 else float("nan"),
        median=median,
        p95=float(np.percentile(errors, 95)),
        max=top,
        relative_mean=mean / diagonal,
        relative_median=median / diagonal,
        relative_max=top / diagonal,
    )


def _check_grid(grid: Grid, ndim: int) -> None:
    if grid.ndim != ndim:
        raise GeometryError(f"the landmarks are {ndim}-D but the moving image is {grid.ndim}-D")


def match_landmarks(fixed: PointSet, moving: PointSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which landmarks correspond: by name where both sets have names of their own each, else by order.

    Parameters
    ----------
    fixed, moving : PointSet
        Landmarks of the two images.

    Returns
    -------
    (N,) int64 ndarray, (N,) int64 ndarray
        Numbers of the fixed landmarks, in their order, and of the moving ones that correspond.

    Raises
    ------
    GeometryError
        If the numbers of points or their dimensions differ, no name is shared, or names repeat in one set alone.

    Notes
    -----
    Names that only one set has are left out. Names that repeat in both sets are taken for a group's name, not a
    point's.

    Examples
    --------
    >>> one = PointSet(np.zeros((3, 3)), ("apex", "base", "carina"))
    >>> other = PointSet(np.zeros((2, 3)), ("carina", "apex"))
    >>> [numbers.tolist() for numbers in match_landmarks(one, other)]
    [[0, 2], [1, 0]]
    """
    if fixed.ndim != moving.ndim:
        raise GeometryError(
            f"the fixed landmarks are {fixed.ndim}-D, the moving ones {moving.ndim}-D: they cannot correspond"
        )
    for name, points in (("fixed", fixed), ("moving", moving)):
        if not len(points.points_mm):
            raise GeometryError(f"there are no {name} landmarks")
    if _unique(fixed.names) and _unique(moving.names):
        place = {name: n for n, name in enumerate(moving.names or ())}
        pairs = [(n, place[name]) for n, name in enumerate(fixed.names or ()) if name in place]
        if not pairs:
            raise GeometryError(
                f"the landmark files share no name: fixed {list(fixed.names or ())[:4]} …, moving "
                f"{list(moving.names or ())[:4]} …; give corresponding points the same names, or none"
            )
        one, other = np.array(pairs).T
        return one, other
    _check_repeated(fixed, moving)
    if len(fixed.points_mm) != len(moving.points_mm):
        raise GeometryError(
            f"{len(fixed.points_mm)} fixed landmarks but {len(moving.points_mm)} moving ones: without names "
            "they are paired by order, so their numbers must agree"
        )
    numbers = np.arange(len(fixed.points_mm))
    return numbers, numbers


def tell_unmatched(fixed: PointSet, moving: PointSet, count: int) -> str:
    """Return a sentence on the landmarks that only one set has; an empty one where there are none.

    Parameters
    ----------
    fixed, moving : PointSet
        Landmarks of the two images.
    count : int
        Pairs that `match_landmarks` found.

    Examples
    --------
    >>> one, other = PointSet(np.zeros((2, 3)), ("apex", "base")), PointSet(np.zeros((1, 3)), ("apex",))
    >>> tell_unmatched(one, other, 1)
    '1 landmarks have a name in both files, of 2 fixed and 1 moving ones; the other 1 are left out'
    """
    given = len(fixed.points_mm), len(moving.points_mm)
    if given == (count, count):
        return ""
    return (
        f"{count} landmarks have a name in both files, of {given[0]} fixed and {given[1]} moving ones; the other "
        f"{sum(given) - 2 * count} are left out"
    )


def _unique(names: tuple[str, ...] | None) -> bool:
    return names is not None and len(set(names)) == len(names)


def _check_repeated(fixed: PointSet, moving: PointSet) -> None:
    """Refuse names that tell points apart in one set only: order would pair a name with another."""
    if fixed.names is None or moving.names is None or _unique(fixed.names) == _unique(moving.names):
        return
    role, names = ("moving", moving.names) if _unique(fixed.names) else ("fixed", fixed.names)
    twice = [name for name, count in Counter(names).items() if count > 1]
    raise GeometryError(
        f"the {role} landmarks have the name {twice[0]!r} more than once ({len(twice)} names repeat), the others have "
        "each name once: it is not clear which belong together; give every landmark a name of its own, or take the "
        "names out of both files to pair by order"
    )
