"""Distances of control points: one for all axes, or one for each."""

from __future__ import annotations

from collections.abc import Sequence

from regista.core import PlanError
from regista.kernels.cpu.bspline import SplineAxis, spline_axis

Spacing = float | tuple[float, float, float]


def along_axes(spacing_vox: Spacing) -> tuple[float, float, float]:
    """Return the distance of control points along each axis, voxels."""
    if isinstance(spacing_vox, tuple):
        return spacing_vox
    return (spacing_vox, spacing_vox, spacing_vox)


def check_spacing(spacing_vox: Spacing) -> None:
    """Refuse distances that are no use."""
    for one in along_axes(spacing_vox):
        if not 1 <= one <= 200:
            raise PlanError(f"spacing_vox is between 1 and 200 voxels, got {one}")


def spline_axes(shape: Sequence[int], spacing_vox: Spacing) -> tuple[SplineAxis, ...]:
    """Return the weights of control points along all axes of a grid."""
    return tuple(spline_axis(n, step) for n, step in zip(shape, along_axes(spacing_vox), strict=True))
