"""Deformable stages: a dense map, level by level."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid, LevelHistory, PlanError, Status
from regista.kernels.cpu.warp import warp
from regista.optimization import unfold
from regista.registration._channels import in_use
from regista.registration._cost import LevelCost
from regista.registration._guide_terms import Guidance
from regista.registration._levels import Level, Matrix, Scan, Volume, levels
from regista.registration._pair_cost import PairCost
from regista.registration._plan import Plan
from regista.registration._sampled_cost import SampledCost
from regista.registration._stages import (
    DeformableStage,
    DemonsStage,
    DenseStage,
    IterativeStage,
    VelocityStage,
)

_NO_CHANGE_VOX = 0.01
"""Changes of a start below this, voxels, are none: that of its rounding."""
Base = Callable[[Grid], Volume]
"""``base(grid) -> (3, I, J, K)``: displacement, in that grid's voxels, that the stage starts from."""


@dataclass(frozen=True, eq=False)
class VoxelField:
    """A displacement field in voxels of its own grid."""

    vectors_vox: Volume
    grid: Grid
    back_vox: Volume | None = None
    """The map back, where a stage estimated both."""
    velocity_vox: Volume | None = None
    """The velocity, where the map is its flow, in voxels of the same grid."""

    def resampled(self, grid: Grid) -> Volume:
        """Return the field on another grid with the same axes, in that grid's voxels."""
        to_own = (self.grid.world2grid @ grid.grid2world)[:3]
        scale = (self.grid.spacing / grid.spacing).astype(np.float32)
        out = np.empty((3, *grid.shape), np.float32)
        for axis in range(3):
            warp(self.vectors_vox[axis], to_own, shape=grid.shape, out=out[axis])
            out[axis] *= scale[axis]
        return out

    def vectors_mm(self, grid: Grid) -> Volume:
        """Return the field in world mm on a grid with the same axes."""
        vectors = self.vectors_vox if self.grid == grid else self.resampled(grid)
        linear = grid.grid2world[:3, :3].astype(np.float32)
        out = np.zeros((3, *grid.shape), np.float32)
        for world in range(3):
            for axis in range(3):
                if linear[world, axis] != 0:
                    out[world] += linear[world, axis] * vectors[axis]
        return out


def run_deformable(
    fixed: Scan,
    moving: Scan,
    stage: IterativeStage,
    fixed2moving: Matrix,
    base: Base | None,
    report: Callable[[Level, int, float], None],
    guides: Sequence[Guidance] = (),
    seed: int = 0,
    after: str = "",
) -> tuple[VoxelField, list[LevelHistory]]:
    """Run one deformable stage, after the one named; return the field on the fixed grid and the course of its levels."""
    solver = stage.solver(0)
    if base is not None and not solver.takes_start:
        raise GeometryError(
            f"{stage.model!r} starts from a linear map, and the start given holds a displacement field: use a model "
            "that refines one ('diffeomorphic', 'syn', 'demons', 'bspline' without a penalty on pairs of maps)"
        )
    fixed, moving, similarity = in_use(fixed, moving, stage.similarity)
    stage = replace(stage, similarity=similarity)
    pyramid = _Pyramid(base, solver.parts)
    history = []
    for level in levels(fixed, moving, stage.shrink, stage.steps, stage.model, after):
        began = time.perf_counter()
        solver = stage.solver(level.index, voxel_sizes(level.fixed.grid))
        carried = pyramid.begin(level.fixed.grid)
        fields, values, status = _run_level(level, stage, fixed2moving, carried, report, guides, seed)
        pyramid.end(fields, level.fixed.grid)
        seconds = time.perf_counter() - began
        history.append(LevelHistory(stage.model, level.index, level.shrink, tuple(values), status, seconds))
        if status is Status.NON_FINITE:
            break
    fields, grid = pyramid.finish(fixed.grid)
    back = fields[0] if stage.of_pairs else None
    velocity = fields[0] if isinstance(stage, VelocityStage) else None
    return VoxelField(solver.displacement(fields), grid, back, velocity), history


def without_folds(field: VoxelField, grid: Grid) -> tuple[VoxelField, float]:
    """Return a field as it is, or, where it folds on a grid with the same axes, one on that grid that does not.

    Interpolation between a level's voxels, and the joining of two halves, may fold what did not.

    Returns
    -------
    field : VoxelField
        Without folds.
    changed_vox : float
        Largest change of a component, 0 where nothing folded.
    """
    vectors = field.vectors_vox if field.grid == grid else field.resampled(grid)
    mended = vectors.copy()
    if not unfold(mended):
        return field, 0.0
    return VoxelField(mended, grid, field.back_vox), float(np.abs(mended - vectors).max())


