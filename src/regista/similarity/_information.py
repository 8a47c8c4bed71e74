"""Mutual information and its normalized form, from the joint histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.kernels.cpu.histogram import histogram_gradient, joint_histogram
from regista.similarity._base import Prepared, Volume


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
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 8 <= self.bins <= 254:
            raise PlanError(f"{self.name} bins is between 8 and 254, got {self.bins}")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return _PreparedHistogram(fixed, weight, self.bins, normalized=False)


@dataclass(frozen=True, kw_only=True)
class NMI(MI):
    """Normalized mutual information, ``D = −(H(F) + H(W)) / H(F, W)`` (Studholme 1999).

    Less sensitive than MI to how much the images overlap.
    """

    name: ClassVar[str] = "nmi"

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return _PreparedHistogram(fixed, weight, self.bins, normalized=True)


class _PreparedHistogram(Prepared):
    symmetric = False  # edges of other contrasts may point the other way

    def __init__(self, fixed: Volume, weight: Volume | None, bins: int, normalized: bool) -> None:
        super().__init__(fixed)
        self._bins, self._normalized = bins, normalized
        used = fixed if weight is None else fixed[weight > 0]
        low, high = (float(used.min()), float(used.max())) if used.size else (0.0, 1.0)
        width = max(high - low, 1e-12) / (bins - 1)
        self._fixed_bins = np.clip((fixed - low) / width + 0.5, 0, bins - 1).astype(np.uint8)
        self._range: tuple[float, float] | None = None

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        if self._range is None:
            # fixed once per level: a moving range would make the value jump between steps. Scans span 0 … 1, and
            # what of them the first look happens to show must not matter
            low, high = min(float(warped.min()), 0.0), max(float(warped.max()), 1.0)
            self._range = (low, max(high - low, 1e-12) / (self._bins - 4))
        low, width = self._range
        counts = joint_histogram(self._fixed_bins, warped, weight, self._bins, low, width)
        total = counts.sum()
        if total <= 0:
            out[...] = 0
            return float("inf")
        value, table = _information(counts / total, self._normalized)
        table = (table - (table * counts).sum() / total) / total  # through the normalization by the total
        histogram_gradient(self._fixed_bins, warped, weight, table, low, width, out=out)
        return value


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
