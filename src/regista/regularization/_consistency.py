"""Penalties on a map and one back: their loop shall be the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid
from regista.kernels.cpu.consistency import loop_adjoint, loop_residual
from regista.kernels.cpu.modes import combine_modes, project
from regista.kernels.cpu.penalties import diffusion
from regista.regularization._base import (
    FORBID,
    Field,
    PreparedPairPenalty,
    check_field,
    check_number,
    frame_of,
)


@dataclass(frozen=True, kw_only=True)
class InverseConsistency:
    """Forward and backward map undo each other: ``R = mean ‖u(x) + v(x + u(x))‖²`` in mm².

    The backward field is linear between its voxels and continued beyond its lattice by its edge value.

    Parameters
    ----------
    weight : float
        Factor on the penalty, mm⁻².
    both_ways : bool
        Take the mean with the same quantity for the loop that starts at the backward grid.

    Notes
    -----
    G. E. Christensen and H. J. Johnson, "Consistent image registration", IEEE TMI 20(7), 2001.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> u = np.full((3, 4, 5, 6), 0.5, np.float32)
    >>> loop, spare = InverseConsistency().prepare(grid), np.zeros_like(u)
    >>> loop.value_and_gradient(u, -u, spare, spare), loop.value_and_gradient(u, 0 * u, spare, spare)
    (0.0, 3.0)
    """

    weight: float = 1.0
    both_ways: bool = True
    name: ClassVar[str] = "inverse-consistency"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)

    def prepare(self, grid: Grid, backward_grid: Grid | None = None) -> PreparedPairPenalty:
        """Bind to the grids of both fields (by default one grid for both)."""
        return _Loops(self.weight, self.both_ways, grid, backward_grid or grid, of_gradient=False)


@dataclass(frozen=True, kw_only=True)
class GradientConsistency:
    """The loop of both maps is constant: ``R = mean ‖∇(u(x) + v(x + u(x)))‖²`` (no unit).

    Weaker than `InverseConsistency`, as maps may miss each other by a shift, and it smooths both of them. Derivatives
    are those of `Diffusion`.

    Parameters
    ----------
    weight : float
        Factor on the penalty.
    both_ways : bool
        Take the mean with the same quantity for the loop that starts at the backward grid.

    Notes
    -----
    L. Tian et al., "GradICON: approximate diffeomorphisms via gradient inverse consistency", CVPR 2023.

    Examples
    --------
    >>> grid = Grid((4, 5, 6), np.eye(4))
    >>> u = np.full((3, 4, 5, 6), 0.5, np.float32)
    >>> spare = np.zeros_like(u)
    >>> GradientConsistency().prepare(grid).value_and_gradient(u, 0 * u, spare, spare)
    0.0
    """

    weight: float = 1.0
    both_ways: bool = True
    name: ClassVar[str] = "gradient-consistency"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        check_number(self.name, "weight", self.weight, 0)

    def prepare(self, grid: Grid, backward_grid: Grid | None = None) -> PreparedPairPenalty:
        """Bind to the grids of both fields (by default one grid for both)."""
        return _Loops(self.weight, self.both_ways, grid, backward_grid or grid, of_gradient=True)


class _Loops(PreparedPairPenalty):
    def __init__(
        self, weight: float, both_ways: bool, forward: Grid, backward: Grid, *, of_gradient: bool
    ) -> None:
        if forward.ndim != backward.ndim:
            raise GeometryError(
                f"the forward grid has {forward.ndim} axes, the backward one {backward.ndim}: both maps have as many"
            )
        self._grids, self._both = (forward, backward), both_ways
        self._weight, self._of_gradient = weight, of_gradient
        self._buffers: dict[tuple[int, ...], tuple[Field, Field]] = {}

    def value_and_gradient(
        self, forward_vox: Field, backward_vox: Field, out_forward: Field, out_backward: Field
    ) -> float:
        """Return the weighted value and add both weighted gradients."""
        forward, backward = self._grids
        check_field(forward, forward_vox, out_forward)
        check_field(backward, backward_vox, out_backward)
        if self._weight == 0:
            return 0.0
        weight = self._weight / 2 if self._both else self._weight
        value = self._loop(weight, forward, backward, forward_vox, backward_vox, out_forward, out_backward)
        if self._both:
            value += self._loop(
                weight, backward, forward, backward_vox, forward_vox, out_backward, out_forward
            )
        return value

    def _loop(
        self, weight: float, one: Grid, other: Grid, u: Field, v: Field, out_u: Field, out_v: Field
    ) -> float:
        """Return the value of the loop that starts at one grid and add its gradients."""
        to_other = (other.as_3d().world2grid @ one.as_3d().grid2world)[:3]
        to_own = (one.as_3d().world2grid @ other.as_3d().grid2world)[:3, :3]
        if u.shape not in self._buffers:
            self._buffers[u.shape] = np.empty_like(u), np.empty_like(u)
        residual, slope = self._buffers[u.shape]
        loop_residual(u, v, to_other, to_own, out=residual)
        slope[...] = 0
        value = self._density(weight / one.size, frame_of(one), residual, slope)
        loop_adjoint(u, v, to_other, to_own, slope, out_forward=out_u, out_backward=out_v)
        return value

    def _density(self, factor: float, frame: NDArray[np.float64], residual: Field, slope: Field) -> float:
        if self._of_gradient:
            return factor * float(diffusion(residual, frame, factor=factor, out=slope))
        metric, zero = frame.T @ frame, np.broadcast_to(np.float32(0), residual.shape)
        none = np.empty((0, *residual.shape), np.float32)
        _, square = project(residual, zero, none, metric)
        combine_modes(residual, zero, none, metric, [], factor=2 * factor, out=slope)
        return factor * float(square)
