"""Two free-form deformations at once: a map, and one back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from regista.optimization._dense import Field, Rows
from regista.optimization._freeform import FreeForm, FreeFormState


@dataclass(frozen=True, kw_only=True)
class FreeFormPair(FreeForm):
    """B-splines of a map and of one back, all control points minimized together by L-BFGS (Christensen 2001).

    The cost is asked for the value and gradient of both fields in one array ``(6, I, J, K)``: the map back, then the
    map from the fixed to the moving image.

    Parameters
    ----------
    spacing_vox, first_step_vox, max_step_vox, memory, forbid_folds
        As for `FreeForm`.

    Examples
    --------
    >>> back, there = (np.zeros((3, 8, 9, 10), np.float32) for _ in range(2))
    >>> FreeFormPair().init([back, there]).control.shape
    (6, 5, 5, 5)
    """

    parts: ClassVar[int] = 2
    takes_start: ClassVar[bool] = False  # of which the map back would know nothing

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> FreeFormState:
        """Start from the map back and the map there, ``(3, I, J, K)`` in voxels; they are kept."""
        return super().init([np.concatenate(fields)], rows)

    def fields(self, state: FreeFormState) -> tuple[Field, ...]:
        """Return the map back and the map there."""
        return state.field[:3], state.field[3:]

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return the map from the fixed to the moving image."""
        return fields[1]
