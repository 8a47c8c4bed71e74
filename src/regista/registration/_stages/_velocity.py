"""A stationary velocity field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from regista.core import PlanError
from regista.optimization import DenseSolver, StationaryVelocity
from regista.registration._stages._iterative import IterativeStage
from regista.similarity import DemonsSSD


@dataclass(frozen=True, kw_only=True)
class VelocityStage(IterativeStage):
    """A stationary velocity field (see `regista.optimization.StationaryVelocity`).

    Parameters
    ----------
    model : {'svf'}
        Its name.
    gradient : {'adjoint', 'composition'}
        The exact derivative by the velocity, or the force on a compositive update.
    symmetric, natural_step : bool
        Average with the exchanged problem's force; take forces as steps (demons).
    squarings : int
        Squarings of the exponential.
    step_vox, step_decay : float
        Largest component of an update, voxels of the level, and the factor on it when the value rises.
    update_sigma_vox, field_sigma_vox : tuple of float
        Smoothing of update and velocity, voxels of the level: one value for all levels, or one for each.
    """

    model: Literal["svf"] = "svf"
    gradient: Literal["adjoint", "composition"] = "adjoint"
    symmetric: bool = False
    natural_step: bool = False
    squarings: int = 6
    step_vox: float = 0.5
    step_decay: float = 0.6
    update_sigma_vox: tuple[float, ...] = (2.0,)
    field_sigma_vox: tuple[float, ...] = (0.0,)
    per_level: ClassVar[tuple[str, ...]] = ("update_sigma_vox", "field_sigma_vox")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.natural_step and self.gradient != "composition":
            raise PlanError(
                "svf: natural_step = true takes forces as steps, which the gradient by the velocity is not; take "
                "gradient = 'composition', or natural_step = false"
            )
        if self.natural_step and not isinstance(self.similarity, DemonsSSD):
            raise PlanError(
                f"svf: natural_step = true takes forces as steps, and those of {self.similarity.name} are none; take "
                "similarity = 'demons', or natural_step = false"
            )

    @property
    def forces_are_steps(self) -> bool:
        """Whether forces are taken as steps, as in demons: nothing can then be added to the cost."""
        return self.natural_step or super().forces_are_steps

    def without_effect(self) -> dict[str, str]:
        """Return the settings that have no effect in this stage, with the reason."""
        exact = {"symmetric_force": "gradient = 'adjoint' is the exact derivative"}
        return super().without_effect() | (exact if self.gradient == "adjoint" else {})

    def solver(self, level: int, voxel_mm: Sequence[float] | None = None) -> DenseSolver:
        """Return the solver of a level."""
        names = ("gradient", "symmetric", "natural_step", "squarings", "step_vox", "step_decay")
        settings = self._settings(level, *names, *self.per_level)
        return StationaryVelocity(forbid_folds=self.forbids_folds, **settings)

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs: a field per squaring."""
        return super().volumes + 21 + 3 * (self.squarings if self.gradient == "adjoint" else 6)

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 2 if self.symmetric else 1

    @property
    def exchangeable(self) -> bool:
        """Whether exchanging the images inverts the map: where it is `symmetric`."""
        return self.symmetric
