"""Demons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from regista.core import PlanError
from regista.optimization import Demons, DenseSolver
from regista.registration._stages._iterative import IterativeStage
from regista.similarity import DemonsSSD, Similarity


@dataclass(frozen=True, kw_only=True)
class DemonsStage(IterativeStage):
    """Demons (see `regista.optimization.Demons`), with the force of `regista.similarity.DemonsSSD`.

    Parameters
    ----------
    model : {'demons'}
        Its name.
    update : {'additive', 'compositive', 'diffeomorphic'}
        How a step joins the field.
    step_vox : float
        Longest step, voxels of the level.
    update_sigma_vox, field_sigma_vox : tuple of float
        Smoothing of step and field, voxels of the level: one value for all levels, or one for each.
    """

    model: Literal["demons"] = "demons"
    similarity: Similarity = field(default_factory=DemonsSSD)
    shrink: tuple[int, ...] = (4, 2, 1)
    steps: tuple[int, ...] = (100, 50, 20)
    update: Literal["additive", "compositive", "diffeomorphic"] = "diffeomorphic"
    step_vox: float = 1.0
    update_sigma_vox: tuple[float, ...] = (0.0,)
    field_sigma_vox: tuple[float, ...] = (1.0,)
    per_level: ClassVar[tuple[str, ...]] = ("update_sigma_vox", "field_sigma_vox")
    takes_penalties: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.similarity, DemonsSSD):
            raise PlanError(
                f"demons: forces are taken as steps, and those of {self.similarity.name} are none; take "
                "similarity = 'demons', or for other metrics model = 'svf' or 'diffeomorphic'"
            )

    def solver(self, level: int, voxel_mm: Sequence[float] | None = None) -> DenseSolver:
        """Return the solver of a level."""
        settings = self._settings(level, "update", "step_vox", *self.per_level)
        return Demons(forbid_folds=self.forbids_folds, **settings)
