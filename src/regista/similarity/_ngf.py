"""Normalized gradient fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from regista.core import PlanError
from regista.kernels.cpu.ngf import least_of_neighbours, mean_gradient, ngf_field, ngf_gradient
from regista.similarity._base import Prepared, Volume

_FLAT = 1e-6
"""Smallest edge parameter, for an image without edges; intensities span 0 … 1."""


@dataclass(frozen=True, kw_only=True)
class NGF:
    """Distance of normalized gradient fields (Haber & Modersitzki 2006).

    ``D = 1 − Σ w ⟨∇F, ∇W⟩² / ((|∇F|² + η_F²) (|∇W|² + η_W²)) / Σ w``: edges are to lie along each other, whichever side
    of them is brighter. Gradients are central differences per voxel of the level. Where masks hide voxels
    (`Prepared.hides`), a voxel counts as much as the least of those that its gradients read.

    Parameters
    ----------
    edge : float or 'auto'
        The edge parameter η of both images, intensity (of the range 0 … 1) per voxel: weaker gradients are taken for
        noise. By itself, ``share`` times the mean magnitude of each image's gradient where it has weight: of the warped
        image, as the metric sees it first.
    share : float
        That share.
    """

    edge: float | Literal["auto"] = "auto"
    share: float = 0.3
    name: ClassVar[str] = "ngf"
    volumes: ClassVar[int] = 3
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.edge != "auto" and not (isinstance(self.edge, int | float) and 0 < self.edge < float("inf")):
            raise PlanError(f"ngf edge is 'auto' or an intensity per voxel above 0, got {self.edge!r}")
        if not 0 < self.share <= 100:
            raise PlanError(f"ngf share is above 0 and at most 100, got {self.share}")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image (and the weight of its voxels)."""
        return _PreparedNGF(fixed, weight, self)


class _PreparedNGF(Prepared):
    symmetric = False  # edges of other contrasts may point the other way
    reach_vox = 1

    def __init__(self, fixed: Volume, weight: Volume | None, config: NGF) -> None:
        super().__init__(fixed)
        self._config, self._weight = config, weight
        self._field: Volume | None = None
        self._fixed_edge: float | None = None
        self._edge: float | None = None
        self._least: Volume | None = None

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind to the same image as warped anew, by the same size of an edge."""
        super().rebind(fixed, weight)
        self._weight, self._field = weight, None

    def _seen(self, weight: Volume | None) -> Volume | None:
        """Return the weight of gradients; reused by the next call."""
        if not self.hides or weight is None:
            return weight
        self._least = least_of_neighbours(weight, out=self._least)
        return self._least

    def sees(self, weight: Volume) -> bool:
        """Tell whether some voxel is shown with all that its gradient reads."""
        return super().sees(weight if not self.hides else least_of_neighbours(weight))

    def _edge_of(self, image: Volume, weight: Volume | None) -> float:
        if isinstance(self._config.edge, str):
            return max(self._config.share * float(mean_gradient(image, weight)), _FLAT)
        return max(self._config.edge, _FLAT)

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        if self._field is None:
            if self._fixed_edge is None:
                self._fixed_edge = self._edge_of(self.fixed, self._seen(self._weight))
            self._field = ngf_field(self.fixed, self._fixed_edge)
        weight = self._seen(weight)
        total = float(warped.size if weight is None else weight.sum(dtype=np.float64))
        if total <= 0:
            out[...] = 0
            return float("inf")
        if self._edge is None:
            self._edge = self._edge_of(warped, weight)
        alike = ngf_gradient(self._field, warped, weight, self._edge, -1 / total, out=out)
        return float(1 - alike / total)
