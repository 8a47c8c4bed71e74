"""Splines through scattered points: an affine map plus a radial function about each of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regista.core import parallel_for
from regista.kernels.cpu._jit import njit_finite_checked
from regista.kernels.cpu.points import _apply

_GRAIN = 512
_TINY = 1e-300  # r² log r is 0 at r = 0, where the logarithm alone has no value


def map_spline(
    points: ArrayLike, centers: ArrayLike, weights: ArrayLike, affine: ArrayLike, *, planar: bool = False
) -> NDArray[np.float64]:
    """Return ``affine(p) + Σ_l weights[l] U(|p − centers[l]|)``, the thin-plate spline of Bookstein (1989).

    Parameters
    ----------
    points : (N, 3) array_like
        Where to evaluate; NaN gives NaN.
    centers, weights : (L, 3) array_like
        The landmarks, in the unit of the points, and what each adds.
    affine : (3, 4) array_like
        The affine part.
    planar : bool
        ``U(r)`` is ``r² log r``, as in two dimensions, instead of ``r``, as in three.

    Returns
    -------
    (N, 3) float64 ndarray
        The moved points.
    """
    places = np.ascontiguousarray(points, np.float64)
    # a row for each coordinate: the loop over landmarks then vectorizes
    about = np.ascontiguousarray(np.asarray(centers, np.float64).T)
    strength = np.ascontiguousarray(np.asarray(weights, np.float64).T)
    matrix = np.ascontiguousarray(affine, np.float64)
    out = np.empty_like(places)
    kernel = _planar if planar else _spatial
    parallel_for(lambda a, b: kernel(a, b, places, about, strength, matrix, out), len(places), grain=_GRAIN)
    return out


@njit_finite_checked
def _spatial(start, stop, points, centers, weights, matrix, out):
    cx, cy, cz = centers[0], centers[1], centers[2]
    wx, wy, wz = weights[0], weights[1], weights[2]
    for n in range(start, stop):
        px, py, pz = points[n, 0], points[n, 1], points[n, 2]
        sx, sy, sz = 0.0, 0.0, 0.0
        for m in range(len(cx)):
            dx, dy, dz = px - cx[m], py - cy[m], pz - cz[m]
            u = math.sqrt(dx * dx + dy * dy + dz * dz)
            sx += wx[m] * u
            sy += wy[m] * u
            sz += wz[m] * u
        x, y, z = _apply(matrix, px, py, pz)
        out[n, 0], out[n, 1], out[n, 2] = x + sx, y + sy, z + sz


@njit_finite_checked
def _planar(start, stop, points, centers, weights, matrix, out):
    cx, cy, cz = centers[0], centers[1], centers[2]
    wx, wy, wz = weights[0], weights[1], weights[2]
    for n in range(start, stop):
        px, py, pz = points[n, 0], points[n, 1], points[n, 2]
        sx, sy, sz = 0.0, 0.0, 0.0
        for m in range(len(cx)):
            dx, dy, dz = px - cx[m], py - cy[m], pz - cz[m]
            square = dx * dx + dy * dy + dz * dz
            u = 0.5 * square * math.log(square if square > _TINY else _TINY)
            sx += wx[m] * u
            sy += wy[m] * u
            sz += wz[m] * u
        x, y, z = _apply(matrix, px, py, pz)
        out[n, 0], out[n, 1], out[n, 2] = x + sx, y + sy, z + sz
