"""What dense stages found, as maps both ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid, Image
from regista.optimization import folds
from regista.registration._bases import to_voxels
from regista.registration._deformable import VoxelField
from regista.registration._inputs import embedded, plane, reordered
from regista.registration._levels import Volume
from regista.transforms import (
    BSplineField,
    DisplacementField,
    Transform,
    VelocityField,
    invert_field,
    jacobian_determinant,
    to_displacement_field,
)


@dataclass(frozen=True, eq=False)
class Found:
    """A displacement, and the model it comes from where that has a form of its own.

    Parameters
    ----------
    vectors_mm : (3, I, J, K) float32 ndarray
        Displacement in world mm, before the linear map.
    grid : Grid
        Its grid: 3-D, that of the scans.
    model : BSplineField or VelocityField, optional
        The same map by control points, or as a flow.
    """

    vectors_mm: Volume
    grid: Grid
    model: BSplineField | VelocityField | None = None


def maps_both_ways(
    found: Found, fixed: Image, forbid_folds: bool
) -> tuple[Transform, Transform, dict[str, Any]]:
    """Return the map within the space of the fixed image, its inverse, and their measures.

    A model is kept as such; the inverse is a dense field. Where folds
    are forbidden and a model has some at the voxels (the nearest B-spline to a field without folds may), the
    displacement takes its place.
    """
    vectors, lattice = (
        _planar(found.vectors_mm, fixed.ndim),
        found.grid if fixed.ndim == 3 else plane(found.grid),
    )
    dense = DisplacementField(vectors, lattice, fixed.space, fixed.space)
    grid, model = dense.grid, found.model
    if model is not None:
        model = replace(model, fixed_space=fixed.space, moving_space=fixed.space)
        sampled = to_displacement_field(model, grid)
        if forbid_folds and folds(_voxels(sampled)):
            model = None
        else:
            dense = sampled
    determinant = jacobian_determinant(dense, grid)
    # also of a flow: the flow back is the inverse up to its sampling only, some hundredths of a voxel
    backward, residual = invert_field(dense)
    measures: dict[str, Any] = {
        "folded_percent": 100 * float(np.mean(determinant <= 0)),
        "smallest_jacobian": float(determinant.min()),
        "inverse_residual_vox": float(residual),
        "inverse_folded_percent": 100 * float(np.mean(jacobian_determinant(backward, grid) <= 0)),
    }
    forward: Transform = model if isinstance(model, BSplineField) else reordered(dense, fixed.grid)
    if isinstance(model, VelocityField):
        measures["velocity"] = {"squarings": model.steps, "grid": model.grid.describe()}
        forward = reordered(model, fixed.grid)
    return forward, reordered(backward, fixed.grid), measures


def flow_of(velocity: VoxelField, grid: Grid, squarings: int, ndim: int) -> VelocityField:
    """Return a velocity in voxels as a transform of images of `ndim` axes, on a grid with the same axes."""
    vectors = velocity.vectors_mm(grid)
    return VelocityField(_planar(vectors, ndim), grid if ndim == 3 else plane(grid), squarings)


def _planar(vectors: Volume, ndim: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors[:2, :, 0] if ndim == 2 else vectors)


def _voxels(field: DisplacementField) -> Volume:
    """Return a field in voxels of the grid it is worked on."""
    vectors = field.vectors_mm
    if field.ndim == 2:
        vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])[:, :, None]
    return to_voxels(vectors, embedded(field.grid))
