"""What every penalty is: a configuration that, given a grid, yields values and gradients for fields on it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import GeometryError, Grid, PlanError

Field = NDArray[np.float32]
FORBID = {"extra": "forbid"}


class PreparedPenalty(ABC):
    """A penalty bound to one grid (and to a mask)."""

    @abstractmethod
    def value_and_gradient(self, field_vox: Field, out: Field) -> float:
        """Return ``weight · R(u)`` and add ``weight · dR/du`` to `out`.

        Parameters
        ----------
        field_vox : (3, I, J, K) float32 ndarray
            Displacement in voxels of the grid; R itself is measured in mm.
        out : (3, I, J, K) float32 ndarray
            Where the exact derivative of the discrete value by each component is added.
        """


class PreparedPairPenalty(ABC):
    """A penalty on a map and one back, bound to their grids."""

    @abstractmethod
    def value_and_gradient(
        self, forward_vox: Field, backward_vox: Field, out_forward: Field, out_backward: Field
    ) -> float:
        """Return ``weight · R(u, v)`` and add ``weight · dR/du`` and ``weight · dR/dv`` to the outputs.

        Parameters
        ----------
        forward_vox : (3, I, J, K) float32 ndarray
            Displacement u in voxels of the forward grid.
        backward_vox : (3, P, Q, R) float32 ndarray
            Displacement v in voxels of the backward grid.
        out_forward, out_backward : float32 ndarray
            Where the exact derivatives are added, shaped like the fields.
        """


@runtime_checkable
class Penalty(Protocol):
    """A penalty on one displacement field: its own configuration, without data."""

    name: ClassVar[str]

    @property
    def weight(self) -> float:
        """Factor on the penalty."""
        ...

    def prepare(self, grid: Grid, mask: ArrayLike | None = None) -> PreparedPenalty:
        """Bind to a grid, and to weights of its voxels: R is then the weighted mean."""
        ...


@runtime_checkable
class PairPenalty(Protocol):
    """A penalty on a map and one back."""

    name: ClassVar[str]

    @property
    def weight(self) -> float:
        """Factor on the penalty."""
        ...

    def prepare(self, grid: Grid, backward_grid: Grid | None = None) -> PreparedPairPenalty:
        """Bind to the grids of both fields (by default one grid for both)."""
        ...


def check_number(owner: str, name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Refuse what is not a number within a range."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
        limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise PlanError(f"{owner} {name} is a number {limits}, got {value!r}")
    if not math.isfinite(value):
        raise PlanError(f"{owner} {name} is a finite number, got {value!r}")


def frame_of(grid: Grid) -> NDArray[np.float64]:
    """Return the ``(3, 3)`` matrix from voxels to mm; that of a 2-D grid as one slice."""
    return np.asarray(grid.as_3d().grid2world[:3, :3])


def weights_on(grid: Grid, mask: ArrayLike | None, owner: str) -> Field | None:
    """Return a mask as weights of the voxels of one volume, checked."""
    if mask is None:
        return None
    weight = np.asarray(mask, np.float32)
    shape = grid.as_3d().shape
    if weight.shape not in (grid.shape, shape):
        raise GeometryError(
            f"the mask of {owner} has shape {weight.shape}, its grid {grid.shape}: resample the mask onto the grid"
        )
    if not np.isfinite(weight).all() or weight.min() < 0:
        raise GeometryError(f"the mask of {owner} holds weights below 0, NaN or Inf: weights are 0 or more")
    if not weight.any():
        raise GeometryError(f"the mask of {owner} is empty: no voxel of it differs from 0")
    return np.ascontiguousarray(weight.reshape(shape))


def total_weight(grid: Grid, weight: Field | None) -> float:
    """Return what a weighted mean is divided by."""
    return float(grid.size) if weight is None else float(weight.sum(dtype=np.float64))


def check_field(grid: Grid, *fields: Field) -> None:
    """Refuse fields and gradients that do not lie on the grid a penalty was prepared for."""
    expected = (3, *grid.as_3d().shape)
    for field in fields:
        if field.shape != expected:
            raise GeometryError(
                f"a penalty prepared for a grid of shape {grid.shape} takes fields of shape {expected}, got "
                f"{field.shape}: prepare it for this grid"
            )


Term = Callable[[Field, float, Field], float]
"""``term(field, factor, out)``: return a weighted sum over voxels and add `factor` times its derivative."""


class PreparedMean(PreparedPenalty):
    """A penalty that is the mean of one density over the voxels, or over weighted ones.

    Parameters
    ----------
    grid : Grid
        Lattice of the fields.
    weight : float
        Factor on the mean.
    total : float
        What the sum is divided by.
    term : callable
        The sum and its derivative.
    """

    def __init__(self, grid: Grid, weight: float, total: float, term: Term) -> None:
        self._grid, self._term = grid, term
        self._factor = weight / total if total > 0 else 0.0

    def value_and_gradient(self, field_vox: Field, out: Field) -> float:
        """Return the weighted value and add the weighted gradient."""
        check_field(self._grid, field_vox, out)
        if self._factor == 0:
            return 0.0
        return self._factor * self._term(field_vox, self._factor, out)


class PreparedSum(PreparedPenalty):
    """Several prepared penalties on one grid, added."""

    def __init__(self, *parts: PreparedPenalty) -> None:
        self._parts = parts

    def value_and_gradient(self, field_vox: Field, out: Field) -> float:
        """Return the sum of the values and add all gradients."""
        return sum(part.value_and_gradient(field_vox, out) for part in self._parts)
