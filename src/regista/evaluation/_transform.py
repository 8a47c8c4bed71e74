"""Quality of a transform: folding, volume change, inverse consistency, bending."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError, Grid, Image
from regista.kernels.cpu.bending import bending
from regista.kernels.cpu.fields import jacobian_determinant
from regista.kernels.cpu.folds import non_diffeomorphic_volume
from regista.kernels.cpu.points import map_affine
from regista.transforms import (
    BSplineField,
    Composite,
    DisplacementField,
    Transform,
    VelocityField,
    to_displacement_field,
)

Mask = Image | ArrayLike | None
_LEAST_DETERMINANT = 1e-9
_POINTS_AT_ONCE = 1 << 20
_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class TransformQuality:
    """Regularity of a transform over the voxels of a grid (or of a mask).

    Parameters
    ----------
    voxels : int
        Voxels measured.
    folded_percent : float
        Share of voxels whose Jacobian determinant, by central differences, is at most 0.
    ndv_percent : float
        Non-diffeomorphic volume, share of the volume measured.
    sd_log_jacobian : float
        Standard deviation of the logarithm of the determinant (kept above 1e-9).
    jacobian_min, jacobian_max : float
        Extremes of the determinant.
    bending_energy_per_mm2 : float
        Mean squared second derivative, 1/mm².
    inverse_mean_mm, inverse_p95_mm, inverse_max_mm : float
        Inverse-consistency error; NaN where no inverse was given.
    inverse_inner_mean_mm, inverse_inner_max_mm : float
        The same without the rim: where the way back stays within the lattices of the inverse's dense fields. Beyond
        them a field moves nothing, whatever it would have to.
    inverse_rim_percent : float
        Share of the voxels whose way back leaves these lattices.
    inverse_voxels : int
        Voxels it was measured at: those whose image lies within the moving image.
    """

    voxels: int
    folded_percent: float
    ndv_percent: float
    sd_log_jacobian: float
    jacobian_min: float
    jacobian_max: float
    bending_energy_per_mm2: float
    inverse_mean_mm: float = _NAN
    inverse_p95_mm: float = _NAN
    inverse_max_mm: float = _NAN
    inverse_inner_mean_mm: float = _NAN
    inverse_inner_max_mm: float = _NAN
    inverse_rim_percent: float = _NAN
    inverse_voxels: int = 0

    def row(self) -> dict[str, Any]:
        """Return the measures as a dictionary, for tables."""
        row = asdict(self)
        if not self.inverse_voxels:
            row = {name: value for name, value in row.items() if not name.startswith("inverse_")}
        return row


def transform_measures(
    transform: Transform,
    grid: Grid,
    *,
    mask: Mask = None,
    inverse: Transform | None = None,
    moving_grid: Grid | None = None,
) -> TransformQuality:
    """Measure how regular a transform is.

    Parameters
    ----------
    transform : Transform
        Map from fixed to moving.
    grid : Grid
        Grid of the fixed image, at whose voxels to measure.
    mask : Image or (*grid.shape) array_like, optional
        Measure where it is not 0.
    inverse : Transform, optional
        Map from moving to fixed, estimated on its own or by inversion, for the inverse-consistency error
        ``|S(T(x)) − x|``.
    moving_grid : Grid, optional
        Grid of the moving image: inverse consistency is measured at the voxels whose image lies within it
        (default: the lattice of the inverse, if it begins with a dense field).

    Returns
    -------
    TransformQuality
        The measures.

    Raises
    ------
    GeometryError
        If dimensions differ, the mask is empty or lies on another grid, or the spaces of the inverse are not
        those of the transform exchanged.

    Notes
    -----
    Non-diffeomorphic volume: Liu et al., On finite difference Jacobian computation in deformable image
    registration, IJCV 2024. Bending energy: Rueckert et al., IEEE TMI 1999. Inverse consistency: Christensen
    and Johnson, IEEE TMI 2001.

    Examples
    --------
    >>> from regista.transforms import Affine
    >>> found = transform_measures(Affine(np.diag([2.0, 1.0, 1.0, 1.0])), Grid((5, 6, 7), np.eye(4)))
    >>> found.folded_percent, found.jacobian_max, found.sd_log_jacobian
    (0.0, 2.0, 0.0)
    """
    if transform.ndim != grid.ndim:
        raise GeometryError(f"a {transform.ndim}-D transform does not fit a {grid.ndim}-D grid")
    if inverse is not None:
        _check_loop(transform, inverse)
    where = mask_array(mask, grid)
    field = to_displacement_field(transform, grid)
    voxels = field_in_voxels(field)
    weight = where.reshape(grid.as_3d().shape)
    count = int(where.sum())
    determinant = jacobian_determinant(voxels)[weight].astype(np.float64)
    energy, inner = bending(voxels, grid.as_3d().grid2world[:3, :3], weight)
    consistency = {} if inverse is None else _consistency(field, inverse, where, moving_grid)
    return TransformQuality(
        voxels=count,
        folded_percent=100 * float(np.mean(determinant <= 0)),
        ndv_percent=100 * non_diffeomorphic_volume(voxels, weight) / count,
        sd_log_jacobian=float(np.log(np.maximum(determinant, _LEAST_DETERMINANT)).std()),
        jacobian_min=float(determinant.min()),
        jacobian_max=float(determinant.max()),
        bending_energy_per_mm2=energy / inner if inner else _NAN,
        **consistency,  # type: ignore[arg-type]
    )


def mask_array(mask: Mask, grid: Grid) -> NDArray[np.bool_]:
    """Return a mask as an array of the grid's shape; everything where there is none."""
    if mask is None:
        return np.ones(grid.shape, bool)
    if isinstance(mask, Image):
        if not mask.grid.same_as(grid):
            raise GeometryError(
                f"the mask lies on another grid: {mask.grid.describe()}; the fixed image {grid.describe()}. "
                "Resample the mask onto the fixed image first (regista apply --labels)"
            )
        mask = mask.data
    where: NDArray[np.bool_] = np.asarray(mask) != 0
    if where.shape != grid.shape:
        raise GeometryError(f"the mask has shape {where.shape}, the grid {grid.shape}")
    if not where.any():
        raise GeometryError("the mask is empty: no voxel of it differs from 0")
    return where


