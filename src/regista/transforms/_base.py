"""`Transform`: what every spatial map can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError


class Transform(ABC):
    """A pull-back map ``x_moving = T(x_fixed)`` between world positions in RAS+ mm.

    It is what resamples the moving image onto the fixed grid, and what carries points of the fixed image to
    the moving one. Its two spaces are names, or None when they are not known.
    """

    @property
    @abstractmethod
    def fixed_space(self) -> str | None:
        """Name of the space the map starts from."""

    @property
    @abstractmethod
    def moving_space(self) -> str | None:
        """Name of the space the map leads to."""

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of coordinates, 2 or 3."""

    @abstractmethod
    def map_points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Map ``(N, ndim)`` positions of the fixed space, mm, to the moving space, mm."""

    @abstractmethod
    def inverse(self) -> Transform:
        """Return the map from moving to fixed."""

    def _points(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        points = np.asarray(points_mm, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.ndim:
            raise GeometryError(
                f"a {self.ndim}-D {type(self).__name__} maps an (N, {self.ndim}) array of points, "
                f"got shape {points.shape}"
            )
        return points

    def _spaces_text(self) -> str:
        return f"{self.fixed_space or '?'} → {self.moving_space or '?'}"
