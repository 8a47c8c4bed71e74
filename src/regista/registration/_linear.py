"""Linear stages: optimize a matrix, level by level, on the group it belongs to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from regista.core import LevelHistory, Status
from regista.kernels.cpu.intensity import linear_gradient
from regista.optimization import BFGS
from regista.registration._channels import in_use
from regista.registration._guide_terms import Guidance, GuideTerm
from regista.registration._levels import (
    MIN_OVERLAP,
    Level,
    Matrix,
    Report,
    Scan,
    Volume,
    Warper,
    check_overlap,
    check_sight,
    content,
    content_box,
    levels,
    usable_voxels,
)
from regista.registration._stages import LinearStage
from regista.similarity import Similarity, prepare_channels


def generators(model: str, center_mm: Matrix, radius_mm: float, frame: Matrix) -> Matrix:
    """Return the Lie-algebra basis of a linear model about a centre, ``(P, 4, 4)``.

    Each generator moves points at `radius_mm` from the centre by about 1 mm, so that one step length
    suits all parameters. Movement is within the span of `frame`: orthonormal columns, 3 of them or, for a
    single slice, the 2 along it.
    """
    axes = range(frame.shape[1])
    pairs = [(a, b) for a in axes for b in axes if a < b]

    def linear(entries: dict[tuple[int, int], float]) -> Matrix:
        matrix = np.zeros((4, 4))
        for (a, b), value in entries.items():
            matrix[:3, :3] += value / radius_mm * np.outer(frame[:, a], frame[:, b])
        matrix[:3, 3] = -matrix[:3, :3] @ center_mm
        return matrix

    basis = []
    for a in axes:
        shift = np.zeros((4, 4))
        shift[:3, 3] = frame[:, a]
        basis.append(shift)
    if model != "translation":
        basis += [linear({(a, b): 1.0, (b, a): -1.0}) for a, b in pairs]
    if model == "similarity":
        basis.append(linear({(a, a): 1.0 for a in axes}))
    if model == "affine":
        basis += [linear({(a, a): 1.0}) for a in axes]
        basis += [linear({(a, b): 1.0, (b, a): 1.0}) for a, b in pairs]
    return np.stack(basis)


class LinearCost:
    """Dissimilarity of a level as a function of the world matrix, with its gradient along generators."""

    def __init__(
        self, level: Level, similarity: Similarity, basis: Matrix, guides: Sequence[GuideTerm] = ()
    ) -> None:
        self._level, self._basis, self._guides = level, basis, tuple(guides)
        self._warper = Warper(level)
        fixed = level.fixed
        self._metric = prepare_channels(similarity, fixed.channels, fixed.weight, fixed.hides)
        self._gradients = [np.empty(channel.shape, np.float32) for channel in level.fixed.channels]
        self._to_voxels = level.fixed.grid.world2grid @ basis @ level.fixed.grid.grid2world
        self._total = usable_voxels(level)

    def __call__(self, fixed2moving: Matrix) -> tuple[float, Matrix]:
        """Return the value and its gradient (infinite where the images hardly overlap)."""
        warped, weight = self._warper(self._level.voxel_map(fixed2moving))
        if float(weight.sum()) < MIN_OVERLAP * self._total:
            return float("inf"), np.zeros(len(self._basis))
        value = self._metric.value_and_gradient(warped, weight, self._gradients)
        voxel = linear_gradient(self._gradients[0], warped[0])
        for gradient, channel in zip(self._gradients[1:], warped[1:], strict=True):
            voxel += linear_gradient(gradient, channel)
        if self._guides:
            pull = np.zeros((3, *warped[0].shape), np.float32)
            still = np.zeros_like(pull)
            value += sum(one.value_and_gradient(fixed2moving, still, pull) for one in self._guides)
            voxel = voxel + _moments(pull)
        return value, np.einsum("pab,ab->p", self._to_voxels[:, :3, :], voxel)

    def overlap(self) -> float:
        """Return the share of the fixed weight that lay inside the moving image at the last call."""
        return float(self._warper.weight.sum()) / max(self._total, 1e-30)


def _moments(pull: Volume) -> Matrix:
    """Return ``Σ g_a(x) (x, 1)_b`` over voxels x of a gradient by the displacement: that by a linear map."""
    found = np.empty((3, 4))
    for axis in range(3):
        others = tuple(n + 1 for n in range(3) if n != axis)
        found[:, axis] = pull.sum(axis=others, dtype=np.float64) @ np.arange(pull.shape[axis + 1])
    found[:, 3] = pull.sum(axis=(1, 2, 3), dtype=np.float64)
    return found


def basis_for(model: str, fixed: Scan) -> Matrix:
    """Return the generators of a model about the centre of a scan."""
    extent = np.array(fixed.grid.shape) * fixed.grid.spacing * (np.array(fixed.grid.shape) > 1)
    frame = np.eye(3)
    if 1 in fixed.grid.shape:
        frame = orthonormal(fixed.grid.direction)[:, np.array(fixed.grid.shape) > 1]
    return generators(model, fixed.grid.center_mm, max(float(np.linalg.norm(extent)) / 4, 1e-6), frame)


def orthonormal(axes: Matrix) -> Matrix:
    """Return the nearest orthonormal axes: headers may carry shears."""
    left, _, right = np.linalg.svd(axes)
    return np.asarray(left @ right)


def rigid_part(matrix: Matrix, about_mm: Matrix) -> tuple[Matrix, float]:
    """Return the rigid map nearest a linear one, with a point where that one leads it; and the largest share by which that, or its inverse, lengthens.

    Parameters
    ----------
    matrix : (4, 4) float64 ndarray
        Linear map, homogeneous; the rigid part of one that mirrors mirrors.
    about_mm : (3,) float64 ndarray
        The point.

    Examples
    --------
    >>> rigid, stretch = rigid_part(np.diag([1.01, 1.0, 1.0, 1.0]), np.array([10.0, 0.0, 0.0]))
    >>> rigid[0].round(3).tolist(), round(stretch, 3)
    ([1.0, 0.0, 0.0, 0.1], 0.01)
    """
    rigid = np.eye(4)
    rigid[:3, :3] = orthonormal(matrix[:3, :3])
    rigid[:3, 3] = matrix[:3, :3] @ about_mm + matrix[:3, 3] - rigid[:3, :3] @ about_mm
    stretches = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    return rigid, float(np.exp(np.abs(np.log(stretches)).max()) - 1)


def content_center_mm(scan: Scan) -> Matrix:
    """Return the middle of the box of what a scan shows, or of what its mask covers, mm."""
    if scan.weight is not None and scan.weight.any():
        scan = replace(scan, data=(scan.weight > 0).astype(np.float32), others=())
        if scan.data.flat[0]:  # the box is of what differs from the first voxel
            return np.asarray(scan.grid.center_mm)
    start, stop = content_box(scan)
    return np.asarray(scan.grid.index2world((start + stop - 1) / 2).reshape(3))


def exponential(matrix: Matrix) -> Matrix:
    """Return the exponential of a small matrix, by its Taylor series of the halved matrix, squared again.

    SciPy's asks the threads of its BLAS for each: on a busy machine a 4 × 4 matrix can take milliseconds.
    """
    if not np.isfinite(matrix).all():
        return np.full_like(matrix, np.nan)  # a step that the solver refuses
    halvings = max(0, int(np.ceil(np.log2(max(float(np.abs(matrix).sum(axis=0).max()), 1e-300)))) + 2)
    part = matrix / 2.0**halvings  # of norm 1/4 at most: the first term left out is below 1e-17
    term = np.eye(len(matrix))
    found = term.copy()
    for order in range(1, 13):
        term = term @ part / order
        found += term
    for _ in range(halvings):
        found = found @ found
    return found


def minimize(
    level: Level,
    similarity: Similarity,
    basis: Matrix,
    start: Matrix,
    tolerance_vox: float,
    report: Report,
    guides: Sequence[GuideTerm] = (),
) -> tuple[Matrix, list[float], Status]:
    """Minimize one level from a start; return the matrix, the values and why it ended."""
    voxel = float(level.fixed.grid.spacing[np.array(level.fixed.grid.shape) > 1].min())

    def retract(point: Matrix, step: Matrix) -> Matrix:
        return np.asarray(point @ exponential(np.einsum("p,pab->ab", step, basis)))

    solver = BFGS(retract=retract, first_step=0.5 * voxel, max_step=4 * voxel)
    cost = LinearCost(level, similarity, basis, guides)
    state = solver.init(start, cost)
    values = [state.value]
    if not np.isfinite(state.value):
        return start, values, Status.NON_FINITE
    small = 0
    for number in range(level.steps):
        state = solver.step(state, cost)
        values.append(state.value)
        report(number, state.value)
        small = small + 1 if state.step_length < tolerance_vox * voxel else 0
        if small >= 2 or state.step_length == 0:
            return state.point, values, Status.CONVERGED
    return state.point, values, Status.STEP_LIMIT


def run_linear(
    fixed: Scan,
    moving: Scan,
    stage: LinearStage,
    start: Matrix,
    report: Callable[[Level, int, float], None],
    guides: Sequence[Guidance] = (),
    after: str = "",
) -> tuple[Matrix, list[LevelHistory]]:
    """Run one linear stage, after the one named; return the world matrix and the course of its levels."""
    fixed, moving, similarity = in_use(fixed, moving, stage.similarity)
    fixed = fixed if guides else content(fixed, 0.1)  # guides may lie outside the content
    basis = basis_for(stage.model, fixed)
    history = []
    for level in levels(fixed, moving, stage.shrink, stage.steps, stage.model, after):
        began = time.perf_counter()
        if stage.smooth_vox > 0:
            smooth = [scan.smoothed(stage.smooth_vox) for scan in (level.fixed, level.moving)]
            level = replace(level, fixed=smooth[0], moving=smooth[1])
        weight = Warper(level)(level.voxel_map(start))[1]
        check_overlap(weight, level)
        if level.fixed.hides:
            scan = level.fixed
            check_sight(prepare_channels(similarity, scan.channels, scan.weight, hides=True), weight, level)
        start, values, status = minimize(
            level, similarity, basis, start, stage.tolerance_vox,
            partial(report, level), [guide(level.fixed.grid, level.moving.grid) for guide in guides],
        )  # fmt: skip
        seconds = time.perf_counter() - began
        history.append(LevelHistory(stage.model, level.index, level.shrink, tuple(values), status, seconds))
        if status is Status.NON_FINITE:
            break
    return start, history
