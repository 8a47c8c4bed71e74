"""Maps that must not fold: whether one does, and how it is mended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.folds import smallest_corners
from regista.optimization._dense import Field

LEAST_DETERMINANT = 1e-3
"""A map counts as folded where the determinant at a corner of a voxel is not above this: room for rounding."""
_ROUNDS = 60
_REACH_VOX = 4
_MARGIN_VOX = 4
"""Beyond what changes, so that filters see what lies around it."""
_SHORTER = 0.8


def folds(*fields: Field) -> bool:
    """Tell whether a map folds: whether one of ``(3, I, J, K)`` fields, in voxels, turns a corner of a voxel over.

    Examples
    --------
    >>> field = np.zeros((3, 5, 4, 4), np.float32)
    >>> folded = field.copy()
    >>> folded[0, 2] = 1.5
    >>> folds(field), folds(field, folded)
    (False, True)
    """
    return any(float(smallest_corners(field).min()) <= LEAST_DETERMINANT for field in fields)


def unfold(field: Field) -> int:
    """Smooth a field in place around where it folds until it does not; return the rounds it took, 0 for none.

    What lies further away keeps its values. A field that smoothing does not unfold (mirrored, for instance) is
    shortened, as a whole, until it does not fold. One that holds NaN or Inf is left alone.

    Parameters
    ----------
    field : (3, I, J, K) float32 ndarray
        Displacement in voxels.
    """
    folded = smallest_corners(field) <= LEAST_DETERMINANT
    if not folded.any() or not np.isfinite(field).all():
        return 0
    room = _REACH_VOX + _ROUNDS // 4 + _MARGIN_VOX
    box = _around(folded, room)
    part, folded = np.ascontiguousarray(field[(slice(None), *box)]), folded[box]
    rounds = 0
    while folded.any() and rounds < _ROUNDS:
        near = _nearness(folded, _REACH_VOX + rounds // 4)
        part += near * (gaussian_filter(part, 1.0, border="nearest") - part)
        folded = smallest_corners(part) <= LEAST_DETERMINANT
        rounds += 1
    field[(slice(None), *box)] = part
    while folds(field):
        field *= np.float32(_SHORTER)
        rounds += 1
    return rounds


def _around(folded: NDArray[np.bool_], room: int) -> tuple[slice, ...]:
    """Return the box of what is marked, with room on all sides."""
    found = []
    for axis, count in enumerate(folded.shape):
        marked = np.flatnonzero(folded.any(axis=tuple(n for n in range(3) if n != axis)))
        found.append(slice(max(int(marked[0]) - room, 0), min(int(marked[-1]) + room + 1, count)))
    return tuple(found)


def _nearness(folded: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Return 1 where a voxel is marked or next to one, falling to 0 at `reach` voxels further."""
    away = distance_transform_edt(~folded)
    return np.asarray(np.clip((reach + 1 - away) / reach, 0, 1), np.float32)


class Displacing:
    """What solvers do alike whose fields are displacements."""

    forbid_folds: bool

    def admit(self, fields: Sequence[Field]) -> None:
        """Make fields, in place, such as a level may begin with: where folds are forbidden, without any."""
        if self.forbid_folds:
            for field in fields:
                unfold(field)
