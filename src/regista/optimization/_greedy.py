"""Greedy diffeomorphic descent: a field grown by composition with small smooth updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from regista.core import PlanError
from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.update import compose_small, largest_component, saturate
from regista.optimization._dense import DenseCost, Field, Rows
from regista.optimization._folds import Displacing, unfold
from regista.optimization._smoothing import check_sigmas, reach_of
from regista.optimization._stopping import Convergence, shortening


@dataclass
class GreedyState:
    """The field, its work buffers (reused from step to step) and the history of values.

    Only the voxels of `rows` are computed; elsewhere the field keeps the values it started with and updates
    stay zero.
    """

    field: Field
    other: Field
    force: Field
    update: Field
    rows: Rows | None
    step_vox: float
    values: list[float]


@dataclass(frozen=True, kw_only=True)
class GreedyDiffeomorphic(Displacing):
    """Compositive updates ``u ← G_field * (s v + u∘(id + s v))`` with ``v = G_update * force``.

    The factor ``s`` makes the largest component of each update one step long: smooth updates of that length are
    invertible, or nearly, and so is their composition (Avants 2008's greedy scheme; Joshi & Miller 2000). Nothing
    else enforces it without `forbid_folds`: folds are counted. A step of constant length oscillates about the lowest value, so
    it is shortened as the value rises. How much is a smooth function of the rise, and the step at which a
    `Convergence` rule is met is taken in part: results then depend smoothly on the images, and rounding (a scan
    with its axes relabelled, another machine) does not grow into differences that one could see.

    The few places of the strongest force set the pace for all. With `saturation` S, a soft limit, each vector v of
    the update is divided by ``1 + S |v| / m``, with m the largest component, so that places of weaker force keep
    up. Updates become steeper by that: use it with wide smoothing.

    Parameters
    ----------
    step_vox : float
        Largest component of an update, voxels of the level, to begin with.
    step_decay : float
        Factor on the step after a rise of the value by much more than 1 % of what was gained so far; 1 keeps it.
    update_sigma_vox, field_sigma_vox : float
        Standard deviation of the Gaussians that smooth update and field, voxels of the level.
    saturation : float
        How much the update is evened out; 0 leaves it as it is.
    forbid_folds : bool
        Whether the field is smoothed, after a step, where that made it fold (see `unfold`).
    """

    parts: ClassVar[int] = 1
    takes_start: ClassVar[bool] = True
    step_vox: float = 1.0
    step_decay: float = 0.6
    update_sigma_vox: float = 1.732
    field_sigma_vox: float = 0.5
    saturation: float = 0.0
    forbid_folds: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.step_vox <= 2:
            raise PlanError(f"step_vox is above 0 and at most 2 voxels, got {self.step_vox}")
        if not 0 < self.step_decay <= 1:
            raise PlanError(f"step_decay is above 0 and at most 1, got {self.step_decay}")
        check_sigmas(update_sigma_vox=self.update_sigma_vox, field_sigma_vox=self.field_sigma_vox)
        if not 0 <= self.saturation <= 100:
            raise PlanError(f"saturation is between 0 and 100, got {self.saturation}")

    @property
    def reach_vox(self) -> int:
        """Largest radius of the smoothing filters, voxels."""
        return reach_of(self.update_sigma_vox, self.field_sigma_vox)

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> GreedyState:
        """Start from a field ``(3, I, J, K)`` in voxels; it is used as a buffer from here on."""
        (field,) = fields
        # zeros, not zeros_like: what is never visited then takes no memory and no time
        other, force, update = (
            field.copy(),
            np.zeros(field.shape, np.float32),
            np.zeros(field.shape, np.float32),
        )
        return GreedyState(field, other, force, update, rows, self.step_vox, [])

    def step(self, state: GreedyState, cost: DenseCost, rule: Convergence | None = None) -> bool:
        """Take one step in place; return False when there is nothing left to do.

        The step that meets `rule` is the last: as much of it is taken as the rule leaves.
        """
        state.values.append(self.value(state, cost))
        share = 1.0 if rule is None else rule.left(state.values)
        return share > 0 and self.move(state, share, shortening(state.values, self.step_decay))

    def value(self, state: GreedyState, cost: DenseCost) -> float:
        """Return the value where the state stands, and leave the force there in it."""
        return cost.force(state.field, state.update, state.force)

    def fields(self, state: GreedyState) -> tuple[Field, ...]:
        """Return the field."""
        return (state.field,)

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return the field."""
        return fields[0]

    def move(self, state: GreedyState, share: float, factor: float) -> bool:
        """Change the step by a factor and follow ``state.force`` for a share of it; return False when there is none."""
        rows = state.rows
        state.step_vox *= factor
        gaussian_filter(state.force, self.update_sigma_vox, out=state.update, rows=rows)
        largest = largest_component(state.update, rows)
        if not (largest > 0 and np.isfinite(largest)):
            return False
        if self.saturation > 0:
            largest = saturate(state.update, self.saturation, largest, rows)
        # the stencil composes steps of up to one voxel: a longer one is taken in two
        step = share * state.step_vox
        parts = int(np.ceil(step))
        for _ in range(parts):
            compose_small(state.field, state.update, step / parts / largest, out=state.other, rows=rows)
            state.field, state.other = state.other, state.field
        if self.field_sigma_vox > 0:
            sigma = self.field_sigma_vox * share**0.5
            gaussian_filter(state.field, sigma, out=state.other, border="nearest", rows=rows)
            state.field, state.other = state.other, state.field
        if self.forbid_folds and unfold(state.field):
            state.other[...] = state.field  # both hold what lies outside the rows
        return True
