"""The control points that a dense field of a B-spline stage is made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid
from regista.kernels.cpu.bspline import spline_expand
from regista.optimization import Spacing, along_axes, spline_axes
from regista.registration._deformable import VoxelField
from regista.registration._inputs import plane
from regista.transforms import BSplineField

_SPARE = 1
"""Control points added beyond each face, so that half a voxel around the outermost centres is covered too."""


def fit_control_points(field: VoxelField, spacing_vox: Spacing, ndim: int) -> tuple[BSplineField, float]:
    """Return the B-spline nearest to a dense field on a lattice as its solver laid it, and how far the field is off.

    Least squares over the voxels, exact for what the last level added. What coarser levels had found was interpolated
    between their voxels, and is smoothed.

    Parameters
    ----------
    field : VoxelField
        What a stage ended with, on the grid of its last level.
    spacing_vox : float or tuple of 3 floats
        Distance of its control points, voxels of that grid.
    ndim : int
        Of the images: a 2-D field lies in the plane of the first and third axes.

    Returns
    -------
    spline : BSplineField
        In world mm.
    rms_mm : float
        Root mean square distance of the spline from the field, over the voxels.
    """
    shape = field.grid.shape
    axes = spline_axes(shape, spacing_vox)
    control: NDArray[np.float64] = field.vectors_vox.astype(np.float64)
    for number, axis in enumerate(axes, start=1):
        weights = np.zeros((len(axis.first), axis.controls))
        for tap in range(axis.weights.shape[1]):
            weights[np.arange(len(axis.first)), axis.first + tap] += axis.weights[:, tap]
        solved = np.asarray(np.tensordot(np.linalg.pinv(weights), control, axes=(1, number)), np.float64)
        control = np.moveaxis(solved, 0, number)
    linear = field.grid.grid2world[:3, :3]
    missed = (spline_expand(control, axes) - field.vectors_vox).reshape(3, -1)
    rms_mm = float(np.sqrt(np.mean(((linear.astype(np.float32) @ missed) ** 2).sum(axis=0))))
    lattice, control = _spared(field.grid, control, spacing_vox, ndim)
    vectors = np.einsum("ab,b...->a...", linear, control)
    if ndim == 2:
        vectors, lattice = vectors[:2, :, 0], plane(lattice)
    return BSplineField(vectors, lattice), rms_mm


def _spared(
    grid: Grid, control: NDArray[np.float64], spacing_vox: Spacing, ndim: int
) -> tuple[Grid, NDArray[np.float64]]:
    """Return the lattice, and control points, with spare ones beyond the faces that continue in a straight line."""
    step, first, spacings = np.ones(3), np.zeros(3), along_axes(spacing_vox)
    for axis, count in enumerate(grid.shape):
        if count > 1:
            step[axis], first[axis] = spacings[axis], -(1 + _SPARE) * spacings[axis]
            low, high = (np.take(control, places, axis + 1) for places in ([0, 1], [-1, -2]))
            ends = [2 * np.take(end, [0], axis + 1) - np.take(end, [1], axis + 1) for end in (low, high)]
            control = np.concatenate([ends[0], control, ends[1]], axis=axis + 1)
        elif ndim == 3:  # a single slice: the same in front of it and behind it
            first[axis] = -1.5
            control = np.repeat(control, 4, axis=axis + 1)
    matrix = grid.grid2world @ np.diag([*step, 1.0])
    matrix[:3, 3] = grid.index2world(first)
    return Grid(control.shape[1:], matrix), control
