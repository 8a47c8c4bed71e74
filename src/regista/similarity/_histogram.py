"""Metrics of the joint histogram: Parzen windows as in Mattes 2003."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regista.kernels.cpu.histogram import histogram_gradient, joint_histogram
from regista.similarity._base import Prepared, Volume, gathered

Table = NDArray[np.float64]
Score = Callable[[Table], tuple[float, Table]]


class PreparedHistogram(Prepared):
    """A function of the joint distribution of both images' intensities, bound to a fixed image.

    Parameters
    ----------
    fixed, weight : (I, J, K) float32 ndarray
        Fixed image, and the weight of its voxels or None.
    bins : int
        Number of bins of either image, padding included.
    score : callable
        Returns D and ``dD/dp`` for a joint distribution p, rows fixed, columns warped.
    """

    symmetric = False  # edges of other contrasts may point the other way

    def __init__(self, fixed: Volume, weight: Volume | None, bins: int, score: Score) -> None:
        super().__init__(fixed)
        self._bins, self._score = bins, score
        used = fixed if weight is None else fixed[weight > 0]
        low, high = (float(used.min()), float(used.max())) if used.size else (0.0, 1.0)
        self._fixed_range = low, max(high - low, 1e-12) / (bins - 1)
        self._range: tuple[float, float] | None = None
        self.rebind(fixed, weight)

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind to the same image as warped anew, within the same bins.

        They are made to span the whole scan, 0 … 1, once there is more to see than at first.
        """
        super().rebind(fixed, weight)
        low, width = self._fixed_range
        used = fixed if weight is None else fixed[weight > 0]
        high = low + width * (self._bins - 1)
        if used.size and (float(used.min()) < low - width or float(used.max()) > high + width):
            low, high = min(low, 0.0), max(high, 1.0)
            width = (high - low) / (self._bins - 1)
            self._fixed_range = low, width
        self._fixed_bins = np.clip((fixed - low) / width + 0.5, 0, self._bins - 1).astype(np.uint8)

    def at(self, voxels: NDArray[np.int64]) -> Self:
        """Return the metric bound to some voxels, with the bins of the whole image."""
        few = super().at(voxels)
        few._fixed_bins = gathered(self._fixed_bins, voxels)
        return few

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
        value, table = self._score(counts / total)
        table = (table - (table * counts).sum() / total) / total  # through the normalization by the total
        histogram_gradient(self._fixed_bins, warped, weight, table, low, width, out=out)
        return value
