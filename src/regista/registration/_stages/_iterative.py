"""A dense map, optimized step by step: what all such models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from regista.core import PlanError
from regista.optimization import Convergence, DenseSolver
from regista.registration._stages._base import DenseStage
from regista.regularization import PAIR_PENALTIES, DeformationPrior, PairPenalty, Penalty, forbids_folds
from regista.similarity import LNCC, DemonsSSD, Similarity


@dataclass(frozen=True, kw_only=True)
class IterativeStage(DenseStage, ABC):
    """Optimize a dense map, step by step.

    Parameters
    ----------
    similarity : Similarity
        Metric.
    penalties : tuple of Penalty or PairPenalty
        What is added to the metric's value (see `regista.regularization`), none by default. With `LogJacobian` among
        them no map may fold: a step that folds is shortened or smoothed. Those on a map and one
        back are for 'bspline'.
    symmetric_force : bool
        Drive the update by the mean gradient of both images. For one contrast only: MI and NMI do not, and
        LNCC should not where contrasts differ.
    window, tolerance : int, float
        See `regista.optimization.Convergence`.
    """

    similarity: Similarity = field(default_factory=LNCC)
    penalties: tuple[Penalty | PairPenalty, ...] = ()
    symmetric_force: bool = True
    window: int = 10
    tolerance: float = 1e-3
    takes_penalties: ClassVar[bool] = True
    takes_pairs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of_pairs and not self.takes_pairs:
            names = ", ".join(PAIR_PENALTIES)
            raise PlanError(
                f"{self.model}: {names} hold between a map and one back, and this model estimates one map; take 'bspline' "
                "with optimizer = 'lbfgs', which then estimates both, or 'syn', whose map has an exact inverse by itself"
            )
        if self.forces_are_steps and not all(forbids_folds(one) for one in self.penalties):
            raise PlanError(
                f"{self.model}: demons' forces are steps, to which no penalty can be added (log-jacobian alone may be given: it then "
                "forbids folds and adds no force); smooth the field more (field_sigma_vox), or take another metric and model"
            )
        if (self.exchangeable or self.of_pairs) and any(
            isinstance(one, DeformationPrior) for one in self.penalties
        ):
            raise PlanError(
                f"{self.model}: {DeformationPrior.name} is learned from whole maps one way, and this stage estimates halves of a map, "
                "or a map and one back; take 'diffeomorphic', 'svf' with symmetric = false, or 'bspline' without a penalty on a "
                "map and one back"
            )
        for level in range(len(self.shrink)):
            self.solver(level)  # its own checks
        _ = self.convergence

    @property
    def forbids_folds(self) -> bool:
        """Whether a penalty is a barrier against folds: no map of the stage may then fold."""
        return any(forbids_folds(one) for one in self.penalties)

    @property
    def terms(self) -> tuple[Penalty | PairPenalty, ...]:
        """The penalties that join the cost."""
        return () if self.forces_are_steps else self.penalties

    @property
    def of_pairs(self) -> bool:
        """Whether a penalty asks for a map and one back, estimated together."""
        return any(isinstance(one, tuple(PAIR_PENALTIES.values())) for one in self.penalties)

    @property
    def forces_are_steps(self) -> bool:
        """Whether forces are taken as steps, as in demons: nothing can then be added to the cost."""
        return not self.takes_penalties or isinstance(self.similarity, DemonsSSD)

    @property
    def looks_at_samples(self) -> bool:
        """Whether the solver asks for some voxels at a time, `regista.registration._sampled_cost`."""
        return False

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs."""
        needed = (3 if self.terms else 0) + (6 if self.forbids_folds else 0)
        return self.directions * self.similarity.volumes + needed

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 1

    @abstractmethod
    def solver(self, level: int, voxel_mm: Sequence[float] | None = None) -> DenseSolver:
        """Return the solver of a level, whose voxels have a size (where it is known); see `FreeFormStage`."""

    def unused(self) -> dict[str, str]:
        """Return the settings that were changed and have no effect in this stage, with the reason."""
        return {
            one.name: self.without_effect()[one.name]
            for one in fields(self)
            if one.name in self.without_effect() and getattr(self, one.name) != one.default
        }

    def without_effect(self) -> dict[str, str]:
        """Return the settings that have no effect in this stage, with the reason."""
        if isinstance(self.similarity, DemonsSSD):
            return {"symmetric_force": "similarity.demons.gradient says whose gradients drive demons"}
        return {}

    @property
    def convergence(self) -> Convergence:
        """The stopping rule these settings describe."""
        return Convergence(window=self.window, tolerance=self.tolerance)

    def _settings(self, level: int, *names: str) -> dict[str, Any]:
        """Return settings by name, as they are on a level."""
        return {name: self.at(level, name) for name in names}
