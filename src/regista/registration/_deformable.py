"""Deformable stages: grow a diffeomorphic field by composition, level by level."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, LevelHistory, Status
from regista.kernels.cpu.rows import ranges_of, rows_of
from regista.kernels.cpu.warp import warp
from regista.registration._levels import Level, Matrix, Scan, Volume, Warper, check_overlap, levels
from regista.registration._plan import DeformableStage

_SURROUND = 1e-3
"""Intensity difference (of the range 0 … 1) from the corner voxel that still counts as surround."""
_ROOM = 4
"""Voxels of a level around the content, besides the reach of the smoothing, that take part: an update must
have died away where the field is left alone, or it tears there."""

Base = Callable[[Grid], Volume]
"""``base(grid) -> (3, I, J, K)``: displacement, in that grid's voxels, that the stage starts from."""


@dataclass(frozen=True, eq=False)
class VoxelField:
    """A displacement field in voxels of its own grid."""

    vectors_vox: Volume
    grid: Grid

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
    stage: DeformableStage,
    fixed2moving: Matrix,
    base: Base | None,
    report: Callable[[Level, int, float], None],
) -> tuple[VoxelField, list[LevelHistory]]:
    """Run one deformable stage; return the field on the fixed grid and the course of its levels."""
    field: VoxelField | None = None
    before: Volume | None = None
    history = []
    for level in levels(fixed, moving, stage.shrink, stage.steps):
        began = time.perf_counter()
        grid = level.fixed.grid
        start = base(grid) if base is not None else None
        # what earlier levels added is carried up; the start keeps the detail it has at this level
        grown = field
        if field is not None and before is not None:
            grown = VoxelField(field.vectors_vox - before, field.grid)
        carried = partial(_carried, start, grown, grid)
        before = start
        vectors, values, status = _run_level(level, stage, fixed2moving, carried, report)
        field = VoxelField(vectors, grid)
        seconds = time.perf_counter() - began
        history.append(LevelHistory(stage.model, level.index, level.shrink, tuple(values), status, seconds))
        if status is Status.NON_FINITE:
            break
    assert field is not None  # a stage has at least one level
    if base is not None and field.grid != fixed.grid and before is not None:
        # a last level that is coarse must not cost the start its detail
        grown = VoxelField(field.vectors_vox - before, field.grid)
        field = VoxelField(_carried(base(fixed.grid), grown, fixed.grid), fixed.grid)
    return field, history


def _carried(start: Volume | None, grown: VoxelField | None, grid: Grid) -> Volume:
    """Return the field a level begins with, a new array."""
    if grown is None:
        return np.zeros((3, *grid.shape), np.float32) if start is None else start.copy()
    vectors = grown.resampled(grid)
    if start is not None:
        vectors += start
    return vectors


def _run_level(
    level: Level,
    stage: DeformableStage,
    fixed2moving: Matrix,
    carried: Callable[[], Volume],
    report: Callable[[Level, int, float], None],
) -> tuple[Volume, list[float], Status]:
    warper = Warper(level)
    metric = stage.similarity.prepare(level.fixed.data, level.fixed.weight)
    affine = level.voxel_map(fixed2moving)
    spacing = level.fixed.grid.spacing
    # steepest descent in mm: a voxel that is long in one axis moves fewer voxels along it
    in_use = np.array(level.fixed.grid.shape) > 1
    axis_scale = np.where(in_use, (spacing[in_use].min() / spacing) ** 2, 0).astype(np.float32)

    solver, rule = stage.solver(level.index), stage.convergence
    vectors = carried()
    warped, weight = warper(affine, vectors)
    check_overlap(weight, level)
    rows = _active_rows(level, warped, max(solver.reach_vox, metric.reach_vox))

    def force(field: Volume, scratch: Volume, out: Volume) -> float:
        warped, weight = warper(affine, field, rows)
        return metric.force(warped, weight, axis_scale, stage.symmetric_force, scratch, out, rows)

    state = solver.init(vectors, rows)
    status = Status.STEP_LIMIT
    for number in range(level.steps):
        moved = solver.step(state, force, rule)
        value = state.values[-1]
        report(level, number, value)
        if not np.isfinite(value):
            status = Status.NON_FINITE
            break
        if not moved or rule.reached(state.values):
            status = Status.CONVERGED
            break
    if status is Status.NON_FINITE or not state.values:
        return state.field, state.values, status
    last = force(state.field, state.update, state.force)
    if last > state.values[0]:
        # no step was an improvement (a start that was good already): what the level began with is kept
        return carried(), [*state.values, last, state.values[0]], status
    return state.field, [*state.values, last], status


def _active_rows(level: Level, warped: Volume, reach: int) -> NDArray[np.int32]:
    """Return the rows where either image differs from its surround, with room for it to move."""
    fixed, moving = level.fixed.data, level.moving.data
    one, other = ranges_of(fixed, fixed.flat[0], _SURROUND), ranges_of(warped, moving.flat[0], _SURROUND)
    ranges = np.stack([np.minimum(one[0], other[0]), np.maximum(one[1], other[1])])
    return rows_of(ranges, fixed.shape[2], reach + _ROOM, max(reach, _ROOM))
