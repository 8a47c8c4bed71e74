"""B-spline free-form deformation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from regista.core import PlanError
from regista.optimization import (
    Convergence,
    DenseSolver,
    FreeForm,
    FreeFormPair,
    Spacing,
    StochasticFreeForm,
)
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
        Distance of control points, voxels of the level: one value for all levels, or one for each. 5 where neither
        this nor `spacing_mm` is given.
    spacing_mm : tuple of float
        The same in mm, along every axis, instead; along axes whose voxels are longer it is that of the voxels.
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
    >>> FreeFormStage(spacing_mm=(32.0, 16.0, 8.0)).control_spacing(2, (2.0, 1.0, 10.0))
    (4.0, 8.0, 1.0)
    """

    model: Literal["bspline"] = "bspline"
    similarity: Similarity = field(default_factory=MI)
    shrink: tuple[int, ...] = (8, 4, 2)
    steps: tuple[int, ...] = (40, 40, 40)
    optimizer: Literal["lbfgs", "asgd"] = "lbfgs"
    spacing_vox: tuple[float, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    first_step_vox: float = 0.5
    max_step_vox: float = 2.0
    memory: int = 6
    samples: int = 4096
    decay_steps: float = 20.0
    decay_power: float = 1.0
    per_level: ClassVar[tuple[str, ...]] = ("spacing_vox", "spacing_mm")
    may_be_empty: ClassVar[tuple[str, ...]] = ("spacing_vox", "spacing_mm")
    takes_pairs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of_pairs and self.optimizer == "asgd":
            raise PlanError(
                "bspline: optimizer = 'asgd' looks at some voxels at a time, and a penalty on a map and one back needs both "
                "whole maps; take optimizer = 'lbfgs'"
            )
        if self.optimizer not in ("lbfgs", "asgd"):
            raise PlanError(f"bspline: optimizer is 'lbfgs' or 'asgd', got {self.optimizer!r}")
        self._check_spacing()
        super().__post_init__()
        StochasticFreeForm(**self._settings(0, *_STOCHASTIC))
        FreeForm(**self._settings(0, *_QUASI_NEWTON))  # settings of the other optimizer are checked too
        if self.optimizer == "asgd" and not is_pointwise(self.similarity):
            raise PlanError(
                f"bspline: optimizer = 'asgd' looks at single voxels, and {self.similarity.name} compares their "
                "neighbourhoods; take ssd, ncc, mi, nmi or cr (or a sum of these), or optimizer = 'lbfgs'"
            )

    def without_effect(self) -> dict[str, str]:
        """Return the settings that have no effect in this stage, with the reason."""
        found = {"symmetric_force": "the gradient is exact"}
        if self.optimizer == "lbfgs":
            names, why = ("samples", "decay_steps", "decay_power"), "optimizer = 'lbfgs' sees all voxels"
        else:
            names, why = (
                ("memory", "window", "tolerance"),
                "optimizer = 'asgd' takes all its steps, at random voxels",
            )
        return found | dict.fromkeys(names, why)

    @property
    def looks_at_samples(self) -> bool:
        """Whether the solver asks for some voxels at a time, `regista.registration._sampled_cost`."""
        return self.optimizer == "asgd"

    @property
    def convergence(self) -> Convergence:
        """The stopping rule; values from other voxels at each step tell no trend, and 'asgd' takes all steps."""
        rule = super().convergence
        return rule if self.optimizer == "lbfgs" else replace(rule, window=max(self.window, *self.steps) + 3)

    def _check_spacing(self) -> None:
        if self.spacing_vox and self.spacing_mm:
            raise PlanError(
                f"bspline: the distance of control points is given in voxels (spacing_vox = {list(self.spacing_vox)}) and in "
                f"mm (spacing_mm = {list(self.spacing_mm)}); give one of them"
            )
        if isinstance(self.spacing_mm, tuple | list):
            wrong = [one for one in self.spacing_mm if not 0 < one < float("inf")]
            if wrong:
                raise PlanError(f"bspline: spacing_mm is above 0 mm, got {wrong[0]}")
        if self.spacing_vox == () and self.spacing_mm == ():
            object.__setattr__(self, "spacing_vox", (5.0,))

    def control_spacing(self, level: int, voxel_mm: Sequence[float]) -> Spacing:
        """Return the distance of a level's control points in its voxels, whose size is given along each axis.

        Raises
        ------
        PlanError
            If control points would lie closer than voxels, or more than 200 voxels apart.
        """
        if not self.spacing_mm:
            return float(self.at(level, "spacing_vox"))
        wanted = float(self.at(level, "spacing_mm"))
        # headers hold float32: 0.8 mm may be a little more
        if not min(voxel_mm) * (1 - 1e-4) <= wanted <= 200 * max(voxel_mm) * (1 + 1e-4):
            sizes = " × ".join(f"{one:.4g}" for one in voxel_mm)
            raise PlanError(
                f"bspline: control points {wanted:g} mm apart (spacing_mm) on level {level}, whose voxels are {sizes} mm: take "
                "from 1 to 200 voxels; spacing_mm has one value for each level, coarse to fine, where one does not suit all"
            )
        first, second, third = (min(max(wanted / one, 1.0), 200.0) for one in voxel_mm)
        return first, second, third

    def solver(self, level: int, voxel_mm: Sequence[float] | None = None) -> DenseSolver:
        """Return the solver of a level; the size of its voxels is needed where `spacing_mm` is given."""
        # without images, all but that distance can be checked
        spacing: Spacing = 5.0 if self.spacing_mm else float(self.at(level, "spacing_vox"))
        if voxel_mm is not None:
            spacing = self.control_spacing(level, voxel_mm)
        if self.optimizer == "asgd":
            settings = self._settings(level, *_STOCHASTIC)
            return StochasticFreeForm(spacing_vox=spacing, forbid_folds=self.forbids_folds, **settings)
        kind = FreeFormPair if self.of_pairs else FreeForm
        settings = self._settings(level, *_QUASI_NEWTON)
        return kind(spacing_vox=spacing, forbid_folds=self.forbids_folds, **settings)

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs: of a pair, all twice."""
        return super().volumes + (20 if self.of_pairs else 0)

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 2 if self.of_pairs else 1


_QUASI_NEWTON = ("first_step_vox", "max_step_vox", "memory")
_STOCHASTIC = ("samples", "first_step_vox", "max_step_vox", "decay_steps", "decay_power")
