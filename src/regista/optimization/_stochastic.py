"""Free-form deformation by adaptive stochastic gradient descent: each step looks at a few random voxels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from regista.core import PlanError
from regista.kernels.cpu.bspline import SplineAxis, spline_expand, spline_reduce
from regista.kernels.cpu.samples import spline_at, spline_spread
from regista.optimization._control_spacing import Spacing, along_axes, check_spacing, spline_axes
from regista.optimization._dense import Field, Rows
from regista.optimization._folds import Displacing, folds
from regista.optimization._stopping import Convergence

Vector = NDArray[np.float64]
Voxels = NDArray[np.int64]

_MANY = 32
"""How many times the samples of a step tell where a level begins: its exact gradient, and the values compared."""
_TRIALS = 10
"""Sampled gradients from which their noise is estimated, as in Klein 2009."""
_HALVINGS = 6
"""How often a step that folds is halved before it is left out."""
_NOISE_SHARE = 0.1
"""Width of the sigmoid, in standard deviations of the inner product of two noises (ζ of Klein 2009)."""


class SampledCost(Protocol):
    """Dissimilarity at some voxels of the fixed grid, and penalties at every few."""

    axis_scale: NDArray[np.float32]
    """``(3,)``: squared ratio of the finest spacing to each axis's, 0 along an axis of one voxel."""

    def draw(self, count: int) -> Voxels:
        """Return `count` random voxels that can be compared, flat indices; new ones each time."""
        ...

    def value_and_gradient_at(self, voxels: Voxels, disp: Field, out: Field) -> float:
        """Return the value from some voxels, displaced by `disp`, ``(3, N)``; write its derivative by `disp`."""
        ...

    @property
    def penalized(self) -> bool:
        """Whether there are penalties."""
        ...

    def penalty(self, field: Field, strides: tuple[int, ...], out: Field) -> float:
        """Return the penalties' value for a field given at every few voxels, ``(3, …)``; add their derivative."""
        ...