def field_in_voxels(field: DisplacementField) -> NDArray[np.float32]:
    """Return a field as kernels take it, in voxels of its own grid, ``(3, I, J, K)``."""
    vectors = _vectors_3d(field)
    matrix = field.grid.as_3d().world2grid[:3, :3].astype(np.float32)
    return np.ascontiguousarray((matrix @ vectors.reshape(3, -1)).reshape(vectors.shape))


def _vectors_3d(field: DisplacementField) -> NDArray[np.float32]:
    vectors = field.vectors_mm
    if field.ndim == 2:
        vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])[..., None]
    return np.ascontiguousarray(vectors)


def _check_loop(transform: Transform, inverse: Transform) -> None:
    """Refuse an inverse that does not begin where the transform ends, or end where it begins."""
    Composite((transform, inverse))
    ends, begins = inverse.moving_space, transform.fixed_space
    if None not in (ends, begins) and ends != begins:
        raise GeometryError(
            f"the inverse leads to {ends!r}, but the transform starts from {begins!r}: give the inverse of the same "
            "pair, or relabel with `with_spaces` if both names mean the same space"
        )


def _consistency(
    field: DisplacementField, inverse: Transform, where: NDArray[np.bool_], moving_grid: Grid | None
) -> dict[str, float | int]:
    """Return the inverse-consistency error over the voxels of a mask."""
    n, grid = field.ndim, field.grid.as_3d()
    domain = moving_grid or _domain(inverse)
    places, vectors = np.flatnonzero(where), _vectors_3d(field).reshape(3, -1)
    parts, kept = [], []
    for first in range(0, len(places), _POINTS_AT_ONCE):
        at = places[first : first + _POINTS_AT_ONCE]
        index = np.stack(np.unravel_index(at, grid.shape), 1).astype(np.float64)
        here = map_affine(index, grid.grid2world[:3])
        there = here + vectors[:, at].T
        if domain is not None:
            inside = domain.contains(there[:, :n])
            here, there = here[inside], there[inside]
        back, within = _way_back(inverse, there[:, :n])
        parts.append(np.linalg.norm(back - here[:, :n], axis=1))
        kept.append(within)
    errors, inner = np.concatenate(parts), np.concatenate(kept)
    if not errors.size:
        raise GeometryError(
            "the transform leads nowhere that the inverse is defined: do the two belong to the same pair, and in "
            "this order?"
        )
    return {
        "inverse_mean_mm": float(errors.mean()),
        "inverse_p95_mm": float(np.percentile(errors, 95)),
        "inverse_max_mm": float(errors.max()),
        "inverse_inner_mean_mm": float(errors[inner].mean()) if inner.any() else _NAN,
        "inverse_inner_max_mm": float(errors[inner].max()) if inner.any() else _NAN,
        "inverse_rim_percent": 100 * float(np.mean(~inner)),
        "inverse_voxels": len(errors),
    }


def _way_back(
    inverse: Transform, points_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return where points are led, and whether each stayed within the lattices of all dense fields on its way."""
    within = np.ones(len(points_mm), bool)
    for part in Composite((inverse,)).flatten().transforms:
        if isinstance(part, (DisplacementField, VelocityField)):
            within &= part.grid.contains(points_mm)
        elif isinstance(part, BSplineField):
            within &= part.contains(points_mm)
        points_mm = part.map_points(points_mm)
    return points_mm, within


def _domain(transform: Transform) -> Grid | None:
    """Return the lattice that a chain beginning with a dense field is defined on."""
    first = Composite((transform,)).flatten().transforms[0]
    return first.grid if isinstance(first, (DisplacementField, VelocityField)) else None
