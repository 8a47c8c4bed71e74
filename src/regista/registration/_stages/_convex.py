"""A search over displacements, made smooth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from regista.core import PlanError
from regista.registration._stages._base import DenseStage


@dataclass(frozen=True, kw_only=True)
class ConvexStage(DenseStage):
    """Search displacements on a lattice, all of them within a radius, and make the choice smooth (ConvexAdam's start).

    Features are MIND descriptors: contrasts may differ. Nothing is followed downhill, so that motion of many voxels,
    past similar structures, is found; the result is coarse, and a model that refines one comes after.

    Parameters
    ----------
    model : {'convex'}
        Its name.
    shrink, steps : tuple of int
        Shrink factor of each level, coarse to fine, and how often smoothing and choice alternate.
    stride, search : tuple of int
        Distance of the lattice's points, in voxels of the level, which is also the step of the search, and how
        many steps it goes each way: one value for all levels, or one for each.
    radius, dilation : int
        Radius of MIND's patches and distance of its neighbours, voxels of the level.
    cost_sigma, field_sigma_vox : float
        Smoothing of the costs and of the field, in points of the lattice.
    both_ways : bool
        Search in both directions, and keep what they agree on.
    """

    model: Literal["convex"] = "convex"
    shrink: tuple[int, ...] = (4, 2, 2)
    steps: tuple[int, ...] = (7, 7, 7)
    stride: tuple[int, ...] = (2, 2, 1)
    search: tuple[int, ...] = (4, 3, 2)
    radius: int = 1
    dilation: int = 2
    cost_sigma: float = 0.7
    field_sigma_vox: float = 1.0
    both_ways: bool = True
    per_level: ClassVar[tuple[str, ...]] = ("stride", "search")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("stride", 1, 32), ("search", 1, 12)):
            if any(not low <= n <= high for n in getattr(self, name)):
                raise PlanError(
                    f"convex: {name} is between {low} and {high}, got {list(getattr(self, name))}"
                )
        for name, low, high in (("radius", 0, 8), ("dilation", 1, 16)):
            if not low <= getattr(self, name) <= high:
                raise PlanError(
                    f"convex: {name} is between {low} and {high} voxels, got {getattr(self, name)}"
                )
        for name in ("cost_sigma", "field_sigma_vox"):
            if not 0 <= getattr(self, name) <= 20:
                raise PlanError(f"convex: {name} is between 0 and 20, got {getattr(self, name)}")

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once: descriptors of both images, and the costs twice."""
        levels = range(len(self.shrink))
        costs = max((2 * self.at(n, "search") + 1) ** 3 / self.at(n, "stride") ** 3 for n in levels)
        return 30 + int(np.ceil(2 * costs))
