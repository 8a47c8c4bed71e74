"""SSD and global NCC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from regista.kernels.cpu.intensity import combine, moments
from regista.similarity._base import Prepared, Volume


@dataclass(frozen=True, kw_only=True)
class SSD:
    """Mean squared difference per voxel, ``D = Σ w (F − M∘T)² / Σ w``.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones((2, 3, 4), np.float32)
    >>> SSD().prepare(one, None).value_and_gradient(one * 3, None, np.empty_like(one))
    4.0
    """

    name: ClassVar[str] = "ssd"
    volumes: ClassVar[int] = 0
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return PreparedSSD(fixed)


class PreparedSSD(Prepared):
    """SSD bound to a fixed image."""

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        total, _, _, ff, ww, fw = moments(self.fixed, warped, weight)
        if total <= 0:
            out[...] = 0
            return float("inf")
        combine(self.fixed, warped, weight, -2 / total, 2 / total, 0.0, out=out)
        return float((ff - 2 * fw + ww) / total)


@dataclass(frozen=True, kw_only=True)
class NCC:
    """Global normalized cross-correlation, ``D = −NCC²`` with its sign kept: ``−sign(c) c²``.

    Invariant to a linear change of either image's intensities.
    """

    name: ClassVar[str] = "ncc"
    volumes: ClassVar[int] = 0
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return _PreparedNCC(fixed)


class _PreparedNCC(Prepared):
    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        total, sf, sw, sff, sww, sfw = moments(self.fixed, warped, weight)
        if total <= 0:
            out[...] = 0
            return float("inf")
        mf, mw = sf / total, sw / total
        a, b, c = sfw - sf * mw, sff - sf * mf, sww - sw * mw
        if b <= 1e-10 * total or c <= 1e-10 * total:
            out[...] = 0
            return 0.0
        # d(±A²/(BC)) = ±2A/(BC) (F − F̄) ∓ 2A²/(BC²) (W − W̄)
        sign = 1.0 if a >= 0 else -1.0
        p, q = sign * 2 * a / (b * c), sign * 2 * a * a / (b * c * c)
        combine(self.fixed, warped, weight, -p, q, p * mf - q * mw, out=out)
        return float(-sign * a * a / (b * c))