@dataclass
class StochasticState:
    """Control points, the time and length of steps, and the history.

    Control points move in voxels of the finest axis; `scale` makes voxels of each axis of them. `many` are the voxels
    on which the first and the last value are taken.
    """

    start: Field
    axes: tuple[SplineAxis, ...]
    control: Vector
    scale: Vector | None = None
    many: Voxels | None = None
    first_gain: float = 0.0
    slowest: float = 0.0
    width: float = 1.0
    time: float = 0.0
    before: Vector | None = None
    values: list[float] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StochasticFreeForm(Displacing):
    """Cubic B-spline free-form deformation by adaptive stochastic gradient descent (Klein 2009).

    Step k goes against the gradient ``g_k`` that new random voxels give: ``c ← c − γ(t_k) g_k``, ``γ(t) = γ₀ (A / (A +
    t))^α``. The time goes on where successive gradients contradict each other, and back where they agree: ``t ← max(0, t
    + f(−g_k·g_{k−1}))`` with a sigmoid ``f``. ``γ₀`` is estimated where a level begins (Qiao 2016).

    Parameters
    ----------
    spacing_vox : float or tuple of 3 floats
        Distance of control points, voxels of the level: one for all axes, or one for each.
    samples : int
        Voxels of a step, drawn anew for each.
    first_step_vox : float
        δ: what the first step may move voxels, the mean and two standard deviations over them, in the level's voxels
        along its finest axis.
    max_step_vox : float
        Largest change of a control point in any step; it lessens in time as steps do.
    decay_steps, decay_power : float
        A and α.
    forbid_folds : bool
        Whether a step to a field that folds, at every few voxels, is shortened.

    Examples
    --------
    >>> StochasticFreeForm(samples=2048).gain(1.0, 20.0)
    0.5
    """

    parts: ClassVar[int] = 1
    takes_start: ClassVar[bool] = True
    spacing_vox: Spacing = 5.0
    samples: int = 4096
    first_step_vox: float = 0.5
    max_step_vox: float = 2.0
    decay_steps: float = 20.0
    decay_power: float = 1.0
    forbid_folds: bool = False

    def __post_init__(self) -> None:
        check_spacing(self.spacing_vox)
        if not 100 <= self.samples <= 10_000_000:
            raise PlanError(f"samples is between 100 and 10000000 voxels, got {self.samples}")
        for name in ("first_step_vox", "max_step_vox"):
            if not 0 < getattr(self, name) <= 20:
                raise PlanError(f"{name} is above 0 and at most 20 voxels, got {getattr(self, name)}")
        if not 1 <= self.decay_steps <= 10_000:
            raise PlanError(f"decay_steps is between 1 and 10000 steps, got {self.decay_steps}")
        if not 0 <= self.decay_power <= 1:
            raise PlanError(f"decay_power is between 0 and 1, got {self.decay_power}")

    @property
    def reach_vox(self) -> int:
        """Voxels around the content of which samples are of use: none beyond those that content may move to."""
        return 0

    def init(self, fields: Sequence[Field], rows: Rows | None = None) -> StochasticState:
        """Start from a field ``(3, I, J, K)`` in voxels; it is kept."""
        (start,) = fields
        axes = spline_axes(start.shape[1:], self.spacing_vox)
        return StochasticState(start, axes, np.zeros((3, *(axis.controls for axis in axes))))

    def gain(self, first: float, time: float) -> float:
        """Return γ(t), the factor on a gradient, from what it is at time 0."""
        return float(first * (self.decay_steps / (self.decay_steps + time)) ** self.decay_power)

    def step(self, state: StochasticState, cost: SampledCost, rule: Convergence | None = None) -> bool:
        """Take one step in place; return False where the images give no direction. `rule` is not asked."""
        if state.many is None:
            self._begin(state, cost)
        value, gradient = self._evaluate(state, cost, cost.draw(self.samples))
        state.values.append(value if state.values else self.value(state, cost))
        if not (state.first_gain > 0 and np.isfinite(value)):
            return False
        if state.before is not None:
            state.time = max(0.0, state.time + _sigmoid(state, -float(np.vdot(gradient, state.before))))
        move = -self.gain(state.first_gain, state.time) * gradient
        # steep penalties, flat where the gain was estimated, must not throw control points far away
        most = self.gain(self.max_step_vox, state.time)
        move *= min(1.0, most / max(float(np.abs(move).max()), 1e-30))
        state.control = state.control + (self._short_of_folds(state, move) if self.forbid_folds else move)
        state.before = gradient
        return True

    def _short_of_folds(self, state: StochasticState, move: Vector) -> Vector:
        """Return a step of the control points, halved until the field does not fold at every few voxels; else none."""
        assert state.scale is not None
        for _ in range(_HALVINGS):
            field, strides, _ = self._at_some(state, state.scale * (state.control + move))
            if not folds(field / np.array(strides, np.float32).reshape(3, 1, 1, 1)):
                return move
            move = 0.5 * move
        return np.zeros_like(move)

    def _begin(self, state: StochasticState, cost: SampledCost) -> None:
        """Estimate the first gain, and what the noise of the samples makes of gradients."""
        scale = np.sqrt(cost.axis_scale.astype(np.float64))
        state.scale, state.many = scale.reshape(3, 1, 1, 1), cost.draw(_MANY * self.samples)
        _, exact = self._evaluate(state, cost, state.many)
        moved = np.linalg.norm(spline_at(exact, state.axes, state.many), axis=0)
        longest = float(moved.mean() + 2 * moved.std())
        noises = [self._evaluate(state, cost, cost.draw(self.samples))[1] - exact for _ in range(_TRIALS)]
        noise = float(np.mean([np.vdot(one, one) for one in noises]))
        signal = float(np.vdot(exact, exact))
        if not (longest > 0 and np.isfinite(longest)):
            return
        share = signal / (signal + noise)
        pairs = [np.vdot(noises[m], noises[n]) for n in range(_TRIALS) for m in range(n)]
        state.first_gain = self.first_step_vox / longest * share
        state.slowest = (
            0.98 * share - 0.99
        )  # without noise time never goes back, with nothing else it wanders
        state.width = max(_NOISE_SHARE * float(np.sqrt(np.mean(np.square(pairs)))), 1e-30)

    def _evaluate(self, state: StochasticState, cost: SampledCost, voxels: Voxels) -> tuple[float, Vector]:
        """Return the value from some voxels, and its gradient at the control points."""
        scale = state.scale
        assert scale is not None  # set where a level begins
        control = scale * state.control
        disp = spline_at(control, state.axes, voxels) + state.start.reshape(3, -1)[:, voxels]
        by_disp = np.empty_like(disp)
        value = cost.value_and_gradient_at(voxels, disp, by_disp)
        gradient = spline_spread(by_disp, state.axes, voxels)
        if cost.penalized:
            value += self._penalize(state, cost, control, gradient)
        return value, scale * gradient

    def _penalize(
        self, state: StochasticState, cost: SampledCost, control: Vector, gradient: Vector
    ) -> float:
        """Return the penalties' value and add their gradient."""
        field, strides, axes = self._at_some(state, control)
        by_field = np.zeros_like(field)
        value = cost.penalty(field, strides, by_field)
        gradient += spline_reduce(by_field, axes)
        return value

    def _at_some(
        self, state: StochasticState, control: Vector
    ) -> tuple[Field, tuple[int, ...], tuple[SplineAxis, ...]]:
        """Return the field at every few voxels, how many along each axis, and the weights of control points there.

        A field of splines is smooth: penalties take it at two voxels or more for each control point.
        """
        strides = tuple(
            max(1, min(int(np.ceil(step / 2)), n // 4))
            for n, step in zip(state.start.shape[1:], along_axes(self.spacing_vox), strict=True)
        )
        axes = tuple(
            axis._replace(first=axis.first[::stride], weights=axis.weights[::stride])
            for axis, stride in zip(state.axes, strides, strict=True)
        )
        i, j, k = strides
        field = np.ascontiguousarray(state.start[:, ::i, ::j, ::k]) + spline_expand(control, axes)
        return field, strides, axes

    def value(self, state: StochasticState, cost: SampledCost) -> float:
        """Return the value where the state stands, from the same many voxels each time."""
        if state.many is None:
            self._begin(state, cost)
        assert state.many is not None
        return self._evaluate(state, cost, state.many)[0]

    def fields(self, state: StochasticState) -> tuple[Field, ...]:
        """Return the dense field."""
        if state.scale is None:
            return (state.start,)
        return (state.start + spline_expand(state.scale * state.control, state.axes),)

    def displacement(self, fields: Sequence[Field]) -> Field:
        """Return the field."""
        return fields[0]


def _sigmoid(state: StochasticState, away: float) -> float:
    """Return how far time goes on: 0 for `away` = 0, up to 1 where gradients contradict, back where they agree."""
    low = state.slowest
    return float(low + (1 - low) * expit(away / state.width + np.log(-low)))
