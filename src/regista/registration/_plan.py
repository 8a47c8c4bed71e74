"""Plans: the whole configuration of a registration as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from regista.core import PlanError
from regista.optimization import Convergence, GreedyDiffeomorphic
from regista.preprocessing import Pipeline
from regista.similarity import LNCC, MI, NCC, Similarity

_CONFIG = {"extra": "forbid", "arbitrary_types_allowed": True}


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the first alignment is found when none is given.

    Parameters
    ----------
    search : {'rotations', 'centers', 'none'}
        Try many rotations and translations at low resolution and keep the best; align centres of mass
        only; or trust the headers.
    similarity : Similarity
        Metric of the search.
    candidates : int
        How many of the best starts are refined before one is chosen.
    """

    search: Literal["rotations", "centers", "none"] = "rotations"
    similarity: Similarity = field(default_factory=NCC)
    candidates: int = 12
    __pydantic_config__: ClassVar[dict[str, object]] = _CONFIG

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 100:
            raise PlanError(f"start.candidates is between 1 and 100, got {self.candidates}")


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
    __pydantic_config__: ClassVar[dict[str, object]] = _CONFIG

    def __post_init__(self) -> None:
        _check_levels(self.model, self.shrink, self.steps)
        if not 0 < self.tolerance_vox < 1:
            raise PlanError(f"{self.model}: tolerance_vox is between 0 and 1, got {self.tolerance_vox}")
        if not 0 <= self.smooth_vox <= 10:
            raise PlanError(f"{self.model}: smooth_vox is between 0 and 10, got {self.smooth_vox}")


PER_LEVEL = ("update_sigma_vox", "field_sigma_vox", "saturation")
"""Settings of a deformable stage with one value for all levels, or one for each."""


@dataclass(frozen=True, kw_only=True)
class DeformableStage:
    """Optimize a dense diffeomorphic field, coarse to fine.

    Parameters
    ----------
    model : {'diffeomorphic'}
        Greedy composition of smooth updates.
    similarity : Similarity
        Metric.
    shrink, steps : tuple of int
        Shrink factor and step limit of each level, coarse to fine.
    step_vox, step_decay : float
        Largest component of an update, voxels of the level, and the factor on it when the value rises.
    update_sigma_vox, field_sigma_vox : tuple of float
        Smoothing of update and field, voxels of the level: one value for all levels, or one for each.
    saturation : tuple of float
        How much each update is evened out (see `regista.optimization.GreedyDiffeomorphic`), likewise.
    symmetric_force : bool
        Drive the update by the mean gradient of both images. For one contrast only: MI and NMI do not, and
        LNCC should not where contrasts differ.
    window, tolerance : int, float
        See `regista.optimization.Convergence`.
    """

    model: Literal["diffeomorphic"] = "diffeomorphic"
    similarity: Similarity = field(default_factory=LNCC)
    shrink: tuple[int, ...] = (8, 4, 2, 1)
    steps: tuple[int, ...] = (100, 100, 50, 10)
    step_vox: float = 1.0
    step_decay: float = 0.6
    update_sigma_vox: tuple[float, ...] = (1.732,)
    field_sigma_vox: tuple[float, ...] = (0.5,)
    saturation: tuple[float, ...] = (0.0,)
    symmetric_force: bool = True
    window: int = 10
    tolerance: float = 1e-3
    __pydantic_config__: ClassVar[dict[str, object]] = _CONFIG

    def __post_init__(self) -> None:
        _check_levels(self.model, self.shrink, self.steps)
        for name in PER_LEVEL:
            values = getattr(self, name)
            if not isinstance(values, tuple | list):
                raise PlanError(f"{self.model}: {name} is a list of numbers, got {values!r}")
            if len(values) not in (1, len(self.shrink)):
                raise PlanError(
                    f"{self.model}: {name} has one value or one per level ({len(self.shrink)}), got {list(values)}"
                )
        for level in range(len(self.shrink)):
            self.solver(level)  # its own checks
        _ = self.convergence

    def solver(self, level: int) -> GreedyDiffeomorphic:
        """Return the solver of a level."""
        own = {name: getattr(self, name)[min(level, len(getattr(self, name)) - 1)] for name in PER_LEVEL}
        return GreedyDiffeomorphic(step_vox=self.step_vox, step_decay=self.step_decay, **own)

    @property
    def convergence(self) -> Convergence:
        """The stopping rule these settings describe."""
        return Convergence(window=self.window, tolerance=self.tolerance)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `register` needs to know besides the images.

    Parameters
    ----------
    name, description : str
        For people.
    clip_percentiles : tuple of 2 floats
        Intensities are clipped to these percentiles of the foreground and scaled to 0 … 1.
    preprocessing : Pipeline
        Steps both images go through before they are compared (see `regista.preprocessing`); results apply to
        the images as they were.
    start : Start
        How the first alignment is found.
    stages : tuple of LinearStage or DeformableStage
        What is optimized, in order.
    wants_masks : bool
        Whether the plan was made for images with masks: a run without them warns.

    Examples
    --------
    >>> Plan(stages=(LinearStage(model="rigid"),)).stages[0].shrink
    (4, 2)
    """

    stages: tuple[LinearStage | DeformableStage, ...]
    name: str = "custom"
    description: str = ""
    clip_percentiles: tuple[float, float] = (0.1, 99.9)
    preprocessing: Pipeline = field(default_factory=Pipeline)
    start: Start = field(default_factory=Start)
    wants_masks: bool = False
    __pydantic_config__: ClassVar[dict[str, object]] = _CONFIG

    def __post_init__(self) -> None:
        if not self.stages:
            raise PlanError("a plan needs at least one stage")
        low, high = self.clip_percentiles
        if not 0 <= low < high <= 100:
            raise PlanError(f"clip_percentiles is [low, high] with 0 ≤ low < high ≤ 100, got {[low, high]}")
        deformable = [n for n, s in enumerate(self.stages) if isinstance(s, DeformableStage)]
        if deformable and deformable != list(range(deformable[0], len(self.stages))):
            raise PlanError("linear stages come before deformable ones: reorder the plan's stages")


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
