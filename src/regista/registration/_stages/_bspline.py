"""B-spline free-form deformation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from regista.core import PlanError
from regista.optimization import Convergence, DenseSolver, FreeForm, FreeFormPair, StochasticFreeForm
from regista.registration._stages._iterative import IterativeStage
from regista.similarity import MI, Similarity, is_pointwise


@dataclass(frozen=True, kw_only=True)
class FreeFormStage(IterativeStage):
    """B-spline free-form deformation (see `regista.optimization.FreeForm` and `StochasticFreeForm`).

    Parameters
    ----------
    model : {'bspline'}
        Its name.
    optimizer : {'lbfgs', 'asgd'}
        By L-BFGS, the whole image at every step; or by adaptive stochastic gradient descent, which takes all `steps`
        and looks at some voxels at each. The second is for metrics that compare voxel by voxel.
    spacing_vox : tuple of float
        Distance of control points, voxels of the level: one value for all levels, or one for each.
    first_step_vox : float
        Largest change of a control point in the first step; of 'asgd' what that step may move most voxels.
    max_step_vox : float
        Largest change of a control point in any step; with 'asgd' it lessens as steps do.
    memory : int
        Of 'lbfgs': steps the solver remembers.
    samples : int
        Of 'asgd': voxels of a step.
    decay_steps, decay_power : float
        Of 'asgd': steps lessen as ``(decay_steps / (decay_steps + t)) ** decay_power`` with the adaptive time t.

    Examples
    --------
    >>> FreeFormStage(optimizer="asgd", steps=(500, 500, 500), samples=2048).optimizer
    'asgd'
    """

    model: Literal["bspline"] = "bspline"
    similarity: Similarity = field(default_factory=MI)
    shrink: tuple[int, ...] = (8, 4, 2)
    steps: tuple[int, ...] = (40, 40, 40)
    optimizer: Literal["lbfgs", "asgd"] = "lbfgs"
    spacing_vox: tuple[float, ...] = (5.0,)
    first_step_vox: float = 0.5
    max_step_vox: float = 2.0
    memory: int = 6
    samples: int = 4096
    decay_steps: float = 20.0
    decay_power: float = 1.0
    per_level: ClassVar[tuple[str, ...]] = ("spacing_vox",)
    takes_pairs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of_pairs and self.optimizer == "asgd":
            raise PlanError(
                "bspline: optimizer = 'asgd' looks at some voxels at a time, and a penalty on a map and one back needs both "
                "whole maps; take optimizer = 'lbfgs'"
            )
        if self.optimizer not in ("lbfgs", "asgd"):
            raise PlanError(f"bspline: optimizer is 'lbfgs' or 'asgd', got {self.optimizer!r}")
        super().__post_init__()
        StochasticFreeForm(**self._settings(0, *_STOCHASTIC))
        FreeForm(**self._settings(0, *_QUASI_NEWTON))  # settings of the other optimizer are checked too
        if self.optimizer == "asgd" and not is_pointwise(self.similarity):
            raise PlanError(
                f"bspline: optimizer = 'asgd' looks at single voxels, and {self.similarity.name} compares their "
                "neighbourhoods; take ssd, ncc, mi, nmi or cr (or a sum of these), or optimizer = 'lbfgs'"
            )

    @property
    def looks_at_samples(self) -> bool:
        """Whether the solver asks for some voxels at a time, `regista.registration._sampled_cost`."""
        return self.optimizer == "asgd"

    @property
    def convergence(self) -> Convergence:
        """The stopping rule; values from other voxels at each step tell no trend, and 'asgd' takes all steps."""
        rule = super().convergence
        return rule if self.optimizer == "lbfgs" else replace(rule, window=max(self.window, *self.steps) + 3)

    def solver(self, level: int) -> DenseSolver:
        """Return the solver of a level."""
        if self.optimizer == "asgd":
            return StochasticFreeForm(**self._settings(level, *_STOCHASTIC))
        kind = FreeFormPair if self.of_pairs else FreeForm
        return kind(**self._settings(level, *_QUASI_NEWTON))

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs: of a pair, all twice."""
        return super().volumes + (20 if self.of_pairs else 0)

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 2 if self.of_pairs else 1


_QUASI_NEWTON = ("spacing_vox", "first_step_vox", "max_step_vox", "memory")
_STOCHASTIC = ("spacing_vox", "samples", "first_step_vox", "max_step_vox", "decay_steps", "decay_power")
