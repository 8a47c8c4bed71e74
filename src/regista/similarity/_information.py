"""Mutual information and its normalized form, from the joint histogram."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.similarity._base import Prepared, Volume
from regista.similarity._histogram import PreparedHistogram


@dataclass(frozen=True, kw_only=True)
class MI:
    """Mutual information, ``D = −MI = H(F, W) − H(F) − H(W)`` in nats, Parzen windows as in Mattes 2003.

    Parameters
    ----------
    bins : int
        Number of histogram bins, padding included.
    """

    bins: int = 32
    name: ClassVar[str] = "mi"
    volumes: ClassVar[int] = 0
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 8 <= self.bins <= 254:
            raise PlanError(f"{self.name} bins is between 8 and 254, got {self.bins}")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return PreparedHistogram(fixed, weight, self.bins, partial(_information, normalized=False))


@dataclass(frozen=True, kw_only=True)
class NMI(MI):
    """Normalized mutual information, ``D = −(H(F) + H(W)) / H(F, W)`` (Studholme 1999).

    Less sensitive than MI to how much the images overlap.
    """

    name: ClassVar[str] = "nmi"

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return PreparedHistogram(fixed, weight, self.bins, partial(_information, normalized=True))


def _information(p: NDArray[np.float64], normalized: bool) -> tuple[float, NDArray[np.float64]]:
    """Return D and ``dD/dp`` for a joint distribution `p` (rows fixed, columns warped)."""
    log_joint = np.log(np.maximum(p, 1e-12))
    log_fixed = np.log(np.maximum(p.sum(axis=1, keepdims=True), 1e-12))
    log_warped = np.log(np.maximum(p.sum(axis=0, keepdims=True), 1e-12))
    joint = -float((p * log_joint).sum())
    marginal = -float((p * log_fixed).sum()) - float((p * log_warped).sum())
    if not normalized:
        return joint - marginal, log_fixed + log_warped - log_joint + 1.0
    joint = max(joint, 1e-9)
    d_marginal, d_joint = -(log_fixed + log_warped + 2.0), -(log_joint + 1.0)
    return -marginal / joint, -(d_marginal * joint - marginal * d_joint) / joint**2
