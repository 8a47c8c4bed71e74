"""Descent on a stationary velocity field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from regista.core import PlanError
from regista.kernels.cpu.fields import exponential, exponential_adjoint, squarings
from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.update import largest_component
from regista.optimization._dense import DenseCost, Field, Rows
from regista.optimization._folds import folds
from regista.optimization._smoothing import check_sigmas, reach_of
from regista.optimization._stopping import Convergence, shortening

_HALVINGS = 6
_SMOOTHINGS = 10
_SHORTER = 0.8


@dataclass
class VelocityState:
    """The velocity, work buffers, step length and the history of values.

    `kept` is the velocity before the last step, where folds are forbidden.
    """

    velocity: Field
    other: Field
    force: Field
    update: Field
    rows: Rows | None
    step_vox: float
    values: list[float]
    kept: Field | None = None


@dataclass(frozen=True, kw_only=True)
class StationaryVelocity:
    """A stationary velocity field ``v``: the map is ``exp(v)`` and its inverse ``exp(−v)``.

    Parameters
    ----------
    gradient : {'adjoint', 'composition'}
        ``v ← v + s G * g`` with ``g`` the exact descent direction on ``v``, through the adjoint of scaling and
        squaring; or ``v ← v + s G * f``, to first order the logarithm of ``exp(v) ∘ exp(s G * f)``, with ``f`` the
        force on a compositive update of ``exp(v)`` (log-domain demons, Vercauteren 2008).
    symmetric : bool
        With 'composition': ``f`` is half of its difference from the force of the exchanged problem, so that
        exchanging the images negates ``v``.
    natural_step : bool
        Forces are steps (demons) and only cut to `step_vox`; otherwise they are scaled to it.
    squarings : int
        Squarings of the exponential.
    step_vox, step_decay, update_sigma_vox, field_sigma_vox : float
        As in `GreedyDiffeomorphic`; the field that is smoothed is ``v``.
    forbid_folds : bool
        Whether a step to a velocity whose map folds is shortened until it does not.
    """

    parts: ClassVar[int] = 1
    takes_start: ClassVar[bool] = False
    gradient: Literal["adjoint", "composition"] = "adjoint"
    symmetric: bool = False
    natural_step: bool = False
    squarings: int = 6
    step_vox: float = 0.5
    step_decay: float = 0.6
    update_sigma_vox: float = 2.0
    field_sigma_vox: float = 0.0
    forbid_folds: bool = False

    def __post_init__(self) -> None:
        if self.gradient not in ("adjoint", "composition"):
            raise PlanError(f"gradient is 'adjoint' or 'composition', got {self.gradient!r}")
        if self.symmetric and self.gradient == "adjoint":
            raise PlanError("a symmetric velocity field takes gradient = 'composition'")
        if not 2 <= self.squarings <= 12:
            raise PlanError(f"squarings is between 2 and 12, got {self.squarings}")
        if not 0 < self.step_vox <= 2:
            raise PlanError(f"step_vox is above 0 and at most 2 voxels, got {self.step_vox}")
        if not 0 < self.step_decay <= 1:
            raise PlanError(f"step_decay is above 0 and at most 1, got {self.step_decay}")
        check_sigmas(update_sigma_vox=self.update_sigma_vox, field_sigma_vox=self.field_sigma_vox)

    @property
    def reach_vox(self) -> int:
        """Largest radius of the smoothing filters, voxels."""
        return reach_of(self.update_sigma_vox, self.field_sigma_vox)

    def admit(self, fields: Sequence[Field]) -> None:
        """Make a velocity, in place, such as a level may begin with: where folds are forbidden, smooth it, or shorten it."""
        (velocity,) = fields
        if not self.forbid_folds or not np.isfinite(velocity).all():
            return
        rounds = 0
        while folds(*self._maps(velocity)):
            if rounds < _SMOOTHINGS:
                velocity[...] = gaussian_filter(velocity, 1.0, border="nearest")
            else:
                velocity *= np.float32(_SHORTER)
            rounds += 1

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> VelocityState:
        """Start from a velocity ``(3, I, J, K)`` in voxels; it is used as a buffer from here on."""
        (velocity,) = fields
        force, update = np.zeros(velocity.shape, np.float32), np.zeros(velocity.shape, np.float32)
        kept = velocity.copy() if self.forbid_folds else None
        return VelocityState(velocity, velocity.copy(), force, update, rows, self.step_vox, [], kept)

    def step(self, state: VelocityState, cost: DenseCost, rule: Convergence | None = None) -> bool:
        """Take one step in place; return False when there is nothing left to do.

        The step that meets `rule` is the last: as much of it is taken as the rule leaves.
        """
        state.values.append(self.value(state, cost))
        share = 1.0 if rule is None else rule.left(state.values)
        if share == 0:
            return False
        state.step_vox *= shortening(state.values, self.step_decay)
        gaussian_filter(state.force, self.update_sigma_vox, out=state.update, rows=state.rows)
        largest = largest_component(state.update, state.rows)
        if not (largest > 0 and np.isfinite(largest)):
            return False
        factor = share * state.step_vox / largest
        state.update *= np.float32(min(factor, share) if self.natural_step else factor)
        state.velocity += state.update
        if self.field_sigma_vox > 0:
            sigma = self.field_sigma_vox * share**0.5
            gaussian_filter(state.velocity, sigma, out=state.other, border="nearest", rows=state.rows)
            state.velocity, state.other = state.other, state.velocity
        return True

    def value(self, state: VelocityState, cost: DenseCost) -> float:
        """Return the value where the state stands, and leave the force there in it."""
        if state.kept is not None:
            self._step_back(state, state.kept)
        if self.gradient == "adjoint":
            fields = squarings(state.velocity, self.squarings)
            value = cost.value_and_gradient(fields[-1], state.update)
            np.negative(exponential_adjoint(fields, state.update), out=state.force)
            return value
        value = cost.force(exponential(state.velocity, self.squarings), state.update, state.force)
        if self.symmetric:
            there = exponential(-state.velocity, self.squarings)
            other = np.zeros_like(there)
            value = 0.5 * (value + cost.exchanged_force(there, state.update, other))
            state.force -= other
            state.force *= np.float32(0.5)
        return value

    def _step_back(self, state: VelocityState, kept: Field) -> None:
        """Halve the last step, and those to come, until the map does not fold; where that is no use, take it back."""
        for _ in range(_HALVINGS):
            if not folds(*self._maps(state.velocity)):
                break
            state.velocity += kept
            state.velocity *= np.float32(0.5)
            state.step_vox *= 0.5
        else:
            state.velocity[...] = kept
        kept[...] = state.velocity

    def _maps(self, velocity: Field) -> list[Field]:
        """Return the displacements that must not fold: the map, and of a symmetric one its inverse."""
        ways = (velocity, -velocity) if self.symmetric else (velocity,)
        return [exponential(one, self.squarings) for one in ways]

    def fields(self, state: VelocityState) -> tuple[Field, ...]:
        """Return the velocity."""
        return (state.velocity,)

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return ``exp(v) − id``."""
        return exponential(fields[0], self.squarings)
