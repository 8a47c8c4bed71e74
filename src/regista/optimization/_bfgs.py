"""BFGS for the few parameters of a linear map, with steps taken on the group of maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Point = TypeVar("Point")
Vector = NDArray[np.float64]
Evaluate = Callable[[Point], tuple[float, Vector]]


@dataclass(frozen=True)
class BFGSState(Generic[Point]):
    """Where the solver stands: point, value, gradient, inverse Hessian, last step length, evaluations."""

    point: Point
    value: float
    gradient: Vector
    inverse_hessian: NDArray[np.float64]
    step_length: float
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class BFGS(Generic[Point]):
    """Quasi-Newton descent with backtracking (Nocedal & Wright 2006, ch. 6).

    Parameters
    ----------
    retract : callable
        ``retract(point, step) -> point``: takes a step from a point. For linear maps this composes with
        the exponential of the step, so that a rigid map stays rigid.
    first_step, max_step : float
        Length of the first step and of the longest one, in units of the parameters (mm).
    """

    retract: Callable[[Point, Vector], Point]
    first_step: float = 1.0
    max_step: float = 4.0

    def init(self, point: Point, evaluate: Evaluate[Point]) -> BFGSState[Point]:
        """Evaluate the start."""
        value, gradient = evaluate(point)
        length = max(float(np.linalg.norm(gradient)), 1e-30)
        return BFGSState(point, value, gradient, np.eye(len(gradient)) * self.first_step / length, np.inf, 1)

    def step(self, state: BFGSState[Point], evaluate: Evaluate[Point]) -> BFGSState[Point]:
        """Take one step; `step_length` is 0 when no descent was found, not even straight down the gradient."""
        tried = self._search(state, evaluate)
        if tried.step_length == 0 and np.isfinite(state.step_length):
            # what was learnt of the curvature may be wrong: forget it
            length = max(float(np.linalg.norm(state.gradient)), 1e-30)
            fresh = np.eye(len(state.gradient)) * self.first_step / length
            tried = self._search(
                replace(state, inverse_hessian=fresh, step_length=np.inf, evaluations=tried.evaluations),
                evaluate,
            )
        return tried

    def _search(self, state: BFGSState[Point], evaluate: Evaluate[Point]) -> BFGSState[Point]:
        direction = -state.inverse_hessian @ state.gradient
        slope = float(direction @ state.gradient)
        if not slope < 0:
            direction, slope = -state.gradient, -float(state.gradient @ state.gradient)
        length = float(np.linalg.norm(direction))
        if length > self.max_step:
            direction, slope = direction * (self.max_step / length), slope * (self.max_step / length)
        factor, evaluations = 1.0, state.evaluations
        for _ in range(8):
            move = factor * direction
            point = self.retract(state.point, move)
            value, gradient = evaluate(point)
            evaluations += 1
            if value <= state.value + 1e-4 * factor * slope:
                hessian = _update(state, move, gradient)
                return BFGSState(point, value, gradient, hessian, float(np.linalg.norm(move)), evaluations)
            # minimum of the parabola through both values and the slope, kept within a sane range
            curve = 2 * (value - state.value - factor * slope)
            factor *= float(np.clip(-factor * slope / curve if curve > 0 else 0.5, 0.1, 0.5))
        return replace(state, step_length=0.0, evaluations=evaluations)


def _update(state: BFGSState[Point], move: Vector, gradient: Vector) -> NDArray[np.float64]:
    y = gradient - state.gradient
    sy = float(move @ y)
    h = state.inverse_hessian
    if sy <= 1e-12 * float(np.linalg.norm(move) * np.linalg.norm(y)):
        return h
    if np.isinf(state.step_length):
        h = np.eye(len(move)) * sy / float(y @ y)
    left = np.eye(len(move)) - np.outer(move, y) / sy
    return np.asarray(left @ h @ left.T + np.outer(move, move) / sy)
