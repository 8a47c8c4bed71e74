"""A linear map."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from regista.core import PlanError
from regista.registration._stages._base import CONFIG, check_levels
from regista.similarity import MI, Similarity

LINEAR_MODELS = ("translation", "rigid", "similarity", "affine")


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
    least_stretch : float
        A map that changes no length by more than this share is taken for rigid. Between contrasts of one head affine maps by
        mutual information stretch by up to a percent or so, though the head is the same.
    """

    model: Literal["translation", "rigid", "similarity", "affine"]
    similarity: Similarity = field(default_factory=MI)
    shrink: tuple[int, ...] = (4, 2)
    steps: tuple[int, ...] = (60, 30)
    tolerance_vox: float = 0.01
    smooth_vox: float = 0.0
    least_stretch: float = 0.0
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __post_init__(self) -> None:
        check_levels(self.model, self.shrink, self.steps)
        if not 0 < self.tolerance_vox < 1:
            raise PlanError(f"{self.model}: tolerance_vox is between 0 and 1, got {self.tolerance_vox}")
        if not 0 <= self.smooth_vox <= 10:
            raise PlanError(f"{self.model}: smooth_vox is between 0 and 10, got {self.smooth_vox}")
        if self.least_stretch and self.model not in ("similarity", "affine"):
            raise PlanError(
                f"{self.model}: least_stretch is of models that stretch, similarity and affine: leave it out"
            )
        if not 0 <= self.least_stretch <= 0.5:
            raise PlanError(
                f"{self.model}: least_stretch is a share between 0 and 0.5 (0.01 for 1 %), got {self.least_stretch}"
            )

    @property
    def volumes(self) -> int:
        """Volumes of the image's size that the metric holds at once."""
        return self.similarity.volumes

    @property
    def directions(self) -> int:
        """Directions in which images are compared, each with a metric of its own."""
        return 1
