"""A diffeomorphic field, greedy or symmetric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from regista.optimization import DenseSolver, GreedyDiffeomorphic, SymmetricDiffeomorphic
from regista.registration._stages._iterative import IterativeStage


@dataclass(frozen=True, kw_only=True)
class DeformableStage(IterativeStage):
    """Grow a diffeomorphic field by composition with small smooth updates.

    Parameters
    ----------
    model : {'diffeomorphic', 'syn'}
        Greedy composition from the fixed to the moving image; or symmetric, from halfway to both.
    step_vox, step_decay : float
        Largest component of an update, voxels of the level, and the factor on it when the value rises.
    update_sigma_vox, field_sigma_vox : tuple of float
        Smoothing of update and field, voxels of the level: one value for all levels, or one for each.
    saturation : tuple of float
        How much each update is evened out (see `regista.optimization.GreedyDiffeomorphic`), likewise.
    """

    model: Literal["diffeomorphic", "syn"] = "diffeomorphic"
    step_vox: float = 1.0
    step_decay: float = 0.6
    update_sigma_vox: tuple[float, ...] = (1.732,)
    field_sigma_vox: tuple[float, ...] = (0.5,)
    saturation: tuple[float, ...] = (0.0,)
    per_level: ClassVar[tuple[str, ...]] = ("update_sigma_vox", "field_sigma_vox", "saturation")

    def solver(self, level: int, voxel_mm: Sequence[float] | None = None) -> DenseSolver:
        """Return the solver of a level."""
        greedy = GreedyDiffeomorphic(
            forbid_folds=self.forbids_folds,
            **self._settings(level, "step_vox", "step_decay", *self.per_level),
        )
        return SymmetricDiffeomorphic(half=greedy) if self.model == "syn" else greedy

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs: of 'syn', two fields'."""
        return super().volumes + (26 if self.model == "syn" else 0)

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 2 if self.model == "syn" else 1

    @property
    def exchangeable(self) -> bool:
        """Whether exchanging the images inverts the map: of 'syn'."""
        return self.model == "syn"
