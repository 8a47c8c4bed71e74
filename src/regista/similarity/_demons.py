"""The demons force: SSD, with steps instead of a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.kernels.cpu.demons import demons_force
from regista.similarity._base import Prepared, Volume
from regista.similarity._correlation import PreparedSSD


@dataclass(frozen=True, kw_only=True)
class DemonsSSD:
    """SSD whose force is the demons' step ``(F − W) g / (|g|² + (F − W)² / K²)``.

    Parameters
    ----------
    gradient : {'fixed', 'warped', 'mean'}
        Image gradient ``g``: that of the fixed image (Thirion 1998), of the warped one, or the mean of both
        (efficient second-order minimization, Vercauteren 2009).
    normalization_vox : float
        ``K``, voxels of the finest axis: no step is longer than half of it.
    floor : float
        Differences below this share of the intensity range exert no force.

    Notes
    -----
    Where a linear stage asks for its gradient, it is that of SSD.
    """

    gradient: Literal["fixed", "warped", "mean"] = "mean"
    normalization_vox: float = 1.0
    floor: float = 1e-3
    name: ClassVar[str] = "demons"
    volumes: ClassVar[int] = 1
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.gradient not in ("fixed", "warped", "mean"):
            raise PlanError(f"demons gradient is 'fixed', 'warped' or 'mean', got {self.gradient!r}")
        if not 0 < self.normalization_vox <= 20:
            raise PlanError(f"demons normalization_vox is between 0 and 20, got {self.normalization_vox}")
        if not 0 <= self.floor < 1:
            raise PlanError(f"demons floor is between 0 and 1, got {self.floor}")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image."""
        return _PreparedDemons(fixed, self)


class _PreparedDemons(PreparedSSD):
    def __init__(self, fixed: Volume, config: DemonsSSD) -> None:
        super().__init__(fixed)
        self._config = config

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
        config = self._config
        shares = {"fixed": (1.0, 0.0), "warped": (0.0, 1.0), "mean": (0.5, 0.5)}[config.gradient]
        value: float = demons_force(
            self.fixed, warped, weight, axis_scale, shares, config.normalization_vox, config.floor,
            out=out, rows=rows,
        )  # fmt: skip
        return value
