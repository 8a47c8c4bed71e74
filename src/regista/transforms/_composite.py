"""`Composite`: a chain of maps whose spaces meet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError
from regista.transforms._base import Transform


@dataclass(frozen=True, eq=False)
class Composite(Transform):
    """Several maps applied in order, the first one first to a fixed point.

    Parameters
    ----------
    transforms : sequence of Transform
        The chain, from the fixed to the moving space.

    Raises
    ------
    GeometryError
        If the chain is empty, mixes 2-D and 3-D, or joins two known spaces that differ.

    Examples
    --------
    >>> from regista.transforms import Translation
    >>> chain = Composite((Translation.by([1, 0, 0], "a", "b"), Translation.by([0, 2, 0], "b", "c")))
    >>> chain.fixed_space, chain.moving_space
    ('a', 'c')
    >>> chain.map_points([[0.0, 0.0, 0.0]]).tolist()
    [[1.0, 2.0, 0.0]]
    """

    transforms: tuple[Transform, ...]

    def __post_init__(self) -> None:
        chain = tuple(self.transforms)
        if not chain:
            raise GeometryError("a composite needs at least one transform, got none")
        for element in chain:
            if not isinstance(element, Transform):
                raise GeometryError(f"a composite is made of transforms, got {type(element).__name__}")
        if len({t.ndim for t in chain}) > 1:
            raise GeometryError(f"a chain is all 2-D or all 3-D, got {[t.ndim for t in chain]}")
        _check_spaces(chain)
        object.__setattr__(self, "transforms", chain)

    @property
    def fixed_space(self) -> str | None:
        """Name of the space the chain starts from."""
        return self.transforms[0].fixed_space

    @property
    def moving_space(self) -> str | None:
        """Name of the space the chain leads to."""
        return self.transforms[-1].moving_space

    @property
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.transforms[0].ndim

    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(N, ndim)`` points, mm."""
        points = self._points(points_mm)
        for transform in self.transforms:
            points = transform.map_points(points)
        return points

    def inverse(self) -> Composite:
        """Return the inverses in the opposite order."""
        return Composite(tuple(t.inverse() for t in reversed(self.transforms)))

    def flatten(self) -> Composite:
        """Return the same chain with composites within it unpacked."""
        return Composite(tuple(unpack(self)))


def unpack(transform: Transform) -> list[Transform]:
    """Return the elements of a transform in order, composites unpacked."""
    if isinstance(transform, Composite):
        return [element for inner in transform.transforms for element in unpack(inner)]
    return [transform]


def _check_spaces(chain: tuple[Transform, ...]) -> None:
    for n, (first, second) in enumerate(pairwise(chain), start=1):
        ends, begins = first.moving_space, second.fixed_space
        if ends is None or begins is None or ends == begins:
            continue
        if first.fixed_space == second.moving_space:
            hint = "the order looks reversed: exchange them"
        elif second.moving_space == ends:
            hint = f"invert transform {n + 1}"
        elif first.fixed_space == begins:
            hint = f"invert transform {n}"
        else:
            hint = "reorder the chain, or invert one of them"
        raise GeometryError(
            f"transform {n} leads {first._spaces_text()} but transform {n + 1} starts elsewhere, "
            f"{second._spaces_text()}: {ends!r} is not {begins!r}; {hint}, "
            "or, if both names mean the same space, set them aside (in Python with_spaces)"
        )