def kept_warning(plan: Plan, start_vox: Volume, change_vox: Volume) -> list[str]:
    """Say so where deformable stages gave a bending start back as they got it, and what to try.

    Parameters
    ----------
    plan : Plan
        What ran, none of it to a value that is not finite.
    start_vox, change_vox : (3, I, J, K) float32 ndarray
        Displacement that the stages began with, and what they added, voxels.
    """
    if np.abs(start_vox).max() <= _NO_CHANGE_VOX or np.abs(change_vox).max() > _NO_CHANGE_VOX:
        return []
    told = "the deformable stages changed nothing of the map that they began with"
    dense = [stage for stage in plan.stages if isinstance(stage, DenseStage)]
    if not any(count for stage in dense for count in stage.steps):
        return [f"{told}: their levels take no steps (plan key steps)"]
    smoothing = [
        s.model for s in dense if isinstance(s, DeformableStage | DemonsStage) and any(s.field_sigma_vox)
    ]
    cause = " (field_sigma_vox smooths that map too, at every step)" if smoothing else ""
    less = f"less smoothing (--set stages.{smoothing[-1]}.field_sigma_vox=0.4), " if smoothing else ""
    return [
        f"{told}: the images were aligned already, or no step made them more alike{cause}. If they are not aligned well enough, try "
        f"{less}finer levels alone (--set stages.{dense[-1].model}.shrink=[2,1]) or another metric"
    ]


def check_levels_of(plan: Plan, fixed: Scan) -> None:
    """Refuse a plan whose stages cannot run on the voxels that the levels of this image have, naming the stage."""
    for number, stage in enumerate(plan.stages):
        if not isinstance(stage, IterativeStage):
            continue
        for index, factor in enumerate(stage.shrink):
            try:
                stage.solver(index, voxel_sizes(fixed.grid_at(factor * fixed.finest_mm)))
            except PlanError as error:
                raise PlanError(f"stages.{number}: {error}") from None


def voxel_sizes(grid: Grid) -> list[float]:
    """Return the voxel size along each axis, mm; that of the finest along an axis of one voxel."""
    finest = min(size for size, n in zip(grid.spacing, grid.shape, strict=True) if n > 1)
    return [float(size if n > 1 else finest) for size, n in zip(grid.spacing, grid.shape, strict=True)]


class _Pyramid:
    """Carries fields from level to level: what they add to the start is interpolated, the start keeps its detail.

    The start belongs to the last field, the one next to the moving image.
    """

    def __init__(self, base: Base | None, parts: int) -> None:
        self._base, self._parts = base, parts
        self._grown: list[VoxelField] = []
        self._start: Volume | None = None

    def begin(self, grid: Grid) -> Callable[[], list[Volume]]:
        """Return how to make the fields a level begins with, new arrays each time."""
        self._start = None if self._base is None else self._base(grid)
        return partial(self._carried, tuple(self._grown), self._start, grid)

    def end(self, fields: Sequence[Volume], grid: Grid) -> None:
        """Take the fields a level ended with."""
        self._ended = list(fields), grid
        grown = list(fields)
        if self._start is not None:
            grown[-1] = grown[-1] - self._start
        self._grown = [VoxelField(field, grid) for field in grown]

    def finish(self, grid: Grid) -> tuple[list[Volume], Grid]:
        """Return the last level's fields; where that was a coarse one, with a start's detail on the grid given."""
        if self._base is None or self._ended[1] == grid:
            return self._ended
        return self._carried(tuple(self._grown), self._base(grid), grid), grid

    def _carried(self, grown: tuple[VoxelField, ...], start: Volume | None, grid: Grid) -> list[Volume]:
        fields = [field.resampled(grid) for field in grown]
        fields = fields or [np.zeros((3, *grid.shape), np.float32) for _ in range(self._parts)]
        if start is not None:
            fields[-1] += start
        return fields


def _run_level(
    level: Level,
    stage: IterativeStage,
    fixed2moving: Matrix,
    carried: Callable[[], list[Volume]],
    report: Callable[[Level, int, float], None],
    guides: Sequence[Guidance],
    seed: int,
) -> tuple[Sequence[Volume], list[float], Status]:
    terms = [guide(level.fixed.grid, level.moving.grid) for guide in guides]
    settings = (level, stage.similarity, fixed2moving, stage.symmetric_force, stage.terms, terms)
    if stage.looks_at_samples:
        cost: LevelCost = SampledCost(*settings, seed=seed)
    else:
        cost = PairCost(*settings) if stage.of_pairs else LevelCost(*settings)  # type: ignore[arg-type]
    solver, rule = stage.solver(level.index, voxel_sizes(level.fixed.grid)), stage.convergence

    def start() -> list[Volume]:
        begun = carried()
        solver.admit(begun)
        return begun

    fields = start()
    rows: NDArray[np.int32] = cost.begin(fields, solver.reach_vox)
    state = solver.init(fields, rows)
    status = Status.STEP_LIMIT
    for number in range(level.steps):
        moved = solver.step(state, cost, rule)
        value = state.values[-1]
        report(level, number, value)
        if not np.isfinite(value):
            status = Status.NON_FINITE
            break
        if not moved or rule.reached(state.values):
            status = Status.CONVERGED
            break
    if status is Status.NON_FINITE or not state.values:
        return solver.fields(state), state.values, status
    last = solver.value(state, cost)
    if last > state.values[0]:
        # no step was an improvement (a start that was good already): what the level began with is kept
        return start(), [*state.values, last, state.values[0]], status
    return solver.fields(state), [*state.values, last], status
