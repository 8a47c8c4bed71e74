"""Free-form deformation: B-spline control points, by a limited-memory quasi-Newton method."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.kernels.cpu.bspline import SplineAxis, spline_expand, spline_reduce
from regista.kernels.cpu.folds import smallest_corners
from regista.optimization._control_spacing import Spacing, along_axes, check_spacing, spline_axes
from regista.optimization._dense import DenseCost, Field, Rows
from regista.optimization._folds import LEAST_DETERMINANT, Displacing
from regista.optimization._stopping import Convergence

Vector = NDArray[np.float64]


@dataclass
class FreeFormState:
    """The dense field so far, its control points' gradient, what is known of the curvature, and the history.

    `start` is the field the level began with; the control points add to it.
    """

    start: Field
    axes: tuple[SplineAxis, ...]
    control: Vector
    field: Field
    dense: Field
    gradient: Vector | None = None
    current: float = np.nan
    values: list[float] = dataclasses.field(default_factory=list)
    pairs: deque[tuple[Vector, Vector]] = dataclasses.field(default_factory=deque)


@dataclass(frozen=True, kw_only=True)
class FreeForm(Displacing):
    """Cubic B-spline free-form deformation (Rueckert 1999), minimized by L-BFGS (Nocedal & Wright 2006, ch. 7).

    The displacement is the start's plus ``Σ c_n B(x / spacing − n)``. Each level adds a finer set of control points to
    what the one before found.

    Parameters
    ----------
    spacing_vox : float or tuple of 3 floats
        Distance of control points, voxels of the level: one for all axes, or one for each.
    first_step_vox, max_step_vox : float
        Largest change of a control point in the first step, and in any.
    memory : int
        Steps remembered.
    forbid_folds : bool
        Whether the map may not fold, whatever its value: steps are shortened around voxels that they fold.
    """

    parts: ClassVar[int] = 1
    takes_start: ClassVar[bool] = True
    spacing_vox: Spacing = 5.0
    first_step_vox: float = 0.5
    max_step_vox: float = 2.0
    memory: int = 6
    forbid_folds: bool = False

    def __post_init__(self) -> None:
        check_spacing(self.spacing_vox)
        for name in ("first_step_vox", "max_step_vox"):
            if not 0 < getattr(self, name) <= 20:
                raise PlanError(f"{name} is above 0 and at most 20 voxels, got {getattr(self, name)}")
        if not 1 <= self.memory <= 50:
            raise PlanError(f"memory is between 1 and 50 steps, got {self.memory}")

    @property
    def reach_vox(self) -> int:
        """Voxels that a control point reaches."""
        return int(np.ceil(2 * max(along_axes(self.spacing_vox))))

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> FreeFormState:
        """Start from a field ``(3, I, J, K)`` in voxels; it is kept."""
        (start,) = fields
        axes = spline_axes(start.shape[1:], self.spacing_vox)
        control = np.zeros((len(start), *(axis.controls for axis in axes)))
        return FreeFormState(start, axes, control, start.copy(), np.empty_like(start))

    def step(self, state: FreeFormState, cost: DenseCost, rule: Convergence | None = None) -> bool:
        """Take one step in place, one that lowers the value; return False when none does.

        Where none is found along the quasi-Newton direction, what was learnt of the curvature is forgotten, and the
        gradient followed.
        """
        state.values.append(self.value(state, cost))
        if rule is not None and rule.reached(state.values):
            return False
        gradient = state.gradient
        assert gradient is not None  # it comes with the value
        before, start = state.current, state.control
        if self._search(state, cost, before, gradient):
            return True
        if self._useful(state):  # else it was the gradient that led nowhere
            state.pairs.clear()
            if self._search(state, cost, before, gradient):
                return True
        self._evaluate(state, cost, start)
        return False

    def _search(self, state: FreeFormState, cost: DenseCost, before: float, gradient: Vector) -> bool:
        """Look for a lower value along the solver's direction, and go there; return whether one was found."""
        direction = self._direction(state, gradient)
        slope = float(np.vdot(direction, gradient))
        if slope >= 0:
            state.pairs.clear()
            direction = self._direction(state, gradient)
            slope = float(np.vdot(direction, gradient))
        largest = float(np.abs(direction).max())
        if not (largest > 0 and np.isfinite(largest)):
            return False
        factor, start = min(1.0, self.max_step_vox / largest), state.control
        for _ in range(8):
            move: Vector | None = factor * direction
            if self.forbid_folds:
                move = self._without_folds(state, factor * direction)
            ahead = 0.0 if move is None else float(np.vdot(move, gradient))
            value = np.inf
            if move is not None and ahead < 0:
                value, found = self._evaluate(state, cost, start + move)
            if move is not None and np.isfinite(value) and value <= before + 1e-4 * ahead:
                state.pairs.append((move, found - gradient))
                while len(state.pairs) > self.memory:
                    state.pairs.popleft()
                state.control = start + move
                return True
            # minimum of the parabola through both values and the slope, kept within a sane range; half, before a wall
            curve = 2 * (value - before - ahead) if np.isfinite(value) else 0.0
            factor *= float(np.clip(-ahead / curve if curve > 0 else 0.5, 0.1, 0.5))
        return False

    def _without_folds(self, state: FreeFormState, move: Vector) -> Vector | None:
        """Return a change of control points, less of it around voxels that it folds; None where less does not help.

        A step that was shortened as a whole would stand still everywhere for one voxel's sake.
        """
        for less in (0.5, 0.5, 0.0, 0.0, 0.0):
            np.add(state.start, spline_expand(state.control + move, state.axes), out=state.field)
            parts = np.split(state.field, self.parts)
            folded = np.stack([smallest_corners(part) <= LEAST_DETERMINANT for part in parts])
            if not folded.any():
                return move
            for axis in (1, 2, 3):  # differences look a voxel further
                before, after = np.moveaxis(folded.copy(), axis, 0), np.moveaxis(folded, axis, 0)
                after[1:] |= before[:-1]
                after[:-1] |= before[1:]
            near = np.repeat(spline_reduce(folded, state.axes) > 0, 3, axis=0)
            move = np.where(near, less * move, move)
        return None

    def _evaluate(self, state: FreeFormState, cost: DenseCost, control: Vector) -> tuple[float, Vector]:
        """Return value and gradient at control points, and leave the field there in the state."""
        np.add(state.start, spline_expand(control, state.axes), out=state.field)
        state.current = cost.value_and_gradient(state.field, state.dense)
        state.gradient = spline_reduce(state.dense, state.axes).astype(np.float64)
        return state.current, state.gradient

    def _useful(self, state: FreeFormState) -> list[tuple[Vector, Vector]]:
        """Return the steps that tell of a curvature upwards."""
        return [
            (s, y) for s, y in state.pairs if np.vdot(s, y) > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y)
        ]

    def _direction(self, state: FreeFormState, gradient: Vector) -> Vector:
        """Return the quasi-Newton direction by the two-loop recursion."""
        useful = self._useful(state)
        if not useful:
            return -gradient * (self.first_step_vox / max(float(np.abs(gradient).max()), 1e-30))
        q, shares = gradient.copy(), []
        for s, y in reversed(useful):
            share = float(np.vdot(s, q) / np.vdot(s, y))
            q -= share * y
            shares.append(share)
        s, y = useful[-1]
        q *= float(np.vdot(s, y) / np.vdot(y, y))
        for (s, y), share in zip(useful, reversed(shares), strict=True):
            q += (share - float(np.vdot(y, q) / np.vdot(s, y))) * s
        return -q

    def value(self, state: FreeFormState, cost: DenseCost) -> float:
        """Return the value where the state stands."""
        if state.gradient is None:
            self._evaluate(state, cost, state.control)
        return state.current

    def fields(self, state: FreeFormState) -> tuple[Field, ...]:
        """Return the dense field."""
        return (state.field,)

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return the field."""
        return fields[0]
