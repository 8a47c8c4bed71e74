"""Progress protocol: how a long run tells its caller where it is, and is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One report from a running registration.

    Parameters
    ----------
    stage : str
        Name of the stage.
    level, levels : int
        Index of the level (0 is the coarsest) and their number.
    step, steps : int
        Step within the level and its limit.
    value : float
        Dissimilarity (lower is better).
    fraction : float
        Estimated share of the whole run's work done, 0 to 1.
    """

    stage: str
    level: int
    levels: int
    step: int
    steps: int
    value: float
    fraction: float


ProgressCallback = Callable[[Progress], None]
"""Called after steps; it may raise `regista.core.Cancelled` to stop the run."""


def silent(_: Progress) -> None:
    """Ignore progress."""
