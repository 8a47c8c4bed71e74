"""Demons: forces that are steps already, smoothed as a fluid, an elastic body or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from regista.core import PlanError
from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.update import compose_small, largest_component
from regista.optimization._dense import DenseCost, Field, Rows
from regista.optimization._folds import Displacing, unfold
from regista.optimization._smoothing import check_sigmas, reach_of
from regista.optimization._stopping import Convergence

Update = Literal["additive", "compositive", "diffeomorphic"]


@dataclass
class DemonsState:
    """The field, its work buffers (reused from step to step) and the history of values."""

    field: Field
    other: Field
    force: Field
    update: Field
    rows: Rows | None
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class Demons(Displacing):
    """Demons (Thirion 1998; Vercauteren 2009): the force of the `demons` metric is the step itself.

    Parameters
    ----------
    update : {'additive', 'compositive', 'diffeomorphic'}
        ``u ← u + v``; ``u ← v + u∘(id + v)``; ``u ← w + u∘(id + w)`` with ``id + w = exp(v)``.
    update_sigma_vox, field_sigma_vox : float
        Standard deviation of the Gaussians that smooth each step ``v`` (a fluid) and the field ``u`` (an elastic
        body), voxels of the level.
    step_vox : float
        Longest step, voxels: all vectors are shortened together where one is longer along an axis.
    forbid_folds : bool
        Whether the field is smoothed, after a step, where that made it fold (see `unfold`).
    """

    parts: ClassVar[int] = 1
    takes_start: ClassVar[bool] = True
    update: Update = "diffeomorphic"
    update_sigma_vox: float = 0.0
    field_sigma_vox: float = 1.0
    step_vox: float = 1.0
    forbid_folds: bool = False

    def __post_init__(self) -> None:
        if self.update not in ("additive", "compositive", "diffeomorphic"):
            raise PlanError(f"update is 'additive', 'compositive' or 'diffeomorphic', got {self.update!r}")
        if not 0 < self.step_vox <= 1:
            raise PlanError(f"step_vox is above 0 and at most 1 voxel, got {self.step_vox}")
        check_sigmas(update_sigma_vox=self.update_sigma_vox, field_sigma_vox=self.field_sigma_vox)

    @property
    def reach_vox(self) -> int:
        """Largest radius of the smoothing filters, voxels."""
        return reach_of(self.update_sigma_vox, self.field_sigma_vox)

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> DemonsState:
        """Start from a field ``(3, I, J, K)`` in voxels; it is used as a buffer from here on."""
        (field,) = fields
        force, update = np.zeros(field.shape, np.float32), np.zeros(field.shape, np.float32)
        return DemonsState(field, field.copy(), force, update, rows, [])

    def step(self, state: DemonsState, cost: DenseCost, rule: Convergence | None = None) -> bool:
        """Take one step in place; return False when there is nothing left to do.

        The step that meets `rule` is the last: as much of it is taken as the rule leaves.
        """
        state.values.append(self.value(state, cost))
        share = 1.0 if rule is None else rule.left(state.values)
        rows = state.rows
        if self.update_sigma_vox > 0:
            gaussian_filter(state.force, self.update_sigma_vox, out=state.update, rows=rows)
            state.force, state.update = state.update, state.force
        largest = largest_component(state.force, rows)
        if share == 0 or not (largest > 0 and np.isfinite(largest)):
            return False
        self._apply(state, share * min(1.0, self.step_vox / largest), largest)
        if self.field_sigma_vox > 0:
            sigma = self.field_sigma_vox * share**0.5
            gaussian_filter(state.field, sigma, out=state.other, border="nearest", rows=rows)
            state.field, state.other = state.other, state.field
        if self.forbid_folds and unfold(state.field):
            state.other[...] = state.field  # both hold what lies outside the rows
        return True

    def _apply(self, state: DemonsState, factor: float, largest: float) -> None:
        """Move the field along ``factor * state.force``."""
        if self.update == "additive":
            state.force *= np.float32(factor)
            state.field += state.force
            return
        if self.update == "diffeomorphic":
            # scaling and squaring, from vectors of at most an eighth of a voxel
            squarings = max(0, int(np.ceil(np.log2(max(8 * factor * largest, 1.0)))))
            factor *= 0.5**squarings
            for n in range(squarings):
                state.force *= np.float32(factor if n == 0 else 1.0)
                compose_small(state.force, state.force, 1.0, out=state.update, rows=state.rows)
                state.force, state.update = state.update, state.force
            factor = factor if squarings == 0 else 1.0
        compose_small(state.field, state.force, factor, out=state.other, rows=state.rows)
        state.field, state.other = state.other, state.field

    def value(self, state: DemonsState, cost: DenseCost) -> float:
        """Return the value where the state stands, and leave the force there in it."""
        return cost.force(state.field, state.update, state.force)

    def fields(self, state: DemonsState) -> tuple[Field, ...]:
        """Return the field."""
        return (state.field,)

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return the field."""
        return fields[0]
