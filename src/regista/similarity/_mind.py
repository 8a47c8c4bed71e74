"""Self-similarity descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from regista.core import PlanError
from regista.kernels.cpu.mind import (
    mind_bounds,
    mind_coefficients,
    mind_descriptors,
    mind_gradient,
    mind_margin,
    pad_nearest,
)
from regista.kernels.cpu.weighted_mind import (
    weighted_mind_bounds,
    weighted_mind_coefficients,
    weighted_mind_descriptors,
    weighted_mind_gradient,
    weighted_mind_total,
)
from regista.similarity._base import Prepared, Volume


@dataclass(frozen=True, kw_only=True)
class MIND:
    """Mean squared difference of self-similarity contexts, ``D = Σ w Σ_c (M_c(F) − M_c(W))² / (C Σ w)`` (Heinrich 2013).

    Each voxel is described by how much the patches around its six neighbours differ from each other, which looks alike
    in scans of any contrast. The twelve distances, less the smallest, are divided by their mean, which is held between a
    thousandth and a thousand times its own mean over the image: of the warped image as the metric sees it first, so that
    the value does not jump between steps. A single slice has four distances, in its plane.

    A voxel of weight 0 is not compared. Where masks hide voxels (`Prepared.hides`), patch distances are means over the
    pairs of voxels that both images show, and so are the descriptors of both; a distance of which less than a fifth is shown
    is left out, and a voxel where fewer than half of the distances remain.

    Parameters
    ----------
    radius : int
        Radius of the patches, voxels of the level.
    dilation : int
        Distance of the neighbours from their voxel, voxels of the level.
    """

    radius: int = 1
    dilation: int = 2
    name: ClassVar[str] = "mind"
    volumes: ClassVar[int] = 28
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 0 <= self.radius <= 8:
            raise PlanError(f"mind radius is between 0 and 8 voxels, got {self.radius}")
        if not 1 <= self.dilation <= 8:
            raise PlanError(f"mind dilation is between 1 and 8 voxels, got {self.dilation}")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return _PreparedMIND(fixed, self)


class _PreparedMIND(Prepared):
    symmetric = False  # edges of other contrasts may point the other way

    def __init__(self, fixed: Volume, config: MIND) -> None:
        super().__init__(fixed)
        self.reach_vox = config.radius + config.dilation
        self._radius, self._dilation = config.radius, config.dilation
        self._margin = mind_margin(fixed.shape, config.radius, config.dilation)
        self._descriptors: Volume | None = None
        self._hidden_descriptors: Volume | None = None
        self._hidden_bounds: tuple[tuple[float, float], tuple[float, float]] | None = None
        self._bounds: tuple[float, float] | None = None
        self._fixed_bounds: tuple[float, float] | None = None
        self._padded: Volume | None = None
        self._padded_fixed: Volume | None = None
        self._stale = True
        self._padded_weight: Volume | None = None
        channels = {3: 12, 2: 4}.get(sum(n > 1 for n in fixed.shape), 0)
        self._coefficients = np.empty((channels, *fixed.shape), np.float32)

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind to the same image as warped anew, within the same bounds."""
        super().rebind(fixed, weight)
        self._descriptors, self._stale = None, True

    def sees(self, weight: Volume) -> bool:
        """Tell whether some voxel is shown with enough of the patches around it."""
        if not self.hides or not len(self._coefficients):
            return super().sees(weight)
        total = weighted_mind_total(pad_nearest(weight, self._margin), self._radius, self._dilation)
        return bool(total > 0)

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        if self.hides and weight is not None:
            return self._hidden(warped, weight, out)
        radius, dilation, channels = self._radius, self._dilation, len(self._coefficients)
        if self._descriptors is None:
            if self._fixed_bounds is None:
                self._fixed_bounds = mind_bounds(pad_nearest(self.fixed, self._margin), radius, dilation)
            self._descriptors = mind_descriptors(self.fixed, radius, dilation, self._fixed_bounds)
        self._padded = pad_nearest(warped, self._margin, out=self._padded)
        if self._bounds is None:
            self._bounds = mind_bounds(self._padded, radius, dilation)
        total = float(warped.size if weight is None else weight.sum(dtype=np.float64))
        if total <= 0:
            out[...] = 0
            return float("inf")
        value = mind_coefficients(
            self._descriptors, self._padded, weight, radius, dilation, self._bounds, out=self._coefficients
        )
        share = 1 / (max(channels, 1) * total)
        mind_gradient(self._padded, self._coefficients, radius, dilation, share, out=out)
        return float(value * share)

    def _hidden(self, warped: Volume, weight: Volume, out: Volume) -> float:
        """Do what `value_and_gradient` does, with descriptors of both images that see what has weight alone."""
        settings = self._radius, self._dilation
        self._padded = pad_nearest(warped, self._margin, out=self._padded)
        self._padded_weight = pad_nearest(weight, self._margin, out=self._padded_weight)
        if self._stale or self._padded_fixed is None:
            self._padded_fixed = pad_nearest(self.fixed, self._margin, out=self._padded_fixed)
            self._stale = False
        if self._hidden_descriptors is None:
            self._hidden_descriptors = np.empty_like(self._coefficients)
        given = self._padded_weight, *settings
        if self._hidden_bounds is None:
            self._hidden_bounds = (
                weighted_mind_bounds(self._padded_fixed, *given),
                weighted_mind_bounds(self._padded, *given),
            )
        bounds, warped_bounds = self._hidden_bounds
        weighted_mind_descriptors(self._padded_fixed, *given, bounds, out=self._hidden_descriptors)
        value, total = weighted_mind_coefficients(
            self._hidden_descriptors, self._padded, *given, warped_bounds, out=self._coefficients
        )
        if total <= 0:
            out[...] = 0
            return 0.0 if len(self._coefficients) == 0 else float("inf")
        share = 1 / (len(self._coefficients) * total)
        weighted_mind_gradient(
            self._padded, self._padded_weight, self._coefficients, *settings, share, out=out
        )
        return float(value * share)
