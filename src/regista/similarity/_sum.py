"""Weighted sum of similarities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import PlanError
from regista.kernels.cpu.intensity import add_weighted
from regista.similarity._base import Prepared, Similarity, Volume


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Weighted sum of similarities, ``D = Σ_t weight_t D_t``.

    The weights are of the metrics' own values, which have different scales: 0 … 1 for `MIND`, `NGF` and
    `CorrelationRatio`, −1 … 0 for `LNCC`, nats for `MI`, squared intensities for `SSD`.

    Parameters
    ----------
    terms : tuple of (float, Similarity)
        Weights, above 0, and metrics.

    Examples
    --------
    >>> from regista.similarity import MIND, SSD
    >>> Sum(terms=((0.5, MIND()), (2.0, SSD()))).terms[1]
    (2.0, SSD())
    """

    terms: tuple[tuple[float, Similarity], ...]
    name: ClassVar[str] = "sum"
    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "arbitrary_types_allowed": True}

    def __post_init__(self) -> None:
        if not self.terms:
            raise PlanError("a sum of metrics needs at least one term")
        for weight, term in self.terms:
            if not (isinstance(weight, int | float) and math.isfinite(weight) and weight > 0):
                raise PlanError(f"the weight of a metric in a sum is a number above 0, got {weight!r}")
            if isinstance(term, Sum) or not isinstance(term, Similarity):
                raise PlanError(f"a term of a sum is a single metric, got {term!r}")

    @property
    def volumes(self) -> int:
        """Volumes of the image's size held at once, beyond what every metric needs."""
        return 4 + sum(term.volumes for _, term in self.terms)

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind every term to a fixed image."""
        return _PreparedSum(fixed, [(share, term.prepare(fixed, weight)) for share, term in self.terms])


class _PreparedSum(Prepared):
    def __init__(self, fixed: Volume, terms: list[tuple[float, Prepared]]) -> None:
        super().__init__(fixed)
        self._terms = terms
        self.reach_vox = max(term.reach_vox for _, term in terms)
        self._one: Volume | None = None
        self._force: Volume | None = None

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        if self._one is None:
            self._one = np.empty((1, *warped.shape), np.float32)
        value = 0.0
        for number, (share, term) in enumerate(self._terms):
            target = self._one[0] if number else out
            value += share * term.value_and_gradient(warped, weight, target)
            add_weighted(out[None], self._one, 1.0 if number else share, share if number else 0.0)
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
        if self._force is None:
            self._force = np.empty(out.shape, np.float32)
        value = 0.0
        for number, (share, term) in enumerate(self._terms):
            target = self._force if number else out
            value += share * term.force(warped, weight, axis_scale, symmetric, scratch, target, rows)
            add_weighted(out, self._force, 1.0 if number else share, share if number else 0.0, rows=rows)
        return value
