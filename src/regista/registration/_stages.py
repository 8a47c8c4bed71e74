"""Stages: what one step of a plan optimizes, with which settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from regista.core import PlanError
from regista.optimization import (
    Convergence,
    Demons,
    DenseSolver,
    FreeForm,
    FreeFormPair,
    GreedyDiffeomorphic,
    StationaryVelocity,
    StochasticFreeForm,
    SymmetricDiffeomorphic,
)
from regista.regularization import PAIR_PENALTIES, PairPenalty, Penalty
from regista.similarity import LNCC, MI, DemonsSSD, Similarity, is_pointwise

CONFIG = {"extra": "forbid", "arbitrary_types_allowed": True}


@dataclass(frozen=True, kw_only=True)
class LinearStage:
    """Optimize a linear map, coarse to fine.

    Parameters
    ----------
    model : {'translation', 'rigid', 'similarity', 'affine'}
        What the map may do.
    similarity : Similarity
        Metric.
    shrink, steps : tuple of int
        Shrink factor and step limit of each level, coarse to fine.
    tolerance_vox : float
        A level has converged when a step moves the image's border by less than this share of its voxel.
    smooth_vox : float
        Gaussian smoothing (standard deviation) of both images at each level, voxels of the level. Between voxels
        interpolation averages noise away, which draws small motions of noisy images to half a voxel; smoothing
        keeps them from it.
    """

    model: Literal["translation", "rigid", "similarity", "affine"]
    similarity: Similarity = field(default_factory=MI)
    shrink: tuple[int, ...] = (4, 2)
    steps: tuple[int, ...] = (60, 30)
    tolerance_vox: float = 0.01
    smooth_vox: float = 0.0
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __post_init__(self) -> None:
        _check_levels(self.model, self.shrink, self.steps)
        if not 0 < self.tolerance_vox < 1:
            raise PlanError(f"{self.model}: tolerance_vox is between 0 and 1, got {self.tolerance_vox}")
        if not 0 <= self.smooth_vox <= 10:
            raise PlanError(f"{self.model}: smooth_vox is between 0 and 10, got {self.smooth_vox}")

    @property
    def volumes(self) -> int:
        """Volumes of the image's size that the metric holds at once."""
        return self.similarity.volumes

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 1


@dataclass(frozen=True, kw_only=True)
class DenseStage:
    """Find a dense map, coarse to fine: what all models of such maps share.

    Parameters
    ----------
    shrink, steps : tuple of int
        Shrink factor and step limit of each level, coarse to fine.
    """

    model: str
    shrink: tuple[int, ...] = (8, 4, 2, 1)
    steps: tuple[int, ...] = (100, 100, 50, 10)
    per_level: ClassVar[tuple[str, ...]] = ()
    """Settings with one value for all levels, or one for each."""
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __post_init__(self) -> None:
        _check_levels(self.model, self.shrink, self.steps)
        for name in self.per_level:
            values = getattr(self, name)
            if not isinstance(values, tuple | list):
                raise PlanError(f"{self.model}: {name} is a list of numbers, got {values!r}")
            if len(values) not in (1, len(self.shrink)):
                raise PlanError(
                    f"{self.model}: {name} has one value or one per level ({len(self.shrink)}), got {list(values)}"
                )

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs."""
        return 0

    def at(self, level: int, name: str) -> Any:
        """Return a setting as it is on a level."""
        value = getattr(self, name)
        return value[min(level, len(value) - 1)] if name in self.per_level else value


@dataclass(frozen=True, kw_only=True)
class IterativeStage(DenseStage, ABC):
    """Optimize a dense map, step by step.

    Parameters
    ----------
    similarity : Similarity
        Metric.
    penalties : tuple of Penalty or PairPenalty
        What is added to the metric's value (see `regista.regularization`), none by default. Those on a map and one
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
        if self.penalties and self.forces_are_steps:
            raise PlanError(
                f"{self.model}: demons' forces are steps, to which no penalty can be added; smooth the field more "
                "(field_sigma_vox), or take another metric and model"
            )
        for level in range(len(self.shrink)):
            self.solver(level)  # its own checks
        _ = self.convergence

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
        return self.directions * self.similarity.volumes + (3 if self.penalties else 0)

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 1

    @abstractmethod
    def solver(self, level: int) -> DenseSolver:
        """Return the solver of a level."""

    @property
    def convergence(self) -> Convergence:
        """The stopping rule these settings describe."""
        return Convergence(window=self.window, tolerance=self.tolerance)

    def _settings(self, level: int, *names: str) -> dict[str, Any]:
        """Return settings by name, as they are on a level."""
        return {name: self.at(level, name) for name in names}


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

    def solver(self, level: int) -> DenseSolver:
        """Return the solver of a level."""
        greedy = GreedyDiffeomorphic(**self._settings(level, "step_vox", "step_decay", *self.per_level))
        return SymmetricDiffeomorphic(half=greedy) if self.model == "syn" else greedy

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs: of 'syn', two fields'."""
        return super().volumes + (26 if self.model == "syn" else 0)

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 2 if self.model == "syn" else 1


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

    def solver(self, level: int) -> DenseSolver:
        """Return the solver of a level."""
        return Demons(**self._settings(level, "update", "step_vox", *self.per_level))


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

    def solver(self, level: int) -> DenseSolver:
        """Return the solver of a level."""
        names = ("gradient", "symmetric", "natural_step", "squarings", "step_vox", "step_decay")
        return StationaryVelocity(**self._settings(level, *names, *self.per_level))

    @property
    def volumes(self) -> int:
        """Volumes of the finest level's size held at once, beyond what every stage needs: a field per squaring."""
        return super().volumes + 21 + 3 * (self.squarings if self.gradient == "adjoint" else 6)

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 2 if self.symmetric else 1


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


LINEAR_MODELS = ("translation", "rigid", "similarity", "affine")
STAGES: dict[str, type[LinearStage] | type[DenseStage]] = {
    **dict.fromkeys(LINEAR_MODELS, LinearStage),
    "diffeomorphic": DeformableStage,
    "syn": DeformableStage,
    "demons": DemonsStage,
    "svf": VelocityStage,
    "bspline": FreeFormStage,
    "convex": ConvexStage,
}
"""The stage that each model belongs to."""


def _check_levels(name: str, shrink: tuple[int, ...], steps: tuple[int, ...]) -> None:
    if not shrink or len(shrink) != len(steps):
        raise PlanError(
            f"{name}: shrink and steps have one entry per level, got {list(shrink)} and {list(steps)}"
        )
    if any(not 1 <= s <= 64 for s in shrink):
        raise PlanError(f"{name}: shrink factors are between 1 and 64, got {list(shrink)}")
    if list(shrink) != sorted(shrink, reverse=True):
        raise PlanError(f"{name}: levels go from coarse to fine, got shrink {list(shrink)}")
    if any(n < 0 for n in steps):
        raise PlanError(f"{name}: step limits are at least 0, got {list(steps)}")
