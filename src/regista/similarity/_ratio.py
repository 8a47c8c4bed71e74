"""Correlation ratio, from the joint histogram."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.similarity._base import Prepared, Volume
from regista.similarity._histogram import PreparedHistogram

_WINDOW_VARIANCE = 1 / 3
"""Variance of the cubic B-spline window, squared bins: what it adds to the warped image's own."""


@dataclass(frozen=True, kw_only=True)
class CorrelationRatio:
    """How badly the fixed intensity foretells the warped one, ``D = Σ_k n_k Var(W | k) / (N Var(W))`` (Roche 1998).

    0 where the warped intensity is any function of the fixed one, 1 where the one says nothing of the other. The fixed
    image's bins k are plain, the warped image's intensities pass through the Parzen window of `MI`, whose own variance is
    taken off again.

    Parameters
    ----------
    bins : int
        Number of histogram bins, padding included.
    both : bool
        Take the mean of D and of the same with the images' parts exchanged: neither image need be a function of the
        other then.
    """

    bins: int = 32
    both: bool = False
    name: ClassVar[str] = "cr"
    volumes: ClassVar[int] = 0
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 8 <= self.bins <= 254:
            raise PlanError(f"cr bins is between 8 and 254, got {self.bins}")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return PreparedHistogram(fixed, weight, self.bins, partial(_ratio, both=self.both))


def _ratio(p: NDArray[np.float64], both: bool) -> tuple[float, NDArray[np.float64]]:
    """Return D and ``dD/dp`` for a joint distribution `p` (rows fixed, columns warped)."""
    value, table = _one_way(p, _WINDOW_VARIANCE)
    if not both:
        return value, table
    other, turned = _one_way(p.T, 0.0)
    return (value + other) / 2, (table + turned.T) / 2


def _one_way(p: NDArray[np.float64], window: float) -> tuple[float, NDArray[np.float64]]:
    """Return what is left of the variance of the columns' index once the row is known, and its derivative by `p`."""
    place = np.arange(p.shape[1], dtype=np.float64)
    share, first = p.sum(axis=1), p @ place
    square = place**2 - window
    mean = (first / np.maximum(share, 1e-12))[:, None]
    total = float(p.sum())
    center = float(first.sum()) / max(total, 1e-12)
    within = float((p @ square).sum() - (first * mean[:, 0]).sum())
    whole = float((p @ square).sum() - first.sum() * center)
    if whole <= 1e-6:  # squared bins: a flat image
        return 1.0, np.zeros_like(p)
    by_within = square - 2 * mean * place + mean**2
    by_whole = square - 2 * center * place + center**2
    value = within / whole
    return value, np.asarray((by_within - value * by_whole) / whole)
