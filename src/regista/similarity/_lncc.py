"""Squared local normalized cross-correlation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.kernels.cpu.filters import box_filter
from regista.kernels.cpu.lncc import lncc_coefficients, lncc_fixed, lncc_force, lncc_gradient
from regista.kernels.cpu.weighted_lncc import LEAST_SHARE, apply_weight, weighted_lncc_coefficients
from regista.similarity._base import Prepared, Volume


@dataclass(frozen=True, kw_only=True)
class LNCC:
    """Squared local cross-correlation over cubic windows, ``D = −Σ w cc² / Σ w`` (Avants 2008).

    Sums run over windows in which the fixed image is not flat. Where masks hide voxels (`Prepared.hides`), the means and
    sums within a window are weighted too, and windows that see less than a fifth of their voxels count less, and for
    nothing below 16 %.

    Parameters
    ----------
    radius : int
        Window radius, voxels of the level.
    floor : float
        Windows whose variance is below this share of the squared intensity range are left out.
    """

    radius: int = 2
    floor: float = 1e-5
    name: ClassVar[str] = "lncc"
    volumes: ClassVar[int] = 0
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not 1 <= self.radius <= 16:
            raise PlanError(f"lncc radius is between 1 and 16 voxels, got {self.radius}")
        if not 0 <= self.floor < 1:
            raise PlanError(f"lncc floor is between 0 and 1, got {self.floor}")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return _PreparedLNCC(fixed, self)


class _PreparedLNCC(Prepared):
    def __init__(self, fixed: Volume, config: LNCC) -> None:
        super().__init__(fixed)
        self.reach_vox = config.radius
        self._radius, self._floor = config.radius, max(config.floor, 1e-12)
        self._statistics: tuple[Volume, Volume] | None = None
        self._coefficients: Volume | None = None

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind to the same image as warped anew."""
        super().rebind(fixed, weight)
        self._statistics = None

    def sees(self, weight: Volume) -> bool:
        """Tell whether some window sees enough of its voxels."""
        if not self.hides:
            return super().sees(weight)
        total, counts = box_filter(np.stack([weight, np.ones_like(weight)]), self._radius)
        return bool(np.any((weight > 0) & (total > LEAST_SHARE * counts * weight)))

    def _fill(
        self, warped: Volume, weight: Volume | None, out: Volume, rows: NDArray[np.int32] | None = None
    ) -> tuple[float, float]:
        radius, floor = self._radius, self._floor
        if self.hides and weight is not None:
            value, total = weighted_lncc_coefficients(
                self.fixed, warped, weight, radius, floor, out=out, rows=rows
            )
        else:
            if self._statistics is None:
                self._statistics = lncc_fixed(self.fixed, radius)
            mean, spread = self._statistics
            value, total = lncc_coefficients(
                self.fixed, mean, spread, warped, weight, radius, floor, out=out, rows=rows
            )
        return (-value / total, total) if total > 0 else (0.0, 1.0)

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        if self._coefficients is None:
            self._coefficients = np.empty((3, *warped.shape), np.float32)
        value, total = self._fill(warped, weight, self._coefficients)
        lncc_gradient(self.fixed, warped, self._coefficients, self._radius, out=out)
        out *= np.float32(-1 / total)
        if self.hides and weight is not None:
            out *= weight
        return value

    def force(
        self,
        warped: Volume,
        weight: Volume | None,
        axis_scale: NDArray[np.float32],
        symmetric: bool,
        scratch: Volume,
        out: Volume,
        rows: NDArray[np.int32] | None = None,
    ) -> float:
        value, total = self._fill(warped, weight, scratch, rows)
        scale = np.asarray(axis_scale, np.float32) / np.float32(total)
        lncc_force(self.fixed, warped, scratch, self._radius, scale, symmetric, out=out, rows=rows)
        if self.hides and weight is not None:
            apply_weight(out, weight, rows=rows)
        return value
