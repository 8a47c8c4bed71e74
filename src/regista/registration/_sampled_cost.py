"""What a stochastic solver minimizes on one level: the dissimilarity at a few voxels, other ones each time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regista.core import Grid
from regista.kernels.cpu.samples import warp_at
from regista.registration._cost import REGIONAL, LevelCost
from regista.registration._levels import Volume
from regista.regularization import PreparedPenalty

Voxels = NDArray[np.int64]


class SampledCost(LevelCost):
    """Dissimilarity of a level at some of its voxels; see `LevelCost`.

    Parameters
    ----------
    settings
        Those of `LevelCost`; the metric compares voxel by voxel.
    seed : int
        Of the voxels drawn: the same seed draws the same, whatever the number of threads.
    """

    def __init__(self, *settings: Any, seed: int = 0) -> None:
        super().__init__(*settings)
        self._rng = np.random.default_rng((seed % 2**64, self._level.index))
        self._lattices: dict[tuple[int, ...], list[PreparedPenalty]] = {}
        self._choice: Voxels | None = None

    @property
    def penalized(self) -> bool:
        """Whether there are penalties."""
        return bool(self._terms)

    def draw(self, count: int) -> Voxels:
        """Return flat indices of random voxels, sorted: of those inside the fixed mask, near what the images show."""
        if self._choice is None:
            self._choice = self._comparable()
        # sorted, they are read in the order in which they lie in memory
        return np.sort(self._choice[self._rng.integers(len(self._choice), size=count)])

    def _comparable(self) -> Voxels:
        """Return the voxels in the level's rows (see `LevelCost.begin`) whose weight is not 0."""
        fixed = self._level.fixed
        chosen = np.ones(fixed.data.shape, bool) if fixed.weight is None else fixed.weight > 0
        if self._rows is not None:
            depth = np.arange(chosen.shape[2])
            shown = (depth >= self._rows[0, ..., None]) & (depth < self._rows[1, ..., None])
            chosen &= shown | ~(chosen & shown).any()  # all of them where images show nothing
        return np.flatnonzero(chosen)

    def value_and_gradient_at(self, voxels: Voxels, disp: Volume, out: Volume) -> float:
        """Return the value from some voxels, displaced by `disp` ``(3, N)``; write its derivative by `disp`."""
        fixed, moving = self._level.fixed, self._level.moving
        warped, slopes = [], []
        for channel in moving.channels:
            values, slope, weight = warp_at(channel, self._affine, disp, voxels, fixed.data.shape)
            warped.append(values.reshape(-1, 1, 1))
            slopes.append(slope)
        if fixed.weight is not None:
            weight *= fixed.weight.reshape(-1)[voxels]
        if moving.weight is not None:
            weight *= warp_at(moving.weight, self._affine, disp, voxels, fixed.data.shape)[0]
        gradients = [np.empty_like(one) for one in warped]
        value = self._metric.at(voxels).value_and_gradient(warped, weight.reshape(-1, 1, 1), gradients)
        out[...] = 0
        for gradient, slope in zip(gradients, slopes, strict=True):
            out += gradient.reshape(-1) * slope
        out[self.axis_scale == 0] = 0
        return value

    def penalty(self, field: Volume, strides: tuple[int, ...], out: Volume) -> float:
        """Return the penalties' value for a field given at every few voxels, ``(3, …)``; add their derivative.

        Parameters
        ----------
        field : (3, I', J', K') float32 ndarray
            Displacement in voxels of the level at every `strides`-th voxel of each axis, from the first.
        strides : tuple of int
            Steps from one voxel to the next, per axis.
        out : (3, I', J', K') float32 ndarray
            Where the derivative by `field` is added.
        """
        fixed = self._level.fixed
        if strides not in self._lattices:
            grid = Grid(field.shape[1:], fixed.grid.grid2world @ np.diag([*strides, 1]))
            region = None if fixed.region is None else block_maximum(fixed.region, strides)
            self._lattices[strides] = [
                one.prepare(grid, region if isinstance(one, REGIONAL) else None) for one in self._terms
            ]
        scale = np.array(strides, np.float32).reshape(3, 1, 1, 1)
        coarse, by_coarse = field / scale, np.zeros_like(field)
        value = sum(one.value_and_gradient(coarse, by_coarse) for one in self._lattices[strides])
        by_coarse /= scale
        by_coarse[self.axis_scale == 0] = 0
        out += by_coarse
        return value


def block_maximum(region: Volume, strides: tuple[int, ...]) -> Volume:
    """Return the largest value among the voxels nearest to every few: a region smaller than a stride is not lost.

    Parameters
    ----------
    region : (I, J, K) float32 ndarray
        Weights of voxels.
    strides : tuple of int
        Steps from one voxel that is kept to the next, per axis, from the first.

    Examples
    --------
    >>> block_maximum(np.float32([[[0, 1, 0, 0, 0, 0, 3]]]), (1, 1, 4)).tolist()
    [[[1.0, 3.0]]]
    """
    for axis, stride in enumerate(strides):
        first = np.maximum(np.arange(0, region.shape[axis], stride) - stride // 2, 0)
        region = np.maximum.reduceat(region, first, axis=axis)
    return np.ascontiguousarray(region)
