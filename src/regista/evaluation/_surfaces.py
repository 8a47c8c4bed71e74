"""Distances between the surfaces of the same label in two maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from regista.core import Grid, get_threads
from regista.evaluation._surfels import surfel_areas
from regista.kernels.cpu.labels import border_voxels, surface_cells

Surface = Literal["voxels", "surfels"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sites:
    """The surfaces of all labels of a map as points with weights.

    Parameters
    ----------
    starts : (count + 1,) int64 ndarray
        Points of code n are ``starts[n]`` to ``starts[n + 1]``.
    index : (N,) int64 ndarray
        Flat positions in a lattice.
    weights : (N,) float64 ndarray or None
        Area each point stands for, mm²; None counts every point alike.
    shape : tuple of int
        The lattice.
    """

    starts: NDArray[np.int64]
    index: NDArray[np.int64]
    weights: NDArray[np.float64] | None
    shape: tuple[int, ...]

    @classmethod
    def of(cls, codes: NDArray[Any], count: int, grid: Grid, surface: Surface) -> Sites:
        """Find the surfaces of codes 1 … count − 1 in an ``(I, J, K)`` array."""
        if surface == "voxels":
            return cls(
                starts=(found := border_voxels(codes, count))[0],
                index=found[1],
                weights=None,
                shape=codes.shape,
            )
        starts, index, corners = surface_cells(codes, count)
        areas = surfel_areas(grid.as_3d().spacing)
        shape = tuple(n + (n > 1) for n in codes.shape)
        return cls(starts=starts, index=index, weights=areas[corners], shape=shape)

    def select(self, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        """Return the positions (and weights) of one code, or of several taken together."""
        parts = [slice(self.starts[n], self.starts[n + 1]) for n in codes]
        weights = None if self.weights is None else np.concatenate([self.weights[p] for p in parts])
        return np.concatenate([self.index[p] for p in parts]), weights


def surface_distances(fixed: Sites, warped: Sites, code: int, grid: Grid) -> dict[str, float]:
    """Return ``assd_mm``, ``hd95_mm`` and ``hd_mm`` of one code; NaN where either map lacks it."""
    (here, a), (there, b) = (s.select(np.array([code])) for s in (fixed, warped))
    if not (here.size and there.size):
        return dict.fromkeys(("assd_mm", "hd95_mm", "hd_mm"), float("nan"))
    return summarize(*_both_ways(here, there, fixed.shape, grid), a, b)


def summarize(
    to_warped: NDArray[np.float64],
    to_fixed: NDArray[np.float64],
    fixed_weights: NDArray[np.float64] | None,
    warped_weights: NDArray[np.float64] | None,
) -> dict[str, float]:
    """Return mean over both surfaces, larger of both 95th percentiles, and maximum."""
    a = np.ones(len(to_warped)) if fixed_weights is None else fixed_weights
    b = np.ones(len(to_fixed)) if warped_weights is None else warped_weights
    total = float(a.sum() + b.sum())
    return {
        "assd_mm": float((to_warped @ a + to_fixed @ b) / total),
        "hd95_mm": max(percentile(to_warped, fixed_weights), percentile(to_fixed, warped_weights)),
        "hd_mm": float(max(to_warped.max(), to_fixed.max())),
    }


def percentile(distances: NDArray[np.float64], weights: NDArray[np.float64] | None, q: float = 95.0) -> float:
    """Return the q-th percentile, or the distance that q percent of the weight does not exceed."""
    if weights is None:
        return float(np.percentile(distances, q))
    order = np.lexsort((weights, distances))
    share = np.cumsum(weights[order]) / weights.sum()
    at = min(int(np.searchsorted(share, q / 100)), len(distances) - 1)
    return float(distances[order[at]])


def _both_ways(
    here: NDArray[np.int64], there: NDArray[np.int64], shape: tuple[int, ...], grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance in mm of each point of either set to the other set."""
    matrix = grid.as_3d().grid2world[:3, :3]
    points = [np.stack(np.unravel_index(i, shape), 1) @ matrix.T for i in (here, there)]
    trees = [KDTree(p, balanced_tree=False, compact_nodes=False) for p in points]
    workers = get_threads()
    # points that both sets share lie at distance 0: no need to ask for them
    far = ~np.isin(here, there, assume_unique=True), ~np.isin(there, here, assume_unique=True)
    out = np.zeros(len(here)), np.zeros(len(there))
    for n in range(2):
        if far[n].any():
            out[n][far[n]] = trees[1 - n].query(points[n][far[n]], workers=workers)[0]
    return out
