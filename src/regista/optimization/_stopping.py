"""When to stop: the trend of the last values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from regista.core import PlanError


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """Stop once a line fitted to the last `window` values falls by less than `tolerance` per step.

    Parameters
    ----------
    window : int
        Number of values.
    tolerance : float
        Smallest fall per step that is worth going on for, relative to the spread of values so far.

    Examples
    --------
    >>> rule = Convergence(window=4, tolerance=1e-3)
    >>> rule.reached([4.0, 3.0, 2.0, 1.0]), rule.reached([4.0, 1.0, 1.0, 1.0, 1.0])
    (False, True)
    """

    window: int = 10
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.window < 2:
            raise PlanError(f"a convergence window holds at least 2 values, got {self.window}")
        if not self.tolerance >= 0:
            raise PlanError(f"a convergence tolerance is at least 0, got {self.tolerance}")

    def reached(self, values: Sequence[float]) -> bool:
        """Tell whether the rule is met by a history of values."""
        excess = self._excess(values)
        return excess is not None and excess < 0

    def left(self, values: Sequence[float]) -> float:
        """Return how much of the next step to take: 1 before the rule is met, 0 after, a share where it is crossed.

        A rule that is met a hair's breadth earlier or later then ends at nearly the same place.
        """
        now = self._excess(values)
        if now is None or now >= 0:
            return 1.0
        before = self._excess(values[:-1])
        return before / (before - now) if before is not None and before > 0 else 0.0

    def _excess(self, values: Sequence[float]) -> float | None:
        """Return the fall per step, relative to the spread, beyond the tolerance."""
        if len(values) < self.window:
            return None
        recent = np.asarray(values[-self.window :])
        spread = max(values[0] - recent.min(), 1e-12)
        time = np.arange(self.window) - (self.window - 1) / 2
        return float(-(time @ recent) / (time @ time) / spread - self.tolerance)


_RISE = 0.01
"""Rise of the value, as a share of what was gained so far, that counts."""


def shortening(values: Sequence[float], step_decay: float) -> float:
    """Return the factor on the step: near 1 while the value falls, `step_decay` where it rises, smooth between."""
    if len(values) < 2:
        return 1.0
    gained = max(values[0] - min(values), 1e-9)
    rise = (values[-1] - values[-2]) / (_RISE * gained)
    return float(1 - (1 - step_decay) * expit(rise))
