"""Symmetric diffeomorphic descent: both images travel to a place halfway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from regista.kernels.cpu.fields import compose, invert
from regista.optimization._dense import DenseCost, Field, Rows
from regista.optimization._greedy import GreedyDiffeomorphic, GreedyState
from regista.optimization._stopping import Convergence, shortening


@dataclass
class SymmetricState:
    """The two halves of the map, with one history of values."""

    to_fixed: GreedyState
    to_moving: GreedyState
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class SymmetricDiffeomorphic:
    """Greedy SyN (Avants 2008): two fields on a grid halfway, one to each image, each grown by composition.

    Each step moves both images towards each other; the map is ``φ_moving ∘ φ_fixed⁻¹``, so that exchanging the
    images inverts it. The parameters are those of `GreedyDiffeomorphic`, for each half.
    """

    parts: ClassVar[int] = 2
    takes_start: ClassVar[bool] = True
    half: GreedyDiffeomorphic

    @property
    def reach_vox(self) -> int:
        """Largest radius of the smoothing filters, voxels."""
        return self.half.reach_vox

    def admit(self, fields: Sequence[Field]) -> None:
        """Make fields, in place, such as a level may begin with: where folds are forbidden, without any."""
        self.half.admit(fields)

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> SymmetricState:
        """Start from two fields ``(3, I, J, K)`` in voxels, to the fixed and to the moving image."""
        to_fixed, to_moving = fields
        return SymmetricState(self.half.init([to_fixed], rows), self.half.init([to_moving], rows), [])

    def step(self, state: SymmetricState, cost: DenseCost, rule: Convergence | None = None) -> bool:
        """Take one step of both halves in place; return False when there is nothing left to do."""
        state.values.append(self.value(state, cost))
        share = 1.0 if rule is None else rule.left(state.values)
        if share == 0:
            return False
        factor = shortening(state.values, self.half.step_decay)
        moved = [self.half.move(one, share, factor) for one in (state.to_fixed, state.to_moving)]
        return any(moved)

    def value(self, state: SymmetricState, cost: DenseCost) -> float:
        """Return the value halfway, and leave the forces there in the state."""
        one, other = state.to_fixed, state.to_moving
        return cost.forces(one.field, other.field, one.update, one.force, other.force)

    def fields(self, state: SymmetricState) -> tuple[Field, ...]:
        """Return both fields."""
        return state.to_fixed.field, state.to_moving.field

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return the whole map: back along the half to the fixed image, on along the other."""
        to_fixed, to_moving = fields
        return compose(to_moving, invert(to_fixed)[0])
