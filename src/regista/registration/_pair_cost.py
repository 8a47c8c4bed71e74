"""What a stage that estimates a map and one back minimizes on one level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid
from regista.kernels.cpu.consistency import loop_residual
from regista.registration._cost import LevelCost
from regista.registration._guide_terms import GuideTerm
from regista.registration._levels import Level, Matrix, Volume
from regista.regularization import PAIR_PENALTIES, PairPenalty, Penalty
from regista.similarity import Similarity

_PAIRS = tuple(PAIR_PENALTIES.values())


def is_pair_penalty(penalty: Penalty | PairPenalty) -> bool:
    """Tell whether a penalty is one on a map and one back."""
    return isinstance(penalty, _PAIRS)


class PairCost(LevelCost):
    """Mean dissimilarity of both directions, with their penalties, and what the loop of both maps costs.

    The moving image takes part in the second direction as the linear map brings it to the fixed grid, on which both
    fields lie.

    Parameters
    ----------
    level, similarity, fixed2moving, symmetric_force, guides
        As for `LevelCost`.
    penalties : sequence of Penalty and PairPenalty
        Those on one field count for each direction, and half of each.
    """

    def __init__(
        self,
        level: Level,
        similarity: Similarity,
        fixed2moving: Matrix,
        symmetric_force: bool = True,
        penalties: Sequence[Penalty | PairPenalty] = (),
        guides: Sequence[GuideTerm] = (),
    ) -> None:
        single: list[Penalty] = [one for one in penalties if not is_pair_penalty(one)]  # type: ignore[misc]
        super().__init__(level, similarity, fixed2moving, symmetric_force, single, guides)
        pairs: list[PairPenalty] = [one for one in penalties if is_pair_penalty(one)]  # type: ignore[misc]
        self._loops = [one.prepare(level.fixed.grid) for one in pairs]

    def begin(self, fields: Sequence[Volume], reach: int) -> NDArray[np.int32]:
        """Do what `LevelCost.begin` does, for both maps: the one back first, then the map whose rows are returned."""
        back, there = fields
        rows = super().begin([there], reach)
        self.exchanged().check([back])
        return rows

    def value_and_gradient(self, field: Volume, out: Volume) -> float:
        """Return the value at both fields ``(6, I, J, K)``, the one back first, and write its derivative by them."""
        back, there = field[:3], field[3:]
        value = super().value_and_gradient(there, out[3:]) + self.exchanged().value_and_gradient(
            back, out[:3]
        )
        out *= np.float32(0.5)
        value = 0.5 * value + sum(
            loop.value_and_gradient(there, back, out[3:], out[:3]) for loop in self._loops
        )
        for half in (out[:3], out[3:]):
            half[self.axis_scale == 0] = 0
        return value


def loop_error_mm(there_vox: Volume, back_vox: Volume, grid: Grid) -> float:
    """Return the mean distance by which a map and one back, both on a grid, miss the start."""
    matrix = np.eye(4)[:3]
    missed = loop_residual(there_vox, back_vox, matrix, np.eye(3), out=np.empty_like(there_vox))
    linear = grid.grid2world[:3, :3].astype(np.float32)
    return float(np.linalg.norm(linear @ missed.reshape(3, -1), axis=0).mean())
