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
from regista.similarity._base import Prepared, Volume


@dataclass(frozen=True, kw_only=True)
class MIND:
    """Mean squared difference of self-similarity contexts, ``D = Σ w Σ_c (M_c(F) − M_c(W))² / (C Σ w)`` (Heinrich 2013).

    Each voxel is described by how much the patches around its six neighbours differ from each other, which looks alike
    in scans of any contrast. The twelve distances, less the smallest, are divided by their mean, which is held between a
    thousandth and a thousand times its own mean over the image: of the warped image as the metric sees it first, so that
    the value does not jump between steps. A single slice has four distances, in its plane.

    A voxel of weight 0 is not compared, but the patches of its neighbours reach over it.

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
    volumes: ClassVar[int] = 26
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
        self.rebind(fixed, None)
        self._bounds: tuple[float, float] | None = None
        self._padded: Volume | None = None
        self._coefficients = np.empty_like(self._descriptors)

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind to the same image as warped anew."""
        super().rebind(fixed, weight)
        self._descriptors = mind_descriptors(fixed, self._radius, self._dilation)

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        radius, dilation, channels = self._radius, self._dilation, len(self._descriptors)
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
