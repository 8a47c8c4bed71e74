"""Global start for large motion: a discrete search over displacements, made smooth by coupled convex steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from regista.core import Grid, LevelHistory, Status
from regista.kernels.cpu.discrete import cheapest, displacement_costs, displacements
from regista.kernels.cpu.fields import compose
from regista.kernels.cpu.filters import gaussian_filter
from regista.kernels.cpu.mind import mind_descriptors
from regista.kernels.cpu.warp import warp
from regista.registration._deformable import Base, VoxelField
from regista.registration._levels import Level, Matrix, Scan, Volume, Warper, check_overlap, levels
from regista.registration._stages import ConvexStage

_BALANCE = 15
"""Rounds in which the two directions of the search are brought to agree."""


def run_convex(
    fixed: Scan,
    moving: Scan,
    stage: ConvexStage,
    fixed2moving: Matrix,
    base: Base | None,
    report: Callable[[Level, int, float], None],
    after: str = "",
) -> tuple[VoxelField, list[LevelHistory]]:
    """Run a convex stage, after the one named; return the field on the fixed grid and the course of its levels.

    Notes
    -----
    Heinrich, Papież, Schnabel, Handels, Non-parametric discrete registration with convex optimisation, WBIR 2014;
    Siebert, Hansen, Heinrich, Fast 3D registration with accurate optimisation and little learning, 2021.
    """
    vectors = np.zeros((3, *fixed.grid.shape), np.float32) if base is None else base(fixed.grid)
    history = []
    for level in levels(fixed, moving, stage.shrink, stage.steps, stage.model, after):
        began = time.perf_counter()
        found, values = _search_level(level, stage, fixed2moving, VoxelField(vectors, fixed.grid), report)
        vectors = compose(vectors, found.resampled(fixed.grid))
        seconds = time.perf_counter() - began
        history.append(
            LevelHistory(stage.model, level.index, level.shrink, tuple(values), Status.CONVERGED, seconds)
        )
    return VoxelField(vectors, fixed.grid), history


def _search_level(
    level: Level,
    stage: ConvexStage,
    fixed2moving: Matrix,
    start: VoxelField,
    report: Callable[[Level, int, float], None],
) -> tuple[VoxelField, list[float]]:
    """Return the field, on the grid of the search, that is to go before the one at the start."""
    warped, weight = Warper(level)(level.voxel_map(fixed2moving), start.resampled(level.fixed.grid))
    check_overlap(weight, level)
    stride, radius = stage.at(level.index, "stride"), stage.at(level.index, "search")
    there = Scan(warped[0], level.fixed.grid, weight, others=warped[1:])
    one, other = (_features(scan, stride, stage) for scan in (level.fixed, there))
    reach = tuple(min(int(radius), n - 1) for n in one[2].shape)
    # what a place beyond the known costs: as much as any wrong one
    outside = float(2 * np.mean([np.var(f, axis=(1, 2, 3)).mean() for f, _, _ in (one, other)]))
    pairs = [(one, other), (other, one)] if stage.both_ways else [(one, other)]
    fields: list[Volume] = []
    values: list[float] = []
    for n, (here, away) in enumerate(pairs):
        costs = displacement_costs(here[0], away[0], away[1], reach, outside)
        if here[1] is not None:
            costs *= here[1][..., None]
        field, course = _coupled(costs, displacements(reach), level.steps, stage)
        fields.append(field)
        values = course if n == 0 else values
    for number, value in enumerate(values):
        report(level, number, value)
    found = _agreed(*fields) if stage.both_ways else fields[0]
    return VoxelField(found, one[2]), values


def _features(scan: Scan, stride: float, stage: ConvexStage) -> tuple[Volume, Volume | None, Grid]:
    """Return MIND descriptors of all channels, averaged over blocks of `stride` voxels, their weights and their grid."""
    features = mind_descriptors(scan.data, stage.radius, stage.dilation)
    if scan.others:
        more = [mind_descriptors(channel, stage.radius, stage.dilation) for channel in scan.others]
        features = np.concatenate([features, *more])
    factors = [min(int(stride), max(1, n // 2)) if n > 1 else 1 for n in scan.data.shape]
    if max(factors) == 1:
        return features, scan.weight, scan.grid
    grid = scan.grid.shrink(factors)
    sigma = [0.4 * f if f > 1 else 0.0 for f in factors]
    to_fine = (scan.grid.world2grid @ grid.grid2world)[:3]

    def pooled(volume: Volume) -> Volume:
        smooth = gaussian_filter(volume[None], sigma, border="nearest")[0]
        result: Volume = warp(smooth, to_fine, shape=grid.shape)
        return result

    weight = None if scan.weight is None else pooled(scan.weight)
    return np.stack([pooled(feature) for feature in features]), weight, grid


def _coupled(costs: Volume, offsets: Volume, steps: int, stage: ConvexStage) -> tuple[Volume, list[float]]:
    """Alternate between the cheapest displacements near a smooth field and their smoothing."""
    smooth = gaussian_filter(
        np.ascontiguousarray(np.moveaxis(costs, -1, 0)), stage.cost_sigma, border="nearest"
    )
    costs = np.ascontiguousarray(np.moveaxis(smooth, 0, -1))
    scale = float(np.mean(costs.mean(axis=-1) - costs.min(axis=-1)))
    field = np.zeros((3, *costs.shape[:3]), np.float32)
    best, values = np.empty_like(field), []
    for strength in (0.0, *np.geomspace(0.003, 1.0, max(steps - 1, 1)))[:steps]:
        cheapest(costs, offsets, field, strength * scale, out=best)
        field = gaussian_filter(best, stage.field_sigma_vox, border="nearest")
        values.append(float(((best - field) ** 2).sum(axis=0).mean()))
    return field, values


def _agreed(forward: Volume, backward: Volume) -> Volume:
    """Return the forward field of a pair made inverse to each other, half of the misfit each time."""
    for _ in range(_BALANCE):
        back, on = compose(backward, forward), compose(forward, backward)
        forward, backward = forward - np.float32(0.5) * back, backward - np.float32(0.5) * on
    return forward
